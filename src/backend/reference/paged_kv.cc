#include "backend/reference/paged_kv.h"

namespace marlin::reference {

PagedKv::PagedKv(const Access& access, const TokenBatch* batch, const KvView& kv, const char* what)
    : access_(access), batch_(batch), kv_(kv), what_(what) {
  MARLIN_CHECK(batch != nullptr, "{}: no batch", what);
  MARLIN_CHECK(kv.layout.type == KvType::kF64, "{}: the cache is of type {}, the oracle's own is {}", what,
               static_cast<int>(kv.layout.type), static_cast<int>(KvType::kF64));
  MARLIN_CHECK(kv.layer >= 0 && kv.layer < kv.layout.n_layers, "{}: layer {} of {}", what, kv.layer,
               kv.layout.n_layers);
  positions_ = access.input<int32_t>(batch->positions, batch->n_tokens, what);
  slots_ = access.input<int32_t>(batch->slots, batch->n_tokens, what);
  const int64_t table_size = static_cast<int64_t>(batch->n_slots) * batch->blocks_per_slot;
  block_tables_ = access.input<int32_t>(batch->block_tables, table_size, what);
}

int PagedKv::slot(int token) const {
  const int slot = slots_[token];
  MARLIN_CHECK(slot >= 0 && slot < batch_->n_slots, "{}: token {} has slot {} of {}", what_, token, slot,
               batch_->n_slots);
  return slot;
}

int PagedKv::position(int token) const {
  const int position = positions_[token];
  MARLIN_CHECK(position >= 0 && position / kKvBlockTokens < batch_->blocks_per_slot,
               "{}: token {} has position {}, a slot has {} blocks", what_, token, position, batch_->blocks_per_slot);
  return position;
}

View PagedKv::row(int slot, int position) const {
  const int block = block_tables_[slot * batch_->blocks_per_slot + position / kKvBlockTokens];
  MARLIN_CHECK(block >= 0, "{}: slot {} has no block for position {}", what_, slot, position);
  const size_t block_layer =
      static_cast<size_t>(block) * static_cast<size_t>(kv_.layout.n_layers) + static_cast<size_t>(kv_.layer);
  const auto row_in_block = static_cast<size_t>(position % kKvBlockTokens);
  return kv_.pool.at(block_layer * kv_.layout.block_layer_bytes() + row_in_block * kv_.layout.row_bytes());
}

double* PagedKv::row_for_write(int token) const {
  return access_.output<double>(row(slot(token), position(token)), kv_.layout.values(), what_);
}

ref::KvRows PagedKv::rows(int slot, int last_position) const {
  ref::KvRows rows;
  for (int p = 0; p <= last_position; ++p) {
    rows.push_back(access_.input<double>(row(slot, p), kv_.layout.values(), what_));
  }
  return rows;
}

}  // namespace marlin::reference
