#include "engine/prefix_cache.h"

#include <algorithm>

#include "base/check.h"
#include "ops/random.h"

namespace marlin {

uint64_t PrefixCache::hash_ids(int parent, BlockIds ids) {
  uint64_t hash = mix64(static_cast<uint64_t>(parent));
  for (const int32_t id : ids) hash = mix64(hash ^ static_cast<uint32_t>(id));
  return hash;
}

PrefixCache::PrefixCache(KvCache& cache, Hash hash)
    : cache_(&cache), hash_(hash), nodes_(static_cast<size_t>(cache.n_blocks())) {}

int PrefixCache::find(int parent, BlockIds ids) {
  MARLIN_CHECK(ids.size() == kKvBlockTokens, "{} ids are no block", ids.size());
  const auto found = index_.find(hash_(parent, ids));
  if (found == index_.end()) return kNone;
  const int block = found->second;
  if (node(block).parent != parent || !std::ranges::equal(node(block).ids, ids)) return kNone;
  recent_.splice(recent_.begin(), recent_, node(block).recency);
  return block;
}

int PrefixCache::insert(int parent, BlockIds ids, int block) {
  if (const int existing = find(parent, ids); existing != kNone) return existing;
  const uint64_t key = hash_(parent, ids);
  if (index_.contains(key)) return kNone;
  cache_->retain(block);
  Node& added = node(block);
  added.key = key;
  added.parent = parent;
  added.children = 0;
  std::ranges::copy(ids, added.ids.begin());
  added.recency = recent_.insert(recent_.begin(), block);
  if (parent != kRoot) ++node(parent).children;
  index_[key] = block;
  return block;
}

bool PrefixCache::make_room(int blocks) {
  auto candidate = recent_.end();
  while (cache_->free_blocks() < blocks) {
    if (candidate == recent_.begin()) return false;
    --candidate;
    const int block = *candidate;
    if (node(block).children > 0 || cache_->references(block) > 1) continue;
    drop(block);
    candidate = recent_.end();  // its parent may have become a leaf
  }
  return true;
}

void PrefixCache::drop(int block) {
  Node& dropped = node(block);
  if (dropped.parent != kRoot) --node(dropped.parent).children;
  index_.erase(dropped.key);
  recent_.erase(dropped.recency);
  dropped.parent = kNone;
  cache_->release(block);
}

void PrefixCache::clear() {
  for (const int block : recent_) {
    node(block).parent = kNone;
    cache_->release(block);
  }
  recent_.clear();
  index_.clear();
}

int PrefixCache::unused() const {
  return static_cast<int>(std::ranges::count_if(recent_, [this](int block) { return cache_->references(block) == 1; }));
}

}  // namespace marlin
