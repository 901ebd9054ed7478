#include "model/kv_cache.h"

#include <gtest/gtest.h>

namespace marlin {
namespace {

KvLayout small_layout() {
  return {.type = KvType::kF16, .latent_dim = 128, .rope_dim = 32, .n_layers = 2};
}

TEST(KvLayout, RowsArePaddedTo64Bytes) {
  KvLayout layout = small_layout();
  EXPECT_EQ(layout.row_bytes(), 320U);  // 160 values of 2 bytes
  layout.type = KvType::kF32;
  EXPECT_EQ(layout.row_bytes(), 640U);
  layout.type = KvType::kQ8;
  EXPECT_EQ(layout.q8_groups(), 3);     // 64 + 64 | 32
  EXPECT_EQ(layout.row_bytes(), 192U);  // 160 + 6, padded
  layout = {.type = KvType::kF16, .latent_dim = 512, .rope_dim = 64, .n_layers = 47};
  EXPECT_EQ(layout.row_bytes(), 1152U);
  EXPECT_EQ(layout.block_bytes(), 1152U * 64 * 47);  // 54,144 bytes a token
}

class Sequences : public ::testing::Test {
 protected:
  std::unique_ptr<Device> device_ = make_device("cpu", {.threads = 1});
  std::unique_ptr<Stream> stream_ = device_->make_stream();
  KvCache cache_{*device_, small_layout(), 6};
};

TEST_F(Sequences, BlocksComeAsPositionsNeedThem) {
  KvSequence sequence(cache_);
  ASSERT_TRUE(sequence.extend(*stream_, 64));
  EXPECT_EQ(cache_.free_blocks(), 5);
  ASSERT_TRUE(sequence.extend(*stream_, 1));
  EXPECT_EQ(cache_.free_blocks(), 4);
  sequence.truncate(64);
  EXPECT_EQ(cache_.free_blocks(), 5);
  sequence.clear();
  EXPECT_EQ(cache_.free_blocks(), 6);
}

TEST_F(Sequences, ExtendRefusesWholeWhenThePoolIsShort) {
  KvSequence sequence(cache_);
  ASSERT_TRUE(sequence.extend(*stream_, 100));
  EXPECT_FALSE(sequence.extend(*stream_, 64 * 6));
  EXPECT_EQ(sequence.length(), 100);
  EXPECT_EQ(cache_.free_blocks(), 4);
  EXPECT_TRUE(sequence.extend(*stream_, 64 * 6 - 100));
  EXPECT_EQ(cache_.free_blocks(), 0);
  EXPECT_FALSE(sequence.extend(*stream_, 1));
}

TEST_F(Sequences, AForkSharesUntilItWrites) {
  KvSequence trunk(cache_);
  ASSERT_TRUE(trunk.extend(*stream_, 70));
  KvSequence branch = trunk.fork();
  EXPECT_EQ(cache_.free_blocks(), 4);
  EXPECT_EQ(cache_.references(trunk.blocks()[1]), 2);
  ASSERT_TRUE(branch.extend(*stream_, 1));
  EXPECT_EQ(cache_.free_blocks(), 3);
  EXPECT_EQ(branch.blocks()[0], trunk.blocks()[0]);
  EXPECT_NE(branch.blocks()[1], trunk.blocks()[1]);
  trunk.clear();
  EXPECT_EQ(cache_.free_blocks(), 4);
  EXPECT_EQ(cache_.references(branch.blocks()[0]), 1);
}

TEST_F(Sequences, MovingLeavesNothingBehind) {
  KvSequence first(cache_);
  ASSERT_TRUE(first.extend(*stream_, 70));
  KvSequence second = std::move(first);
  EXPECT_EQ(second.length(), 70);
  KvSequence third(cache_);
  ASSERT_TRUE(third.extend(*stream_, 10));
  third = std::move(second);
  EXPECT_EQ(cache_.free_blocks(), 4);
}

}  // namespace
}  // namespace marlin
