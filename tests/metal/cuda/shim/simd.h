// Barriers, and the operations of a simdgroup, which is a warp. All of its lanes take part in each: shaders call them
// in uniform flow only, and a mask of those that happen to be there would hide it where they do not.
#pragma once

#include "../../emulator/shim/math.h"

namespace metal {

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
MARLIN_INLINE constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return mem_flags(uint(a) | uint(b));
}

// CUDA's barriers order all memory, whatever the flags: the emulator checks those.
MARLIN_INLINE void threadgroup_barrier(mem_flags) {
#ifndef MARLIN_NO_BARRIERS
  __syncthreads();
#endif
}
MARLIN_INLINE void simdgroup_barrier(mem_flags) {
  __syncwarp();
}

namespace warp {

constexpr uint kWidth = 32;
constexpr uint kAll = 0xFFFFFFFFu;

MARLIN_INLINE uint lane() {
  uint result;
  asm("mov.u32 %0, %%laneid;" : "=r"(result));
  return result;
}

/// The value of another lane, of any type that is copied by its bytes.
template <class T>
MARLIN_INLINE T gather(T value, uint from) {
  constexpr int kWords = (sizeof(T) + 3) / 4;
  uint words[kWords] = {};
  __builtin_memcpy(words, &value, sizeof value);
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = __shfl_sync(kAll, words[i], int(from % kWidth));
  __builtin_memcpy(&value, words, sizeof value);
  return value;
}

}  // namespace warp

// Each pair is combined in the order of its lanes, so that all lanes get the same bits.
#define MARLIN_REDUCTION(name, expression)                                \
  template <class T>                                                      \
  MARLIN_INLINE T name(T value) {                                         \
    for (uint distance = warp::kWidth / 2; distance > 0; distance /= 2) { \
      const T other = warp::gather(value, warp::lane() ^ distance);       \
      const bool low = (warp::lane() & distance) == 0;                    \
      const T a = low ? value : other;                                    \
      const T b = low ? other : value;                                    \
      value = expression;                                                 \
    }                                                                     \
    return value;                                                         \
  }
MARLIN_REDUCTION(simd_sum, T(a + b))
MARLIN_REDUCTION(simd_product, T(a* b))
MARLIN_REDUCTION(simd_max, max(a, b))
MARLIN_REDUCTION(simd_min, min(a, b))
MARLIN_REDUCTION(simd_and, T(a& b))
MARLIN_REDUCTION(simd_or, T(a | b))
MARLIN_REDUCTION(simd_xor, T(a ^ b))
#undef MARLIN_REDUCTION

MARLIN_INLINE bool simd_all(bool condition) {
  return __all_sync(warp::kAll, condition) != 0;
}
MARLIN_INLINE bool simd_any(bool condition) {
  return __any_sync(warp::kAll, condition) != 0;
}

template <class T>
MARLIN_INLINE T simd_shuffle(T value, ushort from) {
  return warp::gather(value, from);
}
template <class T>
MARLIN_INLINE T simd_broadcast(T value, ushort from) {
  return warp::gather(value, from);
}
template <class T>
MARLIN_INLINE T simd_broadcast_first(T value) {
  return warp::gather(value, 0);
}
template <class T>
MARLIN_INLINE T simd_shuffle_xor(T value, ushort mask) {
  return warp::gather(value, warp::lane() ^ mask);
}
// Lanes that have no lane `delta` away keep their value.
template <class T>
MARLIN_INLINE T simd_shuffle_down(T value, ushort delta) {
  const uint from = warp::lane() + delta;
  return warp::gather(value, from < warp::kWidth ? from : warp::lane());
}
template <class T>
MARLIN_INLINE T simd_shuffle_up(T value, ushort delta) {
  const uint from = warp::lane() - delta;
  return warp::gather(value, from < warp::kWidth ? from : warp::lane());
}

template <class T>
MARLIN_INLINE T simd_prefix_inclusive_sum(T value) {
  for (uint delta = 1; delta < warp::kWidth; delta *= 2) {
    const T before = simd_shuffle_up(value, ushort(delta));
    if (warp::lane() >= delta) value = T(before + value);
  }
  return value;
}
template <class T>
MARLIN_INLINE T simd_prefix_exclusive_sum(T value) {
  const T before = simd_shuffle_up(simd_prefix_inclusive_sum(value), 1);
  return warp::lane() == 0 ? T(0) : before;
}

}  // namespace metal
