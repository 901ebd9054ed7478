// FP4 codes times activations in two int8 planes (planes.h), in 256-bit vectors: the text of three families, which
// differ in the instructions of add_products. Each family's file includes it once and is compiled with flags of its
// own; all of it has internal linkage, so that no copy reaches another file.
//
// As with AVX-512, `rows` serves few token rows straight from the file's layout and `panel` many; group sums are exact
// integers and the FP32 part is one fused multiply-add a group in order of k, so all give the same bits.
#pragma once

#include <immintrin.h>

#include "backend/cpu/kernels/family.h"
#include "backend/cpu/kernels/planes.h"

namespace marlin::cpu {
namespace {

inline __m256i load(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

/// 2w + 12 of each code, in both halves: vpshufb looks up within 128 bits.
inline __m256i code_table() {
  return _mm256_broadcastsi128_si256(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
}
inline __m256i decode_low(__m256i codes, __m256i table) {
  return _mm256_shuffle_epi8(table, _mm256_and_si256(codes, _mm256_set1_epi8(15)));
}
inline __m256i decode_high(__m256i codes, __m256i table) {
  return decode_low(_mm256_srli_epi16(codes, 4), table);
}

/// Lane i of sum plus the products of bytes 4 i … 4 i + 3 of w[v] and x[v], for all v.
template <int kN>
inline __m256i add_products(__m256i sum, const __m256i (&w)[kN], const __m256i (&x)[kN]) {
#if defined(__AVXVNNI__)
#pragma GCC unroll 4
  for (int v = 0; v < kN; ++v) sum = _mm256_dpbusd_avx_epi32(sum, w[v], x[v]);
  return sum;
#elif defined(__AVX512VNNI__)
#pragma GCC unroll 4
  for (int v = 0; v < kN; ++v) sum = _mm256_dpbusd_epi32(sum, w[v], x[v]);
  return sum;
#else
  // A pair of products is 24 * 2 * 128 at the most: five of them fit 16 bits.
  static_assert(kN <= 5);
  __m256i pairs = _mm256_maddubs_epi16(w[0], x[0]);
#pragma GCC unroll 4
  for (int v = 1; v < kN; ++v) pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w[v], x[v]));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

// ---- few token rows ----------------------------------------------------------------------------------------------
//
// Half a line of codes, 64 k of a row, becomes two vectors; the activations lie likewise, and each part of 128 bits has
// 32 k of its own, for which planes.h keeps one sum four times over:
//   | even k of 0 … 31: 16 bytes | even k of 32 … 63: 16 bytes |    | odd k of 0 … 31 | odd k of 32 … 63 |
// So the sums of four rows, added within the parts, meet what is to be taken off:
//   | rows 0, 1, 2, 3 of k 0 … 31 | rows 0, 1, 2, 3 of k 32 … 63 |

inline __m128 add_group(__m128 acc, __m128i sum, __m128 scales, float factor) {
  return _mm_fmadd_ps(_mm_cvtepi32_ps(sum), _mm_mul_ps(scales, _mm_set1_ps(factor)), acc);
}

/// Scales of group g of four rows.
inline __m128 scales_of(const uint16_t* const (&rows)[4], int64_t g) {
  const uint64_t low = rows[0][g] | uint64_t{rows[1][g]} << 16;
  const uint64_t high = rows[2][g] | uint64_t{rows[3][g]} << 16;
  return _mm_cvtph_ps(_mm_cvtsi64_si128(static_cast<int64_t>(low | high << 32)));
}

constexpr int64_t kPrefetchBytes = 6144;

/// Four weight rows from args.row + i (fewer at the end: the last one stands in) times kX token rows from j.
template <int kGroup, int kX, bool kHighOnly>
inline void rows_tile(const Fp4DotArgs& args, int64_t i, int64_t j) {
  // A step is one group of 128 or of 64, or two of 32, of which a row's last step may have one only.
  constexpr int kStep = kGroup == 128 ? 128 : 64;
  constexpr int kVectors = kStep / 32;
  const int64_t row_bytes = args.in_features / 2;
  const int64_t n_groups = args.in_features / kGroup;
  const int64_t valid = args.n_rows - i < 4 ? args.n_rows - i : 4;
  const uint8_t* codes[4];
  const uint16_t* scale_rows[4];
  for (int r = 0; r < 4; ++r) {
    const int64_t row = args.row + i + (r < valid ? r : valid - 1);
    codes[r] = args.codes + row * row_bytes;
    scale_rows[r] = args.scales + row * n_groups;
  }
  const __m256i table = code_table();
  const uint8_t* x_rows[kX];
  __m128 acc[kX];
  for (int t = 0; t < kX; ++t) {
    x_rows[t] = args.x[j + t];
    acc[t] = _mm_setzero_ps();
  }
  // In order of address, and after the last row those of the next call, as planes_avx512.cc explains.
  const uint8_t* ahead = codes[0] + (4 * row_bytes > kPrefetchBytes ? 4 * row_bytes : kPrefetchBytes);
  const uint8_t* end = args.codes + (args.row + args.n_rows) * row_bytes;
  const int64_t jump = args.next_codes != nullptr ? args.next_codes - end : 0;
  const int64_t header = plane_header_bytes(args.in_features);
  for (int64_t k = 0; k < args.in_features; k += kStep) {
    const int64_t b = k / kPlaneBlock;
    const int64_t block = header + b * kPlaneBlockBytes + k % kPlaneBlock / 2;
    const bool half = kGroup == 32 && k + 32 == args.in_features;
    const uint8_t* lines = ahead < end ? ahead : ahead + jump;
    for (int v = 0; v < kVectors; ++v) _mm_prefetch(reinterpret_cast<const char*>(lines + 64 * v), _MM_HINT_T0);
    ahead += 64 * kVectors;
    __m256i sum[kX][4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      __m256i w[kVectors];
      for (int v = 0; v < kVectors; v += 2) {
        const uint8_t* from = codes[r] + k / 2 + 16 * v;
        const __m256i bytes =
            half ? _mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))) : load(from);
        w[v] = decode_low(bytes, table);
        w[v + 1] = decode_high(bytes, table);
      }
#pragma GCC unroll 4
      for (int t = 0; t < kX; ++t) {
        // Each plane in a chain of its own: the two together would be a latency of eight products.
        const auto plane = [&](int64_t offset) {
          __m256i x[kVectors];
          for (int v = 0; v < kVectors; ++v) x[v] = load(x_rows[t] + block + offset + 64 * (v % 2) + 32 * (v / 2));
          return add_products(_mm256_setzero_si256(), w, x);
        };
        sum[t][r] = _mm256_slli_epi32(plane(0), 8);
        if constexpr (!kHighOnly) sum[t][r] = _mm256_add_epi32(sum[t][r], plane(128));
      }
    }
    const __m128 scales = scales_of(scale_rows, k / kGroup);
    const __m128 scales_after = kGroup == 32 && !half ? scales_of(scale_rows, k / kGroup + 1) : scales;
    for (int t = 0; t < kX; ++t) {
      const __m256i four =
          _mm256_hadd_epi32(_mm256_hadd_epi32(sum[t][0], sum[t][1]), _mm256_hadd_epi32(sum[t][2], sum[t][3]));
      const uint8_t* sums = x_rows[t] + block + (kHighOnly ? kHighSums : kPlaneSums);
      __m256i offsets = load(sums);
      if constexpr (kGroup == 128) offsets = _mm256_add_epi32(offsets, load(sums + 32));
      const __m256i exact = _mm256_sub_epi32(four, offsets);
      const __m128i first = _mm256_castsi256_si128(exact);
      const __m128i second = _mm256_extracti128_si256(exact, 1);
      const float factor = reinterpret_cast<const float*>(x_rows[t])[b];
      if constexpr (kGroup == 32) {
        acc[t] = add_group(acc[t], first, scales, factor);
        if (!half) acc[t] = add_group(acc[t], second, scales_after, factor);
      } else {
        acc[t] = add_group(acc[t], _mm_add_epi32(first, second), scales, factor);
      }
    }
  }
  const __m128i lanes = _mm_cmpgt_epi32(_mm_set1_epi32(static_cast<int>(valid)), _mm_setr_epi32(0, 1, 2, 3));
  for (int t = 0; t < kX; ++t) {
    float* out = args.out[j + t] + i;
    if (args.add) acc[t] = _mm_add_ps(_mm_maskload_ps(out, lanes), acc[t]);
    _mm_maskstore_ps(out, lanes, acc[t]);
  }
}

template <int kGroup, bool kHighOnly>
inline void rows(const Fp4DotArgs& args) {
  if (args.next_scales != nullptr) {
    for (int line = 0; line < 4; ++line) {
      _mm_prefetch(reinterpret_cast<const char*>(args.next_scales + 32 * line), _MM_HINT_T0);
    }
  }
  for (int64_t i = 0; i < args.n_rows; i += 4) {
    int64_t j = 0;
    for (; j + 4 <= args.n_x; j += 4) rows_tile<kGroup, 4, kHighOnly>(args, i, j);
    switch (args.n_x - j) {
      case 3:
        rows_tile<kGroup, 3, kHighOnly>(args, i, j);
        break;
      case 2:
        rows_tile<kGroup, 2, kHighOnly>(args, i, j);
        break;
      case 1:
        rows_tile<kGroup, 1, kHighOnly>(args, i, j);
        break;
      default:
        break;
    }
  }
}

// ---- many token rows ---------------------------------------------------------------------------------------------
//
// Panel: 8 weight rows as bytes, 256 for each 32 k: four lines of even k, then four of odd k. Line p holds the four
// bytes from 4 p on of each row's 16, so that one instruction multiplies four k of 8 rows by a token's four, broadcast:
//   | row 0: 4 bytes | row 1: 4 bytes | … | row 7: 4 bytes |
// After the last block, 8 FP32 scales for each group.

constexpr int kPanelRows = 8;
constexpr int64_t kPieceBytes = kPanelRows * 32;

inline float* panel_scales(const Fp4DotArgs& args) {
  return reinterpret_cast<float*>(args.scratch + args.in_features * kPanelRows);
}

/// Decodes rows args.row + i … (fewer than 8 at the end: the last one stands in) into args.scratch.
inline void build_panel(const Fp4DotArgs& args, int64_t i) {
  const int64_t n_groups = args.in_features / args.group_size;
  const int64_t last = args.n_rows - 1;
  const __m256i table = code_table();
  const uint8_t* codes[kPanelRows];
  const uint16_t* scales[kPanelRows];
  for (int r = 0; r < kPanelRows; ++r) {
    const int64_t row = args.row + (i + r < last ? i + r : last);
    codes[r] = args.codes + row * (args.in_features / 2);
    scales[r] = args.scales + row * n_groups;
  }
  for (int64_t piece = 0; piece < args.in_features / 32; ++piece) {
    // Transposed as codes, in half the space: decoding works byte by byte.
    __m256i v[4];
    for (int r = 0; r < 4; ++r) {
      v[r] = _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(codes[r + 4] + 16 * piece),
                                 reinterpret_cast<const __m128i*>(codes[r] + 16 * piece));
    }
    const __m256i a = _mm256_unpacklo_epi32(v[0], v[1]);
    const __m256i b = _mm256_unpackhi_epi32(v[0], v[1]);
    const __m256i c = _mm256_unpacklo_epi32(v[2], v[3]);
    const __m256i d = _mm256_unpackhi_epi32(v[2], v[3]);
    const __m256i lines[4] = {_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c), _mm256_unpacklo_epi64(b, d),
                              _mm256_unpackhi_epi64(b, d)};
    auto* to = reinterpret_cast<__m256i*>(args.scratch + piece * kPieceBytes);
    for (int p = 0; p < 4; ++p) {
      _mm256_store_si256(to + p, decode_low(lines[p], table));
      _mm256_store_si256(to + 4 + p, decode_high(lines[p], table));
    }
  }
  float* to = panel_scales(args);
  for (int64_t g = 0; g < n_groups; ++g, to += kPanelRows) {
    const auto at = [&](int r) { return static_cast<int16_t>(scales[r][g]); };
    _mm256_store_ps(to, _mm256_cvtph_ps(_mm_setr_epi16(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7))));
  }
}

/// Adds four lines of a panel times 16 bytes of kX tokens.
template <int kX>
inline void add_lines(const uint8_t* lines, const uint8_t* const (&x)[kX], int64_t offset, __m256i (&sum)[kX]) {
  __m256i w[4];
  for (int p = 0; p < 4; ++p) w[p] = load(lines + 32 * p);
#pragma GCC unroll 8
  for (int t = 0; t < kX; ++t) {
    __m256i fours[4];
    for (int p = 0; p < 4; ++p) {
      int32_t four;
      __builtin_memcpy(&four, x[t] + offset + 4 * p, 4);
      fours[p] = _mm256_set1_epi32(four);
    }
    sum[t] = add_products(sum[t], w, fours);
  }
}

/// What sums of products with 2w + 12 have too much, in all lanes: `sums` holds it four times over for each 32 k.
template <int kGroup>
inline __m256i group_offset(const uint8_t* sums) {
  if constexpr (kGroup == 32)
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(sums)));
  __m256i two = load(sums);
  if constexpr (kGroup == 128) two = _mm256_add_epi32(two, load(sums + 32));
  return _mm256_add_epi32(two, _mm256_permute2x128_si256(two, two, 1));
}

template <int kGroup, int kX, bool kHighOnly>
inline void panel_tile(const Fp4DotArgs& args, int64_t i, int64_t j, const uint8_t* ahead) {
  const float* scales = panel_scales(args);
  const uint8_t* x_rows[kX];
  __m256 acc[kX];
  for (int t = 0; t < kX; ++t) {
    x_rows[t] = args.x[j + t];
    acc[t] = _mm256_setzero_ps();
  }
  const int64_t header = plane_header_bytes(args.in_features);
  const uint8_t* lines = args.scratch;
  for (int64_t k = 0; k < args.in_features; k += kGroup) {
    const int64_t b = k / kPlaneBlock;
    const int64_t block = header + b * kPlaneBlockBytes + k % kPlaneBlock / 2;
    __m256i sum[kX];
    for (int t = 0; t < kX; ++t) sum[t] = _mm256_setzero_si256();
    for (int p = 0; p < (kHighOnly ? 1 : 2); ++p) {
      const int64_t offset = block + 128 * p;
      for (int piece = 0; piece < kGroup / 32; ++piece) {
        add_lines(lines + piece * kPieceBytes, x_rows, offset + 16 * piece, sum);
        add_lines(lines + piece * kPieceBytes + 128, x_rows, offset + 64 + 16 * piece, sum);
      }
      if (p > 0) continue;
      for (int t = 0; t < kX; ++t) sum[t] = _mm256_slli_epi32(sum[t], 8);
    }
    lines += kGroup / 32 * kPieceBytes;
    if (ahead != nullptr) {
      for (int line = 0; line < kGroup / 16; ++line) {
        _mm_prefetch(reinterpret_cast<const char*>(ahead + 64 * line), _MM_HINT_T1);
      }
      ahead += 4 * kGroup;
    }
    const __m256 scale = _mm256_load_ps(scales);
    scales += kPanelRows;
    for (int t = 0; t < kX; ++t) {
      const __m256i offset = group_offset<kGroup>(x_rows[t] + block + (kHighOnly ? kHighSums : kPlaneSums));
      const __m256 value = _mm256_cvtepi32_ps(_mm256_sub_epi32(sum[t], offset));
      acc[t] = _mm256_fmadd_ps(
          value, _mm256_mul_ps(scale, _mm256_set1_ps(reinterpret_cast<const float*>(x_rows[t])[b])), acc[t]);
    }
  }
  const auto valid = static_cast<int>(args.n_rows - i < kPanelRows ? args.n_rows - i : kPanelRows);
  const __m256i lanes = _mm256_cmpgt_epi32(_mm256_set1_epi32(valid), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  for (int t = 0; t < kX; ++t) {
    float* out = args.out[j + t] + i;
    if (args.add) acc[t] = _mm256_add_ps(_mm256_maskload_ps(out, lanes), acc[t]);
    _mm256_maskstore_ps(out, lanes, acc[t]);
  }
}

template <int kGroup, bool kHighOnly>
inline void panel(const Fp4DotArgs& args) {
  for (int64_t i = 0; i < args.n_rows; i += kPanelRows) {
    build_panel(args, i);
    // The next panel's lines are fetched in order of address while the first tokens compute.
    const uint8_t* ahead = args.codes + (args.row + i + kPanelRows) * (args.in_features / 2);
    if (i + kPanelRows >= args.n_rows && args.next_codes != nullptr) ahead = args.next_codes;
    int64_t j = 0;
    for (; j + 8 <= args.n_x; j += 8) panel_tile<kGroup, 8, kHighOnly>(args, i, j, j == 0 ? ahead : nullptr);
    for (; j + 4 <= args.n_x; j += 4) panel_tile<kGroup, 4, kHighOnly>(args, i, j, nullptr);
    if (j + 2 <= args.n_x) {
      panel_tile<kGroup, 2, kHighOnly>(args, i, j, nullptr);
      j += 2;
    }
    if (j < args.n_x) panel_tile<kGroup, 1, kHighOnly>(args, i, j, nullptr);
  }
}

// From this many token rows on, decoding and transposing 8 rows pays (PERF.md).
constexpr int64_t kPanelTokens = 8;

template <int kGroup, bool kHighOnly>
inline void fp4_dot(const Fp4DotArgs& args) {
  if (args.n_x >= kPanelTokens && args.n_rows >= kPanelRows) {
    panel<kGroup, kHighOnly>(args);
  } else {
    rows<kGroup, kHighOnly>(args);
  }
}

template <int kGroup>
inline void fp4_dot(const Fp4DotArgs& args) {
  args.high_only ? fp4_dot<kGroup, true>(args) : fp4_dot<kGroup, false>(args);
}

void fp4_dot(const Fp4DotArgs& args) {
  switch (args.group_size) {
    case 32:
      return fp4_dot<32>(args);
    case 64:
      return fp4_dot<64>(args);
    default:
      return fp4_dot<128>(args);
  }
}

}  // namespace
}  // namespace marlin::cpu
