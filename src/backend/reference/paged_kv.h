// The reference device's view of the paged cache.
#pragma once

#include <cstdint>

#include "backend/reference/host_memory.h"
#include "ops/ops.h"
#include "ops/ref/attention.h"

namespace marlin::reference {

/// Finds the rows of one layer for the tokens of a batch. Every index that comes from device memory is checked.
class PagedKv {
 public:
  PagedKv(const Access& access, const TokenBatch* batch, const KvView& kv, const char* what);

  int n_tokens() const { return batch_->n_tokens; }
  int slot(int token) const;
  int position(int token) const;
  /// Where the row [latent | rope] of the token itself is written.
  double* row_for_write(int token) const;
  /// The rows of positions 0…last_position of a slot.
  ref::KvRows rows(int slot, int last_position) const;
  /// The rows that a token sees.
  ref::KvRows visible_rows(int token) const { return rows(slot(token), position(token)); }

 private:
  View row(int slot, int position) const;

  Access access_;
  const TokenBatch* batch_;
  KvView kv_;
  const char* what_;
  const int32_t* positions_;
  const int32_t* slots_;
  const int32_t* block_tables_;
};

}  // namespace marlin::reference
