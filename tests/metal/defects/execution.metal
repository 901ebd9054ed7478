// One defect a kernel. The test looks for the lines by the words in their comments.
#include <metal_stdlib>
using namespace metal;

kernel void large_shift(device const uint* x [[buffer(0)]], device uint* y [[buffer(1)]],
                        uint t [[thread_position_in_grid]]) {
  y[t] = 1u << (x[t] + 30);  // large_shift: line
}

kernel void zero_division(device const uint* x [[buffer(0)]], device uint* y [[buffer(1)]],
                          uint t [[thread_position_in_grid]]) {
  y[t] = 100 / (x[t] - 1);  // zero_division: line
}

kernel void float_to_int(device const uint* x [[buffer(0)]], device int* y [[buffer(1)]],
                         uint t [[thread_position_in_grid]]) {
  y[t] = int(float(x[t]) * 1e10f);  // float_to_int: line
}

kernel void divergent_barrier(device float* y [[buffer(0)]], uint t [[thread_position_in_threadgroup]]) {
  y[t] = 0;
  if (t < 40) threadgroup_barrier(mem_flags::mem_threadgroup);  // divergent_barrier: line
}

kernel void divergent_simd(device float* y [[buffer(0)]], uint t [[thread_position_in_threadgroup]]) {
  float sum = 0;
  if (t < 16) sum = simd_sum(1.0f);  // divergent_simd: line
  threadgroup_barrier(mem_flags::mem_none);
  y[t] = sum;
}

kernel void large_threadgroup_memory(device float* y [[buffer(0)]], uint t [[thread_position_in_threadgroup]]) {
  threadgroup float s[8200];
  s[t] = float(t);
  y[t] = s[t];
}

kernel void harmless(device const uint* x [[buffer(0)]], device uint* y [[buffer(1)]],
                     uint t [[thread_position_in_grid]]) {
  y[t] = x[t];
}
