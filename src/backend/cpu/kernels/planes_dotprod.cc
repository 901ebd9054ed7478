// FP4 codes times activations in two int8 planes (planes.h), with NEON's dot product instructions. As with AVX-512,
// `rows` serves few token rows straight from the file's layout and `panel` many; group sums are exact integers and the
// FP32 part is one fused multiply-add a group in order of k, so all give the same bits. Both operands are signed, so
// the codes are 2w and no sums are taken off.
#include <arm_neon.h>

#include "backend/cpu/kernels/family_neon.h"
#include "backend/cpu/kernels/planes.h"

namespace marlin::cpu {
namespace {

inline int8x16_t code_table() {
  static const int8_t kTwice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  return vld1q_s8(kTwice);
}

/// 32 codes as bytes: those of even k, and those of odd k.
struct Piece {
  int8x16_t even;
  int8x16_t odd;
};
inline Piece decode_piece(const uint8_t* codes, int8x16_t table) {
  const uint8x16_t bytes = vld1q_u8(codes);
  return {vqtbl1q_s8(table, vandq_u8(bytes, vdupq_n_u8(15))), vqtbl1q_s8(table, vshrq_n_u8(bytes, 4))};
}

inline int8x16_t load(const uint8_t* p) {
  return vreinterpretq_s8_u8(vld1q_u8(p));
}

inline float scale_value(uint16_t half) {
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}

inline float32x4_t add_group(float32x4_t acc, int32x4_t sum, float32x4_t scales, float factor) {
  return vfmaq_f32(acc, vcvtq_f32_s32(sum), vmulq_n_f32(scales, factor));
}

inline void store_rows(float* out, float32x4_t acc, int64_t valid, bool add) {
  float values[4];
  vst1q_f32(values, acc);
  for (int64_t r = 0; r < valid; ++r) out[r] = add ? out[r] + values[r] : values[r];
}

// ---- few token rows ----------------------------------------------------------------------------------------------

constexpr int64_t kPrefetchBytes = 6144;

/// Four weight rows from args.row + i (fewer at the end: the last one stands in) times kX token rows from j.
template <int kX, bool kHighOnly>
inline void rows_tile(const Fp4DotArgs& args, int64_t i, int64_t j) {
  constexpr int kPlanes = kHighOnly ? 1 : 2;
  const int64_t row_bytes = args.in_features / 2;
  const int64_t n_groups = args.in_features / args.group_size;
  const int64_t group_pieces = args.group_size / 32;
  const int64_t valid = args.n_rows - i < 4 ? args.n_rows - i : 4;
  const uint8_t* codes[4];
  const uint16_t* scales[4];
  for (int r = 0; r < 4; ++r) {
    const int64_t row = args.row + i + (r < valid ? r : valid - 1);
    codes[r] = args.codes + row * row_bytes;
    scales[r] = args.scales + row * n_groups;
  }
  const int8x16_t table = code_table();
  const uint8_t* blocks[kX];
  const float* factors[kX];
  float32x4_t acc[kX];
  for (int t = 0; t < kX; ++t) {
    factors[t] = reinterpret_cast<const float*>(args.x[j + t]);
    blocks[t] = args.x[j + t] + plane_header_bytes(args.in_features);
    acc[t] = vdupq_n_f32(0);
  }
  const uint8_t* ahead = codes[0] + (4 * row_bytes > kPrefetchBytes ? 4 * row_bytes : kPrefetchBytes);
  for (int64_t g = 0; g < n_groups; ++g) {
    int32x4_t sum[kX][kPlanes][4];
    for (int t = 0; t < kX; ++t) {
      for (int p = 0; p < kPlanes; ++p) {
        for (int r = 0; r < 4; ++r) sum[t][p][r] = vdupq_n_s32(0);
      }
    }
    const int64_t b = g * args.group_size / kPlaneBlock;
    for (int64_t piece = g * group_pieces; piece < (g + 1) * group_pieces; ++piece) {
      Piece w[4];
      for (int r = 0; r < 4; ++r) w[r] = decode_piece(codes[r] + 16 * piece, table);
      __builtin_prefetch(ahead);
      ahead += 64;
      for (int t = 0; t < kX; ++t) {
        const uint8_t* x = blocks[t] + b * kPlaneBlockBytes + piece % 4 * 16;
        for (int p = 0; p < kPlanes; ++p) {
          const int8x16_t even = load(x + 128 * p);
          const int8x16_t odd = load(x + 128 * p + 64);
          for (int r = 0; r < 4; ++r) {
            sum[t][p][r] = vdotq_s32(vdotq_s32(sum[t][p][r], w[r].even, even), w[r].odd, odd);
          }
        }
      }
    }
    float four[4];
    for (int r = 0; r < 4; ++r) four[r] = scale_value(scales[r][g]);
    for (int t = 0; t < kX; ++t) {
      int32x4_t total[4];
      for (int r = 0; r < 4; ++r) {
        total[r] = vshlq_n_s32(sum[t][0][r], 8);
        if constexpr (!kHighOnly) total[r] = vaddq_s32(total[r], sum[t][1][r]);
      }
      const int32x4_t lanes = vpaddq_s32(vpaddq_s32(total[0], total[1]), vpaddq_s32(total[2], total[3]));
      acc[t] = add_group(acc[t], lanes, vld1q_f32(four), factors[t][b]);
    }
  }
  for (int t = 0; t < kX; ++t) store_rows(args.out[j + t] + i, acc[t], valid, args.add);
}

template <bool kHighOnly>
inline void rows(const Fp4DotArgs& args) {
  constexpr int kTokens = kHighOnly ? 4 : 2;  // as many as registers hold
  for (int64_t i = 0; i < args.n_rows; i += 4) {
    int64_t j = 0;
    for (; j + kTokens <= args.n_x; j += kTokens) rows_tile<kTokens, kHighOnly>(args, i, j);
    for (; j < args.n_x; ++j) rows_tile<1, kHighOnly>(args, i, j);
  }
}

// ---- many token rows ---------------------------------------------------------------------------------------------
//
// Panel block: 32 lines of 64 bytes. Lines p (even k) and 16 + p (odd k) hold, for weight rows 0 … 15, the four bytes
// from 4 p on of the row's even or odd half, so that one instruction multiplies four k of four rows by a lane of a
// token's 16:
//   | row 0: 4 bytes | row 1: 4 bytes | … | row 15: 4 bytes |

constexpr int kPanelRows = 16;
constexpr int64_t kPanelBytes = kPanelRows * kPlaneBlock;

/// Four rows of 16 bytes -> four vectors of four bytes of each row.
inline void transpose_store(const int8x16_t (&v)[4], uint8_t* to) {
  int32x4_t w[4];
  for (int r = 0; r < 4; ++r) w[r] = vreinterpretq_s32_s8(v[r]);
  const int64x2_t a = vreinterpretq_s64_s32(vzip1q_s32(w[0], w[1]));
  const int64x2_t b = vreinterpretq_s64_s32(vzip2q_s32(w[0], w[1]));
  const int64x2_t c = vreinterpretq_s64_s32(vzip1q_s32(w[2], w[3]));
  const int64x2_t d = vreinterpretq_s64_s32(vzip2q_s32(w[2], w[3]));
  const int64x2_t columns[4] = {vzip1q_s64(a, c), vzip2q_s64(a, c), vzip1q_s64(b, d), vzip2q_s64(b, d)};
  for (int p = 0; p < 4; ++p) vst1q_u8(to + 64 * p, vreinterpretq_u8_s64(columns[p]));
}

/// Decodes rows args.row + i … (fewer than 16 at the end: the last one stands in) into args.scratch.
inline void build_panel(const Fp4DotArgs& args, int64_t i) {
  const int64_t n_groups = args.in_features / args.group_size;
  const int64_t last = args.n_rows - 1;
  const int8x16_t table = code_table();
  const auto row = [&](int64_t r) { return args.row + (i + r < last ? i + r : last); };
  for (int64_t piece = 0; piece < args.in_features / 32; ++piece) {
    uint8_t* to = args.scratch + piece / 4 * kPanelBytes + piece % 4 * 256;
    for (int quarter = 0; quarter < 4; ++quarter) {
      int8x16_t even[4];
      int8x16_t odd[4];
      for (int r = 0; r < 4; ++r) {
        const Piece w = decode_piece(args.codes + row(4 * quarter + r) * (args.in_features / 2) + 16 * piece, table);
        even[r] = w.even;
        odd[r] = w.odd;
      }
      transpose_store(even, to + 16 * quarter);
      transpose_store(odd, to + 1024 + 16 * quarter);
    }
  }
  auto* scales = reinterpret_cast<float*>(args.scratch + plane_blocks(args.in_features) * kPanelBytes);
  for (int r = 0; r < kPanelRows; ++r) {
    const uint16_t* from = args.scales + row(r) * n_groups;
    for (int64_t g = 0; g < n_groups; ++g) scales[g * kPanelRows + r] = scale_value(from[g]);
  }
}

/// Adds four lines of a panel, 16 rows, times 16 bytes of kX tokens.
template <int kX>
inline void add_lines(const uint8_t* lines, const int8x16_t (&x)[kX], int32x4_t (&sum)[kX][4]) {
  for (int quarter = 0; quarter < 4; ++quarter) {
    for (int t = 0; t < kX; ++t) {
      int32x4_t s = sum[t][quarter];
      s = vdotq_laneq_s32(s, load(lines + 16 * quarter), x[t], 0);
      s = vdotq_laneq_s32(s, load(lines + 64 + 16 * quarter), x[t], 1);
      s = vdotq_laneq_s32(s, load(lines + 128 + 16 * quarter), x[t], 2);
      sum[t][quarter] = vdotq_laneq_s32(s, load(lines + 192 + 16 * quarter), x[t], 3);
    }
  }
}

template <int kX, bool kHighOnly>
inline void panel_tile(const Fp4DotArgs& args, int64_t i, int64_t j) {
  const int64_t n_groups = args.in_features / args.group_size;
  const int64_t group_pieces = args.group_size / 32;
  const auto* scales = reinterpret_cast<const float*>(args.scratch + plane_blocks(args.in_features) * kPanelBytes);
  const uint8_t* blocks[kX];
  const float* factors[kX];
  float32x4_t acc[kX][4];
  for (int t = 0; t < kX; ++t) {
    factors[t] = reinterpret_cast<const float*>(args.x[j + t]);
    blocks[t] = args.x[j + t] + plane_header_bytes(args.in_features);
    for (float32x4_t& a : acc[t]) a = vdupq_n_f32(0);
  }
  for (int64_t g = 0; g < n_groups; ++g) {
    const int64_t b = g * args.group_size / kPlaneBlock;
    int32x4_t sum[kX][4];
    for (int t = 0; t < kX; ++t) {
      for (int32x4_t& s : sum[t]) s = vdupq_n_s32(0);
    }
    for (int p = 0; p < (kHighOnly ? 1 : 2); ++p) {
      for (int64_t piece = g * group_pieces; piece < (g + 1) * group_pieces; ++piece) {
        for (int odd = 0; odd < 2; ++odd) {
          int8x16_t x[kX];
          for (int t = 0; t < kX; ++t) {
            x[t] = load(blocks[t] + b * kPlaneBlockBytes + 128 * p + 64 * odd + piece % 4 * 16);
          }
          add_lines<kX>(args.scratch + b * kPanelBytes + 1024 * odd + piece % 4 * 256, x, sum);
        }
      }
      if (p > 0) continue;
      for (int t = 0; t < kX; ++t) {
        for (int32x4_t& s : sum[t]) s = vshlq_n_s32(s, 8);
      }
    }
    for (int t = 0; t < kX; ++t) {
      for (int quarter = 0; quarter < 4; ++quarter) {
        const float32x4_t scale = vld1q_f32(scales + g * kPanelRows + 4 * quarter);
        acc[t][quarter] = add_group(acc[t][quarter], sum[t][quarter], scale, factors[t][b]);
      }
    }
  }
  for (int t = 0; t < kX; ++t) {
    for (int quarter = 0; quarter < 4 && 4 * quarter < args.n_rows - i; ++quarter) {
      const int64_t left = args.n_rows - i - 4 * quarter;
      store_rows(args.out[j + t] + i + 4 * quarter, acc[t][quarter], left < 4 ? left : 4, args.add);
    }
  }
}

template <bool kHighOnly>
inline void panel(const Fp4DotArgs& args) {
  for (int64_t i = 0; i < args.n_rows; i += kPanelRows) {
    build_panel(args, i);
    int64_t j = 0;
    for (; j + 4 <= args.n_x; j += 4) panel_tile<4, kHighOnly>(args, i, j);
    for (; j < args.n_x; ++j) panel_tile<1, kHighOnly>(args, i, j);
  }
}

constexpr int64_t kPanelTokens = 8;

template <bool kHighOnly>
inline void fp4_dot(const Fp4DotArgs& args) {
  if (args.n_x >= kPanelTokens && args.n_rows >= kPanelRows) {
    panel<kHighOnly>(args);
  } else {
    rows<kHighOnly>(args);
  }
}

}  // namespace

void fp4_dot_dotprod(const Fp4DotArgs& args) {
  args.high_only ? fp4_dot<true>(args) : fp4_dot<false>(args);
}

const Family kDotprodFamily = {"neon_dotprod",   dot_neon,        accumulate_neon, fold_scores_portable,
                               sum_exp_portable, swiglu_portable, decode_f16_neon, decode_bf16_neon,
                               decode_fp4_neon,  split_neon,      fp4_dot_dotprod, fp4_accumulate_neon};

}  // namespace marlin::cpu
