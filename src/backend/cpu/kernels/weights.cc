#include "backend/cpu/kernels/weights.h"

#include <cstring>

#include "format/fp4.h"

namespace marlin::cpu {
namespace {

void decode_plane(const Weight& weight, const Fp4Plane& plane, int64_t first, int64_t count, bool add, float* out) {
  weight.family->decode_fp4(plane.codes + first / 2, plane.scales + first / plane.group_size, plane.group_size, count,
                            add, out);
}

void check_plane(const Fp4PlaneView& plane, int64_t in_features) {
  MARLIN_CHECK(fp4::legal_group_size(plane.group_size) && in_features % plane.group_size == 0,
               "group size {} for {} inputs", plane.group_size, in_features);
}

}  // namespace

Weight resolve(const Context& ctx, const LinearWeight& weight) {
  Weight result;
  result.family = &ctx.family;
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

void decode_plain(const Family& family, const std::byte* data, DType type, int64_t begin, int64_t count, float* out) {
  if (type == DType::kF32) {
    std::memcpy(out, reinterpret_cast<const float*>(data) + begin, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const uint16_t* in = reinterpret_cast<const uint16_t*>(data) + begin;
  if (type == DType::kF16) {
    family.decode_f16(in, count, out);
    return;
  }
  MARLIN_CHECK(type == DType::kBF16, "weights of type {}", dtype_name(type));
  family.decode_bf16(in, count, out);
}

void decode_row(const Weight& weight, int64_t row, int64_t begin, int64_t count, float* out) {
  if (weight.n_planes == 0) {
    decode_plain(*weight.family, weight.plain, weight.plain_type, row * weight.in_features + begin, count, out);
    return;
  }
  const int64_t first = row * weight.in_features + begin;
  decode_plane(weight, weight.planes[0], first, count, false, out);
  if (weight.n_planes == 2) decode_plane(weight, weight.planes[1], first, count, true, out);
}

float bias_at(const Weight& weight, int64_t row) {
  float value = 0;
  if (weight.bias != nullptr) decode_plain(*weight.family, weight.bias, weight.bias_type, row, 1, &value);
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
