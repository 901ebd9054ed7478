// Paged latent KV: a pool of reference-counted blocks of 64 positions, and sequences as tables of blocks. Sharing a
// prefix, forking and truncating copy at most one block.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "backend/backend.h"

namespace marlin {

/// "f32", "f16" or "q8". Throws Error{kUsage} for another name.
KvType parse_kv_type(std::string_view name);
/// Also "f64", which only the oracle stores.
std::string_view kv_type_name(KvType type);

/// The pool. Blocks are reserved as address space and committed by the device when first written. Not thread-safe: the
/// engine's worker owns it.
class KvCache {
 public:
  /// Throws Error{kNoMemory} when the device cannot reserve it.
  KvCache(Device& device, const KvLayout& layout, int n_blocks);

  const KvLayout& layout() const { return layout_; }
  int n_blocks() const { return static_cast<int>(references_.size()); }
  int free_blocks() const { return static_cast<int>(free_.size()); }
  View pool() const { return {pool_.get(), 0}; }
  KvView layer(int index) const { return {pool(), layout_, index}; }

  /// A block with one reference, or -1 when none is free.
  int allocate();
  void retain(int block) { ++references_[static_cast<size_t>(block)]; }
  void release(int block);
  int references(int block) const { return references_[static_cast<size_t>(block)]; }
  /// Enqueues a copy of all layers of block `from` to `to`.
  void copy_block(Ops& ops, int from, int to) const;

 private:
  KvLayout layout_;
  std::unique_ptr<Buffer> pool_;
  std::vector<int> references_;
  std::vector<int> free_;  // taken from the back: low blocks first
};

/// One timeline of positions 0…length-1 in the pool. Movable; releases its blocks when it goes.
class KvSequence {
 public:
  /// Has room for the name of every block from the start, so that no step allocates.
  explicit KvSequence(KvCache& cache) : cache_(&cache) { blocks_.reserve(static_cast<size_t>(cache.n_blocks())); }
  ~KvSequence() { clear(); }
  KvSequence(KvSequence&& other) noexcept;
  KvSequence& operator=(KvSequence&& other) noexcept;
  KvSequence(const KvSequence&) = delete;
  KvSequence& operator=(const KvSequence&) = delete;

  int length() const { return length_; }
  const std::vector<int>& blocks() const { return blocks_; }

  /// Makes positions length()…length()+n-1 writable: allocates blocks, and copies a shared last block first. Returns
  /// false, changing nothing, when the pool has too few free blocks.
  bool extend(Ops& ops, int n);
  /// Drops the positions from `length` on.
  void truncate(int length);
  /// A second timeline with the same content, sharing all blocks.
  KvSequence fork() const;
  /// Appends a whole block of 64 positions that somebody else computed; length() must be a multiple of 64.
  void append_shared(int block);
  void clear();

 private:
  KvCache* cache_;
  std::vector<int> blocks_;
  int length_ = 0;
};

}  // namespace marlin
