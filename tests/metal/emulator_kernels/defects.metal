// One defect a kernel, each of which the executor finds without watching loads and stores.
#include <metal_stdlib>
using namespace metal;

kernel void barrier_in_branch(device uint* out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
  if (i < 40) threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = i;
}

kernel void two_barriers(device uint* out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
  if (i < 40) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
  } else {
    threadgroup_barrier(mem_flags::mem_device);
  }
  out[i] = i;
}

kernel void barrier_in_uneven_loop(device uint* out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
  for (uint step = 0; step < (i < 32 ? 2u : 3u); ++step) threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = i;
}

kernel void simd_sum_in_branch(device uint* out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
  uint sum = 0;
  if (i % 32 < 16) sum = simd_sum(i);
  threadgroup_barrier(mem_flags::mem_none);
  out[i] = sum;
}

kernel void two_simd_operations(device uint* out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
  if (i % 2 == 0) {
    out[i] = simd_sum(i);
  } else {
    out[i] = simd_max(i);
  }
}

kernel void write_past_end(device uint* out [[buffer(0)]], constant uint& by [[buffer(1)]],
                           uint i [[thread_position_in_grid]]) {
  out[i + by] = i;
}

kernel void read_inline(device uint* out [[buffer(0)]], constant uint* in [[buffer(1)]],
                        uint i [[thread_position_in_grid]]) {
  out[i] = in[i + 64];
}

kernel void follow_address(device uint* out [[buffer(0)]], device const ulong* address [[buffer(1)]]) {
  out[0] = *(device const uint*)(address[0]);
}

kernel void too_much_memory(device uint* out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
  threadgroup uint own[9000];
  own[i] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = own[i];
}
