// The prompt form of products with weights: many tokens at once.
//
// A threadgroup of four simdgroups makes a tile of 32 tokens x 64 weight rows. It walks along K in steps of 32: tokens
// are narrowed and weights decoded to half in threadgroup memory, once for the tile; then each simdgroup multiplies its
// 16 tokens x 32 rows by 8x8 matrices, in float:
//
//              weight rows 0…31   32…63
//   tokens  0…15    simdgroup 0    1
//   tokens 16…31    simdgroup 2    3
//
// K is summed in ascending steps of 8 whatever else is in the tile, so a token's result does not depend on its company.
// With experts, a tile's tokens are those that chose one expert, listed by group_experts; with PRODUCTS = 2 its rows
// are 32 of gate and the same 32 of up, and what is stored is silu(gate) * up.
#include "common.h"

constant constexpr uint kTokens = 32;
constant constexpr uint kRows = 64;
constant constexpr uint kDepth = 32;
constant constexpr uint kPitch = (kDepth + 8) / 4;  // of a tile's row, in half4; the pad spreads rows over banks
constant constexpr uint kTileBytes = kTokens * kRows * 4;

/// 16 values of a weight row from k on, as half. k is a multiple of 16; values from `in` on are zero.
static inline void decode_weights(thread half4* to, device const uchar* codes0, device const half* scales0,
                                  device const uchar* codes1, device const half* scales1, ulong row, uint k, uint in,
                                  uint group0, uint group1) {
  const ulong at = row * in + k;
  if (FORMAT == kFp4) {
    const float scale0 = float(scales0[at / group0]) * kFp4Unit;
    device const uint* words0 = (device const uint*)codes0 + at / 8;
    for (uint w = 0; w < 2; ++w) {
      float4 low, high;
      fp4_decode(words0[w], low, high);
      low *= scale0;
      high *= scale0;
      if (PLANES == 2) {
        const float scale1 = float(scales1[at / group1]) * kFp4Unit;
        float4 low1, high1;
        fp4_decode(((device const uint*)codes1)[at / 8 + w], low1, high1);
        low += low1 * scale1;
        high += high1 * scale1;
      }
      to[2 * w] = narrow(low);
      to[2 * w + 1] = narrow(high);
    }
    return;
  }
  for (uint q = 0; q < 4; ++q) {
    float4 v = float4(0.0f);
    for (uint i = 0; i < 4; ++i) {
      if (k + 4 * q + i < in) v[i] = load_plain(codes0, at + 4 * q + i, FORMAT);
    }
    to[q] = narrow(v);
  }
}

/// 8 values of a token's row from k on, as half.
static inline void load_token(threadgroup half4* to, device const float* row, bool present, uint k, uint in) {
  for (uint q = 0; q < 2; ++q) {
    const uint at = k + 4 * q;
    float4 v = float4(0.0f);
    if (present && at + 4 <= in) {
      v = float4(*(device const packed_float4*)(row + at));  // a row begins at any float
    } else if (present) {
      for (uint i = 0; at + i < in; ++i) v[i] = row[at + i];
    }
    to[q] = narrow(v);
  }
}

/// Multiplies what the tiles hold into a simdgroup's 2 x 4 accumulators.
static inline void multiply_tiles(thread simdgroup_float8x8 (&sums)[2][4], threadgroup const half4* tokens,
                                  threadgroup const half4* weights, uint simdgroup) {
  const uint first_token = (simdgroup / 2) * 16;
  const uint first_row = (simdgroup % 2) * 32;
  for (uint k = 0; k < kDepth; k += 8) {
    simdgroup_half8x8 a[2];
    simdgroup_half8x8 b[4];
    for (uint i = 0; i < 2; ++i) {
      simdgroup_load(a[i], (threadgroup const half*)(tokens + (first_token + 8 * i) * kPitch) + k, kPitch * 4);
    }
    for (uint j = 0; j < 4; ++j) {
      simdgroup_load(b[j], (threadgroup const half*)(weights + (first_row + 8 * j) * kPitch) + k, kPitch * 4,
                     ulong2(0, 0), true);
    }
    for (uint i = 0; i < 2; ++i) {
      for (uint j = 0; j < 4; ++j) simdgroup_multiply_accumulate(sums[i][j], a[i], b[j], sums[i][j]);
    }
  }
}

static inline void clear_sums(thread simdgroup_float8x8 (&sums)[2][4]) {
  for (uint i = 0; i < 2; ++i) {
    for (uint j = 0; j < 4; ++j) sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  }
}

static inline void store_sums(threadgroup float* tile, thread simdgroup_float8x8 (&sums)[2][4], uint simdgroup) {
  const uint first_token = (simdgroup / 2) * 16;
  const uint first_row = (simdgroup % 2) * 32;
  for (uint i = 0; i < 2; ++i) {
    for (uint j = 0; j < 4; ++j) {
      simdgroup_store(sums[i][j], tile + (first_token + 8 * i) * kRows + first_row + 8 * j, kRows);
    }
  }
}

// out[t, n] (+)= sum_k W[n, k] x[t, k] + b[n] for the rows that ROLE wants. Threadgroups: x over tiles of weight rows,
// y over tiles of tokens.
kernel void gemm_linear(device const float* x [[buffer(0)]], device const uchar* codes0 [[buffer(1)]],
                        device const half* scales0 [[buffer(2)]], device const uchar* codes1 [[buffer(3)]],
                        device const half* scales1 [[buffer(4)]], device const uchar* bias [[buffer(5)]],
                        device const uchar* roles [[buffer(6)]], device float* out [[buffer(7)]],
                        constant GemmParams& p [[buffer(8)]], uint2 group [[threadgroup_position_in_grid]],
                        uint thread_index [[thread_index_in_threadgroup]],
                        uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 memory[kTileBytes / 16];
  threadgroup half4* tokens = (threadgroup half4*)memory;
  threadgroup half4* weights = tokens + kTokens * kPitch;

  const uint first_token = group.y * kTokens;
  const uint first_row = group.x * kRows;
  bool wanted = false;
  for (uint t = first_token; t < min(first_token + kTokens, p.rows); ++t) wanted = wanted || row_wanted(roles, t);
  if (!wanted) return;

  simdgroup_float8x8 sums[2][4];
  clear_sums(sums);
  const uint token = thread_index / 4;
  const uint row = thread_index / 2;
  const bool present = first_token + token < p.rows;
  device const float* from = x + ulong(present ? first_token + token : 0) * p.x_stride;
  for (uint k = 0; k < p.in; k += kDepth) {
    load_token(tokens + token * kPitch + (thread_index % 4) * 2, from, present, k + (thread_index % 4) * 8, p.in);
    half4 decoded[4] = {half4(0.0h), half4(0.0h), half4(0.0h), half4(0.0h)};
    const uint part = (thread_index % 2) * 16;
    if (first_row + row < p.out && k + part < p.in) {
      decode_weights(decoded, codes0, scales0, codes1, scales1, first_row + row, k + part, p.in, p.group_size[0],
                     p.group_size[1]);
    }
    for (uint q = 0; q < 4; ++q) weights[row * kPitch + part / 4 + q] = decoded[q];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    multiply_tiles(sums, tokens, weights, simdgroup);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }

  threadgroup float* tile = (threadgroup float*)memory;
  store_sums(tile, sums, simdgroup);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = thread_index; i < kTokens * kRows; i += 128) {
    const uint t = first_token + i / kRows;
    const uint n = first_row + i % kRows;
    if (t >= p.rows || n >= p.out || !row_wanted(roles, t)) continue;
    float value = tile[i];
    if (BIAS != kNone) value += load_plain(bias, n, BIAS);
    device float* to = out + ulong(t) * p.out_stride + n;
    *to = ADD == 1 ? *to + value : value;
  }
}

// Lists the slots (token * top_k + rank) of wanted tokens by expert, and cuts the lists into tiles of kTokens. One
// threadgroup. The order within an expert is the order of arrival: no result depends on it.
kernel void group_experts(device const int* ids [[buffer(0)]], device const uchar* roles [[buffer(1)]],
                          device uint* slots [[buffer(2)]], device ExpertTile* tiles [[buffer(3)]],
                          constant GroupParams& p [[buffer(4)]], uint thread_index [[thread_index_in_threadgroup]],
                          uint threads [[threads_per_threadgroup]]) {
  threadgroup atomic_uint counts[MARLIN_MOST_EXPERTS];
  threadgroup uint begins[MARLIN_MOST_EXPERTS];
  for (uint e = thread_index; e < p.n_experts; e += threads) {
    atomic_store_explicit(&counts[e], 0u, memory_order_relaxed);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint n_slots = p.rows * p.top_k;
  for (uint i = thread_index; i < n_slots; i += threads) {
    if (row_wanted(roles, i / p.top_k)) {
      atomic_fetch_add_explicit(&counts[min(uint(ids[i]), p.n_experts - 1)], 1u, memory_order_relaxed);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (thread_index == 0) {
    uint begin = 0;
    uint tile = 0;
    for (uint e = 0; e < p.n_experts; ++e) {
      const uint count = atomic_load_explicit(&counts[e], memory_order_relaxed);
      begins[e] = begin;
      for (uint done = 0; done < count; done += kTokens, ++tile) {
        tiles[tile].expert = e;
        tiles[tile].begin = begin + done;
        tiles[tile].count = min(kTokens, count - done);
      }
      begin += count;
      atomic_store_explicit(&counts[e], 0u, memory_order_relaxed);
    }
    for (; tile < p.most_tiles; ++tile) tiles[tile].count = 0;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = thread_index; i < n_slots; i += threads) {
    if (!row_wanted(roles, i / p.top_k)) continue;
    const uint e = min(uint(ids[i]), p.n_experts - 1);
    slots[begins[e] + atomic_fetch_add_explicit(&counts[e], 1u, memory_order_relaxed)] = i;
  }
}

// The product of each listed slot's input with its expert's weight; with PRODUCTS = 2 silu(gate x) * (up x). The input
// of slot s lies at row (s / top_k) and place (s % top_k) of x. Threadgroups: x over tiles of weight rows, y over
// ExpertTiles.
kernel void gemm_experts(device const float* x [[buffer(0)]], device const ExpertAddress* experts [[buffer(1)]],
                         device const ExpertAddress* up_experts [[buffer(2)]], device const uint* slots [[buffer(3)]],
                         device const ExpertTile* tiles [[buffer(4)]], device float* out [[buffer(5)]],
                         constant ExpertGemmParams& p [[buffer(6)]], uint2 group [[threadgroup_position_in_grid]],
                         uint thread_index [[thread_index_in_threadgroup]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 memory[kTileBytes / 16];
  threadgroup half4* tokens = (threadgroup half4*)memory;
  threadgroup half4* weights = tokens + kTokens * kPitch;

  const uint count = tiles[group.y].count;
  if (count == 0) return;
  const uint begin = tiles[group.y].begin;
  const uint expert = tiles[group.y].expert;
  const uint width = PRODUCTS == 2 ? kRows / 2 : kRows;  // of the output
  const uint first_row = group.x * width;

  const uint row = thread_index / 2;
  const uint n = first_row + row % width;
  device const ExpertAddress* address = row < width ? experts + expert : up_experts + expert;
  device const uchar* codes0 = address->codes[0];
  device const half* scales0 = (device const half*)address->scales[0];
  device const uchar* codes1 = address->codes[1];
  device const half* scales1 = (device const half*)address->scales[1];

  simdgroup_float8x8 sums[2][4];
  clear_sums(sums);
  const uint token = thread_index / 4;
  const uint slot = slots[begin + min(token, count - 1)];
  device const float* from = x + ulong(slot / p.top_k) * p.x_row_stride + ulong(slot % p.top_k) * p.x_slot_stride;
  for (uint k = 0; k < p.in; k += kDepth) {
    load_token(tokens + token * kPitch + (thread_index % 4) * 2, from, token < count, k + (thread_index % 4) * 8,
               p.in);
    half4 decoded[4] = {half4(0.0h), half4(0.0h), half4(0.0h), half4(0.0h)};
    const uint part = (thread_index % 2) * 16;
    if (n < p.out && k + part < p.in) {
      const bool up = PRODUCTS == 2 && row >= width;
      decode_weights(decoded, codes0, scales0, codes1, scales1, n, k + part, p.in,
                     up ? p.up_group_size[0] : p.group_size[0], up ? p.up_group_size[1] : p.group_size[1]);
    }
    for (uint q = 0; q < 4; ++q) weights[row * kPitch + part / 4 + q] = decoded[q];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    multiply_tiles(sums, tokens, weights, simdgroup);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }

  threadgroup float* tile = (threadgroup float*)memory;
  store_sums(tile, sums, simdgroup);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = thread_index; i < count * width; i += 128) {
    const uint t = i / width;
    const uint column = i % width;
    if (first_row + column >= p.out) continue;
    float value = tile[t * kRows + column];
    if (BIAS != kNone) value += load_plain(experts[expert].bias, first_row + column, BIAS);
    if (PRODUCTS == 2) {
      float up = tile[t * kRows + width + column];
      if (BIAS != kNone) up += load_plain(up_experts[expert].bias, first_row + column, BIAS);
      value = value / (1.0f + exp(-value)) * up;
    }
    out[ulong(slots[begin + t]) * p.out + first_row + column] = value;
  }
}
