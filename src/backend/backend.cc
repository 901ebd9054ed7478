#include "backend/backend.h"

#include <cstring>

#include "base/check.h"
#include "base/float16.h"

namespace marlin {
namespace {

template <typename T>
void store(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

void store_activation(DType type, float value, std::byte* to) {
  switch (type) {
    case DType::kF64:
      return store<double>(to, value);
    case DType::kF32:
      return store<float>(to, value);
    case DType::kF16:
      return store<uint16_t>(to, f32_to_f16(value));
    case DType::kBF16:
      return store<uint16_t>(to, f32_to_bf16(value));
    default:
      MARLIN_CHECK(false, "{} is no type of activations", dtype_name(type));
  }
}

double load_activation(DType type, const std::byte* from) {
  switch (type) {
    case DType::kF64:
      return load<double>(from);
    case DType::kF32:
      return load<float>(from);
    case DType::kF16:
      return f16_to_f32(load<uint16_t>(from));
    case DType::kBF16:
      return bf16_to_f32(load<uint16_t>(from));
    default:
      MARLIN_CHECK(false, "{} is no type of activations", dtype_name(type));
  }
}

}  // namespace

size_t activation_bytes(const Device& device, int64_t elements) {
  return static_cast<size_t>(elements) * dtype_size(device.activation_type());
}

void upload_activations(Stream& stream, const Device& device, View to, std::span<const float> values) {
  const DType type = device.activation_type();
  std::vector<std::byte> bytes(activation_bytes(device, static_cast<int64_t>(values.size())));
  for (size_t i = 0; i < values.size(); ++i) store_activation(type, values[i], bytes.data() + i * dtype_size(type));
  stream.upload(to, bytes);
}

std::vector<double> read_activations_f64(Stream& stream, const Device& device, const Completed& done, View from,
                                         int64_t elements) {
  const DType type = device.activation_type();
  std::vector<std::byte> bytes(activation_bytes(device, elements));
  stream.read(done, from, bytes);
  std::vector<double> values(static_cast<size_t>(elements));
  for (size_t i = 0; i < values.size(); ++i) values[i] = load_activation(type, bytes.data() + i * dtype_size(type));
  return values;
}

std::vector<float> read_activations(Stream& stream, const Device& device, const Completed& done, View from,
                                    int64_t elements) {
  const std::vector<double> exact = read_activations_f64(stream, device, done, from, elements);
  return {exact.begin(), exact.end()};
}

}  // namespace marlin
