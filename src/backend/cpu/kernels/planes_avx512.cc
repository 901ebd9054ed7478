// FP4 codes times activations in two int8 planes (planes.h), with AVX-512 VBMI and VNNI. Two loops over the same
// arithmetic: `rows` for few token rows, four weight rows at a time straight from the file's layout; `panel` for many,
// 16 weight rows decoded and transposed once and used by all tokens. Group sums are exact integers and the FP32 part is
// one fused multiply-add a group in order of k, so both give the same bits.
#include <immintrin.h>

#include "backend/cpu/kernels/family_avx512.h"
#include "backend/cpu/kernels/planes.h"
#include "backend/cpu/kernels/transpose_avx512.h"

namespace marlin::cpu {
namespace {

inline __m512i load(const void* p) {
  return _mm512_loadu_si512(p);
}

// 2w + 12 of each code, four times over: vpermb uses six index bits, so neither nibble needs a mask.
inline __m512i code_table() {
  return _mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
}

/// 128 codes as bytes: those of even k, and those of odd k.
struct Line {
  __m512i even;
  __m512i odd;
};
inline Line decode_line(__m512i codes, __m512i table) {
  return {_mm512_permutexvar_epi8(codes, table), _mm512_permutexvar_epi8(_mm512_srli_epi16(codes, 4), table)};
}

/// The bytes of a row that block b has: 64, or fewer in the last block of a row that is no multiple of 128.
inline __mmask64 line_mask(int64_t in_features, int64_t b) {
  const int64_t bytes = (in_features - b * kPlaneBlock) / 2;
  return bytes >= 64 ? ~__mmask64{0} : (__mmask64{1} << bytes) - 1;
}

// ---- activations -------------------------------------------------------------------------------------------------

inline __m128i low_bytes(__m512i v) {
  return _mm512_cvtepi32_epi8(v);
}

/// One block of `n` <= 128 values; returns its FP32 factor.
inline float split_block(const float* x, int64_t n, uint8_t* block) {
  __m512 v[8];
  __m512 largest = _mm512_setzero_ps();
  __mmask16 odd_ones = 0;  // NaN or infinite
  for (int i = 0; i < 8; ++i) {
    const int64_t left = n - 16 * i;
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : left <= 0 ? 0 : (1 << left) - 1);
    v[i] = _mm512_maskz_loadu_ps(mask, x + 16 * i);
    odd_ones = static_cast<__mmask16>(odd_ones | _mm512_fpclass_ps_mask(v[i], 0x99));
    largest = _mm512_max_ps(largest, _mm512_abs_ps(v[i]));
  }
  const float m = _mm512_reduce_max_ps(largest);
  const bool usable = odd_ones == 0 && m >= MARLIN_PLANE_TINY;
  const __m512 inverse = _mm512_set1_ps(usable ? static_cast<float>(kPlaneSteps) / m : 0.0f);
  alignas(64) int8_t hi[128];
  alignas(64) int8_t lo[128];
  alignas(16) int32_t sums[2][4];  // of q, and of 256 hi
  __m512i sum = _mm512_setzero_si512();
  __m512i high_sum = sum;
  for (int i = 0; i < 8; ++i) {
    const __m512 value = odd_ones == 0 ? v[i] : _mm512_setzero_ps();
    const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(value, inverse));
    const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
    _mm_store_si128(reinterpret_cast<__m128i*>(hi + 16 * i), low_bytes(high));
    _mm_store_si128(reinterpret_cast<__m128i*>(lo + 16 * i), low_bytes(q));  // mod 256: q - 256 hi
    sum = _mm512_add_epi32(sum, q);
    high_sum = _mm512_add_epi32(high_sum, high);
    if (i % 2 == 1) {
      sums[0][i / 2] = 12 * _mm512_reduce_add_epi32(sum);
      sums[1][i / 2] = 12 * 256 * _mm512_reduce_add_epi32(high_sum);
      sum = high_sum = _mm512_setzero_si512();
    }
  }
  const int8_t* planes[2] = {hi, lo};
  for (int p = 0; p < 2; ++p) {
    for (int half = 0; half < 2; ++half) {
      const __m512i both = load(planes[p] + 64 * half);
      auto* even = reinterpret_cast<__m256i*>(block + 128 * p + 32 * half);
      _mm256_storeu_si256(even, _mm512_cvtepi16_epi8(both));
      _mm256_storeu_si256(even + 2, _mm512_cvtepi16_epi8(_mm512_srli_epi16(both, 8)));
    }
  }
  const __m512i four_times = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  for (int p = 0; p < 2; ++p) {
    const __m512i each = _mm512_castsi128_si512(_mm_load_si128(reinterpret_cast<const __m128i*>(sums[p])));
    _mm512_storeu_si512(block + (p == 0 ? kPlaneSums : kHighSums), _mm512_permutexvar_epi32(four_times, each));
  }
  if (odd_ones != 0) return __builtin_nanf("");
  return usable ? m / static_cast<float>(kPlaneSteps) * 0.5f : 0.0f;
}

// ---- few token rows ----------------------------------------------------------------------------------------------

/// [a0 … a15], …, [d0 … d15] -> in each 128-bit part c: the sums of a, b, c and d over its four lanes.
inline __m512i add_lanes(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

inline __m128 add_group(__m128 acc, __m128i sum, __m128 scales, __m128 factor) {
  return _mm_fmadd_ps(_mm_cvtepi32_ps(sum), _mm_mul_ps(scales, factor), acc);
}

/// Scales of four rows, of eight groups from `first`: scales[g] holds the rows' four halves.
inline void load_scales(const uint16_t* const (&rows)[4], int64_t first, int64_t n_groups, uint64_t* scales) {
  const int64_t left = n_groups - first;
  const auto mask = static_cast<__mmask8>(left >= 8 ? 0xff : (1 << left) - 1);
  __m128i s[4];
  for (int r = 0; r < 4; ++r) s[r] = _mm_maskz_loadu_epi16(mask, rows[r] + first);
  const __m128i low01 = _mm_unpacklo_epi16(s[0], s[1]);
  const __m128i low23 = _mm_unpacklo_epi16(s[2], s[3]);
  const __m128i high01 = _mm_unpackhi_epi16(s[0], s[1]);
  const __m128i high23 = _mm_unpackhi_epi16(s[2], s[3]);
  auto* to = reinterpret_cast<__m128i*>(scales);
  _mm_store_si128(to, _mm_unpacklo_epi32(low01, low23));
  _mm_store_si128(to + 1, _mm_unpackhi_epi32(low01, low23));
  _mm_store_si128(to + 2, _mm_unpacklo_epi32(high01, high23));
  _mm_store_si128(to + 3, _mm_unpackhi_epi32(high01, high23));
}

// Far enough for the memory's latency, and at least the tile's own four rows: of wide rows a shorter distance would
// reach the later rows of the next tile only after their use.
constexpr int64_t kPrefetchBytes = 6144;

/// Four weight rows from args.row + i (fewer at the end: the last one stands in) times kX token rows from j.
template <int kGroup, int kX, bool kHighOnly>
inline void rows_tile(const Fp4DotArgs& args, int64_t i, int64_t j) {
  constexpr int kGroups = 128 / kGroup;  // in a block
  const int64_t row_bytes = args.in_features / 2;
  const int64_t n_groups = args.in_features / kGroup;
  const int64_t n_blocks = plane_blocks(args.in_features);
  const int64_t valid = args.n_rows - i < 4 ? args.n_rows - i : 4;
  const uint8_t* codes[4];
  const uint16_t* scale_rows[4];
  for (int r = 0; r < 4; ++r) {
    const int64_t row = args.row + i + (r < valid ? r : valid - 1);
    codes[r] = args.codes + row * row_bytes;
    scale_rows[r] = args.scales + row * n_groups;
  }
  const __m512i table = code_table();
  const float* factors[kX];
  const uint8_t* block[kX];
  __m128 acc[kX];
  for (int t = 0; t < kX; ++t) {
    factors[t] = reinterpret_cast<const float*>(args.x[j + t]);
    block[t] = args.x[j + t] + plane_header_bytes(args.in_features);
    acc[t] = _mm_setzero_ps();
  }
  alignas(64) uint64_t scales[8];
  // In order of address, not in the tile's order of use: the memory's own prefetcher follows one ascending stream of
  // misses, and loses it when four rows alternate (PERF.md). After the last row come those of the next call.
  const uint8_t* ahead = codes[0] + (4 * row_bytes > kPrefetchBytes ? 4 * row_bytes : kPrefetchBytes);
  const uint8_t* end = args.codes + (args.row + args.n_rows) * row_bytes;
  const int64_t jump = args.next_codes != nullptr ? args.next_codes - end : 0;
  for (int64_t b = 0; b < n_blocks; ++b) {
    if (b * kGroups % 8 == 0) load_scales(scale_rows, b * kGroups, n_groups, scales);
    const __mmask64 mask = line_mask(args.in_features, b);
    Line w[4];
    for (int r = 0; r < 4; ++r) {
      w[r] = decode_line(_mm512_maskz_loadu_epi8(mask, codes[r] + 64 * b), table);
      _mm_prefetch(reinterpret_cast<const char*>(ahead < end ? ahead : ahead + jump), _MM_HINT_T0);
      ahead += 64;
    }
    for (int t = 0; t < kX; ++t) {
      const uint8_t* x = block[t] + b * kPlaneBlockBytes;
      __m512i sum[4];
      for (int r = 0; r < 4; ++r) {
        __m512i s = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[r].even, load(x));
        s = _mm512_slli_epi32(_mm512_dpbusd_epi32(s, w[r].odd, load(x + 64)), 8);
        if constexpr (!kHighOnly) {
          s = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(s, w[r].even, load(x + 128)), w[r].odd, load(x + 192));
        }
        sum[r] = s;
      }
      const __m512i offsets = load(x + (kHighOnly ? kHighSums : kPlaneSums));
      const __m512i chunks = _mm512_sub_epi32(add_lanes(sum[0], sum[1], sum[2], sum[3]), offsets);
      const __m128 factor = _mm_set1_ps(factors[t][b]);
      const auto scale = [&](int64_t g) {
        return _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales + (b * kGroups + g) % 8)));
      };
      if constexpr (kGroup == 32) {
        acc[t] = add_group(acc[t], _mm512_castsi512_si128(chunks), scale(0), factor);
        acc[t] = add_group(acc[t], _mm512_extracti32x4_epi32(chunks, 1), scale(1), factor);
        acc[t] = add_group(acc[t], _mm512_extracti32x4_epi32(chunks, 2), scale(2), factor);
        acc[t] = add_group(acc[t], _mm512_extracti32x4_epi32(chunks, 3), scale(3), factor);
      } else {
        const __m256i low = _mm512_castsi512_si256(chunks);
        const __m256i high = _mm512_extracti64x4_epi64(chunks, 1);
        if constexpr (kGroup == 64) {
          const auto pair = [](__m256i v) {
            return _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
          };
          acc[t] = add_group(acc[t], pair(low), scale(0), factor);
          acc[t] = add_group(acc[t], pair(high), scale(1), factor);
        } else {
          const __m256i both = _mm256_add_epi32(low, high);
          const __m128i total = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
          acc[t] = add_group(acc[t], total, scale(0), factor);
        }
      }
    }
  }
  const auto lanes = static_cast<__mmask8>((1 << valid) - 1);
  for (int t = 0; t < kX; ++t) {
    float* out = args.out[j + t] + i;
    if (args.add) acc[t] = _mm_add_ps(_mm_maskz_loadu_ps(lanes, out), acc[t]);
    _mm_mask_storeu_ps(out, lanes, acc[t]);
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
// Panel block: 32 lines. Lines p (even k) and 16 + p (odd k) hold, for weight rows 0 … 15, the four bytes from 4 p on
// of the row's even or odd half, so that one instruction multiplies four k of 16 rows by a token's four, broadcast:
//   | row 0: 4 bytes | row 1: 4 bytes | … | row 15: 4 bytes |

constexpr int kPanelRows = 16;
constexpr int64_t kPanelBytes = kPanelRows * kPlaneBlock;

/// Decodes rows args.row + i … (fewer than 16 at the end: the last one stands in) into args.scratch.
inline void build_panel(const Fp4DotArgs& args, int64_t i) {
  const int64_t row_bytes = args.in_features / 2;
  const int64_t n_groups = args.in_features / args.group_size;
  const int64_t n_blocks = plane_blocks(args.in_features);
  const int64_t last = args.n_rows - 1;
  const __m512i table = code_table();
  for (int64_t b = 0; b < n_blocks; ++b) {
    const __mmask64 mask = line_mask(args.in_features, b);
    // Transposed as codes, in half the space: decoding works byte by byte.
    __m512i codes[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) {
      const int64_t row = args.row + (i + r < last ? i + r : last);
      codes[r] = _mm512_maskz_loadu_epi8(mask, args.codes + row * row_bytes + 64 * b);
    }
    transpose(codes);
    uint8_t* to = args.scratch + b * kPanelBytes;
    for (int p = 0; p < 16; ++p) {
      const Line line = decode_line(codes[p], table);
      _mm512_store_si512(to + 64 * p, line.even);
      _mm512_store_si512(to + 1024 + 64 * p, line.odd);
    }
  }
  auto* scales = reinterpret_cast<float*>(args.scratch + n_blocks * kPanelBytes);
  for (int64_t g = 0; g < n_groups; g += 16) {
    const int64_t left = n_groups - g;
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1 << left) - 1);
    __m512i lines[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) {
      const uint16_t* from = args.scales + (args.row + (i + r < last ? i + r : last)) * n_groups + g;
      lines[r] = _mm512_castps_si512(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from)));
    }
    transpose(lines);
    for (int k = 0; k < 16 && k < left; ++k) _mm512_store_si512(scales + (g + k) * kPanelRows, lines[k]);
  }
}

/// Adds lines [begin, end) of the even and the odd half times one plane of kX tokens.
template <int kX>
inline void add_plane(const uint8_t* panel, const uint8_t* const (&x)[kX], int64_t plane, int begin, int end,
                      __m512i (&sum)[kX]) {
  for (int half = 0; half < 2; ++half) {
    for (int p = begin; p < end; ++p) {
      const __m512i w = _mm512_load_si512(panel + 1024 * half + 64 * p);
      for (int t = 0; t < kX; ++t) {
        int32_t four;
        __builtin_memcpy(&four, x[t] + plane + 64 * half + 4 * p, 4);
        sum[t] = _mm512_dpbusd_epi32(sum[t], w, _mm512_set1_epi32(four));
      }
    }
  }
}

template <int kGroup, int kX, bool kHighOnly>
inline void panel_tile(const Fp4DotArgs& args, int64_t i, int64_t j, const uint8_t* ahead) {
  constexpr int kGroups = 128 / kGroup;
  constexpr int kLines = 16 / kGroups;  // of each half, in a group
  const int64_t n_groups = args.in_features / kGroup;
  const auto* scales = reinterpret_cast<const float*>(args.scratch + plane_blocks(args.in_features) * kPanelBytes);
  const uint8_t* x[kX];
  const float* factors[kX];
  __m512 acc[kX];
  for (int t = 0; t < kX; ++t) {
    x[t] = args.x[j + t] + plane_header_bytes(args.in_features);
    factors[t] = reinterpret_cast<const float*>(args.x[j + t]);
    acc[t] = _mm512_setzero_ps();
  }
  for (int64_t g = 0; g < n_groups; ++g) {
    const int64_t b = g / kGroups;
    const int begin = static_cast<int>(g % kGroups) * kLines;
    const uint8_t* panel = args.scratch + b * kPanelBytes;
    if (ahead != nullptr) {
      for (int line = 0; line < kLines; ++line)
        _mm_prefetch(reinterpret_cast<const char*>(ahead + 64 * line), _MM_HINT_T1);
      ahead += 64 * kLines;
    }
    __m512i sum[kX];
    for (int t = 0; t < kX; ++t) sum[t] = _mm512_setzero_si512();
    add_plane(panel, x, 0, begin, begin + kLines, sum);
    for (int t = 0; t < kX; ++t) sum[t] = _mm512_slli_epi32(sum[t], 8);
    if constexpr (!kHighOnly) add_plane(panel, x, 128, begin, begin + kLines, sum);
    const __m512 scale = _mm512_load_ps(scales + g * kPanelRows);
    for (int t = 0; t < kX; ++t) {
      int32_t offset = 0;
      for (int c = begin / 4; c < (begin + kLines) / 4; ++c) {
        int32_t part;
        __builtin_memcpy(&part, x[t] + (kHighOnly ? kHighSums : kPlaneSums) + 16 * c, 4);
        offset += part;
      }
      const __m512 value = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum[t], _mm512_set1_epi32(offset)));
      acc[t] = _mm512_fmadd_ps(value, _mm512_mul_ps(scale, _mm512_set1_ps(factors[t][b])), acc[t]);
      if (begin + kLines == 16) x[t] += kPlaneBlockBytes;
    }
  }
  const int64_t valid = args.n_rows - i;
  const auto mask = static_cast<__mmask16>(valid >= kPanelRows ? 0xffff : (1 << valid) - 1);
  for (int t = 0; t < kX; ++t) {
    float* out = args.out[j + t] + i;
    if (args.add) acc[t] = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), acc[t]);
    _mm512_mask_storeu_ps(out, mask, acc[t]);
  }
}

template <int kGroup, bool kHighOnly>
inline void panel(const Fp4DotArgs& args) {
  for (int64_t i = 0; i < args.n_rows; i += kPanelRows) {
    build_panel(args, i);
    // Sixteen rows at a time are too many streams for the memory's own prefetcher: the next panel's lines are fetched
    // in order of address while the first tokens compute.
    const uint8_t* ahead = args.codes + (args.row + i + kPanelRows) * (args.in_features / 2);
    if (i + kPanelRows >= args.n_rows && args.next_codes != nullptr) ahead = args.next_codes;
    // Tiles of nearly the same size, at most eight tokens: four or more, since kPanelTokens are two tiles of four.
    int64_t j = 0;
    for (int64_t tiles = (args.n_x + 7) / 8; tiles > 0; --tiles) {
      const int64_t count = (args.n_x - j + tiles - 1) / tiles;
      switch (count) {
        case 8:
          panel_tile<kGroup, 8, kHighOnly>(args, i, j, ahead);
          break;
        case 7:
          panel_tile<kGroup, 7, kHighOnly>(args, i, j, ahead);
          break;
        case 6:
          panel_tile<kGroup, 6, kHighOnly>(args, i, j, ahead);
          break;
        case 5:
          panel_tile<kGroup, 5, kHighOnly>(args, i, j, ahead);
          break;
        default:
          panel_tile<kGroup, 4, kHighOnly>(args, i, j, ahead);
          break;
      }
      j += count;
      ahead = nullptr;
    }
  }
}

// From this many token rows on, decoding and transposing 16 rows pays (PERF.md).
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

}  // namespace

void split_avx512(const float* x, int64_t n, uint8_t* out) {
  auto* factors = reinterpret_cast<float*>(out);
  uint8_t* block = out + plane_header_bytes(n);
  for (int64_t k = 0; k < n; k += kPlaneBlock, block += kPlaneBlockBytes) {
    *factors++ = split_block(x + k, n - k < kPlaneBlock ? n - k : kPlaneBlock, block);
  }
}

void fp4_dot_avx512(const Fp4DotArgs& args) {
  switch (args.group_size) {
    case 32:
      return fp4_dot<32>(args);
    case 64:
      return fp4_dot<64>(args);
    default:
      return fp4_dot<128>(args);
  }
}

const Family kAvx512Family = {"avx512vnni",       dot_avx512,      accumulate_avx512,   fold_scores_avx512,
                              sum_exp_avx512,     swiglu_avx512,   decode_f16_avx512,   decode_bf16_avx512,
                              decode_fp4_avx512,  split_avx512,    fp4_dot_avx512,      fp4_accumulate_avx512,
                              panel_query_avx512, kv_panel_avx512, panel_scores_avx512, panel_sums_avx512};

}  // namespace marlin::cpu
