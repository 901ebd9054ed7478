// Atomics. Metal has relaxed ones only.
#pragma once

#include "types.h"

namespace metal {

enum memory_order { memory_order_relaxed };

template <class T>
struct atomic {
  T value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<ulong> atomic_ulong;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;

template <class T>
MARLIN_INLINE T atomic_load_explicit(const volatile atomic<T>* from, memory_order) {
  T result;
  __atomic_load(&from->value, &result, __ATOMIC_RELAXED);
  return result;
}
template <class T, class U>
MARLIN_INLINE void atomic_store_explicit(volatile atomic<T>* to, U value, memory_order) {
  T stored = T(value);
  __atomic_store(&to->value, &stored, __ATOMIC_RELAXED);
}
template <class T, class U>
MARLIN_INLINE T atomic_exchange_explicit(volatile atomic<T>* at, U value, memory_order) {
  T desired = T(value);
  T old;
  __atomic_exchange(&at->value, &desired, &old, __ATOMIC_RELAXED);
  return old;
}
template <class T, class U>
MARLIN_INLINE bool atomic_compare_exchange_weak_explicit(volatile atomic<T>* at, T* expected, U value, memory_order,
                                                         memory_order) {
  T desired = T(value);
  return __atomic_compare_exchange(&at->value, expected, &desired, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

namespace emulation {
template <class T, class Change>
MARLIN_INLINE T fetch_and_change(volatile atomic<T>* at, Change change) {
  T old = atomic_load_explicit(at, memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(at, &old, change(old), memory_order_relaxed, memory_order_relaxed)) {
  }
  return old;
}
}  // namespace emulation

#define MARLIN_ATOMIC(name, expression)                                                          \
  template <class T, class U>                                                                    \
  MARLIN_INLINE T atomic_fetch_##name##_explicit(volatile atomic<T>* at, U with, memory_order) { \
    const T b = T(with);                                                                         \
    return emulation::fetch_and_change(at, [b](T a) -> T { return expression; });                \
  }
MARLIN_ATOMIC(add, T(a + b))
MARLIN_ATOMIC(sub, T(a - b))
MARLIN_ATOMIC(min, b < a ? b : a)
MARLIN_ATOMIC(max, a < b ? b : a)
MARLIN_ATOMIC(and, T(a& b))
MARLIN_ATOMIC(or, T(a | b))
MARLIN_ATOMIC(xor, T(a ^ b))
#undef MARLIN_ATOMIC

}  // namespace metal
