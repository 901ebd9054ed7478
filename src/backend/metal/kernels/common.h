// What several shaders need: FP4 codes, stored types, sums over a threadgroup.
#pragma once

#include <metal_stdlib>

#include "params.h"

using namespace metal;

constant uint FORMAT [[function_constant(FC_FORMAT)]];
constant uint PLANES [[function_constant(FC_PLANES)]];
constant uint BIAS [[function_constant(FC_BIAS)]];
constant uint GAIN [[function_constant(FC_GAIN)]];
constant uint ROWS [[function_constant(FC_ROWS)]];
constant uint ROLE [[function_constant(FC_ROLE)]];
constant uint ADD [[function_constant(FC_ADD)]];
constant uint KV [[function_constant(FC_KV)]];
constant uint WORDS [[function_constant(FC_WORDS)]];
constant uint PRODUCTS [[function_constant(FC_PRODUCTS)]];

constant constexpr uint kSimdWidth = 32;

// An E2M1 code put into the top of a half's exponent and mantissa is its value times 2^-14 (0.5 becomes a subnormal
// half). The factor 2^14 goes into the group's scale, whose largest value of 65504 leaves room in float.
constant constexpr float kFp4Unit = 16384.0f;

/// Values 0…3 and 4…7 of a word of eight codes, times 2^-14. Code j lies in bits 4j…4j+3.
static inline void fp4_decode(uint codes, thread float4& low, thread float4& high) {
  const half2 a = as_type<half2>(((codes & 0x00070007u) << 9) | ((codes & 0x00080008u) << 12));  // 0 and 4
  const half2 b = as_type<half2>(((codes & 0x00700070u) << 5) | ((codes & 0x00800080u) << 8));   // 1 and 5
  const half2 c = as_type<half2>(((codes & 0x07000700u) << 1) | ((codes & 0x08000800u) << 4));   // 2 and 6
  const half2 d = as_type<half2>(((codes & 0x70007000u) >> 3) | (codes & 0x80008000u));          // 3 and 7
  low = float4(float(a.x), float(b.x), float(c.x), float(d.x));
  high = float4(float(a.y), float(b.y), float(c.y), float(d.y));
}

/// Element i of a stored vector; `format` is one of Format's plain types.
static inline float load_plain(device const uchar* data, ulong i, uint format) {
  if (format == kF32) return ((device const float*)data)[i];
  if (format == kF16) return float(((device const half*)data)[i]);
  return as_type<float>(uint(((device const ushort*)data)[i]) << 16);
}

/// As half. Beyond half's range the nearest half is better than an infinity, which would make NaN of a sum; a NaN stays
/// one.
static inline half narrow(float x) {
  x = x > 65504.0f ? 65504.0f : x;
  return half(x < -65504.0f ? -65504.0f : x);
}
static inline half4 narrow(float4 x) {
  x = select(x, float4(65504.0f), x > 65504.0f);
  return half4(select(x, float4(-65504.0f), x < -65504.0f));
}

/// The pair (a, b) turned by the angle whose cosine and sine are given.
static inline float2 rotated(float a, float b, float cosine, float sine) {
  return float2(fma(a, cosine, -(b * sine)), fma(a, sine, b * cosine));
}

/// Whether this dispatch computes row t; `roles` is unused when all rows are meant.
static inline bool row_wanted(device const uchar* roles, uint t) {
  if (ROLE == kAllRows) return true;
  return (roles[t] == 1) == (ROLE == kDecodeRows);
}

/// The sum over a threadgroup, in every thread. `partial` has 32 floats and may be used again after the next barrier.
static inline float threadgroup_sum(float value, threadgroup float* partial, uint lane, uint simdgroup,
                                    uint simdgroups) {
  value = simd_sum(value);
  if (lane == 0) partial[simdgroup] = value;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return simd_sum(lane < simdgroups ? partial[lane] : 0.0f);
}
