#include "model/kv_cache.h"

#include <fmt/format.h>

#include <utility>

#include "base/check.h"
#include "marlin/error.h"

namespace marlin {

KvType parse_kv_type(std::string_view name) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8}) {
    if (name == kv_type_name(type)) return type;
  }
  throw Error(ErrorCode::kUsage, fmt::format("KV type '{}' is unknown; expected f32, f16 or q8", name));
}

std::string_view kv_type_name(KvType type) {
  switch (type) {
    case KvType::kF32:
      return "f32";
    case KvType::kF16:
      return "f16";
    case KvType::kQ8:
      return "q8";
    case KvType::kF64:
      return "f64";
  }
  return "";
}

KvCache::KvCache(Device& device, const KvLayout& layout, int n_blocks)
    : layout_(layout),
      pool_(device.allocate(layout.block_bytes() * static_cast<size_t>(n_blocks))),
      references_(static_cast<size_t>(n_blocks), 0) {
  free_.reserve(references_.size());
  for (int block = n_blocks - 1; block >= 0; --block) free_.push_back(block);
}

int KvCache::allocate() {
  if (free_.empty()) return -1;
  const int block = free_.back();
  free_.pop_back();
  references_[static_cast<size_t>(block)] = 1;
  return block;
}

void KvCache::release(int block) {
  int& count = references_[static_cast<size_t>(block)];
  MARLIN_CHECK(count > 0, "block {} has no reference to release", block);
  if (--count == 0) free_.push_back(block);
}

void KvCache::copy_block(Ops& ops, int from, int to) const {
  const size_t bytes = layout_.block_bytes();
  ops.copy({.from = pool().at(static_cast<size_t>(from) * bytes),
            .to = pool().at(static_cast<size_t>(to) * bytes),
            .bytes = bytes});
}

KvSequence::KvSequence(KvSequence&& other) noexcept
    : cache_(other.cache_), blocks_(std::exchange(other.blocks_, {})), length_(std::exchange(other.length_, 0)) {}

KvSequence& KvSequence::operator=(KvSequence&& other) noexcept {
  if (this != &other) {
    clear();
    cache_ = other.cache_;
    blocks_ = std::exchange(other.blocks_, {});
    length_ = std::exchange(other.length_, 0);
  }
  return *this;
}

bool KvSequence::extend(Ops& ops, int n) {
  const int needed = (length_ + n + kKvBlockTokens - 1) / kKvBlockTokens - static_cast<int>(blocks_.size());
  const bool shared_tail = n > 0 && length_ % kKvBlockTokens != 0 && cache_->references(blocks_.back()) > 1;
  if (cache_->free_blocks() < needed + (shared_tail ? 1 : 0)) return false;
  if (shared_tail) {
    const int own = cache_->allocate();
    cache_->copy_block(ops, blocks_.back(), own);
    cache_->release(blocks_.back());
    blocks_.back() = own;
  }
  for (int i = 0; i < needed; ++i) blocks_.push_back(cache_->allocate());
  length_ += n;
  return true;
}

void KvSequence::truncate(int length) {
  MARLIN_CHECK(length >= 0 && length <= length_, "truncate to {} of {}", length, length_);
  const auto keep = static_cast<size_t>((length + kKvBlockTokens - 1) / kKvBlockTokens);
  while (blocks_.size() > keep) {
    cache_->release(blocks_.back());
    blocks_.pop_back();
  }
  length_ = length;
}

KvSequence KvSequence::fork() const {
  KvSequence copy(*cache_);
  copy.blocks_ = blocks_;
  copy.length_ = length_;
  for (const int block : blocks_) cache_->retain(block);
  return copy;
}

void KvSequence::append_shared(int block) {
  MARLIN_CHECK(length_ % kKvBlockTokens == 0, "length {} is not a block border", length_);
  cache_->retain(block);
  blocks_.push_back(block);
  length_ += kKvBlockTokens;
}

void KvSequence::clear() {
  truncate(0);
}

}  // namespace marlin
