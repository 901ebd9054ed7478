#include "backend/cpu/kernels/weights.h"

#include <array>
#include <bit>
#include <cstring>

#include "base/float16.h"
#include "format/fp4.h"

namespace marlin::cpu {
namespace {

struct Pair {
  float low;
  float high;
};

// Both values of a code byte: 2 KiB that stay in the first-level cache.
constexpr std::array<Pair, 256> kPairs = [] {
  std::array<Pair, 256> pairs{};
  for (size_t byte = 0; byte < 256; ++byte) pairs[byte] = {fp4::kValues[byte & 0xf], fp4::kValues[byte >> 4]};
  return pairs;
}();

template <bool kAdd>
void decode_plane(const Fp4Plane& plane, int64_t in_features, int64_t row, int64_t begin, int64_t count, float* out) {
  const uint8_t* codes = plane.codes + (row * in_features + begin) / 2;
  const uint16_t* scales = plane.scales + (row * in_features + begin) / plane.group_size;
  for (int64_t k = 0; k < count; k += plane.group_size) {
    const float scale = f16_to_f32(*scales++);
    for (int64_t i = 0; i < plane.group_size; i += 2) {
      const Pair pair = kPairs[*codes++];
      if constexpr (kAdd) {
        out[k + i] += pair.low * scale;
        out[k + i + 1] += pair.high * scale;
      } else {
        out[k + i] = pair.low * scale;
        out[k + i + 1] = pair.high * scale;
      }
    }
  }
}

void check_plane(const Fp4PlaneView& plane, int64_t in_features) {
  MARLIN_CHECK(fp4::legal_group_size(plane.group_size) && in_features % plane.group_size == 0,
               "group size {} for {} inputs", plane.group_size, in_features);
}

}  // namespace

Weight resolve(const Context& ctx, const LinearWeight& weight) {
  Weight result;
  result.out_features = weight.out_features;
  result.in_features = weight.in_features;
  const int64_t count = weight.out_features * weight.in_features;
  MARLIN_CHECK(weight.n_planes >= 0 && weight.n_planes <= 2, "n_planes = {}", weight.n_planes);
  if (weight.n_planes == 0) {
    result.plain_type = weight.plain_type;
    result.plain = ctx.in<std::byte>(weight.plain, count * static_cast<int64_t>(dtype_size(weight.plain_type)));
  }
  result.n_planes = weight.n_planes;
  for (int i = 0; i < weight.n_planes; ++i) {
    const Fp4PlaneView& plane = weight.planes[i];
    check_plane(plane, weight.in_features);
    result.planes[i] = {ctx.in<uint8_t>(plane.codes, count / 2),
                        ctx.in<uint16_t>(plane.scales, count / plane.group_size), plane.group_size};
  }
  if (weight.bias) {
    result.bias_type = weight.bias_type;
    result.bias =
        ctx.in<std::byte>(weight.bias, weight.out_features * static_cast<int64_t>(dtype_size(weight.bias_type)));
  }
  return result;
}

void decode_f16(const uint16_t* in, int64_t count, float* out) {
  // f16_to_f32 with the branch as a mask, because a branch keeps the loop from being vectorised.
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t sign = (in[i] & 0x8000u) << 16;
    const int32_t rest = (in[i] & 0x7fff) << 13;
    const uint32_t special = 0u - static_cast<uint32_t>(rest >= 0x0f800000);
    const uint32_t magnitude = std::bit_cast<uint32_t>(std::bit_cast<float>(rest) * 0x1p112f);
    out[i] =
        std::bit_cast<float>(sign | (magnitude & ~special) | ((static_cast<uint32_t>(rest) | 0x7f800000u) & special));
  }
}

void decode_plain(const std::byte* data, DType type, int64_t begin, int64_t count, float* out) {
  if (type == DType::kF32) {
    std::memcpy(out, reinterpret_cast<const float*>(data) + begin, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const uint16_t* in = reinterpret_cast<const uint16_t*>(data) + begin;
  if (type == DType::kF16) {
    decode_f16(in, count, out);
    return;
  }
  MARLIN_CHECK(type == DType::kBF16, "weights of type {}", dtype_name(type));
  for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_f32(in[i]);
}

void decode_row(const Weight& weight, int64_t row, int64_t begin, int64_t count, float* out) {
  if (weight.n_planes == 0) {
    decode_plain(weight.plain, weight.plain_type, row * weight.in_features + begin, count, out);
    return;
  }
  decode_plane<false>(weight.planes[0], weight.in_features, row, begin, count, out);
  if (weight.n_planes == 2) decode_plane<true>(weight.planes[1], weight.in_features, row, begin, count, out);
}

float bias_at(const Weight& weight, int64_t row) {
  float value = 0;
  if (weight.bias != nullptr) decode_plain(weight.bias, weight.bias_type, row, 1, &value);
  return value;
}

const float* decode_rows(const Weight& weight, int64_t first, int64_t n_rows, float* scratch) {
  const int64_t width = weight.in_features;
  if (weight.n_planes == 0 && weight.plain_type == DType::kF32) {
    return reinterpret_cast<const float*>(weight.plain) + first * width;
  }
  for (int64_t i = 0; i < n_rows; ++i) decode_row(weight, first + i, 0, width, scratch + i * width);
  return scratch;
}

}  // namespace marlin::cpu
