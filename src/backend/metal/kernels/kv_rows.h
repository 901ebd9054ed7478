// Rows of the paged cache: where they lie, and how they are written (KvLayout in ops/ops.h).
//
// A row is written by simdgroups, each of which takes groups of 64 neighbouring values: lane i holds values 2 i and
// 2 i + 1, which is also one pair that RoPE rotates. A Q8 scale belongs to exactly one group.
#pragma once

#include "common.h"

constant constexpr uint kKvBlockTokens = 64;
constant constexpr uint kKvGroup = 64;

/// Groups of the latent, then groups of the rope part.
static inline uint kv_groups(uint values) {
  return (values + kKvGroup - 1) / kKvGroup;
}

/// Byte offset in the pool of row `position` of a slot.
static inline ulong kv_row_offset(constant KvParams& kv, device const int* block_tables, uint slot, uint position) {
  const uint block = uint(block_tables[ulong(slot) * kv.blocks_per_slot + position / kKvBlockTokens]);
  const ulong first = (ulong(block) * kv.n_layers + kv.layer) * kKvBlockTokens;
  return (first + position % kKvBlockTokens) * kv.row_bytes;
}

/// Tested by bits, which no compiler flag about finite math changes.
static inline bool kv_finite(float x) {
  return (as_type<uint>(x) & 0x7f800000u) != 0x7f800000u;
}

/// Bytes, since an odd number of values puts the scales at an odd address.
static inline void kv_store_scale(device uchar* to, half scale) {
  const ushort bits = as_type<ushort>(scale);
  to[0] = uchar(bits & 0xffu);
  to[1] = uchar(bits >> 8);
}

static inline char kv_q8(float x, float scale) {
  return char(clamp(rint(x / scale), -127.0f, 127.0f));
}

/// Writes one group of a row: a and b are its values 2 lane and 2 lane + 1, of which those from `count` on do not
/// exist. `first` is the index in the row of the group's first value, `scale_index` that of its scale. Called by a
/// whole simdgroup.
static inline void kv_store_group(constant KvParams& kv, device uchar* row, uint first, uint scale_index, uint count,
                                  float a, float b, uint lane) {
  const uint i = 2 * lane;
  const bool has_a = i < count;
  const bool has_b = i + 1 < count;
  if (KV == kKvF32) {
    device float* to = (device float*)row + first + i;
    if (has_a) to[0] = a;
    if (has_b) to[1] = b;
  } else if (KV == kKvF16) {
    device half* to = (device half*)row + first + i;
    if (has_a) to[0] = half(a);
    if (has_b) to[1] = half(b);
  } else {
    a = has_a ? a : 0.0f;
    b = has_b ? b : 0.0f;
    // A group with a NaN or Inf reads back as NaN throughout, so that the numerics check sees it.
    const bool finite = simd_all(kv_finite(a) && kv_finite(b));
    const float largest = simd_max(finite ? max(fabs(a), fabs(b)) : 0.0f);
    const half scale = finite ? half(largest / 127.0f) : as_type<half>(ushort(0x7e00));
    const bool zero = !finite || !(float(scale) > 0.0f);
    device char* to = (device char*)row + first + i;
    if (has_a) to[0] = zero ? char(0) : kv_q8(a, float(scale));
    if (has_b) to[1] = zero ? char(0) : kv_q8(b, float(scale));
    if (lane == 0) kv_store_scale(row + kv.latent + kv.rope + 2 * scale_index, scale);
  }
}

/// Value i of a row of the cache: of the latent below `latent`, of the rope part from there on.
static inline float kv_load(constant KvParams& kv, device const uchar* row, uint i) {
  if (KV == kKvF32) return ((device const float*)row)[i];
  if (KV == kKvF16) return float(((device const half*)row)[i]);
  const bool is_latent = i < kv.latent;
  const uint group = is_latent ? i / kKvGroup : kv_groups(kv.latent) + (i - kv.latent) / kKvGroup;
  device const uchar* scale = row + kv.latent + kv.rope + 2 * group;
  const half factor = as_type<half>(ushort(uint(scale[0]) | (uint(scale[1]) << 8)));
  return float(((device const char*)row)[i]) * float(factor);
}
