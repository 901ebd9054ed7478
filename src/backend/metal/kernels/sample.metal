// From a row of logits to an id, in one threadgroup, without sorting.
//
// Adjusted logits become keys: unsigned integers in the same order (0: not allowed). Candidates in descending order,
// ties by id, are what every filter keeps a prefix of, and a prefix is a limit: all keys above `key`, and the first
// `ties` ids of that key. A limit is found digit by digit, 8 bits of the key at a time, from the top: a histogram of the
// candidates that share the digits found so far tells in which bin the running count (top-k) or mass (top-p, the draw)
// reaches its target.
//
// Masses are probabilities in fixed point, 2^40 for the most probable id, added as limbs of 14 bits: integer sums do not
// depend on the order of additions, so the same logits always give the same id.
#include "common.h"

constant constexpr uint kThreads = 1024;
constant constexpr uint kBins = 256;
constant constexpr uint kLimbBits = 14;
constant constexpr float kUnit = 1099511627776.0f;  // 2^40

/// Where a prefix of the candidates ends.
struct Limit {
  uint key;
  uint ties;
};

/// Counts and masses by the digit that is being looked for.
struct Histogram {
  atomic_uint count[kBins];
  atomic_uint mass[3][kBins];  // limbs, the lowest first
};

/// What one thread finds and all need.
struct Found {
  uint key;
  ulong above;   // counted or massed before the candidates of this key
  ulong target;
};

static inline uint key_of(float logit) {
  const uint bits = as_type<uint>(logit == 0.0f ? 0.0f : logit);  // -0 equals 0
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

static inline float logit_of(uint key) {
  return as_type<float>((key & 0x80000000u) != 0 ? key & 0x7FFFFFFFu : ~key);
}

/// exp((l - largest) / temperature), at most 1.
static inline float probability(uint key, float largest, float temperature) {
  return exp((logit_of(key) - largest) / temperature);
}

static inline ulong mass_of(float p) {
  return ulong(p * kUnit);
}

/// floor(a b / 2^bits) + (there is a remainder and `up`), for a below 2^58, b at most 2^bits and bits at most 32.
static inline ulong scaled(ulong a, ulong b, uint bits, bool up) {
  const ulong low = (a & ((ulong(1) << bits) - 1)) * b;
  const ulong rest = low & ((ulong(1) << bits) - 1);
  return (a >> bits) * b + (low >> bits) + (up && rest != 0 ? 1 : 0);
}

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

/// Largest over the threadgroup, in every thread. `partial` is free again after the next barrier.
static inline uint threadgroup_max(uint value, threadgroup uint* partial, uint lane, uint simdgroup) {
  value = simd_max(value);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (lane == 0) partial[simdgroup] = value;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return simd_max(partial[lane]);
}

static inline uint threadgroup_min(uint value, threadgroup uint* partial, uint lane, uint simdgroup) {
  return ~threadgroup_max(~value, partial, lane, simdgroup);
}

/// The next candidate after (key, id) in order; key 0 when there is none.
static inline uint2 next_candidate(device const uint* keys, uint n, uint key, uint id, threadgroup uint* partial,
                                   uint thread_index, uint lane, uint simdgroup) {
  uint best = 0;
  for (uint i = thread_index; i < n; i += kThreads) {
    const uint k = keys[i];
    if ((k < key || (k == key && i > id)) && k > best) best = k;
  }
  best = threadgroup_max(best, partial, lane, simdgroup);
  uint first = n;
  for (uint i = thread_index; i < n; i += kThreads) {
    if (keys[i] == best && (best < key || i > id) && i < first) first = i;
  }
  return uint2(best, threadgroup_min(first, partial, lane, simdgroup));
}

/// The id of rank `rank` (from 0) among those with this key. Threads take neighbouring ids.
static inline uint id_of_rank(device const uint* keys, uint n, uint key, uint rank, threadgroup uint* counts,
                              threadgroup uint* result, uint thread_index) {
  const uint share = (n + kThreads - 1) / kThreads;
  const uint begin = min(thread_index * share, n);
  const uint end = min(begin + share, n);
  uint count = 0;
  for (uint i = begin; i < end; ++i) count += keys[i] == key ? 1 : 0;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  counts[thread_index] = count;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (thread_index == 0) {
    uint before = 0;
    for (uint t = 0; t < kThreads; ++t) {
      const uint mine = counts[t];
      counts[t] = before;
      before += mine;
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  uint at = counts[thread_index];
  for (uint i = begin; i < end; ++i) {
    if (keys[i] != key) continue;
    if (at == rank) *result = i;
    ++at;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return *result;
}

/// What is looked for: the first candidate at which the running count, or mass, reaches a target.
struct Search {
  bool by_mass;
  uint count;      // the target of a count
  ulong fraction;  // of all mass, the target of a mass
  uint bits;       // the fraction is in 2^bits-ths
  bool beyond;     // the target must be exceeded, not only reached
};

static inline void add_mass(threadgroup Histogram& histogram, uint bin, ulong mass) {
  for (uint limb = 0; limb < 3; ++limb) {
    uint part = uint(mass >> (kLimbBits * limb));  // the last one takes all that is left
    if (limb < 2) part &= (1u << kLimbBits) - 1;
    if (part != 0) atomic_fetch_add_explicit(&histogram.mass[limb][bin], part, memory_order_relaxed);
  }
}

static inline ulong bin_value(threadgroup Histogram& histogram, uint bin, bool by_mass) {
  if (!by_mass) return atomic_load_explicit(&histogram.count[bin], memory_order_relaxed);
  ulong mass = 0;
  for (uint limb = 0; limb < 3; ++limb) {
    mass += ulong(atomic_load_explicit(&histogram.mass[limb][bin], memory_order_relaxed)) << (kLimbBits * limb);
  }
  return mass;
}

/// One level: fills the histogram with the prefix's candidates whose higher digits are those of `found`.
static inline void fill_histogram(threadgroup Histogram& histogram, device const uint* keys, uint n, Limit limit,
                                  Search search, uint prefix, uint shift, float largest, float temperature,
                                  float least, uint thread_index) {
  for (uint b = thread_index; b < kBins; b += kThreads) {
    atomic_store_explicit(&histogram.count[b], 0u, memory_order_relaxed);
    for (uint limb = 0; limb < 3; ++limb) {
      atomic_store_explicit(&histogram.mass[limb][b], 0u, memory_order_relaxed);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const ulong above = ulong(shift) + 8;  // a shift by 32 is one of a ulong
  for (uint i = thread_index; i < n; i += kThreads) {
    const uint key = keys[i];
    if (key <= limit.key || (ulong(key) >> above) != (ulong(prefix) >> above)) continue;
    const uint bin = (key >> shift) & (kBins - 1);
    if (search.by_mass) {
      const float p = probability(key, largest, temperature);
      if (p >= least) add_mass(histogram, bin, mass_of(p));
    } else {
      atomic_fetch_add_explicit(&histogram.count[bin], 1u, memory_order_relaxed);
    }
  }
  // The last key of the prefix counts as often as it has ties in it.
  if (thread_index == 0 && limit.ties > 0 && (ulong(limit.key) >> above) == (ulong(prefix) >> above)) {
    const uint bin = (limit.key >> shift) & (kBins - 1);
    atomic_fetch_add_explicit(&histogram.count[bin], limit.ties, memory_order_relaxed);
    const float p = probability(limit.key, largest, temperature);
    const ulong mass = p >= least ? mass_of(p) : 0;
    if (search.by_mass) add_mass(histogram, bin, mass * limit.ties);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

/// Finds the candidate where the search ends, within the prefix that `limit` leaves.
static inline Found find(threadgroup Histogram& histogram, threadgroup Found& shared, device const uint* keys, uint n,
                         Limit limit, Search search, float largest, float temperature, float least,
                         uint thread_index) {
  uint prefix = 0;
  for (uint level = 0; level < 4; ++level) {
    const uint shift = 24 - 8 * level;
    fill_histogram(histogram, keys, n, limit, search, prefix, shift, largest, temperature, least, thread_index);
    if (thread_index == 0) {
      if (level == 0) {
        shared.above = 0;
        shared.target = search.count;
        if (search.by_mass) {
          ulong total = 0;
          for (uint b = 0; b < kBins; ++b) total += bin_value(histogram, b, true);
          const ulong share = scaled(total, search.fraction, search.bits, !search.beyond);
          shared.target = search.beyond ? share + 1 : max(share, ulong(1));
        }
        shared.key = 0;
      }
      uint bin = kBins - 1;
      for (; bin > 0; --bin) {
        const ulong value = bin_value(histogram, bin, search.by_mass);
        if (shared.above + value >= shared.target) break;
        shared.above += value;
      }
      shared.key |= bin << shift;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    prefix = shared.key;
  }
  Found found;
  found.key = shared.key;
  found.above = shared.above;
  found.target = shared.target;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return found;
}

/// Adds up exp(l - largest) of all candidates, in a fixed order.
static inline float sum_exp(device const uint* keys, uint n, float largest, threadgroup float* partial,
                            uint thread_index, uint lane, uint simdgroup) {
  float sum = 0.0f;
  for (uint i = thread_index; i < n; i += kThreads) {
    if (keys[i] != 0) sum += exp(logit_of(keys[i]) - largest);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum = threadgroup_sum(sum, partial, lane, simdgroup, kThreads / kSimdWidth);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return sum;
}

// One threadgroup a row.
kernel void sample(device const float* logits [[buffer(0)]], device const SampleRow* rows [[buffer(1)]],
                   device uint* counts [[buffer(2)]], device const uint* mask [[buffer(3)]],
                   device const int* bias_ids [[buffer(4)]], device const float* bias_values [[buffer(5)]],
                   device float* adjusted [[buffer(6)]], device int* ids [[buffer(7)]],
                   device int* status [[buffer(8)]], device float* logprobs [[buffer(9)]],
                   device int* top_ids [[buffer(10)]], device float* top_values [[buffer(11)]],
                   constant SampleShape& p [[buffer(12)]], uint place [[threadgroup_position_in_grid]],
                   uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                   uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup Histogram histogram;
  threadgroup Found found_by_one;
  threadgroup uint partial[32];
  threadgroup float partial_sums[32];
  threadgroup uint thread_counts[kThreads];
  threadgroup uint ranked;

  device const SampleRow& row = rows[place];
  const uint n = p.n_valid;
  device const float* given = logits + ulong(place) * p.vocab;
  device float* work = adjusted + ulong(place) * p.n_valid;
  device uint* keys = (device uint*)work;

  uint bad = 0;
  for (uint i = thread_index; i < n; i += kThreads) {
    const float value = given[i];
    if ((as_type<uint>(value) & 0x7F800000u) == 0x7F800000u) bad = 1;
    work[i] = value;
  }
  bad = threadgroup_max(bad, partial, lane, simdgroup);
  threadgroup_barrier(mem_flags::mem_device);
  // A few ids, perhaps one of them twice: in order, by one thread.
  if (thread_index == 0) {
    for (int i = row.bias_begin; i < row.bias_end; ++i) {
      const uint id = uint(bias_ids[i]);
      if (id < n) work[id] += bias_values[i];
    }
  }
  threadgroup_barrier(mem_flags::mem_device);
  uint best = 0;
  for (uint i = thread_index; i < n; i += kThreads) {
    float value = work[i];
    const uint count = row.counts_row >= 0 ? counts[ulong(row.counts_row) * p.vocab + i] : 0;
    if (count != 0) {
      value = value > 0.0f ? value / row.repetition_penalty : value * row.repetition_penalty;
      const uint generated = count & 0x7FFFFFFFu;
      if (generated != 0) value = value - row.presence_penalty - row.frequency_penalty * float(generated);
    }
    const bool allowed =
        row.mask_row < 0 || ((mask[ulong(row.mask_row) * p.mask_words + i / 32] >> (i % 32)) & 1) != 0;
    const uint key = allowed ? key_of(value) : 0;
    keys[i] = key;
    best = max(best, key);
  }
  best = threadgroup_max(best, partial, lane, simdgroup);
  threadgroup_barrier(mem_flags::mem_device);

  const bool usable = bad == 0 && best != 0;
  const float largest = logit_of(best);
  uint chosen_key = best;
  uint rank = 0;
  if (usable && row.temperature != 0.0f) {
    Limit limit = {0, 0};
    Search search;
    if (row.top_k > 0 && uint(row.top_k) < n) {
      search = {false, uint(row.top_k), 0, 0, false};
      const Found k = find(histogram, found_by_one, keys, n, limit, search, largest, row.temperature, 0.0f,
                           thread_index);
      limit.key = k.key;
      limit.ties = k.key == 0 ? 0 : uint(k.target - k.above);
    }
    if (row.top_p < 1.0f) {
      search = {true, 0, ulong(row.top_p * 4294967296.0f), 32, false};
      const Found nucleus = find(histogram, found_by_one, keys, n, limit, search, largest, row.temperature, 0.0f,
                                 thread_index);
      const ulong each = max(mass_of(probability(nucleus.key, largest, row.temperature)), ulong(1));
      limit.key = nucleus.key;
      limit.ties = uint((nucleus.target - nucleus.above + each - 1) / each);
    }
    search = {true, 0, draw_bits(row), 24, true};
    const Found drawn = find(histogram, found_by_one, keys, n, limit, search, largest, row.temperature, row.min_p,
                             thread_index);
    const ulong each = max(mass_of(probability(drawn.key, largest, row.temperature)), ulong(1));
    chosen_key = drawn.key;
    rank = uint((drawn.target - drawn.above - 1) / each);
  }
  const uint id = id_of_rank(keys, n, chosen_key, rank, thread_counts, &ranked, thread_index);
  const float log_sum = usable ? log(sum_exp(keys, n, largest, partial_sums, thread_index, lane, simdgroup)) : 0.0f;
  if (thread_index == 0) {
    ids[place] = usable ? int(id) : -1;
    status[place] = bad != 0 ? 1 : best == 0 ? 2 : 0;
    logprobs[place] = usable ? (logit_of(chosen_key) - largest) - log_sum : 0.0f;
    if (usable && row.counts_row >= 0) counts[ulong(row.counts_row) * p.vocab + id] += 1;
  }
  uint2 at = uint2(0xFFFFFFFFu, 0);
  for (uint j = 0; j < p.top_logprobs; ++j) {
    if (usable && at.x != 0) at = next_candidate(keys, n, at.x, at.y, partial, thread_index, lane, simdgroup);
    const bool exists = usable && at.x != 0;
    if (thread_index == 0) {
      top_ids[ulong(place) * p.top_logprobs + j] = exists ? int(at.y) : -1;
      top_values[ulong(place) * p.top_logprobs + j] = exists ? (logit_of(at.x) - largest) - log_sum : -INFINITY;
    }
  }
}
