// Ops that touch every value once. One thread a value (four where the rows allow it); a norm takes one threadgroup a
// row.
#include "common.h"

// out[t, :] = table[ids[t], :]. Grid: x over groups of 8 values of a row (one word of codes), y over rows.
kernel void embed(device const int* ids [[buffer(0)]], device const uchar* codes0 [[buffer(1)]],
                  device const half* scales0 [[buffer(2)]], device const uchar* codes1 [[buffer(3)]],
                  device const half* scales1 [[buffer(4)]], device float* out [[buffer(6)]],
                  constant EmbedParams& p [[buffer(7)]], uint2 at [[thread_position_in_grid]]) {
  const uint k = at.x * 8;
  if (k >= p.width || at.y >= p.rows) return;
  const ulong row = ulong(ids[at.y]) * p.width;
  device float* y = out + ulong(at.y) * p.out_stride + k;
  if (FORMAT != kFp4) {
    for (uint i = 0; i < min(8u, p.width - k); ++i) y[i] = load_plain(codes0, row + k + i, FORMAT);
    return;
  }
  // Groups are multiples of 32 values, so a word of codes has one scale.
  float4 low, high;
  fp4_decode(((device const uint*)codes0)[(row + k) / 8], low, high);
  float scale = float(scales0[(row + k) / p.group_size[0]]) * kFp4Unit;
  float4 a = low * scale, b = high * scale;
  if (PLANES == 2) {
    fp4_decode(((device const uint*)codes1)[(row + k) / 8], low, high);
    scale = float(scales1[(row + k) / p.group_size[1]]) * kFp4Unit;
    a += low * scale;
    b += high * scale;
  }
  for (uint i = 0; i < 4; ++i) {
    y[i] = a[i];
    y[4 + i] = b[i];
  }
}

// One threadgroup a row.
kernel void rms_norm(device const float* x [[buffer(0)]], device const uchar* gain [[buffer(1)]],
                     device float* out [[buffer(2)]], constant RmsNormParams& p [[buffer(3)]],
                     uint row [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                     uint threads [[threads_per_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                     uint simdgroup [[simdgroup_index_in_threadgroup]],
                     uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[32];
  device const float* from = x + ulong(row) * p.x_stride;
  float squares = 0.0f;
  for (uint i = thread_index; i < p.width; i += threads) squares = fma(from[i], from[i], squares);
  squares = threadgroup_sum(squares, partial, lane, simdgroup, simdgroups);
  const float factor = 1.0f / sqrt(squares / float(p.width) + p.eps);
  device float* to = out + ulong(row) * p.out_stride;
  for (uint i = thread_index; i < p.width; i += threads) to[i] = from[i] * factor * load_plain(gain, i, GAIN);
}

// x += y. Grid: x over columns, y over rows.
kernel void add_rows(device float* x [[buffer(0)]], device const float* y [[buffer(1)]],
                     constant AddParams& p [[buffer(2)]], uint2 at [[thread_position_in_grid]]) {
  if (at.x >= p.width || at.y >= p.rows) return;
  x[ulong(at.y) * p.x_stride + at.x] += y[ulong(at.y) * p.y_stride + at.x];
}

// gate = silu(gate) * up; out may be gate, so each thread reads before it writes, and only its own value.
kernel void swiglu(device const float* gate [[buffer(0)]], device const float* up [[buffer(1)]],
                   device float* out [[buffer(2)]], constant SwigluParams& p [[buffer(3)]],
                   uint i [[thread_position_in_grid]]) {
  if (i >= p.count) return;
  const float g = gate[i];
  out[i] = g / (1.0f + exp(-g)) * up[i];
}

// out[i, :] = x[index[i], :].
kernel void gather_rows(device const float* x [[buffer(0)]], device const int* index [[buffer(1)]],
                        device float* out [[buffer(2)]], constant GatherRowsParams& p [[buffer(3)]],
                        uint2 at [[thread_position_in_grid]]) {
  if (at.x >= p.width || at.y >= p.rows) return;
  out[ulong(at.y) * p.width + at.x] = x[ulong(index[at.y]) * p.x_stride + at.x];
}

// Bytes, 16 a thread: for uploads behind work in flight, forks of the cache and captures.
kernel void copy_bytes(device const uchar* from [[buffer(0)]], device uchar* to [[buffer(1)]],
                       constant CopyParams& p [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  const uint begin = i * 16;
  if (begin >= p.bytes) return;
  if (WORDS == 1 && p.bytes - begin >= 16) {
    ((device uint4*)to)[i] = ((device const uint4*)from)[i];
    return;
  }
  for (uint b = begin; b < min(begin + 16, p.bytes); ++b) to[b] = from[b];
}

// out[0] = 1 if any value is NaN or Inf. One threadgroup: a diagnosis, not a step of decoding.
kernel void check_finite(device const float* x [[buffer(0)]], device int* out [[buffer(1)]],
                         constant CheckFiniteParams& p [[buffer(2)]],
                         uint thread_index [[thread_index_in_threadgroup]],
                         uint threads [[threads_per_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]],
                         uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[32];
  float bad = 0.0f;
  for (uint row = 0; row < p.rows; ++row) {
    device const float* from = x + ulong(row) * p.x_stride;
    for (uint i = thread_index; i < p.width; i += threads) {
      // By the bits: a compiler that assumes finite arithmetic may drop a test of values.
      if ((as_type<uint>(from[i]) & 0x7F800000u) == 0x7F800000u) bad = 1.0f;
    }
  }
  bad = threadgroup_sum(bad, partial, lane, simdgroup, simdgroups);
  if (thread_index == 0) out[0] = bad > 0.0f ? 1 : 0;
}
