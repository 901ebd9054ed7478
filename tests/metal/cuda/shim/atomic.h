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
typedef atomic<float> atomic_float;

template <class T>
MARLIN_INLINE T atomic_load_explicit(const volatile atomic<T>* from, memory_order) {
  return from->value;
}
template <class T, class U>
MARLIN_INLINE void atomic_store_explicit(volatile atomic<T>* to, U value, memory_order) {
  to->value = T(value);
}

#define MARLIN_ATOMIC(name, function)                                  \
  template <class T, class U>                                          \
  MARLIN_INLINE T name(volatile atomic<T>* at, U with, memory_order) { \
    return function(const_cast<T*>(&at->value), T(with));              \
  }
MARLIN_ATOMIC(atomic_exchange_explicit, ::atomicExch)
MARLIN_ATOMIC(atomic_fetch_add_explicit, ::atomicAdd)
MARLIN_ATOMIC(atomic_fetch_sub_explicit, ::atomicSub)
MARLIN_ATOMIC(atomic_fetch_min_explicit, ::atomicMin)
MARLIN_ATOMIC(atomic_fetch_max_explicit, ::atomicMax)
MARLIN_ATOMIC(atomic_fetch_and_explicit, ::atomicAnd)
MARLIN_ATOMIC(atomic_fetch_or_explicit, ::atomicOr)
MARLIN_ATOMIC(atomic_fetch_xor_explicit, ::atomicXor)
#undef MARLIN_ATOMIC

}  // namespace metal
