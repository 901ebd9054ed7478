// The executor: positions, arguments, schedules, workers, and the defects that it finds by itself.
#include <gmock/gmock.h>
#include <sys/mman.h>

#include "metal/emulator_test_util.h"

namespace marlin::emulator {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<Options> all_options() {
  std::vector<Options> result;
  for (int workers : {1, 3}) {
    result.push_back({.schedule = Schedule::kForward, .workers = workers});
    result.push_back({.schedule = Schedule::kReverse, .workers = workers});
    for (uint64_t seed = 1; seed <= 4; ++seed) {
      result.push_back({.schedule = Schedule::kRandom, .seed = seed, .workers = workers});
    }
  }
  return result;
}

/// The errors of a defective dispatch, the same defect in every schedule.
void expect_error(const Dispatch& dispatch, const std::string& part) {
  for (const Options& options : all_options()) {
    const Outcome outcome = run(dispatch, options);
    EXPECT_THAT(joined(outcome.errors), HasSubstr(part));
  }
}

// ---- what a correct kernel sees ------------------------------------------------------------------------------------

TEST(Emulator, NamesKernelsAndTheirParameters) {
  EXPECT_THAT(kernel_names(), testing::IsSupersetOf({"exchange", "scale_float", "scale_half", "simd_votes"}));
  EXPECT_FALSE(find_kernel("scale"));
  const Kernel* exchange = find_kernel("exchange");
  ASSERT_TRUE(exchange);
  EXPECT_EQ(exchange->file, "tests/metal/emulator_kernels/legal.metal");
  EXPECT_THAT(exchange->buffers, ElementsAre(0));
  EXPECT_THAT(exchange->threadgroup_buffers, ElementsAre(1));
  ASSERT_EQ(exchange->constants.size(), 2u);
  EXPECT_EQ(exchange->constants[1].name, "OFFSET");
  EXPECT_EQ(exchange->constants[1].index, 4);
  EXPECT_EQ(exchange->constants[1].type, "float");
  EXPECT_EQ(exchange->constants[1].size, 4u);
}

TEST(Emulator, TellsThreadsTheirPositions) {
  const Size groups{3, 2, 2}, threads{5, 4, 3};
  for (const Options& options : all_options()) {
    auto out = region_for<uint32_t>(24 * groups.count() * threads.count());
    run_cleanly(dispatch_of("positions", {out}, groups, threads), options);
    const auto rows = values_of<uint32_t>(*out);
    for (uint32_t at = 0; at < groups.count() * threads.count(); ++at) {
      const uint32_t x = at % 15, y = at / 15 % 8, z = at / 120;
      const uint32_t index = (z % 3 * 4 + y % 4) * 5 + x % 5;
      const std::vector<uint32_t> row(rows.begin() + 24 * at, rows.begin() + 24 * (at + 1));
      ASSERT_EQ(row, (std::vector<uint32_t>{x % 5, y % 4, z % 3, x,  y, z, x / 5, y / 4,      z / 3,      5, 4,  3,
                                            3,     2,     2,     15, 8, 6, index, index % 32, index / 32, 2, 32, at}));
    }
  }
}

TEST(Emulator, SetsFunctionConstantsForEachDispatch) {
  auto out = region_for<float>(4);
  Dispatch dispatch = dispatch_of("constants", {out}, {1}, {4});
  dispatch.constants = {{3, bytes_of(uint32_t{2})}, {4, bytes_of(0.5f)}};
  run_cleanly(dispatch);
  EXPECT_THAT(values_of<float>(*out), ElementsAre(0.5f, 2.5f, 4.5f, 6.5f));
  dispatch.constants = {{3, bytes_of(uint32_t{1})}};
  run_cleanly(dispatch);
  EXPECT_THAT(values_of<float>(*out), ElementsAre(-1, 0, 1, 2));
  dispatch.constants = {{3, bytes_of(uint8_t{1})}};
  expect_error(dispatch, "function constant 3 ('FACTOR') has 4 bytes and got 1");
  dispatch.constants = {{9, bytes_of(uint32_t{1})}};
  expect_error(dispatch, "not declared");
}

TEST(Emulator, SharesThreadgroupMemoryWithinAThreadgroup) {
  for (const Options& options : all_options()) {
    auto out = region_for<uint32_t>(100);
    Dispatch dispatch = dispatch_of("exchange", {out}, {1}, {100});
    dispatch.threadgroup_bytes[1] = 400;
    const Outcome outcome = run(dispatch, options);
    EXPECT_THAT(outcome.errors, IsEmpty());
    EXPECT_EQ(outcome.threadgroup_bytes, 2 * 128 * 4 + 4 + 400u);
    const auto values = values_of<uint32_t>(*out);
    for (uint32_t i = 0; i < 100; ++i) EXPECT_EQ(values[i], 10 * ((i + 40) % 100) + (99 - i) + 1000);
  }
}

TEST(Emulator, SynchronisesSimdgroups) {
  for (const Options& options : all_options()) {
    auto out = region_for<uint32_t>(128);
    run_cleanly(dispatch_of("simdgroup_exchange", {out}, {1}, {128}), options);
    const auto values = values_of<uint32_t>(*out);
    for (uint32_t i = 0; i < 128; ++i) EXPECT_EQ(values[i], i ^ 1);
  }
}

TEST(Emulator, PassesBarriersInLoops) {
  for (const Options& options : all_options()) {
    auto out = region_for<uint32_t>(3);
    run_cleanly(dispatch_of("loops", {out}, {1}, {96}), options);
    EXPECT_THAT(values_of<uint32_t>(*out), Each(32 * 8));
  }
}

TEST(Emulator, CountsWithAtomics) {
  for (const Options& options : all_options()) {
    auto total = region_of<uint32_t>({0});
    auto sum = region_of<float>({0});
    auto extremes = region_of<int32_t>({100, -100, 0});
    run_cleanly(dispatch_of("counters", {total, sum, extremes}, {50}, {64}), options);
    EXPECT_EQ(values_of<uint32_t>(*total)[0], 3200u);
    EXPECT_EQ(values_of<float>(*sum)[0], 1600.0f);
    EXPECT_THAT(values_of<int32_t>(*extremes), ElementsAre(-3, 3199, 255));
  }
}

TEST(Emulator, RunsInstantiationsByTheirNames) {
  auto floats = region_of<float>({1, 2, 3, 4});
  Dispatch dispatch = dispatch_of("scale_float", {floats}, {1}, {4});
  dispatch.buffers[1].bytes = bytes_of(1.5f);
  run_cleanly(dispatch);
  EXPECT_THAT(values_of<float>(*floats), ElementsAre(1.5f, 3.0f, 4.5f, 6.0f));
  auto halves = region_of<uint16_t>({0x3C00, 0x4000});  // 1 and 2
  dispatch = dispatch_of("scale_half", {halves}, {1}, {2});
  dispatch.buffers[1].bytes = bytes_of(2.0f);
  run_cleanly(dispatch);
  EXPECT_THAT(values_of<uint16_t>(*halves), ElementsAre(0x4000, 0x4400));
}

TEST(Emulator, BindsAtAnyOffsetThatTheTypeAllows) {
  auto halves = region_of<uint16_t>({0x3C00, 0x3C00, 0x3C00});
  Dispatch dispatch = dispatch_of("scale_half", {halves}, {1}, {2});
  dispatch.buffers[0].offset = 2;
  dispatch.buffers[1].bytes = bytes_of(2.0f);
  run_cleanly(dispatch);
  EXPECT_THAT(values_of<uint16_t>(*halves), ElementsAre(0x3C00, 0x4000, 0x4000));
}

TEST(Emulator, WorksOnMemoryOfOthers) {
  std::vector<float> mine = {1, 2};
  Dispatch dispatch = dispatch_of("scale_float", {Region::adopt(mine.data(), 8)}, {1}, {2});
  dispatch.buffers[1].bytes = bytes_of(3.0f);
  run_cleanly(dispatch);
  EXPECT_THAT(mine, ElementsAre(3, 6));
}

TEST(Emulator, LeavesUnboundBuffersAloneUnlessTouched) {
  auto out = region_for<uint32_t>(2);
  Dispatch dispatch = dispatch_of("optional_buffer", {out}, {1}, {2});
  run_cleanly(dispatch);
  EXPECT_THAT(values_of<uint32_t>(*out), Each(7));
  dispatch.constants = {{3, bytes_of(uint32_t{1})}};
  expect_error(dispatch, "(unbound: buffer 5)");
}

TEST(Emulator, FillsNewMemoryWithNan) {
  auto region = Region::allocate(1000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(region->data()) % 256, 0u);
  EXPECT_THAT(values_of<uint8_t>(*region), Each(0xFF));
}

// ---- what a defective one causes -----------------------------------------------------------------------------------

TEST(Emulator, ReportsDivergentBarriers) {
  auto out = region_for<uint32_t>(64);
  const char* const file = "tests/metal/emulator_kernels/defects.metal";
  for (const char* kernel : {"barrier_in_branch", "two_barriers", "barrier_in_uneven_loop"}) {
    const Dispatch dispatch = dispatch_of(kernel, {out}, {2}, {64});
    expect_error(dispatch, "divergent barrier");
    expect_error(dispatch, file);
  }
}

TEST(Emulator, ReportsDivergentSimdOperations) {
  auto out = region_for<uint32_t>(64);
  for (const char* kernel : {"simd_sum_in_branch", "two_simd_operations"}) {
    expect_error(dispatch_of(kernel, {out}, {1}, {64}), "simd operation in divergent control flow");
  }
}

TEST(Emulator, ReportsAccessesPastTheEnd) {
  auto out = region_for<uint32_t>(64);
  out->label = "results";
  Dispatch dispatch = dispatch_of("write_past_end", {out}, {1}, {64});
  dispatch.buffers[1].bytes = bytes_of(uint32_t{64});
  expect_error(dispatch, "past the end of buffer 'results' (256 bytes)");
  dispatch.buffers[1].bytes = bytes_of(uint32_t{1} << 26);
  expect_error(dispatch, "out of bounds");
  dispatch.buffers[1].bytes = bytes_of(uint32_t{0});
  run_cleanly(dispatch);
}

TEST(Emulator, ReportsReadsPastInlineBytes) {
  Dispatch dispatch = dispatch_of("read_inline", {region_for<uint32_t>(4)}, {1}, {4});
  dispatch.buffers[1].bytes.resize(256);
  expect_error(dispatch, "past the end of buffer 'setBytes'");
}

TEST(Emulator, ReportsUseOfReleasedMemory) {
  auto gone = region_of<uint32_t>({42});
  auto address = region_of<uint64_t>({reinterpret_cast<uint64_t>(gone->data())});
  Dispatch dispatch = dispatch_of("follow_address", {region_for<uint32_t>(1), address}, {1}, {1});
  dispatch.resident = {gone};
  run_cleanly(dispatch);
  EXPECT_EQ(values_of<uint32_t>(*dispatch.buffers[0].region)[0], 42u);
  dispatch.resident.clear();
  gone.reset();
  expect_error(dispatch, "out of bounds");
}

TEST(Emulator, ReportsStoresToReadOnlyMemory) {
  void* page = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  Dispatch dispatch = dispatch_of("scale_float", {Region::adopt(page, 4096, true)}, {1}, {2});
  dispatch.buffers[1].bytes = bytes_of(3.0f);
  expect_error(dispatch, "store to read-only memory");
  munmap(page, 4096);
}

TEST(Emulator, KeepsMetalsLimits) {
  auto out = region_for<uint32_t>(2048);
  expect_error(dispatch_of("barrier_in_branch", {out}, {1}, {1025}), "1025 threads per threadgroup");
  expect_error(dispatch_of("barrier_in_branch", {out}, {0}, {32}), "no threadgroups");
  expect_error(dispatch_of("too_much_memory", {out}, {1}, {32}), "36000 bytes, over 32768");
  Dispatch dispatch = dispatch_of("exchange", {out}, {1}, {32});
  expect_error(dispatch, "threadgroup(1) has no length");
  dispatch.threadgroup_bytes[1] = 130;
  expect_error(dispatch, "no multiple of 16");
  dispatch.threadgroup_bytes[1] = 128;
  run_cleanly(dispatch);
  dispatch = dispatch_of("scale_float", {out}, {1}, {2});
  dispatch.buffers[1].bytes.resize(4097);
  expect_error(dispatch, "over 4096");
  dispatch.buffers[0].offset = out->size();
  expect_error(dispatch, "is past the end");
}

}  // namespace
}  // namespace marlin::emulator
