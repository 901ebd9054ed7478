// One simdgroup each: what every lane gets from an operation, for the test to compare.
#include <metal_stdlib>
using namespace metal;

/// Row n of `out` is operation n's result in each lane.
kernel void simd_reductions(device const int* in [[buffer(0)]], device int* out [[buffer(1)]],
                            uint lane [[thread_index_in_simdgroup]]) {
  const int x = in[lane];
  out[0 * 32 + lane] = simd_sum(x);
  out[1 * 32 + lane] = simd_min(x);
  out[2 * 32 + lane] = simd_max(x);
  out[3 * 32 + lane] = simd_and(x);
  out[4 * 32 + lane] = simd_or(x);
  out[5 * 32 + lane] = simd_xor(x);
  out[6 * 32 + lane] = simd_product(x % 2 * 2 + 1);
  out[7 * 32 + lane] = simd_prefix_inclusive_sum(x);
  out[8 * 32 + lane] = simd_prefix_exclusive_sum(x);
  out[9 * 32 + lane] = quad_sum(x);
  out[10 * 32 + lane] = quad_max(x);
  out[11 * 32 + lane] = quad_min(x);
}

kernel void simd_votes(device const int* in [[buffer(0)]], device int* out [[buffer(1)]],
                       uint lane [[thread_index_in_simdgroup]]) {
  const int x = in[lane];
  out[0 * 32 + lane] = int(simd_vote::vote_t(simd_ballot(x > 50)));
  out[1 * 32 + lane] = simd_any(x == in[7]);
  out[2 * 32 + lane] = simd_any(x == -1);
  out[3 * 32 + lane] = simd_all(x >= 0);
  out[4 * 32 + lane] = simd_all(lane != 13);
  out[5 * 32 + lane] = simd_is_first();
  out[6 * 32 + lane] = int(simd_vote::vote_t(simd_active_threads_mask()));
}

kernel void simd_shuffles(device const int* in [[buffer(0)]], device int* out [[buffer(1)]],
                          uint lane [[thread_index_in_simdgroup]]) {
  const int x = in[lane];
  out[0 * 32 + lane] = simd_shuffle(x, ushort(31 - lane));
  out[1 * 32 + lane] = simd_broadcast(x, 5);
  out[2 * 32 + lane] = simd_broadcast_first(x);
  out[3 * 32 + lane] = simd_shuffle_xor(x, 9);
  out[4 * 32 + lane] = simd_shuffle_down(x, 3);
  out[5 * 32 + lane] = simd_shuffle_up(x, 3);
  out[6 * 32 + lane] = simd_shuffle_rotate_down(x, 3);
  out[7 * 32 + lane] = simd_shuffle_rotate_up(x, 3);
  out[8 * 32 + lane] = quad_broadcast(x, 2);
  out[9 * 32 + lane] = quad_shuffle_xor(x, 1);
}

/// Float sums are combined by lanes 16 apart, then 8, and so on; vectors element by element.
kernel void simd_float_sum(device const float* in [[buffer(0)]], device float* out [[buffer(1)]],
                           uint lane [[thread_index_in_simdgroup]]) {
  const float2 sums = simd_sum(float2(in[lane], 2 * in[lane]));
  out[lane] = sums.x;
  out[32 + lane] = sums.y;
}

/// Lanes from 20 on have returned.
kernel void simd_partial(device const int* in [[buffer(0)]], device int* out [[buffer(1)]],
                         uint lane [[thread_index_in_simdgroup]]) {
  if (lane >= 20) return;
  out[lane] = simd_sum(in[lane]);
  out[32 + lane] = simd_all(lane < 20);
}

/// The element that each lane holds: rows, then columns.
kernel void matrix_layout(device const float* in [[buffer(0)]], device float* out [[buffer(1)]],
                          uint lane [[thread_index_in_simdgroup]]) {
  simdgroup_float8x8 m;
  simdgroup_load(m, in, 8);
  out[2 * lane] = m.thread_elements()[0];
  out[2 * lane + 1] = m.thread_elements()[1];
}

/// d = a b + c with halves in and floats out; b is given transposed, with an origin and a stride of 10.
kernel void matrix_product(device const half* a [[buffer(0)]], device const half* b [[buffer(1)]],
                           device const float* c [[buffer(2)]], device float* d [[buffer(3)]]) {
  simdgroup_half8x8 left, right;
  simdgroup_float8x8 sum;
  simdgroup_load(left, a);
  simdgroup_load(right, b, 10, ulong2(2, 1), true);
  simdgroup_load(sum, c);
  simdgroup_multiply_accumulate(sum, left, right, sum);
  simdgroup_store(sum, d);
}

kernel void matrix_made(device float* out [[buffer(0)]]) {
  simdgroup_store(make_filled_simdgroup_matrix<float, 8, 8>(3.0f), out);
  simdgroup_store(simdgroup_float8x8(2.0f), out + 64);
  simdgroup_float8x8 product;
  simdgroup_multiply(product, simdgroup_float8x8(2.0f), make_filled_simdgroup_matrix<float, 8, 8>(3.0f));
  simdgroup_store(product, out + 128, 8, ulong2(0, 0), true);
}
