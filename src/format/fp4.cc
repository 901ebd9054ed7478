#include "format/fp4.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/float16.h"

namespace marlin::fp4 {
namespace {

constexpr float kMaxScale = 65504.0f;  // the largest finite binary16

// Halfway points between neighbouring magnitudes; a value on one belongs to the smaller magnitude.
constexpr std::array<float, 7> kMidpoints = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};

// `unit` times a midpoint is exact in FP32 for every binary16 unit (11 + 3 significant bits), so comparing against the
// products finds the nearest code of value / unit without the rounding of a division.
uint8_t nearest(float value, float unit) {
  const float magnitude = std::fabs(value);
  uint8_t code = 0;
  for (const float midpoint : kMidpoints) code = static_cast<uint8_t>(code + (magnitude > midpoint * unit ? 1 : 0));
  return value < 0.0f && code != 0 ? static_cast<uint8_t>(code | 8u) : code;
}

}  // namespace

uint8_t encode(float x) {
  return nearest(x, 1.0f);
}

GroupError quantize_group(std::span<const float> values, uint8_t* codes, uint16_t& scale) {
  MARLIN_CHECK(values.size() % 2 == 0, "values.size() = {}", values.size());
  float absmax = 0.0f;
  for (const float value : values) {
    if (!std::isfinite(value)) return GroupError::kNotFinite;
    absmax = std::max(absmax, std::fabs(value));
  }
  const float exact_scale = absmax / kMaxMagnitude;
  if (exact_scale > kMaxScale) return GroupError::kScaleOverflow;
  scale = f32_to_f16(exact_scale);
  const size_t n_bytes = values.size() / 2;
  if (scale == 0) {  // all zero, or so small that binary16 has no scale for it
    std::fill_n(codes, n_bytes, uint8_t{0});
    return GroupError::kNone;
  }
  const float stored_scale = f16_to_f32(scale);
  for (size_t i = 0; i < n_bytes; ++i) {
    const uint8_t low = nearest(values[2 * i], stored_scale);
    const uint8_t high = nearest(values[2 * i + 1], stored_scale);
    codes[i] = static_cast<uint8_t>(low | (high << 4));
  }
  return GroupError::kNone;
}

void dequantize_group(const uint8_t* codes, uint16_t scale, float* out, int64_t n) {
  MARLIN_CHECK(n % 2 == 0, "n = {}", n);
  const float factor = f16_to_f32(scale);
  for (int64_t k = 0; k < n; k += 2) {
    const uint8_t byte = codes[k >> 1];
    out[k] = kValues[byte & 0xf] * factor;
    out[k + 1] = kValues[byte >> 4] * factor;
  }
}

}  // namespace marlin::fp4
