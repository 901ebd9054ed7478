// One defect a kernel. The test looks for the lines by the words in their comments.
#include <metal_stdlib>
using namespace metal;

kernel void race_missing_barrier(device float* y [[buffer(0)]], uint t [[thread_position_in_threadgroup]]) {
  threadgroup float s[64];
  s[t] = float(t);  // race_missing_barrier: other
  y[t] = s[t ^ 63];  // race_missing_barrier: line
}

kernel void race_write_after_read(device float* y [[buffer(0)]], uint t [[thread_position_in_threadgroup]]) {
  threadgroup float s[64];
  s[t] = float(t);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const float other = s[t ^ 63];  // race_write_after_read: other
  s[t] = other + 1.0f;  // race_write_after_read: line
  y[t] = s[t];
}

kernel void race_device_wrong_flags(device float* x [[buffer(0)]], device float* y [[buffer(1)]],
                                    uint t [[thread_position_in_threadgroup]]) {
  x[t] = float(t);  // race_device_wrong_flags: other
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[t] = x[t ^ 63];  // race_device_wrong_flags: line
}

kernel void race_threadgroup_wrong_flags(device float* y [[buffer(0)]], uint t [[thread_position_in_threadgroup]]) {
  threadgroup float s[64];
  s[t] = float(t);  // race_threadgroup_wrong_flags: other
  threadgroup_barrier(mem_flags::mem_device);
  y[t] = s[t ^ 63];  // race_threadgroup_wrong_flags: line
}

kernel void race_across_threadgroups(device uint* out [[buffer(0)]], uint group [[threadgroup_position_in_grid]],
                                     uint t [[thread_position_in_threadgroup]]) {
  if (t == 0) out[0] = group;  // race_across_threadgroups: line and other
}

kernel void race_read_across_threadgroups(device uint* x [[buffer(0)]], device uint* y [[buffer(1)]],
                                          uint group [[threadgroup_position_in_grid]],
                                          uint t [[thread_position_in_threadgroup]]) {
  if (t == 0) x[group] = group;  // race_read_across_threadgroups: line or other
  threadgroup_barrier(mem_flags::mem_device);
  y[group * 64 + t] = x[group ^ 1];  // race_read_across_threadgroups: other or line
}

kernel void race_in_simdgroup(device float* y [[buffer(0)]], uint t [[thread_position_in_threadgroup]]) {
  threadgroup float s[64];
  s[t] = 0.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  s[t] = float(t);  // race_in_simdgroup: other
  y[t] = s[t ^ 1] + simd_sum(1.0f);  // race_in_simdgroup: line
}

kernel void race_after_simd_operation(device float* y [[buffer(0)]], uint t [[thread_position_in_threadgroup]]) {
  threadgroup float s[64];
  s[t] = float(t);  // race_after_simd_operation: other
  const float sum = simd_sum(1.0f);
  y[t] = s[t ^ 1] + sum;  // race_after_simd_operation: line
}

kernel void race_across_simdgroups(device float* y [[buffer(0)]], uint t [[thread_position_in_threadgroup]]) {
  threadgroup float s[64];
  s[t] = float(t);  // race_across_simdgroups: other
  simdgroup_barrier(mem_flags::mem_threadgroup);
  y[t] = s[t ^ 63];  // race_across_simdgroups: line
}

kernel void race_with_atomic(device atomic_uint* count [[buffer(0)]], device uint* y [[buffer(1)]],
                             uint t [[thread_position_in_threadgroup]]) {
  atomic_fetch_add_explicit(count, 1u, memory_order_relaxed);  // race_with_atomic: other
  y[t] = ((device uint*)count)[0];  // race_with_atomic: line
}

// All read; then one thread writes what the others may still be reading.
kernel void race_many_readers(device float* y [[buffer(0)]], uint t [[thread_position_in_threadgroup]]) {
  threadgroup float s[1];
  if (t == 5) s[0] = 1.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[t] = s[0];  // race_many_readers: other or line
  if (t == 63 || t == 0) s[0] = float(t + 2);  // race_many_readers: line or other
}

kernel void note_equal_values(device uint* out [[buffer(0)]]) {
  out[0] = 7;  // note_equal_values: line and other
}
