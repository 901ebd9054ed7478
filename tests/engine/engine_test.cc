// What a request generates depends on the request alone: not on its neighbours, the chunks, the threads, the prefix
// cache or the pool.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "demo_engine.h"

namespace marlin::testing {
namespace {

using ::testing::ElementsAreArray;

nlohmann::json reference_generations() {
  std::ifstream file(std::filesystem::path(MARLIN_SOURCE_DIR) / "tests/golden/reference.json");
  return nlohmann::json::parse(file).at("generations");
}

TEST(EngineReference, GreedyContinuationsEqualTransformers) {
  EngineOptions options = demo_options();
  options.model = bf16_demo();
  if (!std::filesystem::exists(options.model)) {
    GTEST_SKIP() << "needs " << options.model.string() << ", which is not on this machine";
  }
  Engine engine(options);
  for (const auto& generation : reference_generations()) {
    const auto expected = generation.at("greedy_ids").get<std::vector<int32_t>>();
    Request request;
    request.prompt = generation.at("prompt_ids").get<std::vector<int32_t>>();
    request.sampling.temperature = 0;
    request.max_tokens = static_cast<int>(expected.size());
    EXPECT_THAT(run(engine, std::move(request)).ids(), ElementsAreArray(expected)) << generation.at("greedy_text");
  }
}

/// Requests of many kinds: greedy and sampled, short and long prompts, with penalties, biases and log-probabilities.
std::vector<Request> mixed_requests(const Engine& engine) {
  std::vector<Request> requests;
  for (int i = 0; i < 6; ++i) {
    Request request;
    request.prompt = prose(engine, 5 + 37 * i);
    request.max_tokens = 12;
    request.ignore_eos = true;
    request.sampling.temperature = i % 3 == 0 ? 0.0f : 0.8f;
    request.sampling.top_p = 0.95f;
    request.sampling.seed = 1000 + static_cast<uint64_t>(i % 2);
    request.sampling.logprobs = true;
    request.sampling.top_logprobs = i % 4;
    if (i == 2 || i == 5) request.sampling.frequency_penalty = 0.7f;
    if (i == 4) request.sampling.repetition_penalty = 1.3f;
    if (i == 3) request.sampling.logit_bias = {{100, 5.0f}, {200, -100.0f}};
    requests.push_back(std::move(request));
  }
  return requests;
}

std::vector<Result> run_one_by_one(Engine& engine) {
  std::vector<Result> results;
  for (Request& request : mixed_requests(engine)) results.push_back(run(engine, std::move(request)));
  return results;
}

std::vector<Result> collect_all(std::vector<RequestHandle>& handles) {
  std::vector<Result> results;
  results.reserve(handles.size());
  for (RequestHandle& handle : handles) results.push_back(collect(handle));
  return results;
}

std::vector<Result> run_together(Engine& engine) {
  std::vector<RequestHandle> handles;
  for (Request& request : mixed_requests(engine)) handles.push_back(engine.submit(std::move(request)));
  return collect_all(handles);
}

void expect_same(const std::vector<Result>& a, const std::vector<Result>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].finished.reason, FinishReason::kLength) << i;
    EXPECT_THAT(a[i].ids(), ElementsAreArray(b[i].ids())) << i;
    EXPECT_THAT(a[i].logprobs(), ElementsAreArray(b[i].logprobs())) << i;
    for (size_t t = 0; t < std::min(a[i].tokens.size(), b[i].tokens.size()); ++t) {
      const auto& top_a = a[i].tokens[t].top_logprobs;
      const auto& top_b = b[i].tokens[t].top_logprobs;
      ASSERT_EQ(top_a.size(), top_b.size());
      for (size_t k = 0; k < top_a.size(); ++k) {
        EXPECT_EQ(top_a[k].id, top_b[k].id);
        EXPECT_EQ(top_a[k].logprob, top_b[k].logprob);
      }
    }
  }
}

/// What the mixed requests give alone, without any reuse.
const std::vector<Result>& baseline() {
  static const std::vector<Result> results = [] {
    EngineOptions options = demo_options();
    options.prefix_cache = false;
    Engine engine(options);
    return run_one_by_one(engine);
  }();
  return results;
}

TEST(EngineInvariance, NeighboursAndQueueing) {
  EngineOptions options = demo_options();
  options.prefix_cache = false;
  options.max_parallel = 4;  // of six: two wait
  Engine engine(options);
  expect_same(run_together(engine), baseline());
}

TEST(EngineInvariance, PrefillChunks) {
  for (const int chunk : {1, 3, 7, 64}) {
    SCOPED_TRACE(chunk);
    EngineOptions options = demo_options();
    options.prefill_chunk = chunk;
    Engine engine(options);
    expect_same(run_together(engine), baseline());
  }
}

TEST(EngineInvariance, Threads) {
  for (const int threads : {1, 5}) {
    SCOPED_TRACE(threads);
    EngineOptions options = demo_options();
    options.threads = threads;
    Engine engine(options);
    expect_same(run_one_by_one(engine), baseline());
  }
}

TEST(EngineInvariance, PrefixCacheHits) {
  Engine engine(demo_options());
  expect_same(run_one_by_one(engine), baseline());
  const std::vector<Result> again = run_together(engine);
  expect_same(again, baseline());
  EXPECT_EQ(again.back().finished.prompt_tokens, 190);
  EXPECT_EQ(again.back().finished.cached_tokens, 128);
  EXPECT_EQ(again.front().finished.cached_tokens, 0);
  EXPECT_GT(engine.stats().kv_blocks_cached, 0);
  EXPECT_EQ(engine.stats().kv_blocks_used, 0);
}

// Six requests need 13 blocks and the pool has 5.
TEST(EngineInvariance, APoolTooSmallForAll) {
  for (const bool prefix_cache : {false, true}) {
    SCOPED_TRACE(prefix_cache);
    EngineOptions options = demo_options();
    options.context = 256;
    options.max_parallel = 6;
    options.prefix_cache = prefix_cache;
    options.kv_memory = 5 * 64 * Engine(options).info().kv_bytes_per_token;
    Engine engine(options);
    EXPECT_EQ(engine.stats().kv_blocks, 5);
    expect_same(run_together(engine), baseline());
    EXPECT_EQ(engine.stats().kv_blocks_used, 0);
  }
}

// Admission looks at what a request has pending, not at what it may generate: these outgrow the pool together, and the
// younger ones lose their blocks and are computed again.
TEST(EngineInvariance, RequestsThatOutgrowThePoolTogether) {
  EngineOptions options = demo_options();
  options.context = 128;
  options.max_parallel = 3;
  Engine roomy(options);
  const auto story = [](const Engine& engine, int i) {
    Request request;
    request.prompt = prose(engine, 52);
    request.prompt.front() += i;  // nothing to share
    request.max_tokens = 40;
    request.ignore_eos = true;
    request.sampling.seed = static_cast<uint64_t>(i);
    request.sampling.presence_penalty = 0.5f;
    return request;
  };
  std::vector<Result> alone;
  alone.reserve(3);
  for (int i = 0; i < 3; ++i) alone.push_back(run(roomy, story(roomy, i)));
  EXPECT_EQ(roomy.stats().suspended, 0);
  options.kv_memory = 5 * 64 * roomy.info().kv_bytes_per_token;
  for (const bool prefix_cache : {false, true}) {
    options.prefix_cache = prefix_cache;
    Engine tight(options);
    std::vector<RequestHandle> handles;
    handles.reserve(3);
    for (int i = 0; i < 3; ++i) handles.push_back(tight.submit(story(tight, i)));
    for (size_t i = 0; i < 3; ++i) EXPECT_THAT(collect(handles[i]).ids(), ElementsAreArray(alone[i].ids()));
    EXPECT_GT(tight.stats().suspended, 0);
    EXPECT_EQ(tight.stats().kv_blocks_used, 0);
  }
}

TEST(EnginePrefix, TheSecondTurnReusesTheFirst) {
  EngineOptions options = demo_options();
  Engine engine(options);
  options.prefix_cache = false;
  Engine without(options);

  Conversation conversation;
  conversation.messages.push_back({{"role", "user"}, {"content", "Tell me a story about a fox."}});
  conversation.template_args["enable_thinking"] = false;
  const auto ask = [&](Engine& on) {
    Request request;
    request.prompt = on.tokenize(on.render(conversation));
    request.sampling.temperature = 0;
    return run(on, std::move(request));
  };
  const Result first = ask(engine);
  EXPECT_EQ(first.finished.reason, FinishReason::kStop);
  conversation.messages.push_back({{"role", "assistant"}, {"content", first.finished.output.content}});
  conversation.messages.push_back({{"role", "user"}, {"content", "What is 23 + 45?"}});
  const Result second = ask(engine);
  EXPECT_GE(second.finished.cached_tokens, 64) << "generated tokens count too";
  EXPECT_EQ(second.finished.cached_tokens % 64, 0);
  const Result fresh = ask(without);
  EXPECT_EQ(fresh.finished.cached_tokens, 0);
  EXPECT_THAT(second.ids(), ElementsAreArray(fresh.ids()));
  EXPECT_THAT(second.logprobs(), ElementsAreArray(fresh.logprobs()));
}

TEST(EnginePrefix, TheLastPromptTokenIsAlwaysComputed) {
  Engine engine(demo_options());
  Request request = raw(engine, "", 4);
  request.prompt = prose(engine, 128);
  const Result first = run(engine, request);
  const Result second = run(engine, request);
  EXPECT_EQ(second.finished.cached_tokens, 64);
  EXPECT_THAT(second.ids(), ElementsAreArray(first.ids()));
}

TEST(EnginePrefix, CompletionsOfOnePromptShareItWhileTheyRun) {
  EngineOptions options = demo_options();
  options.prefill_chunk = 64;
  Engine engine(options);
  Request request;
  request.prompt = prose(engine, 300);
  request.max_tokens = 40;
  request.ignore_eos = true;
  request.sampling.seed = 5;
  std::vector<RequestHandle> handles;
  for (uint32_t choice = 0; choice < 3; ++choice) {
    request.choice = choice;
    handles.push_back(engine.submit(request));
  }
  const std::vector<Result> results = collect_all(handles);
  EXPECT_EQ(results[0].finished.cached_tokens, 0);
  EXPECT_EQ(results[1].finished.cached_tokens, 256);
  EXPECT_EQ(results[2].finished.cached_tokens, 256);
  EXPECT_NE(results[0].ids(), results[1].ids()) << "the choice is part of the random draw";
  EXPECT_NE(results[1].ids(), results[2].ids());
}

TEST(EngineSeed, ReplaysAndReports) {
  Engine engine(demo_options());
  Request request = raw(engine, "Once upon a time", 16);
  request.sampling.temperature = 1;
  const Result first = run(engine, request);
  const Result other = run(engine, request);
  EXPECT_NE(first.finished.seed, other.finished.seed);
  EXPECT_NE(first.ids(), other.ids());
  request.sampling.seed = first.finished.seed;
  const Result replay = run(engine, request);
  EXPECT_EQ(replay.finished.seed, first.finished.seed);
  EXPECT_THAT(replay.ids(), ElementsAreArray(first.ids()));
}

TEST(EngineInfo, DescribesTheModel) {
  EngineOptions options = demo_options();
  options.context = 0;
  options.kv_type = "f16";
  std::vector<std::string> items;
  options.progress = [&](uint64_t, uint64_t, const std::string& item) { items.push_back(item); };
  Engine engine(options);
  const ModelInfo& info = engine.info();
  EXPECT_EQ(info.name, "GLM-4.7-Flash-Demo-MMFP4");
  EXPECT_EQ(info.architecture, "glm4_moe_lite");
  EXPECT_EQ(info.device, "cpu");
  EXPECT_EQ(info.kv_type, "f16");
  EXPECT_EQ(info.context, 4096);
  EXPECT_EQ(info.model_context, 4096);
  EXPECT_EQ(info.vocab_size, 8192);
  EXPECT_EQ(info.kv_bytes_per_token, 7u * 320u);
  EXPECT_GE(info.kv_memory, 4096 * info.kv_bytes_per_token);
  EXPECT_TRUE(info.has_mtp);
  EXPECT_THAT(info.eos_ids, ::testing::ElementsAre(8160, 8167, 8169));
  EXPECT_FLOAT_EQ(info.default_sampling.top_p, 0.95f);
  EXPECT_THAT(items, ::testing::Contains("ready"));
}

}  // namespace
}  // namespace marlin::testing
