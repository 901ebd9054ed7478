// How the executor calls a kernel: its parameters' types come from its address, where they come from is said by the
// generator.
#pragma once

#include "../abi.h"
#include "vector.h"

namespace marlin::emulator::abi {

#ifdef MARLIN_METAL_CHECKED
constexpr bool kChecked = true;
#else
constexpr bool kChecked = false;
#endif

/// Makes a parameter of type P of a number or three.
template <class P>
struct Position {
  static MARLIN_INLINE P of(Triple from) { return P(from.x); }
  static MARLIN_INLINE P of(unsigned from) { return P(from); }
};
template <class T>
struct Position<metal::vec<T, 2>> {
  static MARLIN_INLINE metal::vec<T, 2> of(Triple from) { return {T(from.x), T(from.y)}; }
  static MARLIN_INLINE metal::vec<T, 2> of(unsigned from) { return {T(from), T(1)}; }
};
template <class T>
struct Position<metal::vec<T, 3>> {
  static MARLIN_INLINE metal::vec<T, 3> of(Triple from) { return {T(from.x), T(from.y), T(from.z)}; }
  static MARLIN_INLINE metal::vec<T, 3> of(unsigned from) { return {T(from), T(1), T(1)}; }
};

template <Source kSource>
MARLIN_INLINE auto context_value(const ThreadContext& context) {
  if constexpr (kSource == Source::kThreadInThreadgroup) {
    return context.thread_in_threadgroup;
  } else if constexpr (kSource == Source::kThreadInGrid) {
    return context.thread_in_grid;
  } else if constexpr (kSource == Source::kThreadgroupInGrid) {
    return context.threadgroup_in_grid;
  } else if constexpr (kSource == Source::kThreadsPerThreadgroup) {
    return context.threads_per_threadgroup;
  } else if constexpr (kSource == Source::kThreadgroupsPerGrid) {
    return context.threadgroups_per_grid;
  } else if constexpr (kSource == Source::kThreadsPerGrid) {
    return context.threads_per_grid;
  } else if constexpr (kSource == Source::kIndexInThreadgroup) {
    return context.index_in_threadgroup;
  } else if constexpr (kSource == Source::kLane) {
    return context.lane;
  } else if constexpr (kSource == Source::kSimdgroup) {
    return context.simdgroup;
  } else if constexpr (kSource == Source::kSimdgroups) {
    return context.simdgroups;
  } else {
    return kSimdWidth;
  }
}

template <class P, Source kSource, int kIndex>
struct Argument {
  static_assert(kSource != Source::kBuffer && kSource != Source::kThreadgroupBuffer, "a buffer needs a pointer");
  static MARLIN_INLINE P of(const Arguments&, const ThreadContext& context) {
    return Position<P>::of(context_value<kSource>(context));
  }
};
template <class T, Source kSource, int kIndex>
struct Argument<T*, kSource, kIndex> {
  static_assert(kSource == Source::kBuffer || kSource == Source::kThreadgroupBuffer, "a pointer needs a buffer");
  static MARLIN_INLINE T* of(const Arguments& arguments, const ThreadContext&) {
    void* const* from = kSource == Source::kBuffer ? arguments.buffers : arguments.threadgroup_buffers;
    return static_cast<T*>(from[kIndex]);
  }
};
template <class T, Source kSource, int kIndex>
struct Argument<T&, kSource, kIndex> {
  static MARLIN_INLINE T& of(const Arguments& arguments, const ThreadContext& context) {
    return *Argument<T*, kSource, kIndex>::of(arguments, context);
  }
};

template <Source... kSource>
struct Sources {};
template <int... kIndex>
struct Indices {};

template <auto kKernel, class Sources, class Indices>
struct Launch;
template <class... P, void (*kKernel)(P...), Source... kSource, int... kIndex>
struct Launch<kKernel, Sources<kSource...>, Indices<kIndex...>> {
  static_assert(sizeof...(P) == sizeof...(kSource), "the generator has missed a parameter");
  static constexpr int kCount = sizeof...(P);
  static constexpr Parameter kParameters[kCount + 1] = {Parameter{kSource, kIndex}..., Parameter{}};
  static void call(const Arguments& arguments, const ThreadContext& context) {
    kKernel(Argument<P, kSource, kIndex>::of(arguments, context)...);
  }
};

}  // namespace marlin::emulator::abi
