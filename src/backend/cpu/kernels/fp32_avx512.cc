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
  const float* w[kW];
  const float* x[kX];
  for (int i = 0; i < kW; ++i) w[i] = args.w + (i0 + i) * args.w_stride;
  for (int j = 0; j < kX; ++j) x[j] = args.x[j0 + j];
  for (int i = 0; i < kW; ++i) {
    for (int j = 0; j < kX; ++j) acc[i][j] = _mm512_setzero_ps();
  }
  const auto step = [&](int64_t k, auto load) {
    __m512 xv[kX];
    for (int j = 0; j < kX; ++j) xv[j] = load(x[j] + k);
    for (int i = 0; i < kW; ++i) {
      const __m512 wv = load(w[i] + k);
      for (int j = 0; j < kX; ++j) acc[i][j] = _mm512_fmadd_ps(wv, xv[j], acc[i][j]);
    }
  };
  int64_t k = 0;
  for (; k + 16 <= args.n; k += 16) step(k, [](const float* p) { return _mm512_loadu_ps(p); });
  if (k < args.n) {
    const __mmask16 mask = tail_mask(args.n - k);
    step(k, [mask](const float* p) { return _mm512_maskz_loadu_ps(mask, p); });
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

/// kVectors vectors of columns from k, of which the last has the lanes of `last`, for kX rows from j.
/// The pragmas keep the sums in registers: what GCC 12 unrolls late stays in memory (PERF.md).
template <int kVectors, int kX>
inline void accumulate_tile(const AccumulateArgs& args, int64_t k, __mmask16 last, int64_t j) {
  constexpr __mmask16 whole = 0xffff;
  const auto load = [last](const float* p, int v) {
    return _mm512_maskz_loadu_ps(v + 1 < kVectors ? whole : last, p + 16 * v);
  };
  const float* a[kX];
  __m512 sum[kX][kVectors];
#pragma GCC unroll 8
  for (int t = 0; t < kX; ++t) {
    a[t] = args.a[j + t];
    const __m512 keep = _mm512_set1_ps(args.keep[j + t]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[t][v] = _mm512_mul_ps(load(args.acc[j + t] + k, v), keep);
  }
  const float* row = args.rows + k;
  for (int64_t p = 0; p < args.n; ++p, row += args.stride) {
    __m512 x[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) x[v] = load(row, v);
#pragma GCC unroll 8
    for (int t = 0; t < kX; ++t) {
      const __m512 factor = _mm512_set1_ps(a[t][p]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[t][v] = _mm512_fmadd_ps(factor, x[v], sum[t][v]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kX; ++t) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      _mm512_mask_storeu_ps(args.acc[j + t] + k + 16 * v, v + 1 < kVectors ? whole : last, sum[t][v]);
    }
  }
}

template <int kVectors>
inline void accumulate_columns(const AccumulateArgs& args, int64_t k, __mmask16 last) {
  int64_t j = 0;
  for (; j + 4 <= args.n_x; j += 4) accumulate_tile<kVectors, 4>(args, k, last, j);
  for (; j < args.n_x; ++j) accumulate_tile<kVectors, 1>(args, k, last, j);
}

/// exp(x) for x <= 0 within 2 units in the last place; 0 below -87.3, where the result would be subnormal. NaN stays
/// NaN.
inline __m512 exp_negative(__m512 x) {
  const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3f), _CMP_NLT_UQ);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  // ln 2 in two parts, of which the first is exact in few bits.
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 y = _mm512_set1_ps(1.0f / 5040);  // Taylor's series: |r| <= ln 2 / 2, so the next term is below 6e-9
  constexpr float kFactors[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  for (const float factor : kFactors) y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(factor));
  return _mm512_maskz_scalef_ps(normal, y, n);
}

// vpermps looks only at the low 4 bits of an index, so the low code of a byte needs no mask.
inline __m512 code_values() {
  return _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f,
                        -6.0f);
}

/// Orders for vpermt2ps that bring 16 even and 16 odd values into 32 in a row.
struct Interleave {
  __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  __m512i second = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
};

/// kParts times 32 columns from args.first + k. The codes choose from values that are scaled already: a product of a
/// code and a scale is exact, so these are the bits of decoded rows.
template <int kParts>
inline void fp4_accumulate_columns(const Fp4AccumulateArgs& args, int64_t k) {
  const __m512 values = code_values();
  const Interleave order;
  const int64_t n_groups = args.in_features / args.group_size;
  const int64_t column = args.first + k;
  const uint8_t* codes = args.codes + (args.row * args.in_features + column) / 2;
  const uint16_t* scales = args.scales + args.row * n_groups;
  __m512 even[kParts];
  __m512 odd[kParts];
#pragma GCC unroll 8
  for (int i = 0; i < kParts; ++i) even[i] = odd[i] = _mm512_setzero_ps();
  for (int64_t p = 0; p < args.n; ++p, codes += args.in_features / 2, scales += n_groups) {
    _mm_prefetch(reinterpret_cast<const char*>(codes + 16 * args.in_features / 2), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(codes + 16 * args.in_features / 2 + 64), _MM_HINT_T0);
    const __m512 factor = _mm512_set1_ps(args.a[p]);
    __m512 scaled = values;
#pragma GCC unroll 8
    for (int i = 0; i < kParts; ++i) {
      if (i == 0 || (column + 32 * i) % args.group_size == 0) {
        scaled = _mm512_mul_ps(values, _mm512_set1_ps(_cvtsh_ss(scales[(column + 32 * i) / args.group_size])));
      }
      const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 16 * i)));
      even[i] = _mm512_fmadd_ps(factor, _mm512_permutexvar_ps(bytes, scaled), even[i]);
      odd[i] = _mm512_fmadd_ps(factor, _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), scaled), odd[i]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kParts; ++i) {
    _mm512_storeu_ps(args.out + k + 32 * i, _mm512_permutex2var_ps(even[i], order.first, odd[i]));
    _mm512_storeu_ps(args.out + k + 32 * i + 16, _mm512_permutex2var_ps(even[i], order.second, odd[i]));
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
  for (; k + 64 <= args.width; k += 64) accumulate_columns<4>(args, k, 0xffff);
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

float fold_scores_avx512(float* scores, int64_t n, float scale, SoftmaxState* state) {
  constexpr int kVectors = 4;
  const __m512 lowest = _mm512_set1_ps(-__builtin_inff());
  __m512 v[kVectors];
  __m512 largest = _mm512_set1_ps(state->largest);
  for (int i = 0; i < kVectors; ++i) {
    const __mmask16 mask = n > 16 * i ? tail_mask(n - 16 * i) : 0;
    v[i] = _mm512_mask_mul_ps(lowest, mask, _mm512_maskz_loadu_ps(mask, scores + 16 * i), _mm512_set1_ps(scale));
    largest = _mm512_max_ps(v[i], largest);  // of a NaN and a number it takes the second
  }
  const float now = _mm512_reduce_max_ps(largest);
  const __m512 shift = _mm512_set1_ps(now);
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < kVectors; ++i) {
    const __mmask16 mask = n > 16 * i ? tail_mask(n - 16 * i) : 0;
    const __m512 weight = _mm512_maskz_mov_ps(mask, exp_negative(_mm512_sub_ps(v[i], shift)));
    _mm512_mask_storeu_ps(scores + 16 * i, mask, weight);
    sum = _mm512_add_ps(sum, weight);
  }
  const float keep = _mm512_cvtss_f32(exp_negative(_mm512_set1_ps(state->largest - now)));
  *state = {now, state->sum * keep + sum_lanes(sum)};
  return keep;
}

float sum_exp_avx512(const float* x, int64_t n, float largest, float scale) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 below = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_set1_ps(largest));
    sum = _mm512_mask_add_ps(sum, mask, sum, exp_negative(_mm512_mul_ps(below, _mm512_set1_ps(scale))));
  }
  return sum_lanes(sum);
}

void swiglu_avx512(const float* gate, const float* up, int64_t n, float* out) {
  const __m512 one = _mm512_set1_ps(1.0f);
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 x = _mm512_maskz_loadu_ps(mask, gate + i);
    // sigmoid(x) = 1 / (1 + e) for x >= 0 and e / (1 + e) below, with e = exp(-|x|).
    const __m512 e = exp_negative(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(x)));
    const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    const __m512 sigmoid = _mm512_div_ps(_mm512_mask_mov_ps(one, negative, e), _mm512_add_ps(one, e));
    const __m512 silu = _mm512_mul_ps(x, sigmoid);
    _mm512_mask_storeu_ps(out + i, mask, _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(mask, up + i)));
  }
}

void fp4_accumulate_avx512(const Fp4AccumulateArgs& args) {
  int64_t k = 0;
  for (; k + 256 <= args.width; k += 256) fp4_accumulate_columns<8>(args, k);
  for (; k < args.width; k += 32) fp4_accumulate_columns<1>(args, k);
}

void decode_fp4_avx512(const uint8_t* codes, const uint16_t* scales, int group_size, int64_t count, bool add,
                       float* out) {
  const __m512 values = code_values();
  const Interleave order;
  for (int64_t k = 0; k < count; k += group_size) {
    const __m512 scale = _mm512_set1_ps(_cvtsh_ss(*scales++));
    for (int64_t i = k; i < k + group_size; i += 32) {
      const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i / 2)));
      const __m512 even = _mm512_mul_ps(_mm512_permutexvar_ps(bytes, values), scale);
      const __m512 odd = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), values), scale);
      __m512 a = _mm512_permutex2var_ps(even, order.first, odd);
      __m512 b = _mm512_permutex2var_ps(even, order.second, odd);
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
