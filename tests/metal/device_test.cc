// The Metal device's own promises, over the fake: what is read has been waited for, two steps overlap, memory that work
// uses stays, failures name the kernel, and a decoded token takes few dispatches.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <thread>

#include "backend/backend.h"
#include "demo_model.h"
#include "marlin/error.h"
#include "metal/fake/fake_metal.h"

namespace marlin {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class MetalDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fake_metal::set_options({});
    fake_metal::take_reports();
    device_ = make_device("metal-emulated", {});
    stream_ = device_->make_stream();
  }
  void TearDown() override {
    stream_.reset();
    buffers_.clear();
    device_.reset();
    EXPECT_THAT(fake_metal::take_reports(), IsEmpty());
    EXPECT_THAT(fake_metal::live_objects(), IsEmpty());
    fake_metal::set_options({});
  }
  View floats(const std::vector<float>& values) {
    buffers_.push_back(device_->allocate(values.size() * 4));
    const View view{buffers_.back().get(), 0};
    stream_->upload(view, std::as_bytes(std::span(values)));
    return view;
  }
  std::vector<float> read(const Completed& done, View view, size_t n) {
    std::vector<float> values(n);
    stream_->read(done, view, std::as_writable_bytes(std::span(values)));
    return values;
  }
  void add(View x, View y, int n) { stream_->add({1, n, x, n, y, n}); }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

TEST_F(MetalDeviceTest, AReadWaitsForDelayedWork) {
  const View x = floats({1, 2, 3});
  const View y = floats({10, 20, 30});
  fake_metal::hold();
  add(x, y, 3);
  const Fence fence = stream_->submit();
  std::thread later([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    fake_metal::release();
  });
  const std::vector<float> sum = read(stream_->wait(fence), x, 3);
  later.join();
  EXPECT_THAT(sum, ::testing::ElementsAre(11, 22, 33));
}

TEST_F(MetalDeviceTest, AReadOfWorkThatNobodyWaitedForAborts) {
  const View x = floats({1});
  const View y = floats({1});
  const Completed before = stream_->wait(stream_->submit());
  add(x, y, 1);
  const Fence fence = stream_->submit();
  EXPECT_DEATH(read(before, x, 1), "read of work");
  stream_->wait(fence);
}

// The second upload meets a buffer that the first step's work still uses.
TEST_F(MetalDeviceTest, UploadsKeepTheOrderOfTheStream) {
  const View x = floats({0, 0});
  const View y = floats({1, 2});
  fake_metal::hold();
  add(x, y, 2);
  stream_->submit();
  const std::vector<float> next = {100, 200};
  stream_->upload(y, std::as_bytes(std::span(next)));
  add(x, y, 2);
  const Fence fence = stream_->submit();
  fake_metal::release();
  EXPECT_THAT(read(stream_->wait(fence), x, 2), ::testing::ElementsAre(101, 202));
}

TEST_F(MetalDeviceTest, MemoryOutlivesTheWorkThatUsesIt) {
  const View x = floats({5});
  const View y = floats({6});
  add(x, y, 1);
  stream_->submit();
  buffers_.pop_back();  // y: waits
  const Completed done = stream_->wait(stream_->submit());
  EXPECT_THAT(read(done, x, 1), ::testing::ElementsAre(11));
}

TEST_F(MetalDeviceTest, AFailureNamesTheKernel) {
  fake_metal::Options options;
  options.fail_kernel = "add_rows";
  fake_metal::set_options(options);
  const View x = floats({5});
  add(x, x, 1);
  try {
    stream_->wait(stream_->submit());
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), HasSubstr("add_rows"));
  }
  fake_metal::take_reports();
  fake_metal::set_options({});
  add(x, x, 1);  // the stream goes on
  stream_->wait(stream_->submit());
}

TEST_F(MetalDeviceTest, ABufferBeyondTheGpusLimitIsRefusedWithNumbers) {
  try {
    device_->allocate(size_t{10} << 30);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNoMemory);
    EXPECT_THAT(error.what(), HasSubstr("10737418240"));
  }
}

// A mapped file may be longer than any buffer: it is seen through windows.
TEST_F(MetalDeviceTest, WeightsInWindows) {
  fake_metal::Options options;
  options.max_buffer_bytes = 16384;
  fake_metal::set_options(options);
  constexpr size_t kBytes = 65536;
  const std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(16384, kBytes), std::free);
  auto* values = static_cast<float*>(memory.get());
  std::iota(values, values + kBytes / 4, 0.0f);
  buffers_.push_back(device_->bind({static_cast<const std::byte*>(memory.get()), kBytes}, nullptr));
  Buffer* weights = buffers_.back().get();
  const View out = floats(std::vector<float>(1024));
  for (const size_t offset : {size_t{0}, size_t{8192 - 2048}, size_t{16384 - 2048}, kBytes - 4096}) {
    stream_->copy({{weights, offset}, out, 4096});
    const std::vector<float> copied = read(stream_->wait(stream_->submit()), out, 1024);
    EXPECT_EQ(copied.front(), static_cast<float>(offset / 4));
    EXPECT_EQ(copied.back(), static_cast<float>(offset / 4 + 1023));
  }
}

// ---- how many dispatches a step takes
// --------------------------------------------------------------------------------

/// Dispatches of a decode step behind `context` positions, and of each kernel.
std::map<std::string, uint64_t> dispatches_of_a_step(bool fused, int context) {
  testing::DemoOptions options;
  options.directory = testing::mmfp4_demo();
  options.device = "metal-emulated";
  options.deterministic = false;
  options.model.max_tokens = 512;
  options.model.max_logit_rows = 512;
  options.model.use_fused_moe = fused;
  testing::DemoModel demo(options);
  KvSequence sequence(demo.cache());
  demo.feed(sequence, std::vector<int32_t>(static_cast<size_t>(context), 7), Role::kPrompt);
  fake_metal::take_counts();
  demo.feed(sequence, std::vector<int32_t>{11}, Role::kDecode);
  std::map<std::string, uint64_t> counts;
  for (const auto& [kernel, count] : fake_metal::take_counts()) counts[kernel] = count.dispatches;
  return counts;
}

int demo_layers() {
  return ModelConfig::from_json(Checkpoint::open(testing::mmfp4_demo()).config(), "config.json").n_layers;
}

// Outside the layers: the embedding, the last norm, the row that is wanted, the head.
TEST(MetalDispatches, ALayerTakesAtMostNineInDecode) {
  for (const int context : {1, 300}) {
    uint64_t total = 0;
    for (const auto& [kernel, count] : dispatches_of_a_step(true, context)) total += count;
    EXPECT_LE(total, static_cast<uint64_t>(9 * demo_layers() + 4)) << "behind " << context << " positions";
  }
}

TEST(MetalDispatches, WithoutFusionTheReferenceOpsRun) {
  const auto counts = dispatches_of_a_step(false, 1);
  EXPECT_FALSE(counts.contains("moe_gate_up"));
  EXPECT_FALSE(counts.contains("mla_prepare"));
  EXPECT_FALSE(counts.contains("normed_route"));
  EXPECT_TRUE(counts.contains("expert_linear"));
  EXPECT_TRUE(counts.contains("kv_write"));
}

}  // namespace
}  // namespace marlin
