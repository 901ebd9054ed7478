// Base NEON: FP32 rows, decoding, and splitting activations into planes. Order of every sum: four lanes, the tail into
// the lanes it belongs to, then lanes 0 + 1 and 2 + 3 and their sum.
#include <arm_neon.h>

#include "backend/cpu/kernels/family_neon.h"
#include "backend/cpu/kernels/planes.h"

namespace marlin::cpu {
namespace {

// ---- dot products ------------------------------------------------------------------------------------------------

template <int kW, int kX>
inline void dot_tile(const DotArgs& args, int64_t i, int64_t j) {
  const float* w[kW];
  const float* x[kX];
  float32x4_t acc[kW][kX];
  for (int t = 0; t < kX; ++t) x[t] = args.x[j + t];
  for (int r = 0; r < kW; ++r) {
    w[r] = args.w + (i + r) * args.w_stride;
    for (int t = 0; t < kX; ++t) acc[r][t] = vdupq_n_f32(0);
  }
  int64_t k = 0;
  for (; k + 4 <= args.n; k += 4) {
    float32x4_t wv[kW];
    for (int r = 0; r < kW; ++r) wv[r] = vld1q_f32(w[r] + k);
    for (int t = 0; t < kX; ++t) {
      const float32x4_t xv = vld1q_f32(x[t] + k);
      for (int r = 0; r < kW; ++r) acc[r][t] = vfmaq_f32(acc[r][t], wv[r], xv);
    }
  }
  for (int r = 0; r < kW; ++r) {
    for (int t = 0; t < kX; ++t) {
      float lanes[4];
      vst1q_f32(lanes, acc[r][t]);
      for (int64_t tail = k; tail < args.n; ++tail) {
        lanes[tail - k] = __builtin_fmaf(w[r][tail], x[t][tail], lanes[tail - k]);
      }
      args.out[j + t][i + r] = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    }
  }
}

template <int kX>
inline void dot_tokens(const DotArgs& args, int64_t j) {
  int64_t i = 0;
  for (; i + 4 <= args.n_w; i += 4) dot_tile<4, kX>(args, i, j);
  for (; i < args.n_w; ++i) dot_tile<1, kX>(args, i, j);
}

// ---- weighted sums of rows ---------------------------------------------------------------------------------------

template <int kVectors, int kX>
inline void accumulate_tile(const AccumulateArgs& args, int64_t k, int64_t j) {
  float32x4_t sum[kX][kVectors];
  for (int t = 0; t < kX; ++t) {
    for (int v = 0; v < kVectors; ++v) {
      sum[t][v] = vmulq_n_f32(vld1q_f32(args.acc[j + t] + k + 4 * v), args.keep[j + t]);
    }
  }
  for (int64_t p = 0; p < args.n; ++p) {
    const float* row = args.rows + p * args.stride + k;
    float32x4_t values[kVectors];
    for (int v = 0; v < kVectors; ++v) values[v] = vld1q_f32(row + 4 * v);
    for (int t = 0; t < kX; ++t) {
      const float32x4_t a = vdupq_n_f32(args.a[j + t][p]);
      for (int v = 0; v < kVectors; ++v) sum[t][v] = vfmaq_f32(sum[t][v], a, values[v]);
    }
  }
  for (int t = 0; t < kX; ++t) {
    for (int v = 0; v < kVectors; ++v) vst1q_f32(args.acc[j + t] + k + 4 * v, sum[t][v]);
  }
}

template <int kX>
inline void accumulate_tokens(const AccumulateArgs& args, int64_t j) {
  int64_t k = 0;
  for (; k + 16 <= args.width; k += 16) accumulate_tile<4, kX>(args, k, j);
  for (; k + 4 <= args.width; k += 4) accumulate_tile<1, kX>(args, k, j);
  for (; k < args.width; ++k) {
    for (int t = 0; t < kX; ++t) {
      float sum = args.acc[j + t][k] * args.keep[j + t];
      for (int64_t p = 0; p < args.n; ++p) {
        sum = __builtin_fmaf(args.a[j + t][p], args.rows[p * args.stride + k], sum);
      }
      args.acc[j + t][k] = sum;
    }
  }
}

// ---- FP4 ---------------------------------------------------------------------------------------------------------

inline float scale_value(uint16_t half) {
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}

/// 16 bytes of codes -> 32 values in order of k, as 2w times `half_scale`: exact, because w has two significant bits
/// and a scale eleven.
inline void decode_32(const uint8_t* codes, float half_scale, float32x4_t (&out)[8]) {
  static const int8_t kTwice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  const int8x16_t table = vld1q_s8(kTwice);
  const uint8x16_t bytes = vld1q_u8(codes);
  const int8x16_t even = vqtbl1q_s8(table, vandq_u8(bytes, vdupq_n_u8(15)));
  const int8x16_t odd = vqtbl1q_s8(table, vshrq_n_u8(bytes, 4));
  const int8x16_t order[2] = {vzip1q_s8(even, odd), vzip2q_s8(even, odd)};
  for (int h = 0; h < 2; ++h) {
    const int16x8_t wide[2] = {vmovl_s8(vget_low_s8(order[h])), vmovl_high_s8(order[h])};
    for (int q = 0; q < 2; ++q) {
      out[4 * h + 2 * q] = vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide[q]))), half_scale);
      out[4 * h + 2 * q + 1] = vmulq_n_f32(vcvtq_f32_s32(vmovl_high_s16(wide[q])), half_scale);
    }
  }
}

// ---- planes ------------------------------------------------------------------------------------------------------

/// One block of n <= 128 values; returns its FP32 factor. The sums that planes.h describes are left out: products of
/// signed bytes need none.
inline float split_block(const float* x, int64_t n, uint8_t* block) {
  float values[kPlaneBlock] = {};
  for (int64_t k = 0; k < n; ++k) values[k] = x[k];
  float32x4_t largest = vdupq_n_f32(0);
  uint32x4_t finite = vdupq_n_u32(~0u);
  for (int k = 0; k < kPlaneBlock; k += 4) {
    const float32x4_t magnitude = vabsq_f32(vld1q_f32(values + k));
    finite = vandq_u32(finite, vcltq_f32(magnitude, vdupq_n_f32(__builtin_inff())));  // false for NaN
    largest = vmaxq_f32(largest, magnitude);
  }
  const float m = vmaxvq_f32(largest);
  if (vminvq_u32(finite) == 0) {
    __builtin_memset(block, 0, kPlaneSums);
    return __builtin_nanf("");
  }
  const bool usable = m >= MARLIN_PLANE_TINY;
  const float inverse = usable ? static_cast<float>(kPlaneSteps) / m : 0.0f;
  for (int k = 0; k < kPlaneBlock; k += 32) {
    int16x8_t hi[4];
    int16x8_t lo[4];
    for (int v = 0; v < 4; ++v) {
      const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(values + k + 8 * v), inverse));
      const int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(values + k + 8 * v + 4), inverse));
      const int16x8_t q = vcombine_s16(vmovn_s32(a), vmovn_s32(b));  // |q| <= 32639
      hi[v] = vshrq_n_s16(vaddq_s16(q, vdupq_n_s16(128)), 8);
      lo[v] = q;
    }
    const int8x16_t planes[2][2] = {
        {vcombine_s8(vmovn_s16(hi[0]), vmovn_s16(hi[1])), vcombine_s8(vmovn_s16(hi[2]), vmovn_s16(hi[3]))},
        {vcombine_s8(vmovn_s16(lo[0]), vmovn_s16(lo[1])), vcombine_s8(vmovn_s16(lo[2]), vmovn_s16(lo[3]))}};
    for (int p = 0; p < 2; ++p) {
      auto* to = reinterpret_cast<int8_t*>(block + 128 * p + k / 2);
      vst1q_s8(to, vuzp1q_s8(planes[p][0], planes[p][1]));
      vst1q_s8(to + 64, vuzp2q_s8(planes[p][0], planes[p][1]));
    }
  }
  return usable ? m / static_cast<float>(kPlaneSteps) * 0.5f : 0.0f;
}

}  // namespace

void dot_neon(const DotArgs& args) {
  int64_t j = 0;
  for (; j + 4 <= args.n_x; j += 4) dot_tokens<4>(args, j);
  for (; j < args.n_x; ++j) dot_tokens<1>(args, j);
}

void accumulate_neon(const AccumulateArgs& args) {
  int64_t j = 0;
  for (; j + 4 <= args.n_x; j += 4) accumulate_tokens<4>(args, j);
  for (; j < args.n_x; ++j) accumulate_tokens<1>(args, j);
}

void decode_f16_neon(const uint16_t* in, int64_t count, float* out) {
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) vst1q_f32(out + k, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(in + k))));
  for (; k < count; ++k) out[k] = scale_value(in[k]);
}

void decode_bf16_neon(const uint16_t* in, int64_t count, float* out) {
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) vst1q_f32(out + k, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(in + k), 16)));
  for (; k < count; ++k) {
    const uint32_t bits = uint32_t{in[k]} << 16;
    __builtin_memcpy(out + k, &bits, sizeof(bits));
  }
}

void decode_fp4_neon(const uint8_t* codes, const uint16_t* scales, int group_size, int64_t count, bool add,
                     float* out) {
  for (int64_t k = 0; k < count; k += 32) {
    float32x4_t values[8];
    decode_32(codes + k / 2, 0.5f * scale_value(scales[k / group_size]), values);
    for (int v = 0; v < 8; ++v) {
      float* to = out + k + 4 * v;
      vst1q_f32(to, add ? vaddq_f32(vld1q_f32(to), values[v]) : values[v]);
    }
  }
}

void fp4_accumulate_neon(const Fp4AccumulateArgs& args) {
  const int64_t n_groups = args.in_features / args.group_size;
  for (int64_t k = 0; k < args.width; k += 32) {
    const int64_t column = args.first + k;
    const uint8_t* codes = args.codes + args.row * (args.in_features / 2) + column / 2;
    const uint16_t* scale = args.scales + args.row * n_groups + column / args.group_size;
    float32x4_t sum[8];
    for (float32x4_t& s : sum) s = vdupq_n_f32(0);
    for (int64_t p = 0; p < args.n; ++p, codes += args.in_features / 2, scale += n_groups) {
      float32x4_t values[8];
      decode_32(codes, 0.5f * scale_value(*scale), values);
      for (int v = 0; v < 8; ++v) sum[v] = vfmaq_n_f32(sum[v], values[v], args.a[p]);
    }
    for (int v = 0; v < 8; ++v) vst1q_f32(args.out + k + 4 * v, sum[v]);
  }
}

void split_neon(const float* x, int64_t n, uint8_t* out) {
  auto* factors = reinterpret_cast<float*>(out);
  uint8_t* block = out + plane_header_bytes(n);
  for (int64_t k = 0; k < n; k += kPlaneBlock, block += kPlaneBlockBytes) {
    *factors++ = split_block(x + k, n - k < kPlaneBlock ? n - k : kPlaneBlock, block);
  }
}

const Family kNeonFamily = {"neon",           dot_neon,        accumulate_neon, fold_scores_portable,
                            sum_exp_portable, swiglu_portable, decode_f16_neon, decode_bf16_neon,
                            decode_fp4_neon,  nullptr,         nullptr,         fp4_accumulate_neon};

}  // namespace marlin::cpu
