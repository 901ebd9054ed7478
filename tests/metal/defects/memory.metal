// One defect a kernel. The test looks for the lines by the words in their comments.
#include <metal_stdlib>
using namespace metal;

constant float kTable[8] = {0, 1, 2, 3, 4, 5, 6, 7};

kernel void unwritten_threadgroup(device float* y [[buffer(0)]], uint t [[thread_position_in_threadgroup]]) {
  threadgroup float s[64];
  if (t < 32) s[t] = float(t);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[t] = s[t];  // unwritten_threadgroup: line
}

kernel void unwritten_device(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
                             uint t [[thread_position_in_grid]]) {
  y[t] = x[t] * 2.0f;  // unwritten_device: line
}

kernel void read_out_of_bounds(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
                               uint t [[thread_position_in_grid]]) {
  y[t] = x[t + 1];  // read_out_of_bounds: line
}

kernel void write_out_of_bounds(device float* y [[buffer(1)]], uint t [[thread_position_in_grid]]) {
  y[t + 2] = 1.0f;  // write_out_of_bounds: line
}

kernel void atomic_out_of_bounds(device atomic_uint* y [[buffer(0)]], uint t [[thread_position_in_grid]]) {
  atomic_fetch_add_explicit(y + t, 1u, memory_order_relaxed);  // atomic_out_of_bounds: line
}

kernel void threadgroup_out_of_bounds(device float* y [[buffer(0)]], threadgroup float* s [[threadgroup(0)]],
                                      uint t [[thread_position_in_threadgroup]]) {
  s[t] = 1.0f;  // threadgroup_out_of_bounds: line
  y[t] = s[t];
}

kernel void unbound_buffer(device float* x [[buffer(0)]], device float* y [[buffer(1)]],
                           uint t [[thread_position_in_grid]]) {
  y[t] = x[t];  // unbound_buffer: line
}

struct Addresses {
  device float* x;
};
kernel void not_resident(device const Addresses& addresses [[buffer(0)]], device float* y [[buffer(1)]],
                         uint t [[thread_position_in_grid]]) {
  y[t] = addresses.x[t];  // not_resident: line
}

kernel void read_only_store(device float* x [[buffer(0)]], uint t [[thread_position_in_grid]]) {
  x[t] = 1.0f;  // read_only_store: line
}

kernel void misaligned_vector(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
                              uint t [[thread_position_in_grid]]) {
  const float4 v = *(device const float4*)(x + t);  // misaligned_vector: line
  y[t] = v.x + v.w;
}

kernel void stack_overflow(device const uint* x [[buffer(0)]], device float* y [[buffer(1)]],
                           uint t [[thread_position_in_grid]]) {
  float a[4] = {1, 2, 3, 4};
  for (uint i = 0; i < 4; ++i) a[i] += float(t);
  y[t] = a[x[t]];  // stack_overflow: line
}

kernel void table_overflow(device const uint* x [[buffer(0)]], device float* y [[buffer(1)]],
                           uint t [[thread_position_in_grid]]) {
  y[t] = kTable[x[t] + 4];  // table_overflow: line
}

kernel void row_overflow(device float* y [[buffer(0)]], uint t [[thread_position_in_threadgroup]]) {
  threadgroup float tile[16][9];
  tile[0][t] = float(t);  // row_overflow: line
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[t] = tile[0][t];
}

kernel void vector_overflow(device const uint* x [[buffer(0)]], device float* y [[buffer(1)]],
                            uint t [[thread_position_in_grid]]) {
  const float4 v = float4(1, 2, 3, 4) + float(t);
  y[t] = v[x[t]];  // vector_overflow: line
}
