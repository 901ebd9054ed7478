// Selection without sorting: the key and id at which a running count or mass over the candidates reaches a target.
//
// Adjusted logits become keys: unsigned integers in the same order (0: not allowed). Candidates in descending order,
// ties by id, are what every filter keeps a prefix of, and a prefix is a limit: all keys above `key`, and the first
// `ties` ids of that key. A limit is found digit by digit, 8 bits of the key at a time, from the top: a histogram of
// the candidates that share the digits found so far tells in which bin the running count (top-k) or mass (top-p, the
// draw) reaches its target.
//
// Masses are probabilities in fixed point, 2^40 for the most probable id, added as limbs of 14 bits: integer sums do
// not depend on the order of additions, so the same logits always give the same id.
#pragma once

#include "common.h"

constant constexpr uint kThreads = 1024;
constant constexpr uint kBins = 256;
constant constexpr uint kLimbs = 3;
constant constexpr uint kLimbBits = 14;
constant constexpr uint kCopies = 4;                // of a bin, by lane: logits crowd into few bins of the top digit
constant constexpr float kUnit = 1099511627776.0f;  // 2^40

/// Sums by the digit that is being looked for; the lowest limb first.
struct Histogram {
  atomic_uint part[kLimbs][kBins][kCopies];
};

/// What one thread finds and all need.
struct Found {
  uint key;
  ulong above;  // the sum before the candidates of this key
  ulong target;
};

struct Shared {
  Histogram histogram;
  ulong sums[kBins];
  Found found;
  uint keys[kSimdWidth];
  uint ids[kSimdWidth];
  float floats[kSimdWidth];
};

struct Place {
  uint index;  // in the threadgroup
  uint lane;
  uint simdgroup;
};

/// Where a prefix of the candidates ends.
struct Limit {
  uint key;
  uint ties;
};

/// What is looked for: the first candidate at which the running count, or mass, reaches a target.
struct Search {
  bool by_mass;
  bool beyond;     // the target must be exceeded, not only reached
  uint bits;       // the fraction is in 2^bits-ths
  ulong fraction;  // of all mass, the target of a mass; the target of a count
  float largest;
  float temperature;
  float least;  // less probable candidates weigh nothing
};

static inline uint key_of(float logit) {
  const uint bits = as_type<uint>(logit == 0.0f ? 0.0f : logit);  // -0 equals 0
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

static inline float logit_of(uint key) {
  return as_type<float>((key & 0x80000000u) != 0 ? key & 0x7FFFFFFFu : ~key);
}

/// One candidate's share of a count or mass. The most probable one's mass is 2^40.
static inline ulong amount_of(uint key, Search search) {
  if (!search.by_mass) return 1;
  const float p = exp((logit_of(key) - search.largest) / search.temperature);
  return p >= search.least ? ulong(p * kUnit) : 0;
}

/// floor(a b / 2^bits) + (there is a remainder and `up`), for a below 2^58, b at most 2^bits and bits at most 32.
static inline ulong scaled(ulong a, ulong b, uint bits, bool up) {
  const ulong low = (a & ((ulong(1) << bits) - 1)) * b;
  const ulong rest = low & ((ulong(1) << bits) - 1);
  return (a >> bits) * b + (low >> bits) + (up && rest != 0 ? 1 : 0);
}

/// The first of one candidate (key, id) a thread: the largest key, the lowest id of it. In every thread.
static inline uint2 threadgroup_first(uint2 candidate, threadgroup Shared& shared, Place at) {
  uint key = simd_max(candidate.x);
  uint id = simd_min(candidate.x == key ? candidate.y : 0xFFFFFFFFu);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (at.lane == 0) {
    shared.keys[at.simdgroup] = key;
    shared.ids[at.simdgroup] = id;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  candidate = uint2(shared.keys[at.lane], shared.ids[at.lane]);
  key = simd_max(candidate.x);
  id = simd_min(candidate.x == key ? candidate.y : 0xFFFFFFFFu);
  return uint2(key, id);
}

/// The next candidate of the thread's stripe after `last`; key 0 when there is none.
static inline uint2 next_of_stripe(device const uint* keys, uint n, uint2 last, Place at) {
  uint2 best = uint2(0, 0);
  for (uint i = at.index; i < n; i += kThreads) {
    const uint key = keys[i];
    if ((key < last.x || (key == last.x && i > last.y)) && key > best.x) best = uint2(key, i);
  }
  return best;
}

// ---- histograms ----------------------------------------------------------------------------------------------------

static inline void clear(threadgroup Shared& shared, Place at) {
  for (uint b = at.index; b < kBins * kCopies; b += kThreads) {
    for (uint limb = 0; limb < kLimbs; ++limb) {
      atomic_store_explicit(&shared.histogram.part[limb][b / kCopies][b % kCopies], 0u, memory_order_relaxed);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

static inline void add_to(threadgroup Histogram& histogram, uint bin, uint copy, ulong amount) {
  for (uint limb = 0; limb < kLimbs; ++limb) {
    uint part = uint(amount >> (kLimbBits * limb));  // the last one takes all that is left
    if (limb + 1 < kLimbs) part &= (1u << kLimbBits) - 1;
    if (part != 0) atomic_fetch_add_explicit(&histogram.part[limb][bin][copy], part, memory_order_relaxed);
  }
}

/// Makes sums of what was added; thread 0 may read them at once after this, the others too.
static inline void combine(threadgroup Shared& shared, Place at) {
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint b = at.index; b < kBins; b += kThreads) {
    ulong sum = 0;
    for (uint limb = 0; limb < kLimbs; ++limb) {
      for (uint c = 0; c < kCopies; ++c) {
        const uint part = atomic_load_explicit(&shared.histogram.part[limb][b][c], memory_order_relaxed);
        sum += ulong(part) << (kLimbBits * limb);
      }
    }
    shared.sums[b] = sum;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

/// One level: sums of the limit's candidates whose digits above `shift` are those of `prefix`.
static inline void sum_level(threadgroup Shared& shared, device const uint* keys, uint n, Limit limit, Search search,
                             uint prefix, uint shift, Place at) {
  clear(shared, at);
  const ulong above = ulong(shift) + 8;  // a shift by 32 is one of a ulong
  const ulong wanted = ulong(prefix) >> above;
  for (uint i = at.index; i < n; i += kThreads) {
    const uint key = keys[i];
    if (key <= limit.key || (ulong(key) >> above) != wanted) continue;
    add_to(shared.histogram, (key >> shift) & (kBins - 1), at.lane % kCopies, amount_of(key, search));
  }
  // The last key of the prefix counts as often as it has ties in it.
  if (at.index == 0 && limit.ties > 0 && (ulong(limit.key) >> above) == wanted) {
    add_to(shared.histogram, (limit.key >> shift) & (kBins - 1), 0, amount_of(limit.key, search) * limit.ties);
  }
  combine(shared, at);
}

static inline ulong target_of(threadgroup const Shared& shared, Search search) {
  if (!search.by_mass) return search.fraction;
  ulong total = 0;
  for (uint b = 0; b < kBins; ++b) total += shared.sums[b];
  const ulong share = scaled(total, search.fraction, search.bits, !search.beyond);
  return search.beyond ? share + 1 : max(share, ulong(1));
}

/// Finds the candidate where the search ends, within the prefix that `limit` leaves: its key, and of the key's ids the
/// one up to which (from 1) they are needed. Key 0: all candidates together do not reach the target.
static inline Limit find(threadgroup Shared& shared, device const uint* keys, uint n, Limit limit, Search search,
                         Place at) {
  uint prefix = 0;
  for (uint shift = 32; shift > 0;) {
    shift -= 8;
    sum_level(shared, keys, n, limit, search, prefix, shift, at);
    if (at.index == 0) {
      if (shift == 24) {
        shared.found.above = 0;
        shared.found.target = target_of(shared, search);
      }
      uint bin = kBins - 1;
      for (; bin > 0; --bin) {
        if (shared.found.above + shared.sums[bin] >= shared.found.target) break;
        shared.found.above += shared.sums[bin];
      }
      shared.found.key = prefix | (bin << shift);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    prefix = shared.found.key;
  }
  Limit end = {prefix, 0};
  if (prefix == 0) return end;
  const ulong each = max(amount_of(prefix, search), ulong(1));
  end.ties = uint((shared.found.target - shared.found.above + each - 1) / each);
  return end;
}

/// The id of rank `rank` (from 0) among those with this key. Ids fall into 256 blocks of at most 1024; the block's ids
/// are then ranked by a thread each.
static inline uint id_of_rank(threadgroup Shared& shared, device const uint* keys, uint n, uint key, uint rank,
                              Place at) {
  const uint block = (n + kBins - 1) / kBins;
  clear(shared, at);
  for (uint i = at.index; i < n; i += kThreads) {
    if (keys[i] == key) add_to(shared.histogram, i / block, at.lane % kCopies, 1);
  }
  combine(shared, at);
  if (at.index == 0) {
    uint b = 0;
    uint rest = rank;
    for (; b < kBins - 1 && rest >= uint(shared.sums[b]); ++b) rest -= uint(shared.sums[b]);
    shared.keys[0] = b;
    shared.keys[1] = rest;
    shared.keys[2] = 0;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint id = shared.keys[0] * block + at.index;
  const uint equal = at.index < block && id < n && keys[min(id, n - 1)] == key ? 1 : 0;
  const uint before = simd_prefix_exclusive_sum(equal);
  const uint all = simd_sum(equal);
  if (at.lane == 0) shared.ids[at.simdgroup] = all;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint of_others = simd_sum(at.lane < at.simdgroup ? shared.ids[at.lane] : 0u);
  if (equal != 0 && of_others + before == shared.keys[1]) shared.keys[2] = id;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return shared.keys[2];
}
