// Stored weights as doubles, element by element, whatever their type. Conversions are exact: every stored value, and
// the product of an FP4 value and its FP16 scale, is a double.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "format/dtype.h"

namespace marlin::ref {

/// Element `index` of an array of BF16, F16, F32 or F64 at any alignment.
double stored_value(const std::byte* data, DType type, int64_t index);

/// One FP4 plane on the host, in the file's layout (format/fp4.h).
struct HostPlane {
  const std::byte* codes = nullptr;   // [out, in/2] bytes
  const std::byte* scales = nullptr;  // [out, in/group_size] F16
  int group_size = 0;
};

/// LinearWeight with host pointers.
struct HostLinear {
  int64_t out_features = 0;
  int64_t in_features = 0;
  const std::byte* plain = nullptr;  // set when n_planes is 0
  DType plain_type = DType::kBF16;
  HostPlane planes[2];
  int n_planes = 0;
  const std::byte* bias = nullptr;  // optional
  DType bias_type = DType::kF32;
};

class WeightReader {
 public:
  explicit WeightReader(const HostLinear& linear) : linear_(linear) {}

  int64_t out_features() const { return linear_.out_features; }
  int64_t in_features() const { return linear_.in_features; }
  /// W[n, k].
  double at(int64_t n, int64_t k) const;
  /// W[n, :].
  std::vector<double> row(int64_t n) const;
  /// b[n]; 0 without a bias.
  double bias(int64_t n) const;

 private:
  HostLinear linear_;
};

}  // namespace marlin::ref
