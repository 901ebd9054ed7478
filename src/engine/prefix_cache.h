// Computed KV blocks kept for later requests that begin with the same ids.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "model/kv_cache.h"

namespace marlin {

/// A tree: a node is a whole block of 64 positions, found by its parent and its ids. Nodes are named by their block.
/// Nothing is copied: the cache holds one reference to each block, and gives blocks up, least recently used first and
/// leaves before their parents, when the pool needs them. Whoever uses a node must hold a reference to all its
/// ancestors too: then every unreferenced node can be given up.
class PrefixCache {
 public:
  static constexpr int kRoot = -1;
  static constexpr int kNone = -2;
  using BlockIds = std::span<const int32_t>;  // kKvBlockTokens ids
  using Hash = uint64_t (*)(int parent, BlockIds ids);
  static uint64_t hash_ids(int parent, BlockIds ids);

  explicit PrefixCache(KvCache& cache, Hash hash = hash_ids);
  ~PrefixCache() { clear(); }
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  /// The child of `parent` with these ids, or kNone. Counts as a use.
  int find(int parent, BlockIds ids);
  /// Keeps `block` as a child of `parent`, and returns it. When these ids are there already: that node, and `block` is
  /// not kept. kNone when another node occupies the hash.
  int insert(int parent, BlockIds ids, int block);
  /// Gives up nodes until the pool has `blocks` free ones; false when it cannot.
  bool make_room(int blocks);
  /// Gives up everything. Nodes that callers hold are no longer part of the tree.
  void clear();

  /// Nodes that nobody uses.
  int unused() const;
  int size() const { return static_cast<int>(recent_.size()); }

 private:
  struct Node {
    uint64_t key = 0;
    int parent = kNone;
    int children = 0;
    std::array<int32_t, kKvBlockTokens> ids{};
    std::list<int>::iterator recency;
  };
  Node& node(int block) { return nodes_[static_cast<size_t>(block)]; }
  void drop(int block);

  KvCache* cache_;
  Hash hash_;
  std::vector<Node> nodes_;                  // by block
  std::unordered_map<uint64_t, int> index_;  // hash of parent and ids -> block
  std::list<int> recent_;                    // blocks, the most recently used first
};

}  // namespace marlin
