// The router, and decode forms of the experts' products.
//
//   route, normed_route    a threadgroup a token. normed_route: every simdgroup takes 4 experts' rows of the router at
//                          a time; then simdgroup 0 alone chooses.
//   moe_gate_up            x: token, y: 8 rows of gate and of up, z: slot (a chosen expert, or the shared one at top_k)
//   moe_down               x: token, y: 8 rows of the output, summed over the slots in order
//   expert_linear          x: token, y: 8 rows, z: slot
//
// Where only rows of one role are wanted, a threadgroup goes through all tokens (next_row in weights.h).
//
// In the products a simdgroup takes 4 rows and a lane 16 neighbouring k of each 512 (weights.h). Expert ids never leave
// the device: an expert's weights are reached through the table of its bank.
#include "weights.h"

constant uint GATE [[function_constant(FC_GATE)]];
constant uint UP [[function_constant(FC_UP)]];
constant uint SHARED_GATE [[function_constant(FC_SHARED_GATE)]];
constant uint SHARED_UP [[function_constant(FC_SHARED_UP)]];
constant uint SHARED [[function_constant(FC_SHARED)]];
constant uint CHOICE_BIAS [[function_constant(FC_CHOICE_BIAS)]];

/// The chosen expert of a slot; within the bank whatever stands in memory.
static inline uint chosen_expert(device const int* ids, uint token, uint slot, uint top_k, uint n_experts) {
  return min(uint(ids[ulong(token) * top_k + slot]), n_experts - 1);
}

// ---- route ---------------------------------------------------------------------------------------------------------

/// Unsigned numbers in the order of floats; NaN is the least float, and 0 is below all of them: taken.
static inline uint ranking_key(float x) {
  const uint bits = as_type<uint>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x007fffffu;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

static inline float key_value(uint key) {
  return as_type<float>((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

/// Index of the largest key, the lowest on ties, which it takes. A key is read and taken by the lane of its index only,
/// so that no barrier is needed between calls.
static inline uint take_best(threadgroup uint* keys, uint n, uint lane) {
  uint largest = 0;
  uint index = n - 1;
  for (uint i = lane; i < n; i += kSimdWidth) {
    if (keys[i] > largest) {
      largest = keys[i];
      index = i;
    }
  }
  const uint best = simd_min(largest == simd_max(largest) ? index : n - 1);
  if (lane == best % kSimdWidth) keys[best] = 0;
  return best;
}

/// Takes the experts outside the best groups out of the choice. A group's score is the sum of its two best keys.
static inline void keep_best_groups(threadgroup uint* keys, threadgroup uint* groups, constant RouteParams& p,
                                    uint lane) {
  const uint size = p.n_experts / p.n_group;
  for (uint g = 0; g < p.n_group; ++g) {
    uint best = 0;
    uint second = 0;
    const uint first = g * size;
    for (uint i = first + (lane - first) % kSimdWidth; i < first + size; i += kSimdWidth) {
      const uint key = keys[i];
      second = max(second, min(key, best));
      best = max(best, key);
    }
    const uint largest = simd_max(best);
    const uint owner = simd_min(best == largest ? lane : kSimdWidth);
    const uint next = simd_max(lane == owner ? second : best);
    if (lane == g % kSimdWidth) {
      groups[g] = ranking_key(size > 1 ? key_value(largest) + key_value(next) : key_value(largest));
    }
  }
  for (uint i = 0; i < p.topk_group; ++i) take_best(groups, p.n_group, lane);
  simdgroup_barrier(mem_flags::mem_threadgroup);
  for (uint e = lane; e < p.n_experts; e += kSimdWidth) {
    if (groups[e / size] != 0) keys[e] = 0;
  }
}

/// Chooses from logits in `scores`, which become sigmoids. Called by one simdgroup; ids and weights are the token's.
static inline void choose_experts(threadgroup float* scores, threadgroup uint* keys, threadgroup uint* groups,
                                  device const float* bias, constant RouteParams& p, device int* ids,
                                  device float* weights, uint lane) {
  for (uint e = lane; e < p.n_experts; e += kSimdWidth) {
    const float score = 1.0f / (1.0f + exp(-scores[e]));
    scores[e] = score;
    keys[e] = ranking_key(CHOICE_BIAS != 0 ? score + bias[e] : score);
  }
  if (p.n_group > 1) keep_best_groups(keys, groups, p, lane);
  simdgroup_barrier(mem_flags::mem_threadgroup);
  float sum = 0.0f;
  for (uint j = 0; j < p.top_k; ++j) {
    const uint best = take_best(keys, p.n_experts, lane);
    const float score = scores[best];
    sum += score;
    if (lane == j % kSimdWidth) {
      ids[j] = int(best);
      weights[j] = score;
    }
  }
  const float divisor = p.normalize != 0 ? sum + 1e-20f : 1.0f;
  for (uint j = lane; j < p.top_k; j += kSimdWidth) weights[j] = weights[j] / divisor * p.scale;
}

kernel void route(device const float* logits [[buffer(0)]], device const float* bias [[buffer(1)]],
                  device int* ids [[buffer(2)]], device float* weights [[buffer(3)]],
                  constant RouteParams& p [[buffer(4)]], uint token [[threadgroup_position_in_grid]],
                  uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float scores[MAX_ROUTED_EXPERTS];
  threadgroup uint keys[MAX_ROUTED_EXPERTS];
  threadgroup uint groups[MAX_ROUTED_EXPERTS];
  for (uint e = lane; e < p.n_experts; e += kSimdWidth) scores[e] = logits[ulong(token) * p.n_experts + e];
  const ulong first = ulong(token) * p.top_k;
  choose_experts(scores, keys, groups, bias, p, ids + first, weights + first, lane);
}

kernel void normed_route(device const uchar* codes0 [[buffer(0)]], device const uchar* scales0 [[buffer(1)]],
                         device const uchar* codes1 [[buffer(2)]], device const uchar* scales1 [[buffer(3)]],
                         device const uchar* router_bias [[buffer(4)]], device const float* x [[buffer(5)]],
                         device const uchar* gain [[buffer(6)]], device const float* bias [[buffer(7)]],
                         device float* normed [[buffer(8)]], device int* ids [[buffer(9)]],
                         device float* weights [[buffer(10)]], constant NormedRouteParams& p [[buffer(11)]],
                         uint token [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                         uint threads [[threads_per_threadgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]],
                         uint simdgroups [[simdgroups_per_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float partial[kSimdWidth];
  threadgroup float scores[MAX_ROUTED_EXPERTS];
  threadgroup uint keys[MAX_ROUTED_EXPERTS];
  threadgroup uint groups[MAX_ROUTED_EXPERTS];
  const uint width = p.router.in;
  device const float* from = x + ulong(token) * p.x_stride;
  device float* to = normed + ulong(token) * width;

  float squares = 0.0f;
  for (uint i = thread_index; i < width; i += threads) squares = fma(from[i], from[i], squares);
  squares = threadgroup_sum(squares, partial, lane, simdgroup, simdgroups);
  const float scale = rsqrt(squares / float(width) + p.eps);
  for (uint i = thread_index; i < width; i += threads) to[i] = from[i] * scale * load_plain(gain, i, GAIN);
  // The threadgroup reads back what it wrote.
  threadgroup_barrier(mem_flags::mem_device);

  const Weight router =
      bound_weight(weight_kind(FORMAT, PLANES, BIAS), p.router, codes0, scales0, codes1, scales1, router_bias);
  for (uint row = simdgroup * kTileRows; row < router.out; row += simdgroups * kTileRows) {
    float sums[kTileRows] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint k = kLaneValues * lane; k < width; k += kPassValues) {
      const uint count = lane_count(router, k);
      Values input;
      load_input(to, k, count, input);
      add_tile(router, row, k, count, input, sums);
    }
#pragma unroll
    for (uint r = 0; r < kTileRows; ++r) {
      const float logit = simd_sum(sums[r]);
      if (lane == 0 && row + r < router.out) scores[row + r] = logit + load_bias(router, row + r);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const ulong first = ulong(token) * p.route.top_k;
  if (simdgroup == 0) choose_experts(scores, keys, groups, bias, p.route, ids + first, weights + first, lane);
}

// ---- experts -------------------------------------------------------------------------------------------------------

kernel void expert_linear(device const ExpertAddress* bank [[buffer(0)]], device const int* ids [[buffer(1)]],
                          device const float* x [[buffer(2)]], device const uchar* roles [[buffer(3)]],
                          device float* out [[buffer(4)]], constant ExpertLinearParams& p [[buffer(5)]],
                          uint3 place [[threadgroup_position_in_grid]], uint3 grid [[threadgroups_per_grid]],
                          uint simdgroup [[simdgroup_index_in_threadgroup]],
                          uint simdgroups [[simdgroups_per_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  const uint slot = place.z;
  const uint row = (place.y * simdgroups + simdgroup) * kTileRows;
  if (row >= p.weight.out) return;
  for (uint token = next_row(roles, place.x, p.rows, lane); token < p.rows;
       token = next_row(roles, token + grid.x, p.rows, lane)) {
    const Weight weight = expert_weight(GATE, p.weight, bank, chosen_expert(ids, token, slot, p.top_k, p.n_experts));
    device const float* from = x + ulong(token) * p.x_row_stride + ulong(slot) * p.x_slot_stride;
    device float* to = out + (ulong(token) * p.top_k + slot) * weight.out;
    float sums[kTileRows] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint k = kLaneValues * lane; k < weight.in; k += kPassValues) {
      const uint count = lane_count(weight, k);
      Values input;
      load_input(from, k, count, input);
      add_tile(weight, row, k, count, input, sums);
    }
#pragma unroll
    for (uint r = 0; r < kTileRows; ++r) {
      const float sum = simd_sum(sums[r]);
      if (lane == r && row + r < weight.out) to[row + r] = sum + load_bias(weight, row + r);
    }
  }
}

kernel void expert_sum(device const float* y [[buffer(0)]], device const float* weights [[buffer(1)]],
                       device const float* shared [[buffer(2)]], device float* out [[buffer(3)]],
                       constant ExpertSumParams& p [[buffer(4)]], device const uchar* roles [[buffer(5)]],
                       uint2 place [[thread_position_in_grid]]) {
  if (place.x >= p.width || !row_wanted(roles, place.y)) return;
  const ulong first = ulong(place.y) * p.top_k;
  float sum = 0.0f;
  for (uint j = 0; j < p.top_k; ++j) sum = fma(weights[first + j], y[(first + j) * p.width + place.x], sum);
  const ulong i = ulong(place.y) * p.width + place.x;
  if (SHARED != 0) sum += shared[i];
  out[i] = ADD == 1 ? out[i] + sum : sum;
}

// hidden[t, slot, :] = silu(gate x) * up x.
kernel void moe_gate_up(device const ExpertAddress* gates [[buffer(0)]], device const ExpertAddress* ups [[buffer(1)]],
                        device const uchar* gate_codes0 [[buffer(2)]], device const uchar* gate_scales0 [[buffer(3)]],
                        device const uchar* gate_codes1 [[buffer(4)]], device const uchar* gate_scales1 [[buffer(5)]],
                        device const uchar* gate_bias [[buffer(6)]], device const uchar* up_codes0 [[buffer(7)]],
                        device const uchar* up_scales0 [[buffer(8)]], device const uchar* up_codes1 [[buffer(9)]],
                        device const uchar* up_scales1 [[buffer(10)]], device const uchar* up_bias [[buffer(11)]],
                        device const int* ids [[buffer(12)]], device const float* x [[buffer(13)]],
                        device const uchar* roles [[buffer(14)]], device float* hidden [[buffer(15)]],
                        constant MoeGateUpParams& p [[buffer(16)]], uint3 place [[threadgroup_position_in_grid]],
                        uint3 grid [[threadgroups_per_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
                        uint simdgroups [[simdgroups_per_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  const uint slot = place.z;
  const uint row = (place.y * simdgroups + simdgroup) * kTileRows;
  if (row >= p.gate.out) return;
  for (uint token = next_row(roles, place.x, p.rows, lane); token < p.rows;
       token = next_row(roles, token + grid.x, p.rows, lane)) {
    Weight gate;
    Weight up;
    if (SHARED != 0 && slot == p.top_k) {
      gate = bound_weight(SHARED_GATE, p.shared_gate, gate_codes0, gate_scales0, gate_codes1, gate_scales1, gate_bias);
      up = bound_weight(SHARED_UP, p.shared_up, up_codes0, up_scales0, up_codes1, up_scales1, up_bias);
    } else {
      const uint expert = chosen_expert(ids, token, slot, p.top_k, p.n_experts);
      gate = expert_weight(GATE, p.gate, gates, expert);
      up = expert_weight(UP, p.up, ups, expert);
    }
    device const float* from = x + ulong(token) * p.x_stride;
    float gate_sums[kTileRows] = {0.0f, 0.0f, 0.0f, 0.0f};
    float up_sums[kTileRows] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint k = kLaneValues * lane; k < gate.in; k += kPassValues) {
      const uint count = lane_count(gate, k);
      Values input;
      load_input(from, k, count, input);
      add_tile(gate, row, k, count, input, gate_sums);
      add_tile(up, row, k, count, input, up_sums);
    }
    device float* to = hidden + (ulong(token) * (p.top_k + 1) + slot) * gate.out;
#pragma unroll
    for (uint r = 0; r < kTileRows; ++r) {
      const float gate_sum = simd_sum(gate_sums[r]);
      const float up_sum = simd_sum(up_sums[r]);
      if (lane == r && row + r < gate.out) {
        const float g = gate_sum + load_bias(gate, row + r);
        to[row + r] = g / (1.0f + exp(-g)) * (up_sum + load_bias(up, row + r));
      }
    }
  }
}

// out[t, :] = the weighted sum of down(hidden[t, slot, :]). Each lane adds up its own part of all slots, in rank order
// and the shared one last, so that lanes meet only once.
kernel void moe_down(device const ExpertAddress* downs [[buffer(0)]], device const uchar* codes0 [[buffer(1)]],
                     device const uchar* scales0 [[buffer(2)]], device const uchar* codes1 [[buffer(3)]],
                     device const uchar* scales1 [[buffer(4)]], device const uchar* bias [[buffer(5)]],
                     device const int* ids [[buffer(6)]], device const float* weights [[buffer(7)]],
                     device const float* hidden [[buffer(8)]], device const uchar* roles [[buffer(9)]],
                     device float* out [[buffer(10)]], constant MoeDownParams& p [[buffer(11)]],
                     uint2 place [[threadgroup_position_in_grid]], uint2 grid [[threadgroups_per_grid]],
                     uint simdgroup [[simdgroup_index_in_threadgroup]], uint simdgroups [[simdgroups_per_threadgroup]],
                     uint lane [[thread_index_in_simdgroup]]) {
  const uint row = (place.y * simdgroups + simdgroup) * kTileRows;
  if (row >= p.down.out) return;
  for (uint token = next_row(roles, place.x, p.rows, lane); token < p.rows;
       token = next_row(roles, token + grid.x, p.rows, lane)) {
    float totals[kTileRows] = {0.0f, 0.0f, 0.0f, 0.0f};
    float biases[kTileRows] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint slot = 0; slot < p.top_k + SHARED; ++slot) {
      Weight down;
      float factor = 1.0f;
      if (SHARED != 0 && slot == p.top_k) {
        down = bound_weight(SHARED_GATE, p.shared_down, codes0, scales0, codes1, scales1, bias);
      } else {
        down = expert_weight(GATE, p.down, downs, chosen_expert(ids, token, slot, p.top_k, p.n_experts));
        factor = weights[ulong(token) * p.top_k + slot];
      }
      device const float* from = hidden + (ulong(token) * (p.top_k + 1) + slot) * down.in;
      float sums[kTileRows] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (uint k = kLaneValues * lane; k < down.in; k += kPassValues) {
        const uint count = lane_count(down, k);
        Values input;
        load_input(from, k, count, input);
        add_tile(down, row, k, count, input, sums);
      }
#pragma unroll
      for (uint r = 0; r < kTileRows; ++r) {
        totals[r] = fma(factor, sums[r], totals[r]);
        biases[r] = fma(factor, load_bias(down, min(row + r, down.out - 1)), biases[r]);
      }
    }
    device float* to = out + ulong(token) * p.down.out;
#pragma unroll
    for (uint r = 0; r < kTileRows; ++r) {
      const float sum = simd_sum(totals[r]) + biases[r];
      if (lane == r && row + r < p.down.out) to[row + r] = ADD != 0 ? to[row + r] + sum : sum;
    }
  }
}
