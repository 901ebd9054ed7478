// What Metal allows: no schedule may change the result, and nothing may be reported.
#include <metal_stdlib>
using namespace metal;

constant uint FACTOR [[function_constant(3)]];
constant float OFFSET [[function_constant(1 + 3)]];

kernel void constants(device float* out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  out[i] = float(i * FACTOR) + (is_function_constant_defined(OFFSET) ? OFFSET : -1.0f);
}

/// Everything that a thread may ask about itself.
kernel void positions(device uint* out [[buffer(0)]], uint3 local [[thread_position_in_threadgroup]],
                      uint3 global [[thread_position_in_grid]], ushort3 group [[threadgroup_position_in_grid]],
                      uint3 threads [[threads_per_threadgroup]], uint3 groups [[threadgroups_per_grid]],
                      uint3 grid [[threads_per_grid]], uint index [[thread_index_in_threadgroup]],
                      uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]],
                      uint simdgroups [[simdgroups_per_threadgroup]], ushort width [[threads_per_simdgroup]]) {
  const uint at = (global.z * grid.y + global.y) * grid.x + global.x;
  device uint* row = out + 24 * at;
  const uint3 triples[] = {local, global, uint3(group), threads, groups, grid};
  for (uint i = 0; i < 6; ++i) {
    row[3 * i] = triples[i].x;
    row[3 * i + 1] = triples[i].y;
    row[3 * i + 2] = triples[i].z;
  }
  row[18] = index;
  row[19] = lane;
  row[20] = simdgroup;
  row[21] = simdgroups;
  row[22] = width;
  row[23] = at;
}

/// Neighbours' values through threadgroup memory, of the kernel and of the dispatch.
kernel void exchange(device uint* out [[buffer(0)]], threadgroup uint* given [[threadgroup(1)]],
                     uint i [[thread_position_in_threadgroup]], uint n [[threads_per_threadgroup]]) {
  threadgroup uint own[2][128], more;
  own[1][i] = 10 * i;
  given[i] = i;
  if (i == 0) more = 1000;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = own[1][(i + 40) % n] + given[n - 1 - i] + more;
}

/// A simdgroup's barrier is enough for its own lanes.
kernel void simdgroup_exchange(device uint* out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
  threadgroup uint own[128];
  own[i] = i;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = own[i ^ 1];
}

/// All threads count, in device and in threadgroup memory.
kernel void counters(device atomic_uint* total [[buffer(0)]], device atomic_float* sum [[buffer(1)]],
                     device atomic_int* extremes [[buffer(2)]], uint i [[thread_position_in_grid]],
                     uint local [[thread_position_in_threadgroup]]) {
  threadgroup atomic_uint own;
  if (local == 0) atomic_store_explicit(&own, 0u, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  atomic_fetch_add_explicit(&own, 1u, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (local == 0) {
    atomic_fetch_add_explicit(total, atomic_load_explicit(&own, memory_order_relaxed), memory_order_relaxed);
  }
  atomic_fetch_add_explicit(sum, 0.5f, memory_order_relaxed);
  atomic_fetch_min_explicit(extremes, int(i) - 3, memory_order_relaxed);
  atomic_fetch_max_explicit(extremes + 1, int(i), memory_order_relaxed);
  atomic_fetch_or_explicit(extremes + 2, 1 << (i % 8), memory_order_relaxed);
}

/// Barriers in a loop, with a simd operation whose lanes have partly returned in the last simdgroup.
kernel void loops(device uint* out [[buffer(0)]], uint i [[thread_position_in_threadgroup]],
                  uint lane [[thread_index_in_simdgroup]]) {
  threadgroup uint own[128];
  own[i] = 1;
  for (uint step = 1; step < 8; step *= 2) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint other = own[(i + step) % 96];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    own[i] += other;
  }
  const uint sum = simd_sum(own[i]);
  if (lane == 0) out[i / 32] = sum;
}

template <typename T>
kernel void scale(device T* out [[buffer(0)]], constant float& by [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  out[i] = T(float(out[i]) * by);
}
template [[host_name("scale_float")]] kernel void scale<float>(device float*, constant float&, uint);
template [[host_name("scale_half")]] kernel void scale<half>(device half*, constant float&, uint);

/// Each line's optional buffer is used only where it is bound.
kernel void optional_buffer(device uint* out [[buffer(0)]], device const uint* in [[buffer(5)]],
                            uint i [[thread_position_in_grid]]) {
  out[i] = FACTOR == 1 ? in[i] : 7;
}
