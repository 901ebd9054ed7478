#include "ops/ref/weight_reader.h"

#include <cstring>

#include "base/check.h"
#include "base/float16.h"
#include "format/fp4.h"

namespace marlin::ref {
namespace {

template <typename T>
T load(const std::byte* data, int64_t index) {
  T value;
  std::memcpy(&value, data + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

double plane_value(const HostPlane& plane, int64_t in_features, int64_t n, int64_t k) {
  const auto pair = std::to_integer<unsigned>(plane.codes[n * (in_features / 2) + k / 2]);
  const unsigned code = k % 2 == 0 ? pair & 0xf : pair >> 4;
  const auto scale = load<uint16_t>(plane.scales, n * (in_features / plane.group_size) + k / plane.group_size);
  return static_cast<double>(fp4::kValues[code]) * static_cast<double>(f16_to_f32(scale));
}

}  // namespace

double stored_value(const std::byte* data, DType type, int64_t index) {
  switch (type) {
    case DType::kF64:
      return load<double>(data, index);
    case DType::kF32:
      return load<float>(data, index);
    case DType::kF16:
      return f16_to_f32(load<uint16_t>(data, index));
    case DType::kBF16:
      return bf16_to_f32(load<uint16_t>(data, index));
    default:
      MARLIN_CHECK(false, "{} is no type of weights", dtype_name(type));
  }
}

double WeightReader::at(int64_t n, int64_t k) const {
  if (linear_.n_planes == 0) return stored_value(linear_.plain, linear_.plain_type, n * linear_.in_features + k);
  double sum = 0;
  for (int p = 0; p < linear_.n_planes; ++p) sum += plane_value(linear_.planes[p], linear_.in_features, n, k);
  return sum;
}

std::vector<double> WeightReader::row(int64_t n) const {
  std::vector<double> values(static_cast<size_t>(linear_.in_features));
  for (int64_t k = 0; k < linear_.in_features; ++k) values[static_cast<size_t>(k)] = at(n, k);
  return values;
}

double WeightReader::bias(int64_t n) const {
  return linear_.bias != nullptr ? stored_value(linear_.bias, linear_.bias_type, n) : 0.0;
}

}  // namespace marlin::ref
