// The arithmetic of `mmfp4 bench`: lists, plans, statistics, rates, expected bytes.
#include "cli/bench_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "marlin/error.h"

namespace marlin::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int> parse(const std::string& text) {
  return parse_list(text, 0, 10000, "-p");
}

TEST(BenchLists, NumbersAndRanges) {
  EXPECT_THAT(parse("512"), ElementsAre(512));
  EXPECT_THAT(parse("0,4096,7"), ElementsAre(0, 4096, 7));
  EXPECT_THAT(parse("1-4"), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(parse("0-8192+4096"), ElementsAre(0, 4096, 8192));
  EXPECT_THAT(parse("0-10+4,3"), ElementsAre(0, 4, 8, 3));
  EXPECT_THAT(parse("128-1000*2"), ElementsAre(128, 256, 512));
  EXPECT_THAT(parse("5-5"), ElementsAre(5));
  EXPECT_THAT(parse_list("2000000000-2147483647*2", 0, 2147483647, "-p"), ElementsAre(2000000000));
}

TEST(BenchLists, WhatIsNone) {
  for (const char* text :
       {"",      ",",    "1,",   ",1",   "x",   "1x",    "-1",         "1-",          "4-1",   "1-4*1",  "0-4*2",
        "1-4+0", "1-4*", "1--4", "1 ,2", "1.5", "10001", "9000-10001", "99999999999", "1-4-8", "0-2000", "+5"}) {
    try {
      parse(text);
      ADD_FAILURE() << "accepted '" << text << "'";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      EXPECT_THAT(error.what(), HasSubstr("-p: '" + std::string(text) + "'"));
    }
  }
  EXPECT_THROW(parse_list("0", 1, 4, "-b"), Error);
}

std::vector<std::string> labels(const std::vector<BenchTest>& tests) {
  std::vector<std::string> names;
  names.reserve(tests.size());
  for (const BenchTest& test : tests) names.push_back(test.label() + " x" + std::to_string(test.batch));
  return names;
}

TEST(BenchPlan, AllCombinationsWithoutZeros) {
  const std::vector<int> prompts = {512, 0};
  const std::vector<int> generations = {128};
  const std::vector<int> depths = {0, 4096};
  const std::vector<int> batches = {1, 2};
  EXPECT_THAT(labels(plan_tests(prompts, generations, depths, batches)),
              ElementsAre("pp512 x1", "tg128 x1", "pp512 x2", "tg128 x2", "pp512 @ d4096 x1", "tg128 @ d4096 x1",
                          "pp512 @ d4096 x2", "tg128 @ d4096 x2"));
  const std::vector<int> none = {0};
  EXPECT_TRUE(plan_tests(none, none, depths, batches).empty());
}

TEST(BenchPlan, LongestSequence) {
  const BenchTest prompt = {.prompt = true, .tokens = 512, .depth = 4096, .batch = 4};
  const BenchTest alone = {.prompt = false, .tokens = 128, .depth = 0, .batch = 1};
  EXPECT_EQ(longest_sequence(std::vector{prompt}), 4096 + 512 + 1);
  EXPECT_EQ(longest_sequence(std::vector{alone}), 1 + 1 + 128);
  const BenchTest together = {.prompt = false, .tokens = 1024, .depth = 4096, .batch = 4};
  EXPECT_GE(longest_sequence(std::vector{alone, together, prompt}), 4096 + 1 + 1024);
}

TEST(BenchStatistics, Spread) {
  const Spread odd = spread_of({3, 1, 2});
  EXPECT_EQ(odd.median, 2);
  EXPECT_EQ(odd.min, 1);
  EXPECT_EQ(odd.max, 3);
  EXPECT_EQ(spread_of({4, 1, 3, 2}).median, 2.5);
  EXPECT_EQ(spread_of({7}).median, 7);
}

TEST(BenchStatistics, OneSequenceCountsFromItsFirstToken) {
  EXPECT_DOUBLE_EQ(decode_rate(std::vector<std::vector<double>>{{100, 110, 120, 130}}), 3 / 0.030);
  EXPECT_EQ(decode_rate(std::vector<std::vector<double>>{{100}}), 0);
  EXPECT_EQ(decode_rate(std::vector<std::vector<double>>{{}}), 0);
}

// Steps of 10 ms from 20 to 60 are common to both; before and after, one of them has the machine to itself.
TEST(BenchStatistics, OnlyTheTimeInWhichAllDecodeCounts) {
  const std::vector<double> early = {1, 2, 3, 20.1, 30.1, 40.1, 50.1, 60.1};
  const std::vector<double> late = {20, 30, 40, 50, 60, 61, 62, 63};
  EXPECT_NEAR(decode_rate(std::vector{early, late}), 200, 1e-9);
  EXPECT_NEAR(decode_rate(std::vector{late, early}), 200, 1e-9);
  const std::vector<double> after = {100, 110, 120};
  EXPECT_EQ(decode_rate(std::vector{early, after}), 0);
}

TEST(BenchBytes, ExpectedExperts) {
  EXPECT_DOUBLE_EQ(expected_experts(64, 4, 1), 4);
  EXPECT_NEAR(expected_experts(64, 4, 2), 4 + 4 * 60.0 / 64, 1e-12);
  EXPECT_NEAR(expected_experts(64, 4, 1000), 64, 1e-9);
  EXPECT_DOUBLE_EQ(expected_experts(8, 8, 3), 8);
}

TEST(BenchBytes, AStepReadsCommonWeightsOnce) {
  ModelInfo info;
  info.weight_bytes_per_token = 1000;
  info.expert_bytes_per_token = 400;
  info.n_experts = 64;
  info.experts_per_token = 4;
  EXPECT_DOUBLE_EQ(step_bytes(info, 1), 1000);
  EXPECT_NEAR(step_bytes(info, 2), 600 + 100 * (4 + 4 * 60.0 / 64), 1e-9);
  info.n_experts = 0;
  info.experts_per_token = 0;
  info.expert_bytes_per_token = 0;
  EXPECT_DOUBLE_EQ(step_bytes(info, 8), 1000);
}

}  // namespace
}  // namespace marlin::cli
