// Attention over the paged latent cache in the absorbed form: every head of a token attends to the same latents.
//
//   mla_absorb    q_latent = W_UK^T q_nope      threadgroup: (512 latents, head, 4 tokens); simdgroups share the rows
//   mla_attend    scores, softmax, weighted sum  threadgroup: (split of 32 to 256 positions, token, 24 heads)
//   mla_combine   merges a token's splits        threadgroup: (head, token)
//   mla_combine_unabsorb  the same, then W_UV    threadgroup: (32 value rows, head, token)
//   mla_unabsorb  W_UV o_latent                  threadgroup: (32 value rows, head, token)
//
// In mla_attend the threadgroup stages 8 rows of the cache as floats; simdgroup s holds heads s, s + 8 and s + 16 of its
// 24 in registers, lane l the values l, l + 32, … of each, so that a row of the cache is read from memory once for all
// heads. Splits begin at absolute positions and are merged in order: a token's result depends on its own sequence only.
#include "kv_rows.h"
#include "weights.h"

constant uint LATENT_STEPS [[function_constant(FC_LATENT_STEPS)]];
constant uint ROPE_STEPS [[function_constant(FC_ROPE_STEPS)]];
constant uint WHOLE [[function_constant(FC_WHOLE)]];

constant constexpr uint kAbsorbSimdgroups = 8;
constant constexpr uint kAttendSimdgroups = 8;
constant constexpr uint kSimdgroupHeads = 3;
constant constexpr uint kStagedRows = 8;
constant constexpr uint kMaxLatentSteps = MARLIN_MOST_LATENT / kSimdWidth;
constant constexpr uint kMaxRopeSteps = MARLIN_MOST_ROPE / kSimdWidth;
constant constexpr uint kMaxValues = MARLIN_MOST_LATENT + MARLIN_MOST_ROPE;

// ---- rope and kv_write ---------------------------------------------------------------------------------------------

// Grid: x over pairs of all heads, y over rows.
kernel void rope(device float* x [[buffer(0)]], device const int* positions [[buffer(1)]],
                 device const float* table [[buffer(2)]], device const uchar* roles [[buffer(3)]],
                 constant RopeParams& p [[buffer(4)]], uint2 at [[thread_position_in_grid]]) {
  const uint pairs = p.dims / 2;
  if (at.x >= p.heads * pairs || at.y >= p.rows || !row_wanted(roles, at.y)) return;
  const uint pair = at.x % pairs;
  device float* values = x + ulong(at.y) * p.row_stride + ulong(at.x / pairs) * p.head_stride + 2 * pair;
  device const float* angle = table + (ulong(uint(positions[at.y])) * pairs + pair) * 2;
  const float2 turned = rotated(values[0], values[1], angle[0], angle[1]);
  values[0] = turned.x;
  values[1] = turned.y;
}

// One threadgroup a token; its simdgroups take the groups of 64 values in turn.
kernel void kv_write(device const float* latent [[buffer(0)]], device const float* rope [[buffer(1)]],
                     device const int* positions [[buffer(2)]], device const int* slots [[buffer(3)]],
                     device const int* block_tables [[buffer(4)]], device const uchar* roles [[buffer(5)]],
                     device uchar* pool [[buffer(6)]], constant KvWriteParams& p [[buffer(7)]],
                     uint token [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
                     uint simdgroup [[simdgroup_index_in_threadgroup]],
                     uint simdgroups [[simdgroups_per_threadgroup]]) {
  if (!row_wanted(roles, token)) return;
  device uchar* row = pool + kv_row_offset(p.kv, block_tables, uint(slots[token]), uint(positions[token]));
  const uint latent_groups = kv_groups(p.kv.latent);
  const uint groups = latent_groups + kv_groups(p.kv.rope);
  for (uint group = simdgroup; group < groups; group += simdgroups) {
    const bool is_latent = group < latent_groups;
    const uint first = (is_latent ? group : group - latent_groups) * kKvGroup;
    const uint count = min((is_latent ? p.kv.latent : p.kv.rope) - first, kKvGroup);
    device const float* from =
        is_latent ? latent + ulong(token) * p.latent_stride + first : rope + ulong(token) * p.rope_stride + first;
    const float a = 2 * lane < count ? from[2 * lane] : 0.0f;
    const float b = 2 * lane + 1 < count ? from[2 * lane + 1] : 0.0f;
    kv_store_group(p.kv, row, (is_latent ? 0 : p.kv.latent) + first, group, count, a, b, lane);
  }
}

// ---- the query in the latent space ---------------------------------------------------------------------------------

// q_latent[t, h, k] = sum_n q[t, h, n] W[h, n, k]: simdgroup s adds up its share of the rows n for 512 k, 16 a lane, of
// ROWS tokens; the shares are added in order.
kernel void mla_absorb(device const uchar* codes0 [[buffer(0)]], device const uchar* scales0 [[buffer(1)]],
                       device const uchar* codes1 [[buffer(2)]], device const uchar* scales1 [[buffer(3)]],
                       device const uchar* bias [[buffer(4)]], device const float* q [[buffer(5)]],
                       device float* out [[buffer(6)]], constant AbsorbParams& p [[buffer(7)]],
                       uint3 place [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
                       uint simdgroup [[simdgroup_index_in_threadgroup]],
                       uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 shares[kAbsorbSimdgroups][kPassValues / 4];
  const Weight weight =
      bound_weight(weight_kind(FORMAT, PLANES, BIAS), p.weight, codes0, scales0, codes1, scales1, bias);
  const uint head = place.y;
  const uint first_k = place.x * kPassValues;
  const uint k = first_k + lane * kLaneValues;
  const uint count = k < weight.in ? lane_count(weight, k) : 0;
  const uint first_token = place.z * ROWS;
  const uint tokens = min(ROWS, p.rows - first_token);

  Values sums[4];
#pragma unroll
  for (uint t = 0; t < 4; ++t) {
#pragma unroll
    for (uint i = 0; i < 4; ++i) sums[t].part[i] = float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
  const uint end = p.nope * (simdgroup + 1) / kAbsorbSimdgroups;
  for (uint n = p.nope * simdgroup / kAbsorbSimdgroups; n < end && count > 0; ++n) {
    for (uint plane = 0; plane < kind_planes(weight.kind); ++plane) {
      Values values;
      const float factor = load_weights(weight, plane, head * p.head_rows + n, k, count, values);
#pragma unroll
      for (uint t = 0; t < 4; ++t) {
        if (t >= tokens) continue;
        const float x = q[ulong(first_token + t) * p.q_row_stride + ulong(head) * p.q_head_stride + n] * factor;
#pragma unroll
        for (uint i = 0; i < 4; ++i) sums[t].part[i] = fma(values.part[i], float4(x), sums[t].part[i]);
      }
    }
  }
#pragma unroll
  for (uint t = 0; t < 4; ++t) {
    if (t >= tokens) break;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = 0; i < 4; ++i) shares[simdgroup][lane * 4 + i] = sums[t].part[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint j = thread_index * 4;
    if (thread_index < kPassValues / 4 && first_k + j < weight.in) {
      float4 sum = shares[0][thread_index];
      for (uint s = 1; s < kAbsorbSimdgroups; ++s) sum += shares[s][thread_index];
      device float* to = out + (ulong(first_token + t) * p.heads + head) * weight.in + first_k + j;
      for (uint i = 0; i < min(4u, weight.in - first_k - j); ++i) to[i] = sum[i];
    }
  }
}

// ---- scores, softmax, sums -----------------------------------------------------------------------------------------

/// What a simdgroup holds of a head: lane l has values l, l + 32, …
struct HeadState {
  float latent[kMaxLatentSteps];  // of the query
  float rope[kMaxRopeSteps];
  float sum[kMaxLatentSteps];  // of weighted latents
  float largest;               // score so far
  float total;                 // of the weights
};

static inline void load_query(thread HeadState& head, device const float* q_latent, device const float* q_rope,
                              uint latent, uint rope, uint lane) {
#pragma unroll
  for (uint i = 0; i < kMaxLatentSteps; ++i) {
    if (i >= LATENT_STEPS) continue;
    const uint k = i * kSimdWidth + lane;
    head.latent[i] = k < latent ? q_latent[k] : 0.0f;
    head.sum[i] = 0.0f;
  }
#pragma unroll
  for (uint i = 0; i < kMaxRopeSteps; ++i) {
    if (i >= ROPE_STEPS) continue;
    const uint k = i * kSimdWidth + lane;
    head.rope[i] = k < rope ? q_rope[k] : 0.0f;
  }
  head.largest = -INFINITY;
  head.total = 0.0f;
}

/// Takes `count` staged rows into a head's softmax. A staged row is latent_pitch latents, then the rope part, both
/// padded with zeros to whole steps.
static inline void attend_rows(thread HeadState& head, threadgroup const float* rows, uint count, float scale,
                               uint lane) {
  const uint pitch = (LATENT_STEPS + ROPE_STEPS) * kSimdWidth;
  float scores[kStagedRows];
  float largest = head.largest;
#pragma unroll
  for (uint r = 0; r < kStagedRows; ++r) {
    if (r >= count) continue;
    threadgroup const float* row = rows + r * pitch + lane;
    float sum = 0.0f;
#pragma unroll
    for (uint i = 0; i < kMaxLatentSteps; ++i) {
      if (i < LATENT_STEPS) sum = fma(head.latent[i], row[i * kSimdWidth], sum);
    }
#pragma unroll
    for (uint i = 0; i < kMaxRopeSteps; ++i) {
      if (i < ROPE_STEPS) sum = fma(head.rope[i], row[(LATENT_STEPS + i) * kSimdWidth], sum);
    }
    scores[r] = simd_sum(sum) * scale;
    largest = max(largest, scores[r]);
  }
  const float factor = head.largest == largest ? 1.0f : exp(head.largest - largest);
  head.largest = largest;
  head.total *= factor;
#pragma unroll
  for (uint i = 0; i < kMaxLatentSteps; ++i) {
    if (i < LATENT_STEPS) head.sum[i] *= factor;
  }
#pragma unroll
  for (uint r = 0; r < kStagedRows; ++r) {
    if (r >= count) continue;
    const float weight = exp(scores[r] - largest);
    head.total += weight;
    threadgroup const float* row = rows + r * pitch + lane;
#pragma unroll
    for (uint i = 0; i < kMaxLatentSteps; ++i) {
      if (i < LATENT_STEPS) head.sum[i] = fma(weight, row[i * kSimdWidth], head.sum[i]);
    }
  }
}

// Leaves a split's largest score, total and sums in `partials`: [token, split, head][2 + latent].
kernel void mla_attend(device const float* q_latent [[buffer(0)]], device const float* q_rope [[buffer(1)]],
                       device const uchar* pool [[buffer(2)]], device const int* positions [[buffer(3)]],
                       device const int* slots [[buffer(4)]], device const int* block_tables [[buffer(5)]],
                       device const uchar* roles [[buffer(6)]], device float* partials [[buffer(7)]],
                       constant AttendParams& p [[buffer(9)]], uint3 place [[threadgroup_position_in_grid]],
                       uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]],
                       uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float staged[kStagedRows * kMaxValues];
  const uint token = p.first_token + place.y;
  if (!row_wanted(roles, token)) return;
  const uint length = uint(positions[token]) + 1;
  const uint begin = place.x * split_positions(length);
  if (begin >= length) return;
  const uint end = min(length, begin + split_positions(length));
  const uint slot = uint(slots[token]);
  const uint latent = p.kv.latent;
  const uint rope = p.kv.rope;
  const uint first_head = place.z * kAttendSimdgroups * kSimdgroupHeads + simdgroup;

  HeadState heads[kSimdgroupHeads];
#pragma unroll
  for (uint h = 0; h < kSimdgroupHeads; ++h) {
    const uint head = min(first_head + h * kAttendSimdgroups, p.heads - 1);  // one too many repeats the last
    load_query(heads[h], q_latent + (ulong(token) * p.heads + head) * latent,
               q_rope + ulong(token) * p.q_row_stride + ulong(head) * p.q_head_stride, latent, rope, lane);
  }
  const uint latent_pitch = LATENT_STEPS * kSimdWidth;
  const uint pitch = latent_pitch + ROPE_STEPS * kSimdWidth;
  for (uint first = begin; first < end; first += kStagedRows) {
    const uint count = min(kStagedRows, end - first);
    for (uint r = 0; r < count; ++r) {
      device const uchar* row = pool + kv_row_offset(p.kv, block_tables, slot, first + r);
      for (uint i = thread_index; i < pitch; i += kAttendSimdgroups * kSimdWidth) {
        const bool is_latent = i < latent_pitch;
        const uint k = is_latent ? i : i - latent_pitch;
        const bool exists = k < (is_latent ? latent : rope);
        staged[r * pitch + i] = exists ? kv_load(p.kv, row, is_latent ? k : latent + k) : 0.0f;
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
    for (uint h = 0; h < kSimdgroupHeads; ++h) attend_rows(heads[h], staged, count, p.scale, lane);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
#pragma unroll
  for (uint h = 0; h < kSimdgroupHeads; ++h) {
    const uint head = first_head + h * kAttendSimdgroups;
    if (head >= p.heads) continue;
    const ulong at = (ulong(place.y) * p.splits + place.x) * p.heads + head;
    device float* partial = partials + at * (latent + 2);
#pragma unroll
    for (uint i = 0; i < kMaxLatentSteps; ++i) {
      const uint k = i * kSimdWidth + lane;
      if (i < LATENT_STEPS && k < latent) partial[2 + k] = heads[h].sum[i];
    }
    if (lane == 0) {
      partial[0] = heads[h].largest;
      partial[1] = heads[h].total;
    }
  }
}

// ---- splits into results -------------------------------------------------------------------------------------------

/// Value k of a head's merged sums. `partials` begins at the token's first split; splits are `stride` floats apart.
static inline float combined(device const float* partials, uint splits, ulong stride, uint k) {
  float largest = partials[0];
  for (uint s = 1; s < splits; ++s) largest = max(largest, partials[s * stride]);
  float sum = 0.0f;
  float total = 0.0f;
  for (uint s = 0; s < splits; ++s) {
    device const float* split = partials + s * stride;
    const float factor = split[0] == largest ? 1.0f : exp(split[0] - largest);
    total = fma(split[1], factor, total);
    sum = fma(split[2 + k], factor, sum);
  }
  return sum / total;
}

kernel void mla_combine(device const float* partials [[buffer(0)]], device const int* positions [[buffer(1)]],
                        device const uchar* roles [[buffer(2)]], device float* out [[buffer(3)]],
                        constant CombineParams& p [[buffer(4)]], uint2 place [[threadgroup_position_in_grid]],
                        uint thread_index [[thread_index_in_threadgroup]],
                        uint simdgroups [[simdgroups_per_threadgroup]]) {
  const uint token = p.first_token + place.y;
  if (!row_wanted(roles, token)) return;
  const uint threads = simdgroups * kSimdWidth;
  const uint splits = split_count(uint(positions[token]) + 1);
  const ulong width = p.latent + 2;
  device const float* mine = partials + (ulong(place.y) * p.splits * p.heads + place.x) * width;
  for (uint k = thread_index; k < p.latent; k += threads) {
    out[(ulong(token) * p.heads + place.x) * p.latent + k] = combined(mine, splits, p.heads * width, k);
  }
}

/// Rows row … row + 3 of W_UV times latents in threadgroup memory, whose length is a multiple of 16 and padded with
/// zeros.
static inline void unabsorb_tile(thread const Weight& weight, uint row, uint last, threadgroup const float4* latents,
                                 device float* out, uint lane) {
  float sums[kTileRows] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (uint first = 0; first < weight.in; first += kPassValues) {
    const uint k = first + lane * kLaneValues;
    if (k >= weight.in) continue;
    Values x;
    for (uint i = 0; i < 4; ++i) x.part[i] = latents[k / 4 + i];
    add_tile(weight, row, k, lane_count(weight, k), x, sums);
  }
  for (uint r = 0; r < kTileRows; ++r) {
    const float sum = simd_sum(sums[r]);
    if (lane == 0 && row + r < last) out[r] = sum + load_bias(weight, row + r);
  }
}

// With WHOLE the latents are `from` [token, head, latent]; else they are merged from splits.
kernel void mla_unabsorb(device const uchar* codes0 [[buffer(0)]], device const uchar* scales0 [[buffer(1)]],
                         device const uchar* codes1 [[buffer(2)]], device const uchar* scales1 [[buffer(3)]],
                         device const uchar* bias [[buffer(4)]], device const float* from [[buffer(5)]],
                         device const int* positions [[buffer(6)]], device const uchar* roles [[buffer(7)]],
                         device float* out [[buffer(8)]], constant UnabsorbParams& p [[buffer(9)]],
                         uint3 place [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]],
                         uint simdgroups [[simdgroups_per_threadgroup]],
                         uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 latents[MARLIN_MOST_LATENT / 4];
  const uint token = p.first_token + place.z;
  if (!row_wanted(roles, token)) return;
  const Weight weight =
      bound_weight(weight_kind(FORMAT, PLANES, BIAS), p.weight, codes0, scales0, codes1, scales1, bias);
  const uint head = place.y;
  threadgroup float* values = (threadgroup float*)latents;
  const uint padded = (weight.in + kLaneValues - 1) / kLaneValues * kLaneValues;
  for (uint k = thread_index; k < padded; k += simdgroups * kSimdWidth) {
    float value = 0.0f;
    if (k < weight.in && WHOLE == 1) {
      value = from[(ulong(token) * p.heads + head) * weight.in + k];
    } else if (k < weight.in) {
      const ulong width = weight.in + 2;
      value = combined(from + (ulong(place.z) * p.splits * p.heads + head) * width,
                       split_count(uint(positions[token]) + 1), p.heads * width, k);
    }
    values[k] = value;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint first = head * (p.nope + p.value) + p.nope;
  const uint row = (place.x * simdgroups + simdgroup) * kTileRows;
  if (row >= p.value) return;
  unabsorb_tile(weight, first + row, first + p.value, latents, out + (ulong(token) * p.heads + head) * p.value + row,
                lane);
}
