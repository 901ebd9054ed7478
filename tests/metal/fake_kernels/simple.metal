// Kernels for the tests of the fake Metal: each does one thing that can be seen from outside.
#include <metal_stdlib>
using namespace metal;

constant uint amount [[function_constant(0)]];
constant bool twice [[function_constant(1)]];

kernel void fill(device uint* out [[buffer(0)]], constant uint& value [[buffer(1)]],
                 uint i [[thread_position_in_grid]]) {
  out[i] = value;
}

/// With other amounts another result for another order: shows the order of command buffers.
kernel void times_ten_plus(device uint* out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  out[i] = out[i] * 10 + amount;
}

/// Each threadgroup reverses its part.
kernel void reverse(device uint* out [[buffer(0)]], threadgroup uint* part [[threadgroup(0)]],
                    uint i [[thread_position_in_grid]], uint local [[thread_position_in_threadgroup]],
                    uint threads [[threads_per_threadgroup]]) {
  part[local] = out[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = part[threads - 1 - local];
}

struct Addresses {
  device const uint* values;
};

/// Reads through an address that it finds in a buffer.
kernel void copy_indirect(device uint* out [[buffer(0)]], device const Addresses& from [[buffer(1)]],
                          uint i [[thread_position_in_grid]]) {
  out[i] = from.values[i];
}

/// Meets the guard page behind a buffer of 64 values.
kernel void write_outside(device uint* out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  out[i + 512] = 1;
}
