#include "engine/prefix_cache.h"

#include <gtest/gtest.h>

#include <numeric>

namespace marlin {
namespace {

class PrefixCacheTest : public ::testing::Test {
 protected:
  static constexpr int kBlocks = 6;

  /// The ids of a block, told apart by `tag`.
  static std::vector<int32_t> ids(int tag) {
    std::vector<int32_t> ids(kKvBlockTokens);
    std::iota(ids.begin(), ids.end(), tag * 1000);
    return ids;
  }
  /// A block that only the tree holds.
  int add(PrefixCache& prefixes, int parent, int tag) {
    const int block = cache_.allocate();
    const int node = prefixes.insert(parent, ids(tag), block);
    cache_.release(block);
    return node;
  }

  std::unique_ptr<Device> device_ = make_device("cpu", {.threads = 1});
  KvCache cache_{*device_, {.type = KvType::kF32, .latent_dim = 4, .rope_dim = 2, .n_layers = 1}, kBlocks};
};

TEST_F(PrefixCacheTest, FindsAChainByItsIds) {
  PrefixCache prefixes(cache_);
  const int a = add(prefixes, PrefixCache::kRoot, 1);
  const int b = add(prefixes, a, 2);
  EXPECT_EQ(prefixes.find(PrefixCache::kRoot, ids(1)), a);
  EXPECT_EQ(prefixes.find(a, ids(2)), b);
  EXPECT_EQ(prefixes.find(PrefixCache::kRoot, ids(2)), PrefixCache::kNone);
  EXPECT_EQ(prefixes.find(b, ids(2)), PrefixCache::kNone);
  EXPECT_EQ(prefixes.unused(), 2);
  EXPECT_EQ(cache_.free_blocks(), kBlocks - 2);
}

TEST_F(PrefixCacheTest, TheFirstBlockWithTheSameIdsStays) {
  PrefixCache prefixes(cache_);
  const int a = add(prefixes, PrefixCache::kRoot, 1);
  EXPECT_EQ(add(prefixes, PrefixCache::kRoot, 1), a);
  EXPECT_EQ(prefixes.size(), 1);
  EXPECT_EQ(cache_.free_blocks(), kBlocks - 1);
}

TEST_F(PrefixCacheTest, EqualHashesAreToldApartByTheIds) {
  PrefixCache prefixes(cache_, [](int, PrefixCache::BlockIds) -> uint64_t { return 42; });
  const int a = add(prefixes, PrefixCache::kRoot, 1);
  EXPECT_EQ(prefixes.find(PrefixCache::kRoot, ids(2)), PrefixCache::kNone);
  EXPECT_EQ(add(prefixes, PrefixCache::kRoot, 2), PrefixCache::kNone);
  EXPECT_EQ(add(prefixes, a, 1), PrefixCache::kNone);
  EXPECT_EQ(prefixes.find(PrefixCache::kRoot, ids(1)), a);
  EXPECT_EQ(cache_.free_blocks(), kBlocks - 1);
}

TEST_F(PrefixCacheTest, GivesUpTheLeastRecentlyUsedLeafFirst) {
  PrefixCache prefixes(cache_);
  const int a = add(prefixes, PrefixCache::kRoot, 1);
  const int b = add(prefixes, a, 2);
  const int c = add(prefixes, PrefixCache::kRoot, 3);
  prefixes.find(PrefixCache::kRoot, ids(1));
  prefixes.find(a, ids(2));
  EXPECT_TRUE(prefixes.make_room(kBlocks - 2));
  EXPECT_EQ(prefixes.find(PrefixCache::kRoot, ids(3)), PrefixCache::kNone) << c;
  EXPECT_EQ(prefixes.find(a, ids(2)), b);
  EXPECT_TRUE(prefixes.make_room(kBlocks - 1));
  EXPECT_EQ(prefixes.find(PrefixCache::kRoot, ids(1)), a) << "a parent goes after its child";
  EXPECT_EQ(prefixes.find(a, ids(2)), PrefixCache::kNone);
  EXPECT_TRUE(prefixes.make_room(kBlocks));
  EXPECT_EQ(prefixes.size(), 0);
}

TEST_F(PrefixCacheTest, KeepsWhatIsInUse) {
  PrefixCache prefixes(cache_);
  const int a = add(prefixes, PrefixCache::kRoot, 1);
  add(prefixes, a, 2);
  KvSequence user(cache_);
  user.append_shared(a);
  EXPECT_EQ(prefixes.unused(), 1);
  EXPECT_FALSE(prefixes.make_room(kBlocks));
  EXPECT_EQ(cache_.free_blocks(), kBlocks - 1);
  EXPECT_EQ(prefixes.find(PrefixCache::kRoot, ids(1)), a);
  prefixes.clear();
  EXPECT_EQ(cache_.free_blocks(), kBlocks - 1);
  user.clear();
  EXPECT_EQ(cache_.free_blocks(), kBlocks);
}

}  // namespace
}  // namespace marlin
