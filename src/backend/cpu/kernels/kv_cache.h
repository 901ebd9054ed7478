// Rows of the paged cache: where they lie, and their coding.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "backend/cpu/context.h"
#include "backend/cpu/kernels/weights.h"
#include "base/float16.h"

namespace marlin::cpu {

/// A layer of the cache with the batch's block tables.
template <typename Byte>
struct KvCache {
  Byte* layer = nullptr;  // block 0's rows of this layer
  size_t block_stride = 0;
  size_t row_bytes = 0;
  size_t n_blocks = 0;
  const int32_t* tables = nullptr;
  int blocks_per_slot = 0;
  int n_slots = 0;

  /// Row 0 of the physical block that holds positions [64 b, 64 b + 64) of a slot.
  Byte* block(int32_t slot, int64_t b) const {
    MARLIN_CHECK(slot >= 0 && slot < n_slots && b >= 0 && b < blocks_per_slot, "block {} of slot {}", b, slot);
    const int32_t physical = tables[static_cast<int64_t>(slot) * blocks_per_slot + b];
    MARLIN_CHECK(physical >= 0 && static_cast<size_t>(physical) < n_blocks, "physical block {} of {}", physical,
                 n_blocks);
    return layer + static_cast<size_t>(physical) * block_stride;
  }
};

template <typename Byte>
inline KvCache<Byte> resolve_kv(const Context& ctx, const KvView& kv, const TokenBatch& batch) {
  KvCache<Byte> cache;
  cache.block_stride = kv.layout.block_bytes();
  cache.row_bytes = kv.layout.row_bytes();
  cache.n_blocks = (kv.pool.buffer->size() - kv.pool.offset) / cache.block_stride;
  const auto bytes = static_cast<int64_t>(cache.n_blocks * cache.block_stride);
  if constexpr (std::is_const_v<Byte>) {
    cache.layer = ctx.in<std::byte>(kv.pool, bytes);
  } else {
    cache.layer = ctx.out<std::byte>(kv.pool, bytes);
  }
  cache.layer += kv.layout.block_layer_bytes() * static_cast<size_t>(kv.layer);
  cache.tables = ctx.in<int32_t>(batch.block_tables, static_cast<int64_t>(batch.n_slots) * batch.blocks_per_slot);
  cache.blocks_per_slot = batch.blocks_per_slot;
  cache.n_slots = batch.n_slots;
  return cache;
}

/// One part (latent or rope) of a Q8 row.
inline void encode_q8(const float* x, int n, int8_t* q, std::byte* scales) {
  for (int begin = 0; begin < n; begin += kKvQ8Group) {
    const int end = std::min(begin + kKvQ8Group, n);
    float largest = 0;
    bool finite = true;
    for (int i = begin; i < end; ++i) {
      largest = std::max(largest, std::fabs(x[i]));
      finite = finite && std::isfinite(x[i]);
    }
    // A group with a NaN or Inf reads back as NaN throughout: the numerics check sees it, no cast of it is undefined.
    const uint16_t stored = finite ? f32_to_f16(largest / 127.0f) : uint16_t{0x7e00};
    const float scale = f16_to_f32(stored);
    for (int i = begin; i < end; ++i) {
      const float steps = finite && scale > 0 ? std::nearbyint(x[i] / scale) : 0.0f;
      q[i] = static_cast<int8_t>(std::clamp(steps, -127.0f, 127.0f));
    }
    std::memcpy(scales + static_cast<size_t>(begin / kKvQ8Group) * 2, &stored, 2);
  }
}

inline void decode_q8(const int8_t* q, int n, const std::byte* scales, float* out) {
  for (int begin = 0; begin < n; begin += kKvQ8Group) {
    uint16_t stored = 0;
    std::memcpy(&stored, scales + static_cast<size_t>(begin / kKvQ8Group) * 2, 2);
    const float scale = f16_to_f32(stored);
    const int end = std::min(begin + kKvQ8Group, n);
    for (int i = begin; i < end; ++i) out[i] = static_cast<float>(q[i]) * scale;
  }
}

inline size_t q8_scales(int n) {
  return static_cast<size_t>((n + kKvQ8Group - 1) / kKvQ8Group) * 2;
}

inline void encode_kv_row(const KvLayout& layout, const float* latent, const float* rope, std::byte* row) {
  switch (layout.type) {
    case KvType::kF32:
      std::memcpy(row, latent, static_cast<size_t>(layout.latent_dim) * 4);
      std::memcpy(row + static_cast<size_t>(layout.latent_dim) * 4, rope, static_cast<size_t>(layout.rope_dim) * 4);
      return;
    case KvType::kF16: {
      auto* to = reinterpret_cast<uint16_t*>(row);
      for (int i = 0; i < layout.latent_dim; ++i) to[i] = f32_to_f16(latent[i]);
      for (int i = 0; i < layout.rope_dim; ++i) to[layout.latent_dim + i] = f32_to_f16(rope[i]);
      return;
    }
    case KvType::kQ8: {
      auto* q = reinterpret_cast<int8_t*>(row);
      std::byte* scales = row + layout.values();
      encode_q8(latent, layout.latent_dim, q, scales);
      encode_q8(rope, layout.rope_dim, q + layout.latent_dim, scales + q8_scales(layout.latent_dim));
      return;
    }
    case KvType::kF64:
      break;
  }
  MARLIN_CHECK(false, "a cache of type {}", static_cast<int>(layout.type));
}

inline void decode_kv_row(const Family& family, const KvLayout& layout, const std::byte* row, float* out) {
  switch (layout.type) {
    case KvType::kF32:
      std::memcpy(out, row, static_cast<size_t>(layout.values()) * 4);
      return;
    case KvType::kF16:
      family.decode_f16(reinterpret_cast<const uint16_t*>(row), layout.values(), out);
      return;
    case KvType::kQ8: {
      const auto* q = reinterpret_cast<const int8_t*>(row);
      const std::byte* scales = row + layout.values();
      decode_q8(q, layout.latent_dim, scales, out);
      decode_q8(q + layout.latent_dim, layout.rope_dim, scales + q8_scales(layout.latent_dim), out + layout.latent_dim);
      return;
    }
    case KvType::kF64:
      break;
  }
  MARLIN_CHECK(false, "a cache of type {}", static_cast<int>(layout.type));
}

}  // namespace marlin::cpu
