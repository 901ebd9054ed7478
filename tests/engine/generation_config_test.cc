#include "engine/generation_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "marlin/error.h"

namespace marlin {
namespace {

TEST(GenerationConfig, ReadsWhatIsThere) {
  const auto config = GenerationConfig::parse(
      R"({"do_sample":true,"temperature":0.6,"top_p":0.95,"top_k":40,"min_p":0.05,"repetition_penalty":1.1,
          "eos_token_id":[5,7],"transformers_version":"5"})",
      "g.json");
  EXPECT_FLOAT_EQ(config.sampling.temperature, 0.6f);
  EXPECT_FLOAT_EQ(config.sampling.top_p, 0.95f);
  EXPECT_EQ(config.sampling.top_k, 40);
  EXPECT_FLOAT_EQ(config.sampling.min_p, 0.05f);
  EXPECT_FLOAT_EQ(config.sampling.repetition_penalty, 1.1f);
  EXPECT_THAT(config.eos_ids, ::testing::ElementsAre(5, 7));
}

TEST(GenerationConfig, DefaultsAndGreedy) {
  const auto empty = GenerationConfig::parse(R"({"temperature":null,"eos_token_id":3})", "g.json");
  EXPECT_FLOAT_EQ(empty.sampling.temperature, 1.0f);
  EXPECT_THAT(empty.eos_ids, ::testing::ElementsAre(3));
  EXPECT_EQ(GenerationConfig::parse(R"({"do_sample":false,"temperature":0.7})", "g.json").sampling.temperature, 0.0f);
  EXPECT_TRUE(GenerationConfig::load("/nonexistent").eos_ids.empty());
}

TEST(GenerationConfig, BadFieldsAreNamed) {
  const std::pair<const char*, const char*> cases[] = {{R"({"temperature":"hot"})", "temperature"},
                                                       {R"({"temperature":-1})", "temperature"},
                                                       {R"({"top_k":1.5})", "top_k"},
                                                       {R"({"top_p":2})", "top_p"},
                                                       {R"({"eos_token_id":["a"]})", "eos_token_id"},
                                                       {R"({"eos_token_id":1e300})", "eos_token_id"},
                                                       {R"({"do_sample":1})", "do_sample"},
                                                       {R"([1])", "array"},
                                                       {"{", "JSON"}};
  for (const auto& [json, part] : cases) {
    try {
      GenerationConfig::parse(json, "g.json");
      ADD_FAILURE() << json;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadFile);
      EXPECT_THAT(error.what(), ::testing::AllOf(::testing::HasSubstr("g.json"), ::testing::HasSubstr(part)));
    }
  }
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Fault {
  void (*set)(SamplingParams& sampling);
  const char* part;
};

TEST(SamplingFault, NamesTheParameter) {
  const Fault faults[] = {{[](SamplingParams& s) { s.temperature = -1; }, "temperature"},
                          {[](SamplingParams& s) { s.temperature = kNan; }, "temperature"},
                          {[](SamplingParams& s) { s.temperature = kInf; }, "temperature"},
                          {[](SamplingParams& s) { s.top_k = -1; }, "top_k"},
                          {[](SamplingParams& s) { s.top_p = 1.5f; }, "top_p"},
                          {[](SamplingParams& s) { s.top_p = kNan; }, "top_p"},
                          {[](SamplingParams& s) { s.min_p = -0.1f; }, "min_p"},
                          {[](SamplingParams& s) { s.repetition_penalty = 0; }, "repetition_penalty"},
                          {[](SamplingParams& s) { s.presence_penalty = kNan; }, "presence_penalty"},
                          {[](SamplingParams& s) { s.frequency_penalty = kInf; }, "frequency_penalty"},
                          {[](SamplingParams& s) {
                             s.logit_bias = {{10, 1.0f}};
                           },
                           "id 10"},
                          {[](SamplingParams& s) {
                             s.logit_bias = {{-1, 1.0f}};
                           },
                           "id -1"},
                          {[](SamplingParams& s) {
                             s.logit_bias = {{1, kNan}};
                           },
                           "logit_bias"},
                          {[](SamplingParams& s) {
                             s.logit_bias = {{1, kInf}};
                           },
                           "logit_bias"},
                          {[](SamplingParams& s) { s.top_logprobs = 3; }, "needs logprobs"},
                          {[](SamplingParams& s) {
                             s.logprobs = true;
                             s.top_logprobs = 21;
                           },
                           "0 to 20"}};
  for (const Fault& fault : faults) {
    SamplingParams sampling;
    fault.set(sampling);
    EXPECT_THAT(sampling_fault(sampling, 10), ::testing::HasSubstr(fault.part));
  }
  SamplingParams good;
  EXPECT_EQ(sampling_fault(good, 10), "");
  good.logit_bias = {{9, -kInf}};
  EXPECT_EQ(sampling_fault(good, 10), "");
}

}  // namespace
}  // namespace marlin
