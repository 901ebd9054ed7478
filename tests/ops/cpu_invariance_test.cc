// Bit-identical results of the CPU backend, whatever the number of threads and whatever rows share a batch.
#include <gtest/gtest.h>

#include <algorithm>

#include "backend/cpu/cpu_device.h"
#include "marlin/error.h"
#include "op_test_util.h"

namespace marlin::op_test {
namespace {

std::vector<Output> run_on(Device& device, const OpCase& op_case, RowRange range) {
  Rig rig(device);
  return op_case.run(rig, range);
}

std::unique_ptr<Device> cpu(int threads) {
  return make_cpu_device({.threads = threads, .deterministic = false});
}

/// Runs the case in pieces of `step` rows and joins the outputs.
std::vector<Output> run_in_pieces(Device& device, const OpCase& op_case, int64_t step) {
  std::vector<Output> joined;
  for (int64_t first = 0; first < op_case.rows; first += step) {
    const std::vector<Output> piece = run_on(device, op_case, {first, std::min(step, op_case.rows - first)});
    if (joined.empty()) {
      joined = piece;
      continue;
    }
    for (size_t i = 0; i < piece.size(); ++i) {
      joined[i].values.insert(joined[i].values.end(), piece[i].values.begin(), piece[i].values.end());
    }
  }
  return joined;
}

using Param = std::tuple<std::string, OpCase>;

/// Skips kernels that this processor cannot run.
class CpuInvarianceTest : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    if (!device(1)) GTEST_SKIP() << kernels() << " cannot be used here";
  }
  const std::string& kernels() const { return std::get<0>(GetParam()); }
  const OpCase& op_case() const { return std::get<1>(GetParam()); }
  std::unique_ptr<Device> device(int threads) const { return make_if_available("cpu_" + kernels(), threads); }
};

TEST_P(CpuInvarianceTest, ThreadsDoNotShow) {
  const RowRange all{0, op_case().rows};
  const std::vector<Output> expected = run_on(*device(1), op_case(), all);
  for (const int threads : {2, 5}) {
    EXPECT_EQ(compare_bits(run_on(*device(threads), op_case(), all), expected), "") << threads;
  }
}

TEST_P(CpuInvarianceTest, OtherRowsDoNotShow) {
  const std::unique_ptr<Device> two = device(2);
  const std::vector<Output> expected = run_on(*two, op_case(), {0, op_case().rows});
  for (const int64_t step : {1, 2, 7}) {
    EXPECT_EQ(compare_bits(run_in_pieces(*two, op_case(), step), expected), "") << "pieces of " << step << " rows";
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, CpuInvarianceTest,
                         testing::Combine(testing::ValuesIn(cpu_kernels()), testing::ValuesIn(all_cases())),
                         [](const testing::TestParamInfo<Param>& test) {
                           return std::get<0>(test.param) + "_" + std::get<1>(test.param).name;
                         });

class CpuFusedMoeTest : public testing::TestWithParam<std::string> {};

TEST_P(CpuFusedMoeTest, EqualsItsDecomposition) {
  const std::unique_ptr<Device> device = make_if_available("cpu_" + GetParam(), 3);
  if (!device) GTEST_SKIP() << GetParam() << " cannot be used here";
  const std::vector<OpCase> cases = all_cases();
  int compared = 0;
  for (const OpCase& fused : cases) {
    if (!fused.name.starts_with("FusedMoe")) continue;
    const std::string twin = "Decomposed" + fused.name.substr(5);
    const auto parts = std::find_if(cases.begin(), cases.end(), [&](const OpCase& c) { return c.name == twin; });
    ASSERT_NE(parts, cases.end()) << twin;
    const RowRange all{0, fused.rows};
    EXPECT_EQ(compare_bits(run_on(*device, fused, all), run_on(*device, *parts, all)), "") << fused.name;
    ++compared;
  }
  EXPECT_EQ(compared, 4);
}

INSTANTIATE_TEST_SUITE_P(Cpu, CpuFusedMoeTest, testing::ValuesIn(cpu_kernels()),
                         [](const testing::TestParamInfo<std::string>& test) { return test.param; });

TEST(CpuDeviceTest, UnknownKernelsAreAnError) {
  const DeviceOptions options{.threads = 1, .deterministic = false, .kernels = "sse9"};
  try {
    make_cpu_device(options);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("portable"), std::string::npos) << error.what();
  }
}

TEST(CpuDeviceTest, RefusesANegativeThreadCount) {
  EXPECT_THROW(cpu(-1), std::exception);
  EXPECT_GE(cpu(0)->info().threads, 1);
  EXPECT_EQ(cpu(3)->info().threads, 3);
}

TEST(CpuDeviceTest, BindUsesTheMemoryInPlaceAndKeepsItsOwner) {
  const std::unique_ptr<Device> device = cpu(1);
  auto owner = std::make_shared<std::vector<std::byte>>(64, std::byte{7});
  const std::weak_ptr<std::vector<std::byte>> watch = owner;
  std::unique_ptr<Buffer> buffer = device->bind(*owner, owner);
  (*owner)[5] = std::byte{9};
  owner.reset();
  EXPECT_FALSE(watch.expired());
  const std::unique_ptr<Stream> stream = device->make_stream();
  std::vector<std::byte> bytes(64);
  stream->read(stream->wait(stream->submit()), {buffer.get(), 0}, bytes);
  EXPECT_EQ(bytes[5], std::byte{9});
  buffer.reset();
  EXPECT_TRUE(watch.expired());
}

TEST(CpuDeviceDeathTest, ReadNeedsAFenceThatCoversTheLastWrite) {
  const std::unique_ptr<Device> device = cpu(1);
  const std::unique_ptr<Stream> stream = device->make_stream();
  const std::unique_ptr<Buffer> buffer = device->allocate(64);
  const Completed early = stream->wait(stream->submit());
  std::vector<std::byte> bytes(64);
  stream->upload({buffer.get(), 0}, bytes);
  EXPECT_DEATH(stream->read(early, {buffer.get(), 0}, bytes), "read of work");
}

// Byte by byte what ops.h says a Q8 row is, at the place it says.
TEST(CpuKvCacheTest, Q8RowLiesWhereTheLayoutSays) {
  const std::unique_ptr<Device> device = cpu(1);
  Rig rig(*device);
  constexpr int kLatent = 70;
  constexpr int kRope = 3;
  std::vector<float> row(kLatent + kRope);
  for (size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>(static_cast<int>(i) - 30);
  KvView kv;
  kv.layout = {KvType::kQ8, kLatent, kRope, 3};
  kv.layer = 2;
  kv.pool = rig.allocate(kv.layout.block_bytes() * 2);
  TokenBatch batch;
  batch.n_tokens = 1;
  batch.positions = rig.array(std::vector<int32_t>{66});
  batch.slots = rig.array(std::vector<int32_t>{0});
  batch.block_tables = rig.array(std::vector<int32_t>{0, 1});
  batch.n_slots = 1;
  batch.blocks_per_slot = 2;
  const View x = rig.act(row);
  rig.stream().kv_write({&batch, kv, x, kLatent, x.at(kLatent * sizeof(float)), kRope});
  const size_t offset = (1 * 3 + 2) * 64 * kv.layout.row_bytes() + 2 * kv.layout.row_bytes();
  const std::vector<double> values = rig.read<int8_t>(kv.pool.at(offset), kLatent + kRope);
  const std::vector<double> scales = rig.read<uint16_t>(kv.pool.at(offset + kLatent + kRope), 3);
  EXPECT_EQ(values[0], -115);  // -30 of largest 33: -30 / fp16(33 / 127)
  EXPECT_EQ(values[63], 127);
  EXPECT_EQ(values[64], 111);  // a group of its own: 34 of 39
  EXPECT_EQ(values[69], 127);
  EXPECT_EQ(values[70], 121);  // the rope part starts anew: 40 of 42
  EXPECT_EQ(values[72], 127);
  EXPECT_EQ(scales[0], 0x3428);  // fp16(33 / 127)
}

}  // namespace
}  // namespace marlin::op_test
