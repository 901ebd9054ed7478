#include "op_test_util.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <utility>

#include "backend/cpu/kernels/families.h"
#include "base/float16.h"
#include "format/fp4.h"
#include "marlin/error.h"
#include "ops/random.h"

namespace marlin::op_test {
namespace {

constexpr double kUntouched = 12345;

struct Backend {
  std::string name;
  std::function<std::unique_ptr<Device>()> make;
};
Backend& only_backend() {
  static Backend backend;
  return backend;
}

size_t aligned_end(std::vector<std::byte>& blob) {
  blob.resize((blob.size() + 63) / 64 * 64);
  return blob.size();
}

View append(std::vector<std::byte>& blob, const std::vector<std::byte>& bytes) {
  const size_t offset = aligned_end(blob);
  blob.insert(blob.end(), bytes.begin(), bytes.end());
  return {nullptr, offset};
}

double stored(const std::vector<std::byte>& bytes, DType type, size_t i) {
  uint16_t half = 0;
  float single = 0;
  if (type == DType::kF32) {
    std::memcpy(&single, bytes.data() + 4 * i, 4);
    return static_cast<double>(single);
  }
  std::memcpy(&half, bytes.data() + 2 * i, 2);
  return static_cast<double>(type == DType::kF16 ? f16_to_f32(half) : bf16_to_f32(half));
}

Fp4PlaneView add_plane(HostWeight& weight, int group_size, double magnitude, Random& random) {
  const size_t count = weight.dense.size();
  std::vector<std::byte> codes(count / 2);
  for (std::byte& byte : codes) byte = static_cast<std::byte>(random.index(256));
  const auto group = static_cast<size_t>(group_size);
  std::vector<double> scales(count / group);
  for (double& scale : scales) scale = random.uniform(0.01, 0.2) * magnitude;
  const std::vector<std::byte> scale_bytes = encode_plain(scales, DType::kF16);
  for (size_t i = 0; i < count; ++i) {
    const auto byte = std::to_integer<unsigned>(codes[i / 2]);
    const unsigned code = i % 2 == 0 ? byte & 0xf : byte >> 4;
    weight.dense[i] += static_cast<double>(fp4::kValues[code]) * stored(scale_bytes, DType::kF16, i / group);
  }
  return {append(weight.blob, codes), append(weight.blob, scale_bytes), group_size};
}

bool same_bits(double a, double b) {
  return std::bit_cast<uint64_t>(a) == std::bit_cast<uint64_t>(b);
}

/// How far an element is beyond its tolerance, as a multiple of it: at most 1 is fine, infinite where classes differ.
double excess(double actual, double expected, double tolerance) {
  if (std::isnan(expected) || std::isnan(actual)) return std::isnan(expected) && std::isnan(actual) ? 0 : INFINITY;
  if (std::isinf(expected) || std::isinf(actual)) return expected == actual ? 0 : INFINITY;
  const double error = std::fabs(actual - expected);
  if (error == 0) return 0;
  return tolerance > 0 ? error / tolerance : INFINITY;
}

std::string compare_shapes(const std::vector<Output>& actual, const std::vector<Output>& expected) {
  if (actual.size() != expected.size()) return fmt::format("{} outputs, expected {}", actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    if (actual[i].values.size() == expected[i].values.size()) continue;
    return fmt::format("{}: {} values, expected {}", expected[i].name, actual[i].values.size(),
                       expected[i].values.size());
  }
  return "";
}

}  // namespace

double Random::uniform(double low, double high) {
  return low + (high - low) * static_cast<double>(uniform_draw(seed_, 0, counter_++));
}

int Random::index(int n) {
  return static_cast<int>(uniform(0, n));
}

float Random::activation() {
  return bf16_to_f32(f32_to_bf16(static_cast<float>(uniform(-1, 1) + uniform(-1, 1))));
}

std::vector<float> Random::activations(int64_t n) {
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) value = activation();
  return values;
}

std::vector<std::byte> encode_plain(const std::vector<double>& plain, DType type) {
  std::vector<std::byte> bytes(plain.size() * dtype_size(type));
  for (size_t i = 0; i < plain.size(); ++i) {
    const auto value = static_cast<float>(plain[i]);
    if (type == DType::kF32) {
      std::memcpy(bytes.data() + 4 * i, &value, 4);
      continue;
    }
    const uint16_t half = type == DType::kF16 ? f32_to_f16(value) : f32_to_bf16(value);
    std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

std::vector<std::string> cpu_kernels() {
#if defined(__x86_64__)
  std::vector<std::string> names = {"avx2", "avx512vnni_256", "avx512vnni", "portable"};
  if (std::ranges::count(cpu::usable_families(), &cpu::kAvxVnniFamily) > 0) names.emplace_back("avxvnni");
  return names;
#elif defined(__aarch64__)
  return {"neon", "neon_dotprod", "neon_i8mm", "portable"};
#else
  return {"portable"};
#endif
}

OnlyBackend::OnlyBackend(std::string name, std::function<std::unique_ptr<Device>()> make) {
  only_backend() = {std::move(name), std::move(make)};
}

std::vector<std::string> backends() {
  if (only_backend().make) return {only_backend().name};
  std::vector<std::string> names;
  for (const std::string& kernels : cpu_kernels()) names.push_back("cpu_" + kernels);
  for (const DeviceEntry& entry : device_registry()) {
    if (entry.name.starts_with("metal") && entry.make) names.push_back(entry.name);
  }
  return names;
}

std::unique_ptr<Device> make_if_available(const std::string& backend, int threads) {
  if (only_backend().make && backend == only_backend().name) return only_backend().make();
  const size_t underscore = backend.find('_');
  DeviceOptions options;
  options.threads = threads;
  if (underscore != std::string::npos) options.kernels = backend.substr(underscore + 1);
  for (const DeviceEntry& entry : device_registry()) {
    if (entry.name != backend.substr(0, underscore) || !entry.make) continue;
    try {
      return entry.make(options);
    } catch (const Error&) {
      return nullptr;  // kernels that this processor cannot run
    }
  }
  return nullptr;
}

WeightPtr random_weight(const WeightSpec& spec, uint64_t seed) {
  Random random(seed);
  auto weight = std::make_shared<HostWeight>();
  LinearWeight& layout = weight->layout;
  layout.out_features = spec.out_features;
  layout.in_features = spec.in_features;
  weight->dense.resize(static_cast<size_t>(spec.out_features * spec.in_features));
  layout.n_planes = static_cast<int>(spec.groups.size());
  for (size_t i = 0; i < spec.groups.size(); ++i) {
    // A second plane holds what the first one's rounding left: an order of magnitude less.
    layout.planes[i] = add_plane(*weight, spec.groups[i], i == 0 ? 1 : 0.1, random);
  }
  if (spec.groups.empty()) {
    layout.plain_type = spec.type;
    for (double& value : weight->dense) value = random.uniform(-0.5, 0.5);
    const std::vector<std::byte> bytes = encode_plain(weight->dense, spec.type);
    for (size_t i = 0; i < weight->dense.size(); ++i) weight->dense[i] = stored(bytes, spec.type, i);
    layout.plain = append(weight->blob, bytes);
  }
  weight->bias.resize(static_cast<size_t>(spec.out_features));
  if (spec.has_bias) {
    layout.bias_type = spec.bias_type;
    for (double& value : weight->bias) value = random.uniform(-1, 1);
    const std::vector<std::byte> bytes = encode_plain(weight->bias, spec.bias_type);
    for (size_t i = 0; i < weight->bias.size(); ++i) weight->bias[i] = stored(bytes, spec.bias_type, i);
    layout.bias = append(weight->blob, bytes);
  }
  return weight;
}

View Rig::allocate(size_t bytes) {
  buffers_.push_back(device_.allocate(bytes));
  return {buffers_.back().get(), 0};
}

View Rig::act(const std::vector<float>& values) {
  const View view = allocate(activation_bytes(device_, static_cast<int64_t>(values.size())));
  upload_activations(*stream_, device_, view, values);
  return view;
}

View Rig::act_out(int64_t n) {
  return act(std::vector<float>(static_cast<size_t>(n), static_cast<float>(kUntouched)));
}

const LinearWeight* Rig::weight(const WeightPtr& host) {
  buffers_.push_back(device_.bind(host->blob, host));
  Buffer* buffer = buffers_.back().get();
  auto weight = std::make_unique<LinearWeight>(host->layout);
  for (int i = 0; i < weight->n_planes; ++i) {
    weight->planes[i].codes.buffer = buffer;
    weight->planes[i].scales.buffer = buffer;
  }
  if (weight->n_planes == 0) weight->plain.buffer = buffer;
  if (weight->bias.offset != 0) weight->bias.buffer = buffer;
  weights_.push_back(std::move(weight));
  return weights_.back().get();
}

const ExpertBank* Rig::bank(const std::vector<WeightPtr>& experts) {
  auto bank = std::make_unique<ExpertBank>();
  for (const WeightPtr& expert : experts) bank->experts.push_back(*weight(expert));
  banks_.push_back(std::move(bank));
  return banks_.back().get();
}

std::vector<double> Rig::read_act(View view, int64_t n) {
  return read_activations_f64(*stream_, device_, stream_->wait(stream_->submit()), view, n);
}

double Rig::roundoff() const {
  switch (device_.activation_type()) {
    case DType::kF16:
      return 0x1p-11;
    case DType::kBF16:
      return 0x1p-8;
    default:
      return 0x1p-24;
  }
}

Output exact(std::string name, int64_t width, std::vector<double> values) {
  std::vector<double> tolerance(values.size(), 0.0);
  return {std::move(name), width, std::move(values), std::move(tolerance)};
}

View roles(Rig& rig, RowRange range) {
  std::vector<uint8_t> roles;
  for (int64_t row = range.first; row < range.first + range.count; ++row) {
    roles.push_back(static_cast<uint8_t>(role_of(row)));
  }
  return rig.array(roles);
}

std::string compare(const std::vector<Output>& actual, const std::vector<Output>& expected) {
  std::string message = compare_shapes(actual, expected);
  double worst = 1;
  for (size_t i = 0; message.empty() && i < actual.size(); ++i) {
    const Output& a = actual[i];
    const Output& e = expected[i];
    for (size_t k = 0; k < a.values.size(); ++k) {
      // The device's own bound counts: its activations may be coarser than the oracle's.
      const double ratio = excess(a.values[k], e.values[k], std::max(a.tolerance[k], e.tolerance[k]));
      if (ratio <= worst) continue;
      worst = ratio;
      const auto width = static_cast<size_t>(e.width);
      message = fmt::format("{}[{}, {}] = {:.9g}, expected {:.9g}: {:.3g} times the tolerance {:.3g}", e.name,
                            k / width, k % width, a.values[k], e.values[k], ratio, e.tolerance[k]);
    }
    if (!message.empty()) return message;
  }
  return message;
}

std::string compare_bits(const std::vector<Output>& actual, const std::vector<Output>& expected) {
  std::string message = compare_shapes(actual, expected);
  for (size_t i = 0; message.empty() && i < actual.size(); ++i) {
    const auto width = static_cast<size_t>(expected[i].width);
    for (size_t k = 0; k < actual[i].values.size(); ++k) {
      if (same_bits(actual[i].values[k], expected[i].values[k])) continue;
      return fmt::format("{}[{}, {}] = {:.17g}, expected the same bits as {:.17g}", expected[i].name, k / width,
                         k % width, actual[i].values[k], expected[i].values[k]);
    }
  }
  return message;
}

OpCase lazy_case(std::string name, int64_t rows, std::function<OpCase()> make) {
  return {std::move(name), rows, [make = std::move(make)](Rig& rig, RowRange range) { return make().run(rig, range); }};
}

std::vector<OpCase> all_cases() {
  std::vector<OpCase> cases = dense_cases();
  for (const auto& more : {attention_cases(), moe_cases(), sample_cases()}) {
    cases.insert(cases.end(), more.begin(), more.end());
  }
  return cases;
}

}  // namespace marlin::op_test
