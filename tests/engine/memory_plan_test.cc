#include "engine/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "marlin/error.h"

namespace marlin {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

/// The real model on a machine with plenty of memory.
MemoryRequest roomy() {
  MemoryRequest request;
  request.model = "GLM-4.7-Flash";
  request.weight_bytes = 17 * kGiB;
  request.workspace_bytes = kGiB / 4;
  request.block_bytes = uint64_t{64} * 54144;
  request.model_context = 202752;
  request.max_parallel = 4;
  request.memory.total = 64 * kGiB;
  request.memory.available = 60 * kGiB;
  return request;
}

std::string refusal(const MemoryRequest& request, ErrorCode code) {
  try {
    plan_memory(request);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return "";
}

TEST(MemoryPlan, TheDefaultContextIsLimitedByTheDefaultTheModelAndTheMemory) {
  MemoryRequest request = roomy();
  EXPECT_EQ(plan_memory(request).context, 32768);
  EXPECT_GE(plan_memory(request).kv_blocks, 32768 / 64 + 1);
  request.model_context = 4000;
  EXPECT_EQ(plan_memory(request).context, 4000);
  request = roomy();
  request.memory.available = 20 * kGiB;
  const MemoryPlan plan = plan_memory(request);
  EXPECT_LT(plan.context, 32768);
  EXPECT_GT(plan.context, 4096);
  EXPECT_LE(
      request.weight_bytes + request.workspace_bytes + static_cast<uint64_t>(plan.kv_blocks) * request.block_bytes,
      request.memory.available);
}

TEST(MemoryPlan, UnknownMemoryLimitsNothing) {
  MemoryRequest request = roomy();
  request.memory = {};
  EXPECT_EQ(plan_memory(request).context, 32768);
  request.context = 202752;
  EXPECT_EQ(plan_memory(request).context, 202752);
}

TEST(MemoryPlan, ADeviceMayHaveLessThanTheMachine) {
  MemoryRequest request = roomy();
  request.device_budget = 16 * kGiB;
  EXPECT_THAT(refusal(request, ErrorCode::kNoMemory), ::testing::HasSubstr("the device has 16.0 GiB"));
}

TEST(MemoryPlan, RefusesWithAllFiguresAndTheSwap) {
  MemoryRequest request = roomy();
  request.memory = {.total = 16 * kGiB, .available = 10 * kGiB, .swap_total = 8 * kGiB, .swap_used = 3 * kGiB};
  const std::string message = refusal(request, ErrorCode::kNoMemory);
  for (const char* part : {"GLM-4.7-Flash", "17.0 GiB weights", "10.0 GiB of 16.0 GiB", "swap 3.0 GiB of 8.0 GiB"}) {
    EXPECT_THAT(message, ::testing::HasSubstr(part));
  }
  request.memory.swap_total = 0;
  EXPECT_THAT(refusal(request, ErrorCode::kNoMemory), ::testing::HasSubstr("no swap"));
}

TEST(MemoryPlan, ATooLargeContextIsToldWhatFits) {
  MemoryRequest request = roomy();
  request.memory.available = 20 * kGiB;
  request.context = 100000;
  EXPECT_THAT(refusal(request, ErrorCode::kNoMemory), ::testing::HasSubstr("a context of"));
  request.context = 300000;
  EXPECT_THAT(refusal(request, ErrorCode::kUsage), ::testing::HasSubstr("202752"));
}

TEST(MemoryPlan, SeveralFullContexts) {
  MemoryRequest request = roomy();
  request.context = 6400;
  request.contexts = 3;
  EXPECT_EQ(plan_memory(request).kv_blocks, 3 * 100 + 3);
  request.context = 200000;
  request.contexts = 4;
  request.memory.available = 50 * kGiB;
  EXPECT_THAT(refusal(request, ErrorCode::kNoMemory), ::testing::HasSubstr("200000 positions of 4 sequences each"));
}

TEST(MemoryPlan, GivenKvMemoryIsThePool) {
  MemoryRequest request = roomy();
  request.kv_memory = 100 * request.block_bytes;
  EXPECT_EQ(plan_memory(request).kv_blocks, 100);
  EXPECT_EQ(plan_memory(request).context, 6400);
  request.context = 1000;
  EXPECT_EQ(plan_memory(request).context, 1000);
  EXPECT_EQ(plan_memory(request).kv_blocks, 100);
  request.context = 10000;
  EXPECT_THAT(refusal(request, ErrorCode::kUsage), ::testing::HasSubstr("6400 positions"));
}

}  // namespace
}  // namespace marlin
