// FP4 products with AVX2 alone, and the splitting of activations into planes for all families of 256-bit vectors.
#include "backend/cpu/kernels/family_avx2.h"
#include "backend/cpu/kernels/planes_256.h"

namespace marlin::cpu {
namespace {

inline int32_t sum_lanes(__m256i v) {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1);
}

/// Bytes of 32 values in the order that packing leaves them, to the 16 of even k at `to` and those of odd k.
inline void store_plane(__m256i packed, uint8_t* to) {
  // Packed: k = 0 … 3, 8 … 11, 16 … 19, 24 … 27 in the lower half, the others in the upper one.
  const __m256i parted = _mm256_shuffle_epi8(
      packed, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15)));
  const __m128i low = _mm256_castsi256_si128(parted);
  const __m128i high = _mm256_extracti128_si256(parted, 1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_unpacklo_epi16(low, high));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 64), _mm_unpackhi_epi16(low, high));
}

/// One block of 128 values; returns its FP32 factor.
inline float split_block(const float* x, uint8_t* block) {
  const __m256 infinity = _mm256_set1_ps(__builtin_inff());
  const __m256 magnitude_bits = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256 largest = _mm256_setzero_ps();
  __m256 finite = _mm256_cmp_ps(largest, infinity, _CMP_LT_OQ);
  for (int k = 0; k < kPlaneBlock; k += 8) {
    const __m256 magnitude = _mm256_and_ps(_mm256_loadu_ps(x + k), magnitude_bits);
    finite = _mm256_and_ps(finite, _mm256_cmp_ps(magnitude, infinity, _CMP_LT_OQ));  // false for NaN
    largest = _mm256_max_ps(largest, magnitude);
  }
  if (_mm256_movemask_ps(finite) != 0xff) {
    __builtin_memset(block, 0, kPlaneBlockBytes);
    return __builtin_nanf("");
  }
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  const float m = _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  const bool usable = m >= MARLIN_PLANE_TINY;
  const __m256 inverse = _mm256_set1_ps(usable ? static_cast<float>(kPlaneSteps) / m : 0.0f);
  const auto quantize = [&](int64_t k) { return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k), inverse)); };
  const auto high_of = [](__m256i q) { return _mm256_srai_epi16(_mm256_add_epi16(q, _mm256_set1_epi16(128)), 8); };
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i low_byte = _mm256_set1_epi16(255);
  for (int c = 0; c < 4; ++c) {
    const int64_t k = 32 * c;
    const __m256i a = _mm256_packs_epi32(quantize(k), quantize(k + 8));  // |q| <= 32639
    const __m256i b = _mm256_packs_epi32(quantize(k + 16), quantize(k + 24));
    const __m256i high_a = high_of(a);
    const __m256i high_b = high_of(b);
    store_plane(_mm256_packs_epi16(high_a, high_b), block + 16 * c);
    store_plane(_mm256_packus_epi16(_mm256_and_si256(a, low_byte), _mm256_and_si256(b, low_byte)),
                block + 128 + 16 * c);
    const __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones));
    const __m256i high_sum = _mm256_madd_epi16(_mm256_add_epi16(high_a, high_b), ones);
    auto* sums = reinterpret_cast<__m128i*>(block + kPlaneSums + 16 * c);
    auto* high_sums = reinterpret_cast<__m128i*>(block + kHighSums + 16 * c);
    _mm_storeu_si128(sums, _mm_set1_epi32(12 * sum_lanes(sum)));
    _mm_storeu_si128(high_sums, _mm_set1_epi32(12 * 256 * sum_lanes(high_sum)));
  }
  return usable ? m / static_cast<float>(kPlaneSteps) * 0.5f : 0.0f;
}

}  // namespace

void split_avx2(const float* x, int64_t n, uint8_t* out) {
  auto* factors = reinterpret_cast<float*>(out);
  uint8_t* block = out + plane_header_bytes(n);
  for (; n >= kPlaneBlock; n -= kPlaneBlock, x += kPlaneBlock, block += kPlaneBlockBytes) {
    *factors++ = split_block(x, block);
  }
  if (n == 0) return;
  float padded[kPlaneBlock] = {};
  __builtin_memcpy(padded, x, static_cast<size_t>(n) * sizeof(float));
  *factors = split_block(padded, block);
}

const Family kAvx2Family = {"avx2",           dot_avx2,        accumulate_avx2, fold_scores_portable,
                            sum_exp_portable, swiglu_portable, decode_f16_avx2, decode_bf16_avx2,
                            decode_fp4_avx2,  split_avx2,      fp4_dot,         fp4_accumulate_avx2};

}  // namespace marlin::cpu
