// Holds a backend to the oracle. An op's test is a function that runs it on any device with the same inputs and returns
// the outputs with the error each element may have; the harness compares devices, thread counts and row ranges.
//
// Tolerances. A dot product of K terms in FP32 errs by at most about K u sum|w_k x_k| (u = 2^-24) whatever the order of
// summation; errors of random sign grow with sqrt(K). kSlack * sqrt(K) * u * sum|w_k x_k| therefore holds with a wide
// margin for every sane kernel, and is far below the effect of one wrong code, scale or index.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "format/dtype.h"
#include "ops/ops.h"

namespace marlin::op_test {

/// The CPU's kernel families on this architecture. One that the machine at hand lacks is skipped; only avxvnni is not
/// named then, because few processors have it beside AVX-512 and it shares its source with avx512vnni_256.
std::vector<std::string> cpu_kernels();

/// The devices under test, of the CPU one for each kernel family. A new backend adds its name here.
std::vector<std::string> backends();

/// A static object of a program that tests a device of its own: it is then the only one under test.
struct OnlyBackend {
  OnlyBackend(std::string name, std::function<std::unique_ptr<Device>()> make);
};

/// Null when it cannot be used here.
std::unique_ptr<Device> make_if_available(const std::string& backend, int threads = 2);

inline constexpr double kSlack = 4;

/// Counter-based: the same numbers with every standard library.
class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  double uniform(double low, double high);
  int index(int n);
  /// About [-2, 2], exactly representable in every activation type (8 significant bits).
  float activation();
  std::vector<float> activations(int64_t n);

 private:
  uint64_t seed_;
  int64_t counter_ = 0;
};

// ---- weights -------------------------------------------------------------------------------------------------------

struct WeightSpec {
  int64_t out_features = 0;
  int64_t in_features = 0;
  DType type = DType::kBF16;  // of a plain weight
  std::vector<int> groups;    // group size of each FP4 plane; empty for a plain weight
  bool has_bias = false;
  DType bias_type = DType::kF32;
};

/// A weight in the file's layout, and what it means.
struct HostWeight {
  LinearWeight layout;  // views without a buffer: offsets into blob
  std::vector<std::byte> blob;
  std::vector<double> dense;  // [out, in]
  std::vector<double> bias;   // [out], zero without one
  double at(int64_t n, int64_t k) const { return dense[static_cast<size_t>(n * layout.in_features + k)]; }
};
using WeightPtr = std::shared_ptr<const HostWeight>;

WeightPtr random_weight(const WeightSpec& spec, uint64_t seed);
/// `plain` as stored elements of `type`.
std::vector<std::byte> encode_plain(const std::vector<double>& plain, DType type);

// ---- one device's side of a test
// -------------------------------------------------------------------------------------

/// Uploads inputs, holds buffers and reads outputs of one device.
class Rig {
 public:
  explicit Rig(Device& device) : device_(device), stream_(device.make_stream()) {}

  Device& device() { return device_; }
  Stream& stream() { return *stream_; }

  View act(const std::vector<float>& values);
  /// n activations, filled with a value no op produces, so that an element left out is seen.
  View act_out(int64_t n);
  template <typename T>
  View array(const std::vector<T>& values) {
    const View view = allocate(values.size() * sizeof(T));
    stream_->upload(view, std::as_bytes(std::span(values)));
    return view;
  }
  View allocate(size_t bytes);
  /// `view` moved by a count of activations.
  View offset(View view, int64_t elements) { return view.at(activation_bytes(device_, elements)); }
  /// Bound in place, not copied.
  const LinearWeight* weight(const WeightPtr& host);
  const ExpertBank* bank(const std::vector<WeightPtr>& experts);

  std::vector<double> read_act(View view, int64_t n);
  template <typename T>
  std::vector<double> read(View view, int64_t n) {
    std::vector<T> values(static_cast<size_t>(n));
    stream_->read(stream_->wait(stream_->submit()), view, std::as_writable_bytes(std::span(values)));
    return {values.begin(), values.end()};
  }
  /// Unit roundoff of this device's activations and sums: FP32's at best, so the oracle gets the same bounds.
  double roundoff() const;
  /// What factors coarser than FP32 add to the error of row n of W x; `error` is what x itself may be off by.
  template <typename T>
  double factor_error(const HostWeight& weight, int64_t n, const T* x, Role role, const double* error = nullptr) const {
    if (device_.info().half_prompts && role == Role::kPrompt) return half_error(weight, n, x, error);
    return plane_error(weight, n, x, role, error);
  }

 private:
  /// Both factors rounded to half (backend/metal/kernels/gemm.metal): each is off by a uniform error of at most 2^-11
  /// of itself, x below half's normal numbers by 2^-25. Six standard deviations of the sum.
  template <typename T>
  double half_error(const HostWeight& weight, int64_t n, const T* x, const double* error) const {
    double variance = 0;
    for (int64_t k = 0; k < weight.layout.in_features; ++k) {
      const double largest = std::fabs(static_cast<double>(x[k])) + (error != nullptr ? error[k] : 0);
      variance += std::pow(weight.at(n, k), 2) * (2 * std::pow(largest * 0x1p-11, 2) + 0x1p-50) / 3;
    }
    return 6 * std::sqrt(variance);
  }
  /// Activations as int8 planes, on devices that compute FP4 products so (backend/cpu/kernels/planes.h): an x is off by
  /// a uniform error of at most half a step, where a step is the largest |x| of its 128 / 32639, or 256 times that in a
  /// prompt. Six standard deviations of the sum.
  template <typename T>
  double plane_error(const HostWeight& weight, int64_t n, const T* x, Role role, const double* error = nullptr) const {
    const double steps = role == Role::kPrompt ? 32639.0 / 256 : 32639.0;
    if (weight.layout.n_planes == 0 || !device_.info().int8_planes) return 0;
    double variance = 0;
    for (int64_t first = 0; first < weight.layout.in_features; first += 128) {
      const int64_t end = std::min<int64_t>(first + 128, weight.layout.in_features);
      double largest = 0;
      double squares = 0;
      for (int64_t k = first; k < end; ++k) {
        largest = std::max(largest, std::fabs(static_cast<double>(x[k])) + (error != nullptr ? error[k] : 0));
        squares += weight.at(n, k) * weight.at(n, k);
      }
      variance += squares * std::pow(largest / steps, 2) / 12;
    }
    return 6 * std::sqrt(variance);
  }

  Device& device_;
  std::unique_ptr<Stream> stream_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<std::unique_ptr<LinearWeight>> weights_;
  std::vector<std::unique_ptr<ExpertBank>> banks_;
};

/// The numerics class of a case's row: both in one batch.
inline Role role_of(int64_t row) {
  return row % 3 == 1 ? Role::kPrompt : Role::kDecode;
}

/// Row-major [rows, width], with the largest allowed error of each element (0: exact).
struct Output {
  std::string name;
  int64_t width = 0;
  std::vector<double> values;
  std::vector<double> tolerance;
};
Output exact(std::string name, int64_t width, std::vector<double> values);

/// The rows of a case that one run computes.
struct RowRange {
  int64_t first = 0;
  int64_t count = 0;
};

View roles(Rig& rig, RowRange range);

struct OpCase {
  std::string name;
  int64_t rows = 0;
  std::function<std::vector<Output>(Rig&, RowRange)> run;

  friend void PrintTo(const OpCase& op_case, std::ostream* out) { *out << op_case.name; }
};

std::vector<OpCase> dense_cases();
std::vector<OpCase> attention_cases();
std::vector<OpCase> moe_cases();
std::vector<OpCase> sample_cases();
std::vector<OpCase> all_cases();

/// The shapes of GLM-4.7-Flash: gigabytes of weights, for devices that are fast enough. Each run makes its data and
/// drops it.
std::vector<OpCase> real_dense_cases();
std::vector<OpCase> real_attention_cases();
std::vector<OpCase> real_moe_cases();
std::vector<OpCase> real_sample_cases();
/// A case that `make` makes for each run.
OpCase lazy_case(std::string name, int64_t rows, std::function<OpCase()> make);

/// Empty when equal within the tolerances of `expected`; else the worst element with its coordinates. NaN and
/// infinities must stand at the same places.
std::string compare(const std::vector<Output>& actual, const std::vector<Output>& expected);
/// Empty when bit-identical.
std::string compare_bits(const std::vector<Output>& actual, const std::vector<Output>& expected);

}  // namespace marlin::op_test
