// Barriers and the operations of a simdgroup. Each knows its line in the .metal file, by which the executor tells that
// all lanes are at the same one.
#pragma once

#include "../abi.h"
#include "math.h"

#define MARLIN_SITE const char *site_file = __builtin_FILE(), int site_line = __builtin_LINE()
// A call that the compiler must not move into or out of a branch.
#define MARLIN_TOGETHER __attribute__((convergent)) MARLIN_INLINE

namespace metal {

enum class mem_flags : uint {
  mem_none = 0,
  mem_device = marlin::emulator::abi::kOrderDevice,
  mem_threadgroup = marlin::emulator::abi::kOrderThreadgroup,
  mem_texture = 4,
};
MARLIN_INLINE constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return mem_flags(uint(a) | uint(b));
}

MARLIN_TOGETHER void threadgroup_barrier(mem_flags flags, MARLIN_SITE) {
  marlin::emulator::abi::threadgroup_barrier(uint(flags), site_file, site_line);
}
MARLIN_TOGETHER void simdgroup_barrier(mem_flags flags, MARLIN_SITE) {
  marlin::emulator::abi::simdgroup_barrier(uint(flags), site_file, site_line);
}

// ---- how the operations are made -----------------------------------------------------------------------------------

namespace emulation {

using marlin::emulator::abi::Arrival;
using marlin::emulator::abi::Exchange;
using marlin::emulator::abi::SimdOperation;

constexpr uint kWidth = marlin::emulator::abi::kSimdWidth;

MARLIN_INLINE uint lane() {
  return marlin::emulator::abi::current->lane;
}
MARLIN_INLINE bool takes_part(const Arrival& arrival, uint lane) {
  return (arrival.active >> lane) & 1u;
}

template <class T>
MARLIN_INLINE Arrival arrive(const T& value, SimdOperation operation, const char* file, int line) {
  static_assert(sizeof(T) <= Exchange::kSlotBytes, "simd operation: the type is too large");
  return marlin::emulator::abi::simd_arrive(&value, sizeof value, operation, file, line);
}
template <class T>
MARLIN_INLINE T posted(const Arrival& arrival, uint lane) {
  T value;
  __builtin_memcpy(&value, arrival.exchange->slots[arrival.set][lane], sizeof value);
  return value;
}
template <class T>
MARLIN_INLINE void publish(const Arrival& arrival, const T& result) {
  __builtin_memcpy(arrival.exchange->results[arrival.set], &result, sizeof result);
  marlin::emulator::abi::simd_release();
}
template <class T>
MARLIN_INLINE T published(const Arrival& arrival) {
  T result;
  __builtin_memcpy(&result, arrival.exchange->results[arrival.set], sizeof result);
  return result;
}

/// Combined as a butterfly does: lanes 16 apart first. Lanes that take no part are left out.
template <class T, class Combine>
MARLIN_INLINE T butterfly(const Arrival& arrival, Combine combine) {
  T values[kWidth];
  bool present[kWidth];
  for (uint i = 0; i < kWidth; ++i) {
    values[i] = posted<T>(arrival, i);
    present[i] = takes_part(arrival, i);
  }
  for (uint half_width = kWidth / 2; half_width > 0; half_width /= 2) {
    for (uint i = 0; i < half_width; ++i) {
      if (!present[i + half_width]) continue;
      values[i] = present[i] ? combine(values[i], values[i + half_width]) : values[i + half_width];
      present[i] = true;
    }
  }
  return values[0];
}

template <class T, class Combine>
MARLIN_TOGETHER T reduce(T value, Combine combine, const char* file, int line) {
  const Arrival arrival = arrive(value, SimdOperation::kReduction, file, line);
  if (arrival.last) publish(arrival, butterfly<T>(arrival, combine));
  return published<T>(arrival);
}

/// The value of another lane.
template <class T>
MARLIN_TOGETHER T gather(T value, uint from, const char* file, int line) {
  const Arrival arrival = arrive(value, SimdOperation::kGather, file, line);
  if (arrival.last) marlin::emulator::abi::simd_release();
  return posted<T>(arrival, from % kWidth);
}

template <class T, class Combine>
MARLIN_TOGETHER T prefix(T value, T start, uint end, Combine combine, const char* file, int line) {
  const Arrival arrival = arrive(value, SimdOperation::kPrefix, file, line);
  if (arrival.last) marlin::emulator::abi::simd_release();
  T result = start;
  for (uint i = 0; i < end; ++i) {
    if (takes_part(arrival, i)) result = combine(result, posted<T>(arrival, i));
  }
  return result;
}

/// Bit i: the condition of lane i.
MARLIN_TOGETHER uint vote(bool condition, const char* file, int line, uint* active) {
  const Arrival arrival = arrive(condition, SimdOperation::kVote, file, line);
  if (arrival.last) {
    uint mask = 0;
    for (uint i = 0; i < kWidth; ++i) {
      if (takes_part(arrival, i) && posted<bool>(arrival, i)) mask |= 1u << i;
    }
    publish(arrival, mask);
  }
  *active = arrival.active;
  return published<uint>(arrival);
}

}  // namespace emulation

// ---- reductions ----------------------------------------------------------------------------------------------------

#define MARLIN_REDUCTION(name, expression)                                      \
  template <class T>                                                            \
  MARLIN_TOGETHER T name(T value, MARLIN_SITE) {                                \
    return emulation::reduce(                                                   \
        value, [](T a, T b) -> T { return expression; }, site_file, site_line); \
  }
MARLIN_REDUCTION(simd_sum, T(a + b))
MARLIN_REDUCTION(simd_product, T(a* b))
MARLIN_REDUCTION(simd_max, max(a, b))
MARLIN_REDUCTION(simd_min, min(a, b))
MARLIN_REDUCTION(simd_and, T(a& b))
MARLIN_REDUCTION(simd_or, T(a | b))
MARLIN_REDUCTION(simd_xor, T(a ^ b))
#undef MARLIN_REDUCTION

#define MARLIN_PREFIX(name, start, end, expression)                                            \
  template <class T>                                                                           \
  MARLIN_TOGETHER T name(T value, MARLIN_SITE) {                                               \
    return emulation::prefix(                                                                  \
        value, T(start), end, [](T a, T b) -> T { return expression; }, site_file, site_line); \
  }
MARLIN_PREFIX(simd_prefix_inclusive_sum, 0, emulation::lane() + 1, T(a + b))
MARLIN_PREFIX(simd_prefix_exclusive_sum, 0, emulation::lane(), T(a + b))
MARLIN_PREFIX(simd_prefix_inclusive_product, 1, emulation::lane() + 1, T(a* b))
MARLIN_PREFIX(simd_prefix_exclusive_product, 1, emulation::lane(), T(a* b))
#undef MARLIN_PREFIX

// ---- votes ---------------------------------------------------------------------------------------------------------

class simd_vote {
 public:
  using vote_t = uint64_t;
  MARLIN_INLINE explicit constexpr simd_vote(vote_t votes = 0) : votes_(votes) {}
  MARLIN_INLINE explicit constexpr operator vote_t() const { return votes_; }
  MARLIN_INLINE bool all() const { return votes_ == 0xFFFFFFFFu; }
  MARLIN_INLINE bool any() const { return votes_ != 0; }

 private:
  vote_t votes_;
};

MARLIN_TOGETHER simd_vote simd_ballot(bool condition, MARLIN_SITE) {
  uint active = 0;
  return simd_vote(emulation::vote(condition, site_file, site_line, &active));
}
MARLIN_TOGETHER simd_vote simd_active_threads_mask(MARLIN_SITE) {
  uint active = 0;
  return simd_vote(emulation::vote(true, site_file, site_line, &active));
}
MARLIN_TOGETHER bool simd_any(bool condition, MARLIN_SITE) {
  uint active = 0;
  return emulation::vote(condition, site_file, site_line, &active) != 0;
}
MARLIN_TOGETHER bool simd_all(bool condition, MARLIN_SITE) {
  uint active = 0;
  const uint votes = emulation::vote(condition, site_file, site_line, &active);
  return votes == active;
}
MARLIN_TOGETHER bool simd_is_first(MARLIN_SITE) {
  uint active = 0;
  emulation::vote(true, site_file, site_line, &active);
  return emulation::lane() == uint(__builtin_ctz(active));
}

// ---- shuffles ------------------------------------------------------------------------------------------------------

template <class T>
MARLIN_TOGETHER T simd_shuffle(T value, ushort from, MARLIN_SITE) {
  return emulation::gather(value, from, site_file, site_line);
}
template <class T>
MARLIN_TOGETHER T simd_broadcast(T value, ushort from, MARLIN_SITE) {
  return emulation::gather(value, from, site_file, site_line);
}
template <class T>
MARLIN_TOGETHER T simd_broadcast_first(T value, MARLIN_SITE) {
  using namespace emulation;
  const Arrival arrival = arrive(value, SimdOperation::kBroadcastFirst, site_file, site_line);
  if (arrival.last) marlin::emulator::abi::simd_release();
  return posted<T>(arrival, uint(__builtin_ctz(arrival.active)));
}
template <class T>
MARLIN_TOGETHER T simd_shuffle_xor(T value, ushort mask, MARLIN_SITE) {
  return emulation::gather(value, emulation::lane() ^ mask, site_file, site_line);
}
// Lanes that have no lane `delta` away keep their value.
template <class T>
MARLIN_TOGETHER T simd_shuffle_down(T value, ushort delta, MARLIN_SITE) {
  const uint from = emulation::lane() + delta;
  return emulation::gather(value, from < emulation::kWidth ? from : emulation::lane(), site_file, site_line);
}
template <class T>
MARLIN_TOGETHER T simd_shuffle_up(T value, ushort delta, MARLIN_SITE) {
  const uint from = emulation::lane() - delta;
  return emulation::gather(value, from < emulation::kWidth ? from : emulation::lane(), site_file, site_line);
}
template <class T>
MARLIN_TOGETHER T simd_shuffle_rotate_down(T value, ushort delta, MARLIN_SITE) {
  return emulation::gather(value, emulation::lane() + delta, site_file, site_line);
}
template <class T>
MARLIN_TOGETHER T simd_shuffle_rotate_up(T value, ushort delta, MARLIN_SITE) {
  return emulation::gather(value, emulation::lane() - delta, site_file, site_line);
}

// ---- quads: four neighbouring lanes. The whole simdgroup must be there, which is stricter than Metal ----------------

template <class T>
MARLIN_TOGETHER T quad_broadcast(T value, ushort from, MARLIN_SITE) {
  return emulation::gather(value, (emulation::lane() & ~3u) | (from & 3u), site_file, site_line);
}
template <class T>
MARLIN_TOGETHER T quad_shuffle(T value, ushort from, MARLIN_SITE) {
  return emulation::gather(value, (emulation::lane() & ~3u) | (from & 3u), site_file, site_line);
}
template <class T>
MARLIN_TOGETHER T quad_shuffle_xor(T value, ushort mask, MARLIN_SITE) {
  return emulation::gather(value, emulation::lane() ^ (mask & 3u), site_file, site_line);
}
#define MARLIN_QUAD_REDUCTION(name, expression)                        \
  template <class T>                                                   \
  MARLIN_TOGETHER T name(T value, MARLIN_SITE) {                       \
    for (ushort mask = 2; mask > 0; mask /= 2) {                       \
      const T a = value;                                               \
      const T b = quad_shuffle_xor(value, mask, site_file, site_line); \
      value = expression;                                              \
    }                                                                  \
    return value;                                                      \
  }
MARLIN_QUAD_REDUCTION(quad_sum, T(a + b))
MARLIN_QUAD_REDUCTION(quad_max, max(a, b))
MARLIN_QUAD_REDUCTION(quad_min, min(a, b))
#undef MARLIN_QUAD_REDUCTION

}  // namespace metal
