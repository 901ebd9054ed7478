// Attention with integer products (kv_panel.h) with AVX-512 VNNI: 64 unsigned times signed bytes, or 32 pairs of words,
// an instruction. Keys put positions into lanes, values put latents into lanes, so that no sum runs across lanes.
#include <immintrin.h>

#include "backend/cpu/kernels/family_avx512.h"
#include "backend/cpu/kernels/kv_panel.h"
#include "backend/cpu/kernels/transpose_avx512.h"

namespace marlin::cpu {
namespace {

/// What the two widths differ in.
template <int kBits>
struct Width {
  static constexpr int kBytes = kBits / 8;
  static constexpr int kPerDword = 4 / kBytes;
  static constexpr int kLines = kPanelGroup / kPerDword;  // dwords of a group
  static constexpr int kRowBytes = kPanelGroup * kBytes;  // of a group
  static constexpr int kTileBytes = kPanelPositions * kRowBytes;
  static constexpr float kCacheSteps = kBits == 8 ? 127.0f : 16383.0f;

  /// The size of a step, for numbers whose largest magnitude is m and sum of magnitudes l.
  static float query_step(float m, float l) { return kBits == 8 ? m / 127 : step_of_words(m, l); }
  static float weight_step(float m, float l) { return kBits == 8 ? m / 255 : step_of_words(m, l); }

 private:
  static float step_of_words(float m, float l) { return m / 32767 > l / 131000 ? m / 32767 : l / 131000; }
};

/// Steps below this count as zero and above the other as infinite: the reciprocal would overflow or vanish.
constexpr float kTiny = 1e-34f;
constexpr float kHuge = 1e34f;

inline __mmask16 tail_mask(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1);
}

template <int kBits>
inline __m512i multiply_add(__m512i sum, __m512i a, __m512i b) {
  return kBits == 8 ? _mm512_dpbusd_epi32(sum, a, b) : _mm512_dpwssd_epi32(sum, a, b);
}

/// Stores 16 integers in kBits each.
template <int kBits>
inline void store_integers(uint8_t* to, __m512i v) {
  if constexpr (kBits == 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(v));
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(v));
  }
}

inline __m512i four_bytes(const uint8_t* from) {
  int32_t four;
  __builtin_memcpy(&four, from, 4);
  return _mm512_set1_epi32(four);
}

// ---- query -------------------------------------------------------------------------------------------------------

/// n <= 64 values of a query as integers; returns their scale, NaN when one is not finite.
template <int kBits>
inline float quantize_query(const float* x, int64_t n, uint8_t* to, int32_t* sum) {
  __m512 v[4];
  __m512 largest = _mm512_setzero_ps();
  __m512 magnitudes = _mm512_setzero_ps();
  __mmask16 odd_ones = 0;
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm512_maskz_loadu_ps(tail_mask(n - 16 * i), x + 16 * i);
    odd_ones = static_cast<__mmask16>(odd_ones | _mm512_fpclass_ps_mask(v[i], 0x99));
    largest = _mm512_max_ps(largest, _mm512_abs_ps(v[i]));
    magnitudes = _mm512_add_ps(magnitudes, _mm512_abs_ps(v[i]));
  }
  const float step = Width<kBits>::query_step(_mm512_reduce_max_ps(largest), _mm512_reduce_add_ps(magnitudes));
  const bool usable = odd_ones == 0 && step >= kTiny && step <= kHuge;
  const __m512 inverse = _mm512_set1_ps(usable ? 1.0f / step : 0.0f);
  __m512i total = _mm512_setzero_si512();
  for (int i = 0; i < 4; ++i) {
    const __m512i q = usable ? _mm512_cvtps_epi32(_mm512_mul_ps(v[i], inverse)) : _mm512_setzero_si512();
    total = _mm512_add_epi32(total, q);
    store_integers<kBits>(to + 16 * i * Width<kBits>::kBytes, q);
  }
  *sum = _mm512_reduce_add_epi32(total);
  if (odd_ones != 0 || step > kHuge) return __builtin_nanf("");
  return usable ? step : 0.0f;
}

template <int kBits>
void panel_query(const PanelShape& shape, const float* latent, const float* rope, uint8_t* out) {
  const int64_t n_groups = panel_groups(shape);
  auto* scales = reinterpret_cast<float*>(out);
  auto* start = reinterpret_cast<int32_t*>(out) + n_groups;
  uint8_t* to = out + panel_query_header_bytes(shape);
  const auto part = [&](const float* x, int64_t n) {
    for (int64_t k = 0; k < n; k += kPanelGroup, to += Width<kBits>::kRowBytes) {
      int32_t sum = 0;
      *scales++ = quantize_query<kBits>(x + k, n - k < kPanelGroup ? n - k : kPanelGroup, to, &sum);
      *start++ = kBits == 8 ? -128 * sum : 0;  // keys are 128 too large
    }
  };
  part(latent, shape.latent);
  part(rope, shape.rope);
}

// ---- panel -------------------------------------------------------------------------------------------------------

/// n <= 64 F16 values as integers; returns their scale.
template <int kBits>
inline float quantize_f16(const uint16_t* in, int64_t n, uint8_t* to) {
  const __mmask32 low = n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1;
  const __mmask32 high = n >= 64 ? ~__mmask32{0} : n <= 32 ? 0 : (__mmask32{1} << (n - 32)) - 1;
  const __m512i v[2] = {_mm512_maskz_loadu_epi16(low, in), _mm512_maskz_loadu_epi16(high, in + 32)};
  // Magnitudes of halves compare as integers.
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  const __m512i both = _mm512_max_epu16(_mm512_and_si512(v[0], magnitude), _mm512_and_si512(v[1], magnitude));
  const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64(both, 1));
  const __m128i quarter = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  const __m128i inverted = _mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(-1)));
  const auto bits = static_cast<uint16_t>(~_mm_cvtsi128_si32(inverted));
  const bool finite = bits < 0x7c00;
  const float m = _cvtsh_ss(bits);
  const __m512 inverse = _mm512_set1_ps(finite && bits != 0 ? Width<kBits>::kCacheSteps / m : 0.0f);
  for (int i = 0; i < 4; ++i) {
    const __m256i halves = i % 2 == 0 ? _mm512_castsi512_si256(v[i / 2]) : _mm512_extracti64x4_epi64(v[i / 2], 1);
    const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtph_ps(halves), inverse));
    store_integers<kBits>(to + 16 * i * Width<kBits>::kBytes, q);
  }
  return finite ? m * (1.0f / Width<kBits>::kCacheSteps) : __builtin_nanf("");
}

/// The same of a Q8 row.
template <int kBits>
inline float expand_q8(const int8_t* in, int64_t n, uint16_t scale, uint8_t* to) {
  const __mmask64 mask = n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1;
  const __m512i q = _mm512_maskz_loadu_epi8(mask, in);
  if constexpr (kBits == 8) {
    _mm512_store_si512(to, q);
    return _cvtsh_ss(scale);
  } else {
    _mm512_store_si512(to, _mm512_slli_epi16(_mm512_cvtepi8_epi16(_mm512_castsi512_si256(q)), 7));
    _mm512_store_si512(to + 64, _mm512_slli_epi16(_mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(q, 1)), 7));
    return _cvtsh_ss(scale) * (1.0f / 128);
  }
}

/// 16 positions of a group, row by row, into the keys' lines of these positions.
template <int kBits>
inline void store_keys(const uint8_t* const (&rows)[16], uint8_t* keys) {
  for (int part = 0; part < Width<kBits>::kBytes; ++part) {
    __m512i v[16];
    for (int r = 0; r < 16; ++r) {
      v[r] = _mm512_loadu_si512(rows[r] + 64 * part);
      if constexpr (kBits == 8) v[r] = _mm512_xor_si512(v[r], _mm512_set1_epi8(-128));
    }
    transpose(v);
    for (int l = 0; l < 16; ++l) _mm512_store_si512(keys + 256 * (16 * part + l), v[l]);
  }
}

/// The same into the values' lines. Unpacking leaves dword i of a 128-bit part L in part L; the rows are permuted
/// first so that values end up in order.
template <int kBits>
inline void store_values(const uint8_t* const (&rows)[16], uint8_t* values) {
  if constexpr (kBits == 8) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (int four = 0; four < 4; ++four) {
      __m512i v[4];
      for (int r = 0; r < 4; ++r) v[r] = _mm512_permutexvar_epi32(order, _mm512_loadu_si512(rows[4 * four + r]));
      const __m512i low01 = _mm512_unpacklo_epi8(v[0], v[1]);
      const __m512i low23 = _mm512_unpacklo_epi8(v[2], v[3]);
      const __m512i high01 = _mm512_unpackhi_epi8(v[0], v[1]);
      const __m512i high23 = _mm512_unpackhi_epi8(v[2], v[3]);
      uint8_t* to = values + 256 * four;
      _mm512_store_si512(to, _mm512_unpacklo_epi16(low01, low23));
      _mm512_store_si512(to + 64, _mm512_unpackhi_epi16(low01, low23));
      _mm512_store_si512(to + 128, _mm512_unpacklo_epi16(high01, high23));
      _mm512_store_si512(to + 192, _mm512_unpackhi_epi16(high01, high23));
    }
  } else {
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    for (int pair = 0; pair < 8; ++pair) {
      for (int part = 0; part < 2; ++part) {
        const __m512i a = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(rows[2 * pair] + 64 * part));
        const __m512i b = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(rows[2 * pair + 1] + 64 * part));
        uint8_t* to = values + 256 * pair + 128 * part;
        _mm512_store_si512(to, _mm512_unpacklo_epi16(a, b));
        _mm512_store_si512(to + 64, _mm512_unpackhi_epi16(a, b));
      }
    }
  }
}

/// Group g, of n values from `first` of a row.
template <int kBits>
inline void panel_group(const KvPanelArgs& args, int64_t g, int64_t first, int64_t n) {
  const int64_t n_groups = panel_groups(args.shape);
  auto* scales = reinterpret_cast<float*>(args.panel) + g * kPanelPositions;
  uint8_t* keys = args.panel + n_groups * kPanelPositions * 4 + g * Width<kBits>::kTileBytes;
  uint8_t* values = keys + n_groups * Width<kBits>::kTileBytes;
  alignas(64) uint8_t integers[16][Width<kBits>::kRowBytes];
  const uint8_t* rows[16];
  for (int64_t p = 0; p < kPanelPositions; ++p) {
    uint8_t* to = integers[p % 16];
    const auto* row = static_cast<const uint8_t*>(args.rows) + static_cast<size_t>(p) * args.row_bytes;
    rows[p % 16] = to;
    if (p >= args.n) {
      for (int i = 0; i < Width<kBits>::kBytes; ++i) _mm512_store_si512(to + 64 * i, _mm512_setzero_si512());
      scales[p] = 0;
    } else if (args.q8) {
      uint16_t scale;
      __builtin_memcpy(&scale, row + args.shape.latent + args.shape.rope + 2 * g, 2);
      if (kBits == 8 && n == kPanelGroup) {
        rows[p % 16] = row + first;  // as it lies in the cache
        scales[p] = _cvtsh_ss(scale);
      } else {
        scales[p] = expand_q8<kBits>(reinterpret_cast<const int8_t*>(row) + first, n, scale, to);
      }
    } else {
      scales[p] = quantize_f16<kBits>(reinterpret_cast<const uint16_t*>(row) + first, n, to);
    }
    if (p % 16 != 15) continue;
    store_keys<kBits>(rows, keys + p / 16 * 64);
    if (g < latent_groups(args.shape)) store_values<kBits>(rows, values + p / 16 * (Width<kBits>::kTileBytes / 4));
  }
}

template <int kBits>
void kv_panel(const KvPanelArgs& args) {
  int64_t g = 0;
  const auto part = [&](int64_t first, int64_t n) {
    for (int64_t k = 0; k < n; k += kPanelGroup) {
      panel_group<kBits>(args, g++, first + k, n - k < kPanelGroup ? n - k : kPanelGroup);
    }
  };
  part(0, args.shape.latent);
  part(args.shape.latent, args.shape.rope);
}

/// Fetches a piece of memory in equal steps between computations.
class Ahead {
 public:
  Ahead(const AheadBytes& bytes, int64_t n_steps)
      : at_(static_cast<const char*>(bytes.data)),
        end_(at_ + bytes.size),
        step_((bytes.size / 64 + n_steps) / n_steps) {}
  void fetch() {
    for (int64_t i = 0; i < step_ && at_ < end_; ++i, at_ += 64) _mm_prefetch(at_, _MM_HINT_T1);
  }

 private:
  const char* at_;
  const char* end_;
  int64_t step_;  // lines
};

// ---- products ----------------------------------------------------------------------------------------------------
// The pragmas keep the sums in registers (fp32_avx512.cc).

/// Adds one group's part to the scores of kX queries from j.
template <int kBits, int kX>
inline void score_tile(const PanelScoresArgs& args, int64_t g, int64_t j) {
  const int64_t n_groups = panel_groups(args.shape);
  const auto* scales = reinterpret_cast<const float*>(args.panel) + g * kPanelPositions;
  const uint8_t* keys = args.panel + n_groups * kPanelPositions * 4 + g * Width<kBits>::kTileBytes;
  const uint8_t* query[kX];
  __m512i sum[kX][4];
#pragma GCC unroll 8
  for (int t = 0; t < kX; ++t) {
    query[t] = args.queries[j + t] + panel_query_header_bytes(args.shape) + g * Width<kBits>::kRowBytes;
    const __m512i start = four_bytes(args.queries[j + t] + (n_groups + g) * 4);
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sum[t][v] = start;
  }
  for (int l = 0; l < Width<kBits>::kLines; ++l) {
    __m512i key[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) key[v] = _mm512_load_si512(keys + 256 * l + 64 * v);
#pragma GCC unroll 8
    for (int t = 0; t < kX; ++t) {
      const __m512i x = four_bytes(query[t] + 4 * l);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sum[t][v] = multiply_add<kBits>(sum[t][v], key[v], x);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kX; ++t) {
    const __m512 factor = _mm512_set1_ps(reinterpret_cast<const float*>(args.queries[j + t])[g]);
    float* to = args.scores[j + t];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const __m512 scale = _mm512_mul_ps(_mm512_load_ps(scales + 16 * v), factor);
      const __m512 before = g == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(to + 16 * v);
      _mm512_storeu_ps(to + 16 * v, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][v]), scale, before));
    }
  }
}

template <int kBits>
void panel_scores(const PanelScoresArgs& args) {
  const int64_t n_groups = panel_groups(args.shape);
  Ahead ahead(args.ahead, n_groups * ((args.n_x + 3) / 4));
  // Group by group: its keys stay in the first-level cache for all queries.
  for (int64_t g = 0; g < n_groups; ++g) {
    for (int64_t j = 0; j < args.n_x; j += 4) {
      ahead.fetch();
      if (j + 4 <= args.n_x) {
        score_tile<kBits, 4>(args, g, j);
      } else {
        for (int64_t i = j; i < args.n_x; ++i) score_tile<kBits, 1>(args, g, i);
      }
    }
  }
}

/// The weights of one group as integers, and what a step of each row's is worth.
template <int kBits>
struct GroupWeights {
  alignas(64) uint8_t rows[kPanelCallRows][Width<kBits>::kRowBytes];
  float factor[kPanelCallRows];
};

/// Latents of group g for kX rows from j.
template <int kBits, int kX>
inline void sum_tile(const PanelSumsArgs& args, const GroupWeights<kBits>& weights, int64_t g, int64_t j) {
  const int64_t n_groups = panel_groups(args.shape);
  const uint8_t* values =
      args.panel + n_groups * kPanelPositions * 4 + (n_groups + g) * int64_t{Width<kBits>::kTileBytes};
  const int64_t n_lines = (args.n + Width<kBits>::kPerDword - 1) / Width<kBits>::kPerDword;
  __m512i sum[kX][4];
#pragma GCC unroll 8
  for (int t = 0; t < kX; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sum[t][v] = _mm512_setzero_si512();
  }
  for (int64_t l = 0; l < n_lines; ++l) {
    __m512i value[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) value[v] = _mm512_load_si512(values + 256 * l + 64 * v);
#pragma GCC unroll 8
    for (int t = 0; t < kX; ++t) {
      const __m512i w = four_bytes(weights.rows[j + t] + 4 * l);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sum[t][v] = multiply_add<kBits>(sum[t][v], w, value[v]);
    }
  }
  const int64_t left = args.shape.latent - g * kPanelGroup;
#pragma GCC unroll 8
  for (int t = 0; t < kX; ++t) {
    const __m512 factor = _mm512_set1_ps(weights.factor[j + t]);
    const __m512 keep = _mm512_set1_ps(args.keep[j + t]);
    float* to = args.acc[j + t] + g * kPanelGroup;
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const __mmask16 mask = tail_mask(left - 16 * v);
      const __m512 before = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, to + 16 * v), keep);
      _mm512_mask_storeu_ps(to + 16 * v, mask, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][v]), factor, before));
    }
  }
}

/// 64 integers in [0, steps]. Packing works in 128-bit parts; the permutations bring them into order.
template <int kBits>
inline void store_weights(uint8_t* to, const __m512i (&w)[4]) {
  const __m512i low = _mm512_packus_epi32(w[0], w[1]);
  const __m512i high = _mm512_packus_epi32(w[2], w[3]);
  if constexpr (kBits == 8) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_store_si512(to, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high)));
  } else {
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    _mm512_store_si512(to, _mm512_permutexvar_epi64(order, low));
    _mm512_store_si512(to + 64, _mm512_permutexvar_epi64(order, high));
  }
}

template <int kBits>
void panel_sums(const PanelSumsArgs& args) {
  GroupWeights<kBits> group;
  alignas(64) float weights[kPanelCallRows][kPanelPositions];  // in steps
  float step[kPanelCallRows];
  for (int64_t j = 0; j < args.n_x; ++j) {
    __m512 w[4];
    __m512 m = _mm512_setzero_ps();
    __m512 l = _mm512_setzero_ps();
    for (int v = 0; v < 4; ++v) {
      w[v] = _mm512_maskz_loadu_ps(tail_mask(args.n - 16 * v), args.weights[j] + 16 * v);
      m = _mm512_max_ps(m, w[v]);
      l = _mm512_add_ps(l, w[v]);
    }
    step[j] = Width<kBits>::weight_step(_mm512_reduce_max_ps(m), kBits == 8 ? 0.0f : _mm512_reduce_add_ps(l));
    const __m512 inverse = _mm512_set1_ps(step[j] >= kTiny ? 1.0f / step[j] : 0.0f);
    for (int v = 0; v < 4; ++v) _mm512_store_ps(weights[j] + 16 * v, _mm512_mul_ps(w[v], inverse));
  }
  const int64_t n_groups = latent_groups(args.shape);
  Ahead ahead(args.ahead, n_groups * ((args.n_x + 3) / 4));
  for (int64_t g = 0; g < n_groups; ++g) {
    const auto* scales = reinterpret_cast<const float*>(args.panel) + g * kPanelPositions;
    __m512 share[4];  // of the largest scale among the visible positions
    __m512 m = _mm512_setzero_ps();
    for (int v = 0; v < 4; ++v) {
      share[v] = _mm512_maskz_loadu_ps(tail_mask(args.n - 16 * v), scales + 16 * v);
      m = _mm512_max_ps(m, share[v]);
    }
    const float largest_scale = _mm512_reduce_max_ps(m);
    const __m512 inverse_scale = _mm512_set1_ps(largest_scale >= kTiny ? 1.0f / largest_scale : 0.0f);
    for (int v = 0; v < 4; ++v) share[v] = _mm512_mul_ps(share[v], inverse_scale);
    for (int64_t j = 0; j < args.n_x; ++j) {
      __m512i w[4];
      for (int v = 0; v < 4; ++v) {
        w[v] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(weights[j] + 16 * v), share[v]));
      }
      store_weights<kBits>(group.rows[j], w);
      group.factor[j] = step[j] * largest_scale;
    }
    for (int64_t j = 0; j < args.n_x; j += 4) {
      ahead.fetch();
      if (j + 4 <= args.n_x) {
        sum_tile<kBits, 4>(args, group, g, j);
      } else {
        for (int64_t i = j; i < args.n_x; ++i) sum_tile<kBits, 1>(args, group, g, i);
      }
    }
  }
}

}  // namespace

void panel_query_avx512(const PanelShape& shape, const float* latent, const float* rope, uint8_t* out) {
  shape.bits == 8 ? panel_query<8>(shape, latent, rope, out) : panel_query<16>(shape, latent, rope, out);
}

void kv_panel_avx512(const KvPanelArgs& args) {
  args.shape.bits == 8 ? kv_panel<8>(args) : kv_panel<16>(args);
}

void panel_scores_avx512(const PanelScoresArgs& args) {
  args.shape.bits == 8 ? panel_scores<8>(args) : panel_scores<16>(args);
}

void panel_sums_avx512(const PanelSumsArgs& args) {
  args.shape.bits == 8 ? panel_sums<8>(args) : panel_sums<16>(args);
}

}  // namespace marlin::cpu
