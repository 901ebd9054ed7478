// From a row of logits to an id, in one threadgroup of 1024 threads and without sorting (selection.h).
//
// A thread owns the ids that equal its index modulo 1024, its stripe. It reads and writes no others until all keys are
// there, and keeps its stripe's first candidate, so that the most probable ids are found by one round over the
// threadgroup each.
#include "selection.h"

constant constexpr uint kMinusInfinity = 0xFF800000u;
constant constexpr float kLeastTemperature = 1.17549435e-38f;  // the GPU may take smaller ones for 0

static inline ulong mix64(ulong x) {
  x += 0x9e3779b97f4a7c15ul;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ul;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebul;
  return x ^ (x >> 31);
}

/// The 24 bits of uniform_draw in ops/random.h.
static inline ulong draw_bits(device const SampleRow& row) {
  const ulong seed = ulong(row.seed[0]) | (ulong(row.seed[1]) << 32);
  const ulong position = ulong(row.position[0]) | (ulong(row.position[1]) << 32);
  return mix64(mix64(mix64(seed) ^ row.choice) ^ position) >> 40;
}

static inline float penalised(float value, uint count, device const SampleRow& row) {
  if (count == 0) return value;
  value = value > 0.0f ? value / row.repetition_penalty : value * row.repetition_penalty;
  const uint generated = count & 0x7FFFFFFFu;
  return generated == 0 ? value : value - (row.presence_penalty + float(generated) * row.frequency_penalty);
}

/// Filters and draws: the id at a temperature above 0.
static inline uint drawn(threadgroup Shared& shared, device const uint* keys, uint n, device const SampleRow& row,
                         float largest, Place at) {
  Limit limit = {0, 0};
  const float temperature = max(row.temperature, kLeastTemperature);
  if (row.top_k > 0 && uint(row.top_k) < n) {
    const Search top_k = {false, false, 0, ulong(row.top_k), largest, temperature, 0.0f};
    limit = find(shared, keys, n, limit, top_k, at);
  }
  if (row.top_p < 1.0f) {
    const Search top_p = {true, false, 32, ulong(row.top_p * 4294967296.0f), largest, temperature, 0.0f};
    limit = find(shared, keys, n, limit, top_p, at);
  }
  const Search draw = {true, true, 24, draw_bits(row), largest, temperature, min(row.min_p, 1.0f)};
  const Limit end = find(shared, keys, n, limit, draw, at);
  return id_of_rank(shared, keys, n, end.key, end.ties - 1, at);
}

/// log of the sum of exp(l - largest) over all candidates, added up in a fixed order.
static inline float log_sum_of(threadgroup Shared& shared, device const uint* keys, uint n, float largest, Place at) {
  float sum = 0.0f;
  for (uint i = at.index; i < n; i += kThreads) {
    if (keys[i] != 0) sum += exp(logit_of(keys[i]) - largest);
  }
  return log(threadgroup_sum(sum, shared.floats, at.lane, at.simdgroup, kThreads / kSimdWidth));
}

// One threadgroup a row. Rows that share a row of counts see each other's ids: the first of them takes them all, in
// order.
[[max_total_threads_per_threadgroup(1024)]]  // fewer registers a thread rather than fewer threads
kernel void sample(device const float* logits [[buffer(0)]], device const SampleRow* rows [[buffer(1)]],
                   device uint* counts [[buffer(2)]], device const uint* mask [[buffer(3)]],
                   device const int* bias_ids [[buffer(4)]], device const float* bias_values [[buffer(5)]],
                   device uint* all_keys [[buffer(6)]], device int* ids [[buffer(7)]],
                   device int* status [[buffer(8)]], device float* logprobs [[buffer(9)]],
                   device int* top_ids [[buffer(10)]], device float* top_values [[buffer(11)]],
                   constant SampleShape& p [[buffer(12)]], uint first_row [[threadgroup_position_in_grid]],
                   uint n_rows [[threadgroups_per_grid]], uint thread_index [[thread_index_in_threadgroup]],
                   uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup Shared shared;
  const Place at = {thread_index, lane, simdgroup};
  const uint n = p.n_valid;
  const int counts_row = rows[first_row].counts_row;
  device uint* keys = all_keys + ulong(first_row) * n;
  device uint* seen = counts + (counts_row >= 0 ? ulong(counts_row) * p.vocab : 0);
  if (counts_row >= 0) {
    for (uint r = 0; r < first_row; ++r) {
      if (rows[r].counts_row == counts_row) return;
    }
  }
  const uint end_row = counts_row >= 0 ? n_rows : first_row + 1;
  for (uint r = first_row; r < end_row; ++r) {
    device const SampleRow& row = rows[r];
    if (row.counts_row != counts_row) continue;
    device const float* given = logits + ulong(r) * p.vocab;
    const bool biased = row.bias_begin < row.bias_end;
    if (biased) {
      for (uint i = thread_index; i < n; i += kThreads) keys[i] = as_type<uint>(given[i]);
      for (int b = row.bias_begin; b < row.bias_end; ++b) {
        const uint id = uint(bias_ids[b]);
        if (id >= n || id % kThreads != thread_index) continue;
        keys[id] = as_type<uint>(as_type<float>(keys[id]) + bias_values[b]);
      }
    }
    uint bad = 0;
    uint2 mine = uint2(0, 0);
    for (uint i = thread_index; i < n; i += kThreads) {
      if ((as_type<uint>(given[i]) & 0x7F800000u) == 0x7F800000u) bad = 1;
      float value = biased ? as_type<float>(keys[i]) : given[i];
      if (counts_row >= 0) value = penalised(value, seen[i], row);
      bool allowed = as_type<uint>(value) != kMinusInfinity;
      if (row.mask_row >= 0) {
        allowed = allowed && ((mask[ulong(row.mask_row) * p.mask_words + i / 32] >> (i % 32)) & 1) != 0;
      }
      const uint key = allowed ? key_of(value) : 0;
      keys[i] = key;
      if (key > mine.x) mine = uint2(key, i);
    }
    bad = threadgroup_first(uint2(bad, 0), shared, at).x;
    const uint2 best = threadgroup_first(mine, shared, at);
    threadgroup_barrier(mem_flags::mem_device);

    const bool usable = bad == 0 && best.x != 0;
    const float largest = logit_of(best.x);
    const float log_sum = usable ? log_sum_of(shared, keys, n, largest, at) : 0.0f;
    uint id = best.y;
    if (usable && row.temperature > 0.0f) id = drawn(shared, keys, n, row, largest, at);
    if (thread_index == 0) {
      ids[r] = usable ? int(id) : -1;
      status[r] = bad != 0 ? 1 : best.x == 0 ? 2 : 0;
      logprobs[r] = usable ? (logit_of(keys[id]) - largest) - log_sum : 0.0f;
      if (usable && counts_row >= 0) seen[id] += 1;
    }
    for (uint j = 0; j < p.top_logprobs; ++j) {
      const uint2 next = threadgroup_first(mine, shared, at);
      const bool exists = usable && next.x != 0;
      if (thread_index == 0) {
        top_ids[ulong(r) * p.top_logprobs + j] = exists ? int(next.y) : -1;
        top_values[ulong(r) * p.top_logprobs + j] = exists ? (logit_of(next.x) - largest) - log_sum : -INFINITY;
      }
      if (exists && mine.x == next.x && mine.y == next.y) mine = next_of_stripe(keys, n, next, at);
    }
    // The next row's keys and counts replace this one's.
    threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
  }
}
