// The MMFP4 element: FP4 E2M1 codes in groups that share one FP16 scale. Everything about the number format is here
// (docs/format.md has the same, byte by byte):
//   code bits: s e e m; magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6; no NaN, no Inf; code 8 is -0
//   container: byte b of a row holds k = 2b in its low nibble and k = 2b + 1 in its high nibble
//   value:     w[n, k] = E2M1[code[n, k]] * scale[n, k / group_size], in FP32
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace marlin::fp4 {

inline constexpr std::array<float, 16> kValues = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                                  -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
inline constexpr float kMaxMagnitude = 6.0f;
inline constexpr int kDefaultGroupSize = 128;

/// 32, 64 and 128 are legal group sizes.
constexpr bool legal_group_size(int64_t g) {
  return g == 32 || g == 64 || g == 128;
}

/// Nearest code to `x`, which is already divided by the scale; ties go to the smaller magnitude; never code 8.
/// Values beyond 6 clamp. `x` must not be NaN.
uint8_t encode(float x);

/// Code of element k in a packed row.
inline uint8_t code_at(const uint8_t* row, int64_t k) {
  return static_cast<uint8_t>((row[k >> 1] >> ((k & 1) * 4)) & 0xf);
}

enum class GroupError { kNone, kNotFinite, kScaleOverflow };

/// Round-to-nearest of one group: scale = fp16(absmax / 6), codes against the stored scale. `codes` gets
/// values.size() / 2 bytes. On kNotFinite or kScaleOverflow nothing is written.
GroupError quantize_group(std::span<const float> values, uint8_t* codes, uint16_t& scale);

/// out[k] = value(code k) * scale, for `n` elements of one group (n even).
void dequantize_group(const uint8_t* codes, uint16_t scale, float* out, int64_t n);

}  // namespace marlin::fp4
