// The prompt form of attention: a token's heads against its context by simdgroup_matrix, operands in half, sums in float.
//
// A threadgroup takes one token and 24 of its heads, in three blocks of 8. It walks along the context in tiles of 16
// positions, staged as half: rows [latent | rope], each part padded with zeros to a multiple of 8. Of its 12
// simdgroups, number 4 b + q serves block b and every fourth group of 8 values, from q on:
//
//   scores   8 heads x 16 positions, a share of the values each; four shares are added in order
//   softmax  16 threads a head, in float; the running largest score and total stay in their registers
//   sums     8 heads x (8 latents of every fourth group) += weights x latents, in registers
//
// Rows of positions behind the token are zeros, not what the cache holds there. A token's result depends on its own
// sequence only: it shares a tile with nobody.
#include "kv_rows.h"

constant uint LATENT_GROUPS [[function_constant(FC_LATENT_GROUPS)]];
constant uint ROPE_GROUPS [[function_constant(FC_ROPE_GROUPS)]];

constant constexpr uint kBlocks = 3;
constant constexpr uint kShares = 4;
constant constexpr uint kHeads = kBlocks * 8;
constant constexpr uint kTile = 16;
constant constexpr uint kThreads = kBlocks * kShares * kSimdWidth;
constant constexpr uint kMaxGroups = (MARLIN_MOST_LATENT + MARLIN_MOST_ROPE) / 8;
constant constexpr uint kMaxShare = kMaxGroups / kShares;
constant constexpr uint kMaxLatentShare = MARLIN_MOST_LATENT / 8 / kShares;
constant constexpr uint kPitch = kMaxGroups * 8 + 8;  // in half
constant constexpr uint kWeightPitch = kTile + 8;

// Where a lane's two elements of a simdgroup_matrix lie: Metal does not document it, all Apple GPUs have it, and
// tests/metal checks it. Both are in one row, so that a factor for each row is one for each lane.
static inline uint matrix_row(uint lane) {
  return ((lane >> 4) & 1) * 4 + ((lane >> 1) & 3);
}
static inline uint matrix_column(uint lane) {
  return ((lane >> 3) & 1) * 4 + (lane & 1) * 2;
}

/// The index in [latent | rope] of value i of a padded row; `values` where there is none.
static inline uint unpadded(constant KvParams& kv, uint i) {
  const uint values = kv.latent + kv.rope;
  if (i < LATENT_GROUPS * 8) return i < kv.latent ? i : values;
  const uint k = i - LATENT_GROUPS * 8;
  return k < kv.rope ? kv.latent + k : values;
}

/// Rows first … first + 15 of the heads' queries, zeros where there is no head.
static inline void stage_queries(threadgroup half* staged, device const float* q_latent, device const float* q_rope,
                                 constant AttendParams& p, uint token, uint first, uint thread_index) {
  const uint width = (LATENT_GROUPS + ROPE_GROUPS) * 8;
  for (uint i = thread_index; i < kTile * width; i += kThreads) {
    const uint head = first + i / width;
    const uint k = unpadded(p.kv, i % width);
    float value = 0.0f;
    if (head < p.heads && k < p.kv.latent) {
      value = q_latent[(ulong(token) * p.heads + head) * p.kv.latent + k];
    } else if (head < p.heads && k < p.kv.latent + p.kv.rope) {
      value = q_rope[ulong(token) * p.q_row_stride + ulong(head) * p.q_head_stride + k - p.kv.latent];
    }
    staged[i / width * kPitch + i % width] = narrow(value);
  }
}

/// Positions first … first + 15 of a slot, zeros from `length` on.
static inline void stage_rows(threadgroup half* staged, device const uchar* pool, device const int* block_tables,
                              constant KvParams& kv, uint slot, uint first, uint length, uint thread_index) {
  const uint width = (LATENT_GROUPS + ROPE_GROUPS) * 8;
  for (uint i = thread_index; i < kTile * width; i += kThreads) {
    const uint position = first + i / width;
    const uint k = unpadded(kv, i % width);
    float value = 0.0f;
    if (position < length && k < kv.latent + kv.rope) {
      value = kv_load(kv, pool + kv_row_offset(kv, block_tables, slot, position), k);
    }
    staged[i / width * kPitch + i % width] = narrow(value);
  }
}

kernel void mla_attend_prompt(device const float* q_latent [[buffer(0)]], device const float* q_rope [[buffer(1)]],
                              device const uchar* pool [[buffer(2)]], device const int* positions [[buffer(3)]],
                              device const int* slots [[buffer(4)]], device const int* block_tables [[buffer(5)]],
                              device const uchar* roles [[buffer(6)]], device float* out [[buffer(8)]],
                              constant AttendParams& p [[buffer(9)]], uint2 place [[threadgroup_position_in_grid]],
                              uint lane [[thread_index_in_simdgroup]],
                              uint simdgroup [[simdgroup_index_in_threadgroup]],
                              uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup half4 staged_memory[kTile * kPitch / 4];
  threadgroup float scores[kBlocks * kShares][8 * kTile];
  threadgroup half weights[kHeads * kWeightPitch];
  threadgroup float factors[kHeads];
  threadgroup half* staged = (threadgroup half*)staged_memory;

  const uint token = place.x;
  if (!row_wanted(roles, token)) return;
  const uint first_head = place.y * kHeads;
  const uint block = simdgroup / kShares;
  const uint share = simdgroup % kShares;
  const uint length = uint(positions[token]) + 1;
  const uint slot = uint(slots[token]);

  // Queries pass through the memory of a tile, 16 heads at a time.
  simdgroup_half8x8 query[kMaxShare];
  for (uint half_of = 0; half_of < 2; ++half_of) {
    stage_queries(staged, q_latent, q_rope, p, token, first_head + half_of * kTile, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (block / 2 == half_of) {
#pragma unroll
      for (uint i = 0; i < kMaxShare; ++i) {
        const uint group = i * kShares + share;
        if (group >= LATENT_GROUPS + ROPE_GROUPS) continue;
        simdgroup_load(query[i], staged + block % 2 * 8 * kPitch + group * 8, kPitch);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }

  simdgroup_float8x8 sums[kMaxLatentShare];
#pragma unroll
  for (uint i = 0; i < kMaxLatentShare; ++i) sums[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  const uint my_head = thread_index / kTile;  // in the softmax
  const uint my_position = thread_index % kTile;
  float largest = -INFINITY;
  float total = 0.0f;

  for (uint first = 0; first < length; first += kTile) {
    stage_rows(staged, pool, block_tables, p.kv, slot, first, length, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    simdgroup_float8x8 part[2];
    part[0] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    part[1] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
#pragma unroll
    for (uint i = 0; i < kMaxShare; ++i) {
      const uint group = i * kShares + share;
      if (group >= LATENT_GROUPS + ROPE_GROUPS) continue;
      for (uint j = 0; j < 2; ++j) {
        simdgroup_half8x8 rows;
        simdgroup_load(rows, staged + j * 8 * kPitch + group * 8, kPitch, ulong2(0, 0), true);
        simdgroup_multiply_accumulate(part[j], query[i], rows, part[j]);
      }
    }
    simdgroup_store(part[0], scores[simdgroup], kTile);
    simdgroup_store(part[1], scores[simdgroup] + 8, kTile);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    float score = 0.0f;
    for (uint s = 0; s < kShares; ++s) score += scores[my_head / 8 * kShares + s][my_head % 8 * kTile + my_position];
    score = first + my_position < length ? score * p.scale : -INFINITY;
    float top = score;
    for (uint step = 1; step < kTile; step *= 2) top = max(top, simd_shuffle_xor(top, step));
    top = max(top, largest);
    const float factor = largest == top ? 1.0f : exp(largest - top);
    const float weight = exp(score - top);
    float added = weight;
    for (uint step = 1; step < kTile; step *= 2) added += simd_shuffle_xor(added, step);
    total = fma(total, factor, added);
    largest = top;
    weights[my_head * kWeightPitch + my_position] = half(weight);
    if (my_position == 0) factors[my_head] = factor;
    threadgroup_barrier(mem_flags::mem_threadgroup);

    const float row_factor = factors[block * 8 + matrix_row(lane)];
    const bool rescale = !simd_all(row_factor == 1.0f);
    simdgroup_half8x8 row_weights[2];
    for (uint j = 0; j < 2; ++j) {
      simdgroup_load(row_weights[j], weights + block * 8 * kWeightPitch + j * 8, kWeightPitch);
    }
#pragma unroll
    for (uint i = 0; i < kMaxLatentShare; ++i) {
      const uint group = i * kShares + share;
      if (group >= LATENT_GROUPS) continue;
      if (rescale) {
        sums[i].thread_elements()[0] *= row_factor;
        sums[i].thread_elements()[1] *= row_factor;
      }
      for (uint j = 0; j < 2; ++j) {
        simdgroup_half8x8 latents;
        simdgroup_load(latents, staged + j * 8 * kPitch + group * 8, kPitch);
        simdgroup_multiply_accumulate(sums[i], row_weights[j], latents, sums[i]);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }

  if (my_position == 0) factors[my_head] = 1.0f / total;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint head = first_head + block * 8 + matrix_row(lane);
  if (head >= p.heads) return;
  const float row_factor = factors[block * 8 + matrix_row(lane)];
  device float* to = out + (ulong(token) * p.heads + head) * p.kv.latent;
#pragma unroll
  for (uint i = 0; i < kMaxLatentShare; ++i) {
    const uint group = i * kShares + share;
    if (group >= LATENT_GROUPS) continue;
    const uint k = group * 8 + matrix_column(lane);
    if (k < p.kv.latent) to[k] = sums[i].thread_elements()[0] * row_factor;
    if (k + 1 < p.kv.latent) to[k + 1] = sums[i].thread_elements()[1] * row_factor;
  }
}
