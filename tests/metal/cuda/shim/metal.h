// The first include of every file that generate.py makes for nvcc: all of metal_stdlib, and how a kernel is launched.
#pragma once

#include "../../emulator/shim/launch.h"
#include "../../emulator/shim/vector.h"
#include "../kernel_table.h"
#include "atomic.h"
#include "matrix.h"
#include "simd.h"
#include "types.h"

namespace marlin::metal_on_cuda {

namespace abi = emulator::abi;

template <auto kKernel, class Sources, class Indices>
struct Launch;
template <class... P, void (*kKernel)(P...), abi::Source... kSource, int... kIndex>
struct Launch<kKernel, abi::Sources<kSource...>, abi::Indices<kIndex...>> {
  static_assert(sizeof...(P) == sizeof...(kSource), "the generator has missed a parameter");
  static MARLIN_INLINE void call(const abi::Arguments& arguments, const abi::ThreadContext& context) {
    kKernel(abi::Argument<P, kSource, kIndex>::of(arguments, context)...);
  }
};

MARLIN_INLINE abi::ThreadContext this_thread() {
  abi::ThreadContext context;
  context.thread_in_threadgroup = {threadIdx.x, threadIdx.y, threadIdx.z};
  context.threadgroup_in_grid = {blockIdx.x, blockIdx.y, blockIdx.z};
  context.threads_per_threadgroup = {blockDim.x, blockDim.y, blockDim.z};
  context.threadgroups_per_grid = {gridDim.x, gridDim.y, gridDim.z};
  context.threads_per_grid = {gridDim.x * blockDim.x, gridDim.y * blockDim.y, gridDim.z * blockDim.z};
  context.thread_in_grid = {blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y,
                            blockIdx.z * blockDim.z + threadIdx.z};
  context.index_in_threadgroup = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  context.lane = context.index_in_threadgroup % 32;
  context.simdgroup = context.index_in_threadgroup / 32;
  context.simdgroups = (blockDim.x * blockDim.y * blockDim.z + 31) / 32;
  return context;
}

template <class Launch>
MARLIN_INLINE void run(const Arguments& arguments) {
  abi::Arguments table;
#pragma unroll
  for (int i = 0; i < kArguments; ++i) {
    const int at = arguments.in_bytes[i];
    table.buffers[i] = at < 0 ? arguments.buffers[i] : const_cast<unsigned char*>(arguments.bytes) + at;
    table.threadgroup_buffers[i] = nullptr;
  }
  Launch::call(table, this_thread());
}

}  // namespace marlin::metal_on_cuda
