// What the checker must not object to.
#include <metal_stdlib>
using namespace metal;

kernel void legal_atomics(device atomic_uint* count [[buffer(0)]], device uint* y [[buffer(1)]],
                          uint t [[thread_position_in_grid]]) {
  y[t] = atomic_fetch_add_explicit(count, 1u, memory_order_relaxed);
  atomic_fetch_max_explicit(count + 1, t, memory_order_relaxed);
}

kernel void legal_threadgroup_atomics(device uint* y [[buffer(0)]], uint t [[thread_position_in_threadgroup]],
                                      uint i [[thread_position_in_grid]]) {
  threadgroup atomic_uint count;
  if (t == 0) atomic_store_explicit(&count, 0u, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  atomic_fetch_add_explicit(&count, 1u, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = atomic_load_explicit(&count, memory_order_relaxed);
}

kernel void legal_simdgroup_exchange(device float* y [[buffer(0)]], uint t [[thread_position_in_threadgroup]],
                                     uint i [[thread_position_in_grid]]) {
  threadgroup float s[64];
  for (uint round = 0; round < 3; ++round) {
    s[t] = float(t + round);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    y[i] = s[t ^ 1];
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}

kernel void legal_adjacent_halves(device half* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  y[i] = half(i);
}

kernel void legal_adjacent_bytes(device uchar* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  y[i] = uchar(i);
}

kernel void legal_device_exchange(device float* x [[buffer(0)]], device float* y [[buffer(1)]],
                                  uint t [[thread_position_in_threadgroup]], uint i [[thread_position_in_grid]]) {
  x[i] = float(t);
  threadgroup_barrier(mem_flags::mem_device);
  y[i] = x[i ^ 63];
  threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
  x[i ^ 62] = y[i];
}

kernel void legal_threadgroup_argument(device float* y [[buffer(0)]], threadgroup float* s [[threadgroup(0)]],
                                       uint t [[thread_position_in_threadgroup]],
                                       uint i [[thread_position_in_grid]]) {
  s[t] = float(t);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = s[63 - t];
}

kernel void legal_disjoint_writes(device float4* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  y[i] = float4(float(i));
}

kernel void legal_own_element(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  x[i] += 1.0f;
  x[i] *= 2.0f;
}

kernel void legal_own_writes(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  y[i] = float(i);
  y[i] = y[i] + 1.0f;
}

// All threads read what one has written, round after round.
kernel void legal_broadcast(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
                            uint t [[thread_position_in_threadgroup]], uint i [[thread_position_in_grid]]) {
  threadgroup float s[1];
  float sum = 0;
  for (uint round = 0; round < 4; ++round) {
    if (t == round * 16) s[0] = x[round];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    sum += s[0];
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  y[i] = sum + simd_sum(x[i % 4]);
}

kernel void legal_matrices(device const half* x [[buffer(0)]], device float* y [[buffer(1)]],
                           uint group [[threadgroup_position_in_grid]],
                           uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  simdgroup_half8x8 a;
  simdgroup_float8x8 c(0.0f);
  simdgroup_load(a, x, 8);
  simdgroup_multiply_accumulate(c, a, a, c);
  simdgroup_store(c, y + (group * 2 + simdgroup) * 64, 8);
}
