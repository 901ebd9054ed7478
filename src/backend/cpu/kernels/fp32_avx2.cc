// FP32 rows with AVX2, FMA and F16C. A dot product keeps 8 partial sums (element k in lane k % 8, the tail masked to
// zero) and adds them by a fixed tree.
#include <immintrin.h>

#include "backend/cpu/kernels/family_avx2.h"

namespace marlin::cpu {
namespace {

// A window of eight from entry 8 - n has its first n lanes set.
alignas(32) constexpr int32_t kMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

inline __m256i tail_mask(int64_t n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMasks + (n >= 8 ? 0 : 8 - n)));
}

inline float sum_lanes(__m256 eight) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

template <int kW, int kX>
inline void dot_tile(const DotArgs& args, int64_t i0, int64_t j0) {
  __m256 acc[kW][kX];
  for (int i = 0; i < kW; ++i) {
    for (int j = 0; j < kX; ++j) acc[i][j] = _mm256_setzero_ps();
  }
  const float* w = args.w + i0 * args.w_stride;
  const auto step = [&](int64_t k, auto load) {
    __m256 x[kX];
    for (int j = 0; j < kX; ++j) x[j] = load(args.x[j0 + j] + k);
    for (int i = 0; i < kW; ++i) {
      const __m256 wv = load(w + i * args.w_stride + k);
      for (int j = 0; j < kX; ++j) acc[i][j] = _mm256_fmadd_ps(wv, x[j], acc[i][j]);
    }
  };
  int64_t k = 0;
  for (; k + 8 <= args.n; k += 8) step(k, [](const float* p) { return _mm256_loadu_ps(p); });
  if (k < args.n) {
    const __m256i mask = tail_mask(args.n - k);
    step(k, [mask](const float* p) { return _mm256_maskload_ps(p, mask); });
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
inline void accumulate_tile(const AccumulateArgs& args, int64_t k, __m256i last, int64_t j) {
  const auto load = [last](const float* p, int v) {
    return v + 1 < kVectors ? _mm256_loadu_ps(p + 8 * v) : _mm256_maskload_ps(p + 8 * v, last);
  };
  const float* a[kX];
  __m256 sum[kX][kVectors];
#pragma GCC unroll 8
  for (int t = 0; t < kX; ++t) {
    a[t] = args.a[j + t];
    const __m256 keep = _mm256_set1_ps(args.keep[j + t]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[t][v] = _mm256_mul_ps(load(args.acc[j + t] + k, v), keep);
  }
  const float* row = args.rows + k;
  for (int64_t p = 0; p < args.n; ++p, row += args.stride) {
    __m256 x[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) x[v] = load(row, v);
#pragma GCC unroll 8
    for (int t = 0; t < kX; ++t) {
      const __m256 factor = _mm256_set1_ps(a[t][p]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[t][v] = _mm256_fmadd_ps(factor, x[v], sum[t][v]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kX; ++t) {
    float* acc = args.acc[j + t] + k;
#pragma GCC unroll 8
    for (int v = 0; v + 1 < kVectors; ++v) _mm256_storeu_ps(acc + 8 * v, sum[t][v]);
    _mm256_maskstore_ps(acc + 8 * (kVectors - 1), last, sum[t][kVectors - 1]);
  }
}

template <int kVectors>
inline void accumulate_columns(const AccumulateArgs& args, int64_t k, __m256i last) {
  int64_t j = 0;
  for (; j + 4 <= args.n_x; j += 4) accumulate_tile<kVectors, 4>(args, k, last, j);
  for (; j < args.n_x; ++j) accumulate_tile<kVectors, 1>(args, k, last, j);
}

/// The values of 16 codes in 8 bytes, in order.
struct Sixteen {
  __m256 first;
  __m256 last;
};
inline Sixteen decode_eight(const uint8_t* codes, __m256 half_scale) {
  // 2w by byte shuffle, widened: cheaper than two eight-entry permutations and a blend for each half.
  const __m128i table = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
  const __m128i mask = _mm_set1_epi8(15);
  const __m128i nibbles = _mm_unpacklo_epi8(_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16(bytes, 4), mask));
  const __m128i twice = _mm_shuffle_epi8(table, nibbles);
  return {_mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(twice)), half_scale),
          _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(twice, 8))), half_scale)};
}

/// kParts times 32 columns from args.first + k.
template <int kParts>
inline void fp4_accumulate_columns(const Fp4AccumulateArgs& args, int64_t k) {
  const int64_t n_groups = args.in_features / args.group_size;
  const int64_t column = args.first + k;
  const uint8_t* codes = args.codes + (args.row * args.in_features + column) / 2;
  const uint16_t* scales = args.scales + args.row * n_groups;
  __m256 sum[4 * kParts];
#pragma GCC unroll 16
  for (__m256& s : sum) s = _mm256_setzero_ps();
  for (int64_t p = 0; p < args.n; ++p, codes += args.in_features / 2, scales += n_groups) {
    _mm_prefetch(reinterpret_cast<const char*>(codes + 16 * args.in_features / 2), _MM_HINT_T0);
    const __m256 factor = _mm256_set1_ps(args.a[p]);
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      const __m256 scale = _mm256_set1_ps(0.5f * _cvtsh_ss(scales[(column + 32 * i) / args.group_size]));
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const Sixteen w = decode_eight(codes + 16 * i + 8 * h, scale);
        __m256* to = sum + 4 * i + 2 * h;
        to[0] = _mm256_fmadd_ps(factor, w.first, to[0]);
        to[1] = _mm256_fmadd_ps(factor, w.last, to[1]);
      }
    }
  }
#pragma GCC unroll 16
  for (int v = 0; v < 4 * kParts; ++v) _mm256_storeu_ps(args.out + k + 8 * v, sum[v]);
}

}  // namespace

void dot_avx2(const DotArgs& args) {
  int64_t j = 0;
  for (; j + 2 <= args.n_x; j += 2) dot_rows<2>(args, j);
  if (j < args.n_x) dot_rows<1>(args, j);
}

void accumulate_avx2(const AccumulateArgs& args) {
  int64_t k = 0;
  // One row alone has no other row's additions to hide the latency of its own.
  for (; args.n_x == 1 && k + 64 <= args.width; k += 64) accumulate_tile<8, 1>(args, k, tail_mask(8), 0);
  for (; k + 16 <= args.width; k += 16) accumulate_columns<2>(args, k, tail_mask(8));
  for (; k < args.width; k += 8) accumulate_columns<1>(args, k, tail_mask(args.width - k));
}

void decode_f16_avx2(const uint16_t* in, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
  }
  for (; i < count; ++i) out[i] = _cvtsh_ss(in[i]);
}

void decode_bf16_avx2(const uint16_t* in, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i)));
    _mm256_storeu_ps(out + i, _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)));
  }
  for (; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(in[i]) << 16;
    __builtin_memcpy(out + i, &bits, 4);
  }
}

void decode_fp4_avx2(const uint8_t* codes, const uint16_t* scales, int group_size, int64_t count, bool add,
                     float* out) {
  for (int64_t k = 0; k < count; k += group_size) {
    const __m256 scale = _mm256_set1_ps(0.5f * _cvtsh_ss(*scales++));
    for (int64_t i = k; i < k + group_size; i += 16) {
      Sixteen w = decode_eight(codes + i / 2, scale);
      if (add) {
        w.first = _mm256_add_ps(w.first, _mm256_loadu_ps(out + i));
        w.last = _mm256_add_ps(w.last, _mm256_loadu_ps(out + i + 8));
      }
      _mm256_storeu_ps(out + i, w.first);
      _mm256_storeu_ps(out + i + 8, w.last);
    }
  }
}

void fp4_accumulate_avx2(const Fp4AccumulateArgs& args) {
  int64_t k = 0;
  for (; k + 64 <= args.width; k += 64) fp4_accumulate_columns<2>(args, k);
  for (; k < args.width; k += 32) fp4_accumulate_columns<1>(args, k);
}

}  // namespace marlin::cpu
