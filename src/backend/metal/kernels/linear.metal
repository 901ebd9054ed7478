// Decode forms of linear and of the fused ops that begin with one: y = W x for the few tokens of a decode step.
//
//   threadgroup     2 simdgroups; x: ROWS tokens, y: 8 rows of W, so that neighbours in time share weights in the cache
//                   (all tokens, ROWS at a time, where only rows of one role are wanted)
//   simdgroup       4 rows of W times ROWS tokens
//   lane            16 neighbouring k of each 512 (weights.h); all lanes are summed at the end
//   lanes 0…3       after the sums, lane t writes the 4 outputs of token t
//
// A norm costs no pass of its own: the sum of x^2 runs along with W (x gain), and its root multiplies the sums.
#include "kv_rows.h"
#include "weights.h"

constant uint KV_GAIN [[function_constant(FC_KV_GAIN)]];

constant constexpr uint kMaxTokens = 4;

/// Tokens that share a reading of the weights. Those from `count` on repeat the one before.
struct Tokens {
  uint index[kMaxTokens];
  uint count;
};

/// The next ROWS tokens from `token` on, which moves behind them.
static inline Tokens take_tokens(device const uchar* roles, thread uint& token, uint end, uint lane) {
  Tokens tokens;
  tokens.count = 0;
#pragma unroll
  for (uint t = 0; t < kMaxTokens; ++t) {
    tokens.index[t] = t == 0 ? token : tokens.index[t - 1];
    if (t < ROWS && token < end) {
      tokens.index[t] = token;
      tokens.count = t + 1;
      token = next_row(roles, token + 1, end, lane);
    }
  }
  return tokens;
}

/// sums[t][r] = W[row + r] norm(x[token t]) in every lane. Rows that do not exist repeat the last one.
static inline void product(thread const Weight& weight, device const float* x, uint x_stride, device const uchar* gain,
                           float eps, uint row, thread const Tokens& tokens, uint lane,
                           thread float (&sums)[kMaxTokens][kTileRows]) {
  float squares[kMaxTokens];
#pragma unroll
  for (uint t = 0; t < kMaxTokens; ++t) {
    squares[t] = 0.0f;
#pragma unroll
    for (uint r = 0; r < kTileRows; ++r) sums[t][r] = 0.0f;
  }
  for (uint k = kLaneValues * lane; k < weight.in; k += kPassValues) {
    const uint count = lane_count(weight, k);
    Values inputs[kMaxTokens];
#pragma unroll
    for (uint t = 0; t < kMaxTokens; ++t) {
      if (t < ROWS) load_input(x + ulong(tokens.index[t]) * x_stride, k, count, inputs[t]);
    }
    if (GAIN != kNone) {
      Values gains;
      load_plain16(gain, k, count, GAIN, gains);
#pragma unroll
      for (uint t = 0; t < kMaxTokens; ++t) {
        if (t >= ROWS) continue;
        squares[t] += dot16(inputs[t], inputs[t]);
#pragma unroll
        for (uint i = 0; i < 4; ++i) inputs[t].part[i] = inputs[t].part[i] * gains.part[i];
      }
    }
#pragma unroll
    for (uint r = 0; r < kTileRows; ++r) {
#pragma unroll
      for (uint plane = 0; plane < 2; ++plane) {
        if (plane >= kind_planes(weight.kind)) continue;
        Values values;
        const float factor = load_weights(weight, plane, min(row + r, weight.out - 1), k, count, values);
#pragma unroll
        for (uint t = 0; t < kMaxTokens; ++t) {
          if (t < ROWS) sums[t][r] = fma(dot16(values, inputs[t]), factor, sums[t][r]);
        }
      }
    }
  }
#pragma unroll
  for (uint t = 0; t < kMaxTokens; ++t) {
    if (t >= ROWS) continue;
    const float scale = GAIN != kNone ? rsqrt(simd_sum(squares[t]) / float(weight.in) + eps) : 1.0f;
#pragma unroll
    for (uint r = 0; r < kTileRows; ++r) {
      const float bias = load_bias(weight, min(row + r, weight.out - 1));
      sums[t][r] = fma(scale, simd_sum(sums[t][r]), bias);
    }
  }
}

// ---- linear, linear_add, normed_linears ----------------------------------------------------------------------------

// With two products, the threadgroups after those of the first weight work on the second.
kernel void linear(device const uchar* codes0 [[buffer(0)]], device const uchar* scales0 [[buffer(1)]],
                   device const uchar* codes1 [[buffer(2)]], device const uchar* scales1 [[buffer(3)]],
                   device const uchar* bias [[buffer(4)]], device const uchar* second_codes0 [[buffer(5)]],
                   device const uchar* second_scales0 [[buffer(6)]], device const uchar* second_codes1 [[buffer(7)]],
                   device const uchar* second_scales1 [[buffer(8)]], device const uchar* second_bias [[buffer(9)]],
                   device const float* x [[buffer(10)]], device const uchar* gain [[buffer(11)]],
                   device const uchar* roles [[buffer(12)]], device float* out [[buffer(13)]],
                   device float* second_out [[buffer(14)]], constant LinearParams& p [[buffer(15)]],
                   uint2 tile [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
                   uint simdgroups [[simdgroups_per_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  const uint kind = weight_kind(FORMAT, PLANES, BIAS);
  Weight weight = bound_weight(kind, p.weight[0], codes0, scales0, codes1, scales1, bias);
  uint row_tile = tile.y;
  uint out_stride = p.out_stride[0];
  device float* to = out;
  if (PRODUCTS == 2 && tile.y >= p.weight_tiles) {
    weight = bound_weight(kind, p.weight[1], second_codes0, second_scales0, second_codes1, second_scales1, second_bias);
    row_tile = tile.y - p.weight_tiles;
    out_stride = p.out_stride[1];
    to = second_out;
  }
  const uint row = (row_tile * simdgroups + simdgroup) * kTileRows;
  if (row >= weight.out) return;

  const uint end = ROLE == kAllRows ? min(p.rows, (tile.x + 1) * ROWS) : p.rows;
  uint token = next_row(roles, tile.x * ROWS, end, lane);
  while (token < end) {
    const Tokens tokens = take_tokens(roles, token, end, lane);
    float sums[kMaxTokens][kTileRows];
    product(weight, x, p.x_stride, gain, p.eps, row, tokens, lane, sums);
#pragma unroll
    for (uint t = 0; t < kMaxTokens; ++t) {
      if (lane != t || t >= tokens.count) continue;
      device float* y = to + ulong(tokens.index[t]) * out_stride + row;
#pragma unroll
      for (uint r = 0; r < kTileRows; ++r) {
        if (row + r < weight.out) y[r] = ADD != 0 ? y[r] + sums[t][r] : sums[t][r];
      }
    }
  }
}

// ---- mla_prepare ---------------------------------------------------------------------------------------------------

/// A token's row of the cache from [latent | rope] of kv_a: the latent normed by `scale` and gain, the rope part
/// rotated. Each simdgroup takes groups of its own.
static inline void store_kv_row(constant KvParams& kv, device uchar* row, device const float* x,
                                device const uchar* gain, device const float* angles, float scale, uint lane,
                                uint simdgroup, uint simdgroups) {
  const uint latent_groups = kv_groups(kv.latent);
  const uint groups = latent_groups + kv_groups(kv.rope);
  for (uint group = simdgroup; group < groups; group += simdgroups) {
    const bool is_latent = group < latent_groups;
    const uint part = is_latent ? 0 : kv.latent;
    const uint first = (is_latent ? group : group - latent_groups) * kKvGroup;
    const uint count = min((is_latent ? kv.latent : kv.rope) - first, kKvGroup);
    const uint i = first + 2 * lane;
    float2 pair = float2(0.0f, 0.0f);
    if (2 * lane < count) pair.x = x[part + i];
    if (2 * lane + 1 < count) pair.y = x[part + i + 1];
    if (is_latent) {
      if (2 * lane < count) pair.x = pair.x * scale * load_plain(gain, i, KV_GAIN);
      if (2 * lane + 1 < count) pair.y = pair.y * scale * load_plain(gain, i + 1, KV_GAIN);
    } else if (2 * lane < count) {
      pair = rotated(pair.x, pair.y, angles[i], angles[i + 1]);
    }
    kv_store_group(kv, row, part + first, group, count, pair.x, pair.y, lane);
  }
}

// Threadgroup i of the first `rows` writes token i's row of the cache; the others are tiles of q = W_qb norm(q_a) as in
// linear, whose rope parts are rotated before they are written: both values of a pair are in one simdgroup, since
// `nope` is even.
kernel void mla_prepare(device const uchar* codes0 [[buffer(0)]], device const uchar* scales0 [[buffer(1)]],
                        device const uchar* codes1 [[buffer(2)]], device const uchar* scales1 [[buffer(3)]],
                        device const uchar* bias [[buffer(4)]], device const float* q_a [[buffer(5)]],
                        device const uchar* gain [[buffer(6)]], device const float* kv_a [[buffer(7)]],
                        device const uchar* kv_gain [[buffer(8)]], device const float* rope_table [[buffer(9)]],
                        device const int* positions [[buffer(10)]], device const int* slots [[buffer(11)]],
                        device const int* block_tables [[buffer(12)]], device const uchar* roles [[buffer(13)]],
                        device uchar* pool [[buffer(14)]], device float* q [[buffer(15)]],
                        constant MlaPrepareParams& p [[buffer(16)]], uint place [[threadgroup_position_in_grid]],
                        uint simdgroup [[simdgroup_index_in_threadgroup]],
                        uint simdgroups [[simdgroups_per_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float partial[kSimdWidth];
  if (place < p.rows) {
    if (!row_wanted(roles, place)) return;
    device const float* x = kv_a + ulong(place) * p.kv_a_stride;
    float squares = 0.0f;
    for (uint i = simdgroup * kSimdWidth + lane; i < p.kv.latent; i += simdgroups * kSimdWidth) {
      squares = fma(x[i], x[i], squares);
    }
    squares = threadgroup_sum(squares, partial, lane, simdgroup, simdgroups);
    const float scale = rsqrt(squares / float(p.kv.latent) + p.eps);
    const uint position = uint(positions[place]);
    device uchar* row = pool + kv_row_offset(p.kv, block_tables, uint(slots[place]), position);
    store_kv_row(p.kv, row, x, kv_gain, rope_table + ulong(position) * p.kv.rope, scale, lane, simdgroup, simdgroups);
    return;
  }
  const uint tile = place - p.rows;
  const uint row = (tile / p.token_tiles * simdgroups + simdgroup) * kTileRows;
  if (row >= p.weight.out) return;

  const Weight weight =
      bound_weight(weight_kind(FORMAT, PLANES, BIAS), p.weight, codes0, scales0, codes1, scales1, bias);
  const uint first = tile % p.token_tiles * ROWS;
  const uint end = ROLE == kAllRows ? min(p.rows, first + ROWS) : p.rows;
  uint token = next_row(roles, first, end, lane);
  while (token < end) {
    const Tokens tokens = take_tokens(roles, token, end, lane);
    float sums[kMaxTokens][kTileRows];
    product(weight, q_a, p.q_a_stride, gain, p.eps, row, tokens, lane, sums);
#pragma unroll
    for (uint t = 0; t < kMaxTokens; ++t) {
      if (lane != t || t >= tokens.count) continue;
      const uint at = tokens.index[t];
      device float* y = q + ulong(at) * weight.out + row;
      device const float* angles = rope_table + ulong(uint(positions[at])) * p.kv.rope;
#pragma unroll
      for (uint r = 0; r < kTileRows; r += 2) {
        if (row + r >= weight.out) break;
        const uint in_head = (row + r) % (p.nope + p.kv.rope);
        float2 pair = float2(sums[t][r], sums[t][r + 1]);
        if (in_head >= p.nope) pair = rotated(pair.x, pair.y, angles[in_head - p.nope], angles[in_head - p.nope + 1]);
        y[r] = pair.x;
        y[r + 1] = pair.y;
      }
    }
  }
}
