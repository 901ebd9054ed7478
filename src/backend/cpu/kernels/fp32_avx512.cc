// FP32 rows with AVX-512. A dot product keeps 16 partial sums (element k in lane k % 16, the tail masked to zero) and
// adds them by a fixed tree.
#include <immintrin.h>

#include "backend/cpu/kernels/family_avx512.h"

namespace marlin::cpu {
namespace {

inline __mmask16 tail_mask(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : (1u << n) - 1);
}

inline float sum_lanes(__m512 v) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

template <int kW, int kX>
inline void dot_tile(const DotArgs& args, int64_t i0, int64_t j0) {
  __m512 acc[kW][kX];
  for (int i = 0; i < kW; ++i) {
    for (int j = 0; j < kX; ++j) acc[i][j] = _mm512_setzero_ps();
  }
  const float* w = args.w + i0 * args.w_stride;
  for (int64_t k = 0; k < args.n; k += 16) {
    const __mmask16 mask = tail_mask(args.n - k);
    __m512 x[kX];
    for (int j = 0; j < kX; ++j) x[j] = _mm512_maskz_loadu_ps(mask, args.x[j0 + j] + k);
    for (int i = 0; i < kW; ++i) {
      const __m512 wv = _mm512_maskz_loadu_ps(mask, w + i * args.w_stride + k);
      for (int j = 0; j < kX; ++j) acc[i][j] = _mm512_fmadd_ps(wv, x[j], acc[i][j]);
    }
  }
  for (int j = 0; j < kX; ++j) {
    for (int i = 0; i < kW; ++i) args.out[j0 + j][i0 + i] = sum_lanes(acc[i][j]);
  }
}

template <int kX>
inline void dot_rows(const DotArgs& args, int64_t j) {
  int64_t i = 0;
  for (; i + 4 <= args.n_w; i += 4) dot_tile<4, kX>(args, i, j);
  for (; i < args.n_w; ++i) dot_tile<1, kX>(args, i, j);
}

template <int kVectors>
inline void accumulate_columns(const AccumulateArgs& args, int64_t k, __mmask16 last) {
  const __m512 keep = _mm512_set1_ps(args.keep);
  __m512 sum[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const __mmask16 mask = v + 1 < kVectors ? static_cast<__mmask16>(0xffff) : last;
    sum[v] = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, args.acc + k + 16 * v), keep);
  }
  const float* row = args.rows + k;
  for (int64_t p = 0; p < args.n; ++p, row += args.stride) {
    const __m512 factor = _mm512_set1_ps(args.a[p]);
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 mask = v + 1 < kVectors ? static_cast<__mmask16>(0xffff) : last;
      sum[v] = _mm512_fmadd_ps(factor, _mm512_maskz_loadu_ps(mask, row + 16 * v), sum[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    const __mmask16 mask = v + 1 < kVectors ? static_cast<__mmask16>(0xffff) : last;
    _mm512_mask_storeu_ps(args.acc + k + 16 * v, mask, sum[v]);
  }
}

}  // namespace

void dot_avx512(const DotArgs& args) {
  int64_t j = 0;
  for (; j + 4 <= args.n_x; j += 4) dot_rows<4>(args, j);
  for (; j < args.n_x; ++j) dot_rows<1>(args, j);
}

void accumulate_avx512(const AccumulateArgs& args) {
  int64_t k = 0;
  for (; k + 128 <= args.width; k += 128) accumulate_columns<8>(args, k, 0xffff);
  for (; k < args.width; k += 16) accumulate_columns<1>(args, k, tail_mask(args.width - k));
}

void decode_f16_avx512(const uint16_t* in, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 mask = tail_mask(count - i);
    _mm512_mask_storeu_ps(out + i, mask, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, in + i)));
  }
}

void decode_bf16_avx512(const uint16_t* in, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 mask = tail_mask(count - i);
    const __m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, in + i)), 16);
    _mm512_mask_storeu_ps(out + i, mask, _mm512_castsi512_ps(bits));
  }
}

void decode_fp4_avx512(const uint8_t* codes, const uint16_t* scales, int group_size, int64_t count, bool add,
                       float* out) {
  // vpermps looks only at the low 4 bits of an index, so the low code of a byte needs no mask.
  const __m512 values = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f, -1.0f, -1.5f,
                                       -2.0f, -3.0f, -4.0f, -6.0f);
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  for (int64_t k = 0; k < count; k += group_size) {
    const __m512 scale = _mm512_set1_ps(_cvtsh_ss(*scales++));
    for (int64_t i = k; i < k + group_size; i += 32) {
      const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i / 2)));
      const __m512 even = _mm512_mul_ps(_mm512_permutexvar_ps(bytes, values), scale);
      const __m512 odd = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), values), scale);
      __m512 a = _mm512_permutex2var_ps(even, first, odd);
      __m512 b = _mm512_permutex2var_ps(even, second, odd);
      if (add) {
        a = _mm512_add_ps(a, _mm512_loadu_ps(out + i));
        b = _mm512_add_ps(b, _mm512_loadu_ps(out + i + 16));
      }
      _mm512_storeu_ps(out + i, a);
      _mm512_storeu_ps(out + i + 16, b);
    }
  }
}

}  // namespace marlin::cpu
