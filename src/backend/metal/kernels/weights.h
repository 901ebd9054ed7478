// Products with stored weights in the decode form: a simdgroup reads rows of W where they lie in the file.
//
//   lane     0        1        2            31       0 …
//   k      0…15    16…31    32…47  …  496…511  512…527 …
//
// A lane takes 16 neighbouring k in each pass of 512: two words of FP4 codes, which lie in one group, so that their sum
// is multiplied by the group's scale once. What a token gets is the same sequence of operations whatever shares the
// dispatch with it: every product that is added goes through fma or is rounded by itself, and no compiler may choose.
#pragma once

#include "common.h"

constant constexpr uint kLaneValues = 16;
constant constexpr uint kPassValues = kLaneValues * kSimdWidth;
/// Rows of a weight that a simdgroup multiplies at a time.
constant constexpr uint kTileRows = 4;

/// What a lane takes of a row.
struct Values {
  float4 part[4];
};

struct Weight {
  uint kind;
  device const uchar* codes[2];
  device const uchar* scales[2];
  device const uchar* bias;
  uint out;
  uint in;
  uint group_shift[2];
};

static inline uint kind_format(uint kind) {
  return kind & 15u;
}
static inline uint kind_planes(uint kind) {
  return max((kind >> 4) & 15u, 1u);
}
static inline uint kind_bias(uint kind) {
  return (kind >> 8) & 15u;
}

static inline Weight bound_weight(uint kind, constant WeightParams& p, device const uchar* codes0,
                                  device const uchar* scales0, device const uchar* codes1, device const uchar* scales1,
                                  device const uchar* bias) {
  Weight weight;
  weight.kind = kind;
  weight.codes[0] = codes0;
  weight.codes[1] = codes1;
  weight.scales[0] = scales0;
  weight.scales[1] = scales1;
  weight.bias = bias;
  weight.out = p.out;
  weight.in = p.in;
  weight.group_shift[0] = p.group_shift[0];
  weight.group_shift[1] = p.group_shift[1];
  return weight;
}

static inline Weight expert_weight(uint kind, constant WeightParams& p, device const ExpertAddress* table,
                                   uint expert) {
  return bound_weight(kind, p, table[expert].codes[0], table[expert].scales[0], table[expert].codes[1],
                      table[expert].scales[1], table[expert].bias);
}

/// The first row from `token` on that this dispatch computes; `rows` or more if there is none. Called by a whole
/// simdgroup. A dispatch for some of the rows has one threadgroup go through them all, since to launch threadgroups for
/// the many rows of a prompt that shares its batch would cost more than the few rows of the decode form themselves.
static inline uint next_row(device const uchar* roles, uint token, uint rows, uint lane) {
  if (ROLE == kAllRows) return token;
  for (uint first = token; first < rows; first += kSimdWidth) {
    const uint t = first + lane;
    const uint next = simd_min(t < rows && row_wanted(roles, t) ? t : rows);
    if (next < rows) return next;
  }
  return rows;
}

/// b[n], 0 without a bias.
static inline float load_bias(thread const Weight& weight, uint n) {
  const uint format = kind_bias(weight.kind);
  return format == kNone ? 0.0f : load_plain(weight.bias, n, format);
}

// Loops over what a lane holds in registers have fixed bounds and are unrolled, so that nothing need be in memory.

/// Elements first … first + 3 of a stored vector, of which those from `count` on are 0.
static inline float4 load_plain4(device const uchar* data, ulong first, uint count, uint format) {
  float4 values = float4(0.0f, 0.0f, 0.0f, 0.0f);
  if (count > 0) values.x = load_plain(data, first, format);
  if (count > 1) values.y = load_plain(data, first + 1, format);
  if (count > 2) values.z = load_plain(data, first + 2, format);
  if (count > 3) values.w = load_plain(data, first + 3, format);
  return values;
}

/// Elements first … first + 15 of a stored vector, of which those from `count` on are 0. Rows begin at multiples of
/// the element's size only, hence the packed types.
static inline void load_plain16(device const uchar* data, ulong first, uint count, uint format, thread Values& values) {
  if (count < kLaneValues) {
#pragma unroll
    for (uint i = 0; i < 4; ++i) values.part[i] = load_plain4(data, first + 4 * i, max(count, 4 * i) - 4 * i, format);
  } else if (format == kF32) {
    device const packed_float4* from = (device const packed_float4*)((device const float*)data + first);
#pragma unroll
    for (uint i = 0; i < 4; ++i) values.part[i] = float4(from[i]);
  } else if (format == kF16) {
    device const packed_half4* from = (device const packed_half4*)((device const half*)data + first);
#pragma unroll
    for (uint i = 0; i < 4; ++i) values.part[i] = float4(half4(from[i]));
  } else {
    device const packed_ushort4* from = (device const packed_ushort4*)((device const ushort*)data + first);
#pragma unroll
    for (uint i = 0; i < 4; ++i) values.part[i] = as_type<float4>(uint4(ushort4(from[i])) << 16u);
  }
}

/// How many values from k on a lane takes: always 16 of FP4, whose rows are whole groups.
static inline uint lane_count(thread const Weight& weight, uint k) {
  return kind_format(weight.kind) == kFp4 ? kLaneValues : min(weight.in - k, kLaneValues);
}

/// x[k … k + 15], zero from k + count on.
static inline void load_input(device const float* x, uint k, uint count, thread Values& values) {
  load_plain16((device const uchar*)x, k, count, kF32, values);
}

/// W[row, k … k + 15] of one plane, zero from k + count on, over the factor that is returned.
static inline float load_weights(thread const Weight& weight, uint plane, uint row, uint k, uint count,
                                 thread Values& values) {
  if (kind_format(weight.kind) != kFp4) {
    load_plain16(weight.codes[0], ulong(row) * weight.in + k, count, kind_format(weight.kind), values);
    return 1.0f;
  }
  const ulong at = ulong(row) * (weight.in / 2) + k / 2;
  // 8 bytes at a multiple of 4: tensors begin at any word.
  const uint2 words = uint2(*(device const packed_uint2*)(weight.codes[plane] + at));
  fp4_decode(words.x, values.part[0], values.part[1]);
  fp4_decode(words.y, values.part[2], values.part[3]);
  const uint shift = weight.group_shift[plane];
  const ulong group = ulong(row) * (weight.in >> shift) + (k >> shift);
  return float(((device const half*)weight.scales[plane])[group]) * kFp4Unit;
}

static inline float dot16(thread const Values& a, thread const Values& b) {
  float4 sum = a.part[0] * b.part[0];
#pragma unroll
  for (uint i = 1; i < 4; ++i) sum = fma(a.part[i], b.part[i], sum);
  return (sum.x + sum.y) + (sum.z + sum.w);
}

/// sums[r] += W[row + r, k … k + 15] x for the rows of a tile; rows that do not exist repeat the last one.
static inline void add_tile(thread const Weight& weight, uint row, uint k, uint count, thread const Values& x,
                            thread float (&sums)[kTileRows]) {
#pragma unroll
  for (uint r = 0; r < kTileRows; ++r) {
#pragma unroll
    for (uint plane = 0; plane < 2; ++plane) {
      if (plane >= kind_planes(weight.kind)) continue;
      Values values;
      const float factor = load_weights(weight, plane, min(row + r, weight.out - 1), k, count, values);
      sums[r] = fma(dot16(values, x), factor, sums[r]);
    }
  }
}
