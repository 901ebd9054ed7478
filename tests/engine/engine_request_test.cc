// What a request can ask for: stops, budgets, penalties, biases, masks, parsing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "demo_engine.h"

namespace marlin::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

class EngineRequest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { engine_ = new Engine(demo_options()); }
  static void TearDownTestSuite() {
    delete engine_;
    engine_ = nullptr;
  }
  static Engine& engine() { return *engine_; }

 private:
  static inline Engine* engine_ = nullptr;
};

TEST_F(EngineRequest, AnswersAndStopsAtTheEndOfTheTurn) {
  const Result result = run(engine(), chat(engine(), "What is 23 + 45?", /*thinking=*/true));
  EXPECT_EQ(result.finished.reason, FinishReason::kStop);
  EXPECT_THAT(result.finished.output.content, HasSubstr("68"));
  EXPECT_EQ(result.ids().back(), engine().token_id("<|user|>"));
  EXPECT_THAT(result.finished.text, Not(HasSubstr("<|user|>")));
  EXPECT_THAT(result.finished.text, HasSubstr("</think>"));
  EXPECT_EQ(result.tokens.size(), result.ids().size());
  EXPECT_EQ(joined_content(result), result.finished.output.content);
}

TEST_F(EngineRequest, IgnoringEosGoesOnAndKeepsItOutOfTheText) {
  Request request = chat(engine(), "What is the capital of France?");
  request.ignore_eos = true;
  request.max_tokens = 40;
  const Result result = run(engine(), request);
  EXPECT_EQ(result.finished.reason, FinishReason::kLength);
  EXPECT_EQ(result.ids().size(), 40);
  EXPECT_THAT(result.ids(), ::testing::Contains(*engine().token_id("<|user|>")));
  EXPECT_THAT(result.finished.text, Not(HasSubstr("<|user|>")));
}

TEST_F(EngineRequest, ParsesToolCalls) {
  const Json tools = Json::parse(R"([{"type":"function","function":{"name":"get_weather","description":
      "Get the weather of a city","parameters":{"type":"object","properties":{"city":{"type":"string"}},
      "required":["city"]}}}])");
  Conversation conversation;
  conversation.messages.push_back({{"role", "user"}, {"content", "What is the weather in Paris?"}});
  conversation.tools = tools;
  Request request;
  request.prompt = engine().tokenize(engine().render(conversation));
  request.sampling.temperature = 0;
  request.starts_in_reasoning = true;
  request.tools = tools;
  const Result result = run(engine(), request);
  ASSERT_EQ(result.finished.output.tool_calls.size(), 1);
  EXPECT_EQ(result.finished.output.tool_calls[0].name, "get_weather");
  EXPECT_EQ(result.finished.output.tool_calls[0].arguments.dump(), R"({"city":"Paris"})");
  EXPECT_EQ(engine().parse(result.finished.text, true, tools).tool_calls.size(), 1);
}

// Every place of the answer as a stop string: inside tokens, across them, and across characters.
TEST_F(EngineRequest, StopStringsAtEverySplit) {
  const Result whole = run(engine(), chat(engine(), "Hello"));
  const std::string text = whole.finished.text;
  ASSERT_GE(text.size(), 40);
  for (size_t begin = 1; begin < 30; begin += 2) {
    for (const size_t length : {1, 5}) {
      const std::string stop = text.substr(begin, length);
      Request request = chat(engine(), "Hello");
      request.stop = {"never appears", stop};
      const Result result = run(engine(), request);
      EXPECT_EQ(result.finished.reason, FinishReason::kStop);
      EXPECT_EQ(result.finished.matched_stop, stop);
      EXPECT_EQ(result.finished.text, text.substr(0, text.find(stop)));
      EXPECT_EQ(joined_content(result), result.finished.text);
    }
  }
}

TEST_F(EngineRequest, AStopStringThatDoesNotComeChangesNothing) {
  const Result plain = run(engine(), chat(engine(), "Hello"));
  Request request = chat(engine(), "Hello");
  request.stop = {plain.finished.text + "!"};  // held back to the very end
  const Result result = run(engine(), request);
  EXPECT_EQ(result.finished.matched_stop, "");
  EXPECT_EQ(result.finished.text, plain.finished.text);
  EXPECT_EQ(joined_content(result), plain.finished.text);
}

TEST_F(EngineRequest, TheThinkingBudgetIsExact) {
  const int32_t think_end = *engine().token_id("</think>");
  const Result free = run(engine(), chat(engine(), "What is 23 + 45?", true));
  const auto thought = std::ranges::find(free.ids(), think_end) - free.ids().begin();
  ASSERT_GT(thought, 5);
  for (const int budget : {0, 1, 5, static_cast<int>(thought), 1000}) {
    Request request = chat(engine(), "What is 23 + 45?", true);
    request.max_thinking_tokens = budget;
    const Result result = run(engine(), request);
    const auto end = std::ranges::find(result.ids(), think_end) - result.ids().begin();
    EXPECT_EQ(end, std::min<std::ptrdiff_t>(budget, thought));
    EXPECT_EQ(result.finished.reason, FinishReason::kStop);
    EXPECT_FALSE(result.finished.output.content.empty());
    EXPECT_TRUE(std::equal(result.ids().begin(), result.ids().begin() + end, free.ids().begin()));
    if (budget >= thought) {
      EXPECT_THAT(result.ids(), ElementsAreArray(free.ids()));
    }
  }
}

TEST_F(EngineRequest, TheThinkingBudgetHoldsForUnparsedOutputAndSampling) {
  Request request = chat(engine(), "What is 23 + 45?", true);
  request.parse_output = false;
  request.max_thinking_tokens = 3;
  request.sampling.temperature = 1;
  request.sampling.seed = 3;
  request.sampling.presence_penalty = 1;
  request.sampling.logit_bias = {{*engine().token_id("</think>"), -100.0f}};
  const Result result = run(engine(), request);
  EXPECT_EQ(result.ids().at(3), engine().token_id("</think>"));
  EXPECT_EQ(joined_content(result), result.finished.text);
}

TEST_F(EngineRequest, PenaltiesSeeThePromptAndTheAnswer) {
  Request request = raw(engine(), "Once upon a time there was a king.", 60);
  request.ignore_eos = true;
  const Result plain = run(engine(), request);
  request.sampling.presence_penalty = 1000;  // no id twice
  const Result once = run(engine(), request);
  EXPECT_EQ(std::set(once.ids().begin(), once.ids().end()).size(), once.ids().size());
  EXPECT_LT(std::set(plain.ids().begin(), plain.ids().end()).size(), plain.ids().size());
  request.sampling.presence_penalty = 0;
  request.sampling.repetition_penalty = 1e6f;  // nor one of the prompt, as long as positive logits are left
  request.max_tokens = 10;
  const Result fresh = run(engine(), request);
  for (const int32_t id : fresh.ids()) EXPECT_EQ(std::ranges::count(request.prompt, id), 0);
  request.sampling.repetition_penalty = 1;
  request.sampling.frequency_penalty = 2;
  EXPECT_NE(run(engine(), request).ids(), plain.ids());
}

TEST_F(EngineRequest, BiasForcesAndForbids) {
  Request request = raw(engine(), "Once upon a time", 8);
  const int32_t usual = run(engine(), request).ids().front();
  request.sampling.logit_bias = {{usual, -std::numeric_limits<float>::infinity()}};
  const Result without = run(engine(), request);
  EXPECT_EQ(std::ranges::count(without.ids(), usual), 0);
  request.sampling.logit_bias = {{300, 1000.0f}};
  EXPECT_THAT(run(engine(), request).ids(), Each(300));
}

TEST_F(EngineRequest, TheMaskAllowsOnlyDigits) {
  std::vector<int32_t> digits;
  for (char digit = '0'; digit <= '9'; ++digit) digits.push_back(engine().tokenize(std::string(1, digit), false)[0]);
  Request request = chat(engine(), "What is 23 + 45?");
  request.max_tokens = 6;
  request.sampling.temperature = 1;
  request.sampling.seed = 1;
  std::vector<size_t> seen;
  request.mask = [&](std::span<const int32_t> generated, std::span<uint32_t> allowed) {
    EXPECT_EQ(allowed.size(), 8192u / 32);
    EXPECT_THAT(allowed, Each(~0u));
    seen.push_back(generated.size());
    std::ranges::fill(allowed, 0u);
    for (const int32_t id : digits) allowed[static_cast<size_t>(id) / 32] |= 1u << (id % 32);
    return generated.size() < 4;  // then anything
  };
  const Result result = run(engine(), request);
  ASSERT_GE(result.ids().size(), 4);
  for (size_t i = 0; i < 4; ++i) EXPECT_THAT(digits, ::testing::Contains(result.ids()[i]));
  EXPECT_THAT(std::span(seen).first(4), ElementsAre(0, 1, 2, 3));
}

TEST_F(EngineRequest, AMaskThatAllowsNothingIsAnError) {
  Request request = raw(engine(), "Once", 8);
  request.mask = [](std::span<const int32_t> generated, std::span<uint32_t> allowed) {
    if (generated.size() == 2) std::ranges::fill(allowed, 0u);
    return true;
  };
  const Result result = run(engine(), request);
  EXPECT_EQ(result.finished.reason, FinishReason::kError);
  ASSERT_TRUE(result.finished.error.has_value());
  EXPECT_EQ(result.finished.error->code(), ErrorCode::kUsage);
  EXPECT_EQ(result.ids().size(), 2);
  EXPECT_EQ(run(engine(), raw(engine(), "Once", 3)).ids().size(), 3) << "the engine goes on";
}

TEST_F(EngineRequest, LogprobsAreOfTheWholeDistribution) {
  Request request = raw(engine(), "Once upon a", 4);
  request.sampling.logprobs = true;
  request.sampling.top_logprobs = 5;
  for (const TokenEvent& token : run(engine(), request).tokens) {
    ASSERT_EQ(token.top_logprobs.size(), 5);
    EXPECT_EQ(token.top_logprobs[0].id, token.id) << "greedy takes the best";
    EXPECT_EQ(token.top_logprobs[0].logprob, token.logprob);
    double sum = 0;
    for (size_t i = 0; i < 5; ++i) {
      sum += std::exp(static_cast<double>(token.top_logprobs[i].logprob));
      if (i > 0) {
        EXPECT_LE(token.top_logprobs[i].logprob, token.top_logprobs[i - 1].logprob);
      }
    }
    EXPECT_LE(sum, 1.0001);
  }
}

TEST_F(EngineRequest, ALoopEndsItself) {
  Request request = raw(engine(), "Once", 600);
  request.sampling.logit_bias = {{300, 1000.0f}};
  const Result result = run(engine(), request);
  EXPECT_EQ(result.finished.reason, FinishReason::kRepetition);
  EXPECT_EQ(result.ids().size(), 512);
  request.repetition_guard = false;
  request.max_tokens = 520;
  EXPECT_EQ(run(engine(), request).finished.reason, FinishReason::kLength);
}

TEST(EngineContext, AFullContextEndsWithLength) {
  EngineOptions options = demo_options();
  options.context = 100;
  Engine engine(options);
  Request request = raw(engine, "", 0);
  request.prompt = prose(engine, 90);
  request.ignore_eos = true;
  const Result result = run(engine, request);
  EXPECT_EQ(result.finished.reason, FinishReason::kLength);
  EXPECT_EQ(result.ids().size(), 10);
  request.prompt = prose(engine, 99);
  EXPECT_EQ(run(engine, request).ids().size(), 1);
}

TEST(EngineCharacters, AreNeverCut) {
  Engine engine(demo_options());
  const std::string text = "naïve — 日本語 🦊";
  const std::vector<int32_t> ids = engine.tokenize(text, false);
  ASSERT_GT(ids.size(), 10) << "characters of several tokens";
  Request request = raw(engine, "x", static_cast<int>(ids.size()));
  request.mask = [&](std::span<const int32_t> generated, std::span<uint32_t> allowed) {
    std::ranges::fill(allowed, 0u);
    const int32_t id = ids[generated.size()];
    allowed[static_cast<size_t>(id) / 32] |= 1u << (id % 32);
    return true;
  };
  for (const char* stop : {"", "日本", "🦊", "—"}) {
    request.stop.clear();
    if (*stop) request.stop.emplace_back(stop);
    const Result result = run(engine, request);
    EXPECT_EQ(result.finished.text, *stop ? text.substr(0, text.find(stop)) : text);
    for (const TokenEvent& token : result.tokens)
      EXPECT_EQ(token.delta.content.find("\xEF\xBF\xBD"), std::string::npos);
  }
  request.stop.clear();
  request.max_tokens -= 1;  // ends inside of the fox
  EXPECT_THAT(run(engine, request).finished.text, ::testing::EndsWith("\xEF\xBF\xBD"));
}

}  // namespace
}  // namespace marlin::testing
