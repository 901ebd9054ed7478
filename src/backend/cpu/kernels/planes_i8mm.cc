// Many token rows with NEON's int8 matrix instruction, which multiplies two weight rows by two tokens, eight bytes of
// each: twice the products of a dot product instruction. Few token rows take planes_dotprod.cc. The bits are the same.
#include <arm_neon.h>

#include "backend/cpu/kernels/family_neon.h"
#include "backend/cpu/kernels/planes.h"

namespace marlin::cpu {
namespace {

// Panel block: 16 weight rows in 16 lines of 128 bytes. Lines c (even k) and 8 + c (odd k) hold the eight bytes from
// 8 c on of each row's even or odd half:
//   | row 0: 8 bytes | row 1: 8 bytes | … | row 15: 8 bytes |
constexpr int kPanelRows = 16;
constexpr int kPairs = kPanelRows / 2;
constexpr int64_t kPanelBytes = kPanelRows * kPlaneBlock;

inline int8x16_t load(const uint8_t* p) {
  return vreinterpretq_s8_u8(vld1q_u8(p));
}

inline float scale_value(uint16_t half) {
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}

/// The first eight bytes of both, and the last eight.
struct Halves {
  int8x16_t first;
  int8x16_t last;
};
inline Halves join(int8x16_t a, int8x16_t b) {
  const int64x2_t x = vreinterpretq_s64_s8(a);
  const int64x2_t y = vreinterpretq_s64_s8(b);
  return {vreinterpretq_s8_s64(vzip1q_s64(x, y)), vreinterpretq_s8_s64(vzip2q_s64(x, y))};
}

inline void store_pair(uint8_t* line, int8x16_t a, int8x16_t b) {
  const Halves halves = join(a, b);
  vst1q_u8(line, vreinterpretq_u8_s8(halves.first));
  vst1q_u8(line + 128, vreinterpretq_u8_s8(halves.last));
}

/// Decodes rows args.row + i … (fewer than 16 at the end: the last one stands in) into args.scratch.
inline void build_panel(const Fp4DotArgs& args, int64_t i) {
  static const int8_t kTwice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  const int8x16_t table = vld1q_s8(kTwice);
  const int64_t n_groups = args.in_features / args.group_size;
  const int64_t last = args.n_rows - 1;
  const auto row = [&](int64_t r) { return args.row + (i + r < last ? i + r : last); };
  for (int64_t piece = 0; piece < args.in_features / 32; ++piece) {
    uint8_t* to = args.scratch + piece / 4 * kPanelBytes + piece % 4 * 256;
    for (int pair = 0; pair < kPairs; ++pair) {
      uint8x16_t bytes[2];
      for (int r = 0; r < 2; ++r)
        bytes[r] = vld1q_u8(args.codes + row(2 * pair + r) * (args.in_features / 2) + 16 * piece);
      const uint8x16_t low = vdupq_n_u8(15);
      store_pair(to + 16 * pair, vqtbl1q_s8(table, vandq_u8(bytes[0], low)),
                 vqtbl1q_s8(table, vandq_u8(bytes[1], low)));
      store_pair(to + 1024 + 16 * pair, vqtbl1q_s8(table, vshrq_n_u8(bytes[0], 4)),
                 vqtbl1q_s8(table, vshrq_n_u8(bytes[1], 4)));
    }
  }
  auto* scales = reinterpret_cast<float*>(args.scratch + plane_blocks(args.in_features) * kPanelBytes);
  for (int r = 0; r < kPanelRows; ++r) {
    const uint16_t* from = args.scales + row(r) * n_groups;
    for (int64_t g = 0; g < n_groups; ++g) scales[g * kPanelRows + r] = scale_value(from[g]);
  }
}

/// Token rows j and j + 1; without kTwo the first stands in for the second.
template <bool kTwo>
struct TokenPair {
  const uint8_t* blocks[2];
  const float* factors[2];
  float32x4_t acc[2][4];

  void start(const Fp4DotArgs& args, int64_t j) {
    for (int t = 0; t < 2; ++t) {
      const uint8_t* x = args.x[kTwo ? j + t : j];
      factors[t] = reinterpret_cast<const float*>(x);
      blocks[t] = x + plane_header_bytes(args.in_features);
      for (float32x4_t& a : acc[t]) a = vdupq_n_f32(0);
    }
  }

  /// One group's sums of the eight row pairs: lanes row 0 x token 0, row 0 x token 1, row 1 x token 0, row 1 x token 1.
  void add(const int32x4_t (&sum)[kPairs], const float* scales, int64_t b) {
    for (int quarter = 0; quarter < 4; ++quarter) {
      const int32x4_t a = sum[2 * quarter];
      const int32x4_t c = sum[2 * quarter + 1];
      const int32x4_t of[2] = {vuzp1q_s32(a, c), vuzp2q_s32(a, c)};
      const float32x4_t scale = vld1q_f32(scales + 4 * quarter);
      for (int t = 0; t < 2; ++t) {
        acc[t][quarter] = vfmaq_f32(acc[t][quarter], vcvtq_f32_s32(of[t]), vmulq_n_f32(scale, factors[t][b]));
      }
    }
  }

  void store(const Fp4DotArgs& args, int64_t i, int64_t j) const {
    const int64_t valid = args.n_rows - i < kPanelRows ? args.n_rows - i : kPanelRows;
    for (int t = 0; t < (kTwo ? 2 : 1); ++t) {
      float values[kPanelRows];
      for (int quarter = 0; quarter < 4; ++quarter) vst1q_f32(values + 4 * quarter, acc[t][quarter]);
      float* out = args.out[j + t] + i;
      for (int64_t r = 0; r < valid; ++r) out[r] = args.add ? out[r] + values[r] : values[r];
    }
  }
};

template <int kTokenPairs, bool kTwo, bool kHighOnly>
inline void panel_tile(const Fp4DotArgs& args, int64_t i, int64_t j) {
  const int64_t n_groups = args.in_features / args.group_size;
  const int64_t group_pieces = args.group_size / 32;
  const auto* scales = reinterpret_cast<const float*>(args.scratch + plane_blocks(args.in_features) * kPanelBytes);
  TokenPair<kTwo> tokens[kTokenPairs];
  for (int t = 0; t < kTokenPairs; ++t) tokens[t].start(args, j + 2 * t);
  for (int64_t g = 0; g < n_groups; ++g) {
    const int64_t b = g * args.group_size / kPlaneBlock;
    int32x4_t sum[kTokenPairs][kPairs];
    for (auto& pairs : sum) {
      for (int32x4_t& s : pairs) s = vdupq_n_s32(0);
    }
    for (int p = 0; p < (kHighOnly ? 1 : 2); ++p) {
      for (int64_t piece = g * group_pieces; piece < (g + 1) * group_pieces; ++piece) {
        for (int odd = 0; odd < 2; ++odd) {
          const uint8_t* lines = args.scratch + b * kPanelBytes + 1024 * odd + piece % 4 * 256;
          const int64_t at = b * kPlaneBlockBytes + 128 * p + 64 * odd + piece % 4 * 16;
          for (int t = 0; t < kTokenPairs; ++t) {
            const Halves x = join(load(tokens[t].blocks[0] + at), load(tokens[t].blocks[1] + at));
            for (int pair = 0; pair < kPairs; ++pair) {
              sum[t][pair] = vmmlaq_s32(sum[t][pair], load(lines + 16 * pair), x.first);
              sum[t][pair] = vmmlaq_s32(sum[t][pair], load(lines + 128 + 16 * pair), x.last);
            }
          }
        }
      }
      if (p > 0) continue;
      for (auto& pairs : sum) {
        for (int32x4_t& s : pairs) s = vshlq_n_s32(s, 8);
      }
    }
    for (int t = 0; t < kTokenPairs; ++t) tokens[t].add(sum[t], scales + g * kPanelRows, b);
  }
  for (int t = 0; t < kTokenPairs; ++t) tokens[t].store(args, i, j + 2 * t);
}

template <bool kHighOnly>
inline void panel(const Fp4DotArgs& args) {
  for (int64_t i = 0; i < args.n_rows; i += kPanelRows) {
    build_panel(args, i);
    int64_t j = 0;
    for (; j + 4 <= args.n_x; j += 4) panel_tile<2, true, kHighOnly>(args, i, j);
    for (; j + 2 <= args.n_x; j += 2) panel_tile<1, true, kHighOnly>(args, i, j);
    if (j < args.n_x) panel_tile<1, false, kHighOnly>(args, i, j);
  }
}

constexpr int64_t kPanelTokens = 4;

}  // namespace

void fp4_dot_i8mm(const Fp4DotArgs& args) {
  if (args.n_x < kPanelTokens || args.n_rows < kPanelRows) return fp4_dot_dotprod(args);
  args.high_only ? panel<true>(args) : panel<false>(args);
}

const Family kI8mmFamily = {"neon_i8mm",      dot_neon,        accumulate_neon, fold_scores_portable,
                            sum_exp_portable, swiglu_portable, decode_f16_neon, decode_bf16_neon,
                            decode_fp4_neon,  split_neon,      fp4_dot_i8mm,    fp4_accumulate_neon};

}  // namespace marlin::cpu
