// Bad requests, bad models, cancelling, and the end of the engine: one clear error, and everybody else goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <thread>

#include "demo_engine.h"
#include "format/safetensors.h"

namespace marlin::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

template <typename Action>
std::string error_of(ErrorCode code, const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(error.what(), ::testing::Not(HasSubstr("\n")));
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

/// A copy of the bundled model that a test may damage.
class ModelCopy {
 public:
  explicit ModelCopy(const std::string& name)
      : directory_(std::filesystem::path(::testing::TempDir()) / ("marlin_engine_" + name)) {
    std::filesystem::remove_all(directory_);
    std::filesystem::copy(bundled_demo(), directory_);
  }
  ~ModelCopy() { std::filesystem::remove_all(directory_); }
  ModelCopy(const ModelCopy&) = delete;
  ModelCopy& operator=(const ModelCopy&) = delete;

  const std::filesystem::path& directory() const { return directory_; }

  /// Overwrites the BF16 value `index` of a tensor.
  void set_bf16(const std::string& tensor, size_t index, uint16_t value) const {
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      if (entry.path().extension() != ".safetensors") continue;
      size_t offset = 0;
      {
        const SafetensorsFile file = SafetensorsFile::open(entry.path());
        const TensorView* view = file.find(tensor);
        if (!view) continue;
        ASSERT_EQ(view->dtype, DType::kBF16);
        offset =
            file.data_start() + static_cast<size_t>(view->data.data() - file.tensors().front().data.data()) + index * 2;
      }
      std::fstream stream(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      stream.seekp(static_cast<std::streamoff>(offset));
      stream.write(reinterpret_cast<const char*>(&value), sizeof(value));
      return;
    }
    FAIL() << "no tensor " << tensor;
  }

  void write(const std::string& name, const std::string& text) const { std::ofstream(directory_ / name) << text; }

 private:
  std::filesystem::path directory_;
};

constexpr uint16_t kNanBf16 = 0x7fc0;
constexpr uint16_t kInfBf16 = 0x7f80;

Result expect_numeric_error(Engine& engine, Request request, const std::string& layer, const std::string& op) {
  Result result = run(engine, std::move(request));
  EXPECT_EQ(result.finished.reason, FinishReason::kError);
  EXPECT_TRUE(result.finished.error.has_value());
  if (!result.finished.error) return result;
  EXPECT_EQ(result.finished.error->code(), ErrorCode::kNumeric);
  EXPECT_THAT(result.finished.error->what(), AllOf(HasSubstr(layer), HasSubstr(op)));
  return result;
}

TEST(EngineNumerics, ANanNamesLayerAndOp) {
  const ModelCopy copy("nan");
  copy.set_bf16("model.layers.3.input_layernorm.weight", 17, kNanBf16);
  EngineOptions options = demo_options();
  options.model = copy.directory();
  for (const bool check : {false, true}) {
    options.check_numerics = check;
    Engine engine(options);
    expect_numeric_error(engine, raw(engine, "Once upon a time", 8), "layer 3", "rms_norm");
    expect_numeric_error(engine, raw(engine, "Once upon a time", 8), "layer 3", "rms_norm");
    EXPECT_EQ(engine.stats().kv_blocks_used, 0);
    EXPECT_EQ(engine.stats().kv_blocks_cached, 0) << "bad values must not be reused";
  }
}

TEST(EngineNumerics, APromptOfManyChunksFailsAtTheFirst) {
  const ModelCopy copy("inf");
  copy.set_bf16("model.layers.5.post_attention_layernorm.weight", 0, kInfBf16);
  EngineOptions options = demo_options();
  options.model = copy.directory();
  options.prefill_chunk = 8;
  Engine engine(options);
  Request request = raw(engine, "", 8);
  request.prompt = prose(engine, 40);
  expect_numeric_error(engine, request, "layer 5", "positions 0 to 7");
  EXPECT_EQ(engine.stats().steps, 1);
}

// One id's embedding row is bad: only requests with that id fail.
TEST(EngineNumerics, NeighboursGoOn) {
  EngineOptions options = demo_options();
  options.model = bf16_demo();
  if (!std::filesystem::exists(options.model)) {
    GTEST_SKIP() << "needs " << options.model.string() << ", which is not on this machine";
  }
  const ModelCopy copy("neighbours");
  std::filesystem::remove_all(copy.directory());
  std::filesystem::copy(options.model, copy.directory());
  for (const auto& entry : std::filesystem::directory_iterator(copy.directory())) {
    std::filesystem::permissions(entry.path(), std::filesystem::perms::owner_write, std::filesystem::perm_options::add);
  }
  constexpr int32_t kBadId = 321;
  constexpr size_t kHidden = 256;
  copy.set_bf16("model.embed_tokens.weight", kBadId * kHidden + 5, kNanBf16);
  for (const bool check : {false, true}) {
    options.model = bf16_demo();
    options.check_numerics = false;
    Engine healthy(options);
    options.model = copy.directory();
    options.check_numerics = check;
    Engine engine(options);
    Request good = raw(engine, "Once upon a time", 12);
    good.sampling.temperature = 1;
    good.sampling.seed = 4;
    good.sampling.presence_penalty = 0.5f;
    good.sampling.logit_bias = {{kBadId, -std::numeric_limits<float>::infinity()}};
    const Result expected = run(healthy, good);

    Request bad = raw(engine, "", 8);
    bad.prompt = prose(engine, 20);
    bad.prompt[10] = kBadId;
    std::vector<RequestHandle> handles;
    handles.push_back(engine.submit(good));
    handles.push_back(engine.submit(bad));
    handles.push_back(engine.submit(good));
    EXPECT_THAT(collect(handles[0]).ids(), ElementsAreArray(expected.ids()));
    const Finished failed = collect(handles[1]).finished;
    ASSERT_TRUE(failed.error.has_value());
    EXPECT_EQ(failed.error->code(), ErrorCode::kNumeric);
    EXPECT_THAT(failed.error->what(), HasSubstr("embed"));
    EXPECT_THAT(collect(handles[2]).ids(), ElementsAreArray(expected.ids()));
  }
}

TEST(EngineNumerics, CheckedStepsChangeNothing) {
  EngineOptions options = demo_options();
  Engine plain(options);
  options.check_numerics = true;
  Engine checked(options);
  EXPECT_THAT(run(checked, raw(checked, "Once upon a time", 8)).ids(),
              ElementsAreArray(run(plain, raw(plain, "Once upon a time", 8)).ids()));
}

TEST(EngineErrors, BadRequestsAreRefusedAtOnce) {
  EngineOptions options = demo_options();
  options.context = 64;
  Engine engine(options);
  const auto refused = [&](auto change) {
    Request request = raw(engine, "Once", 8);
    change(request);
    return error_of(ErrorCode::kUsage, [&] { engine.submit(std::move(request)); });
  };
  EXPECT_THAT(refused([](Request& r) { r.prompt.clear(); }), HasSubstr("empty"));
  EXPECT_THAT(refused([](Request& r) { r.prompt.assign(64, 5); }), AllOf(HasSubstr("64 tokens"), HasSubstr("--ctx")));
  EXPECT_THAT(refused([](Request& r) { r.prompt.push_back(8192); }), HasSubstr("8192"));
  EXPECT_THAT(refused([](Request& r) { r.prompt.push_back(-1); }), HasSubstr("-1"));
  EXPECT_THAT(refused([](Request& r) { r.sampling.temperature = -1; }), HasSubstr("temperature"));
  EXPECT_THAT(refused([](Request& r) { r.sampling.logit_bias = {{9000, 1.0f}}; }), HasSubstr("9000"));
  EXPECT_THAT(refused([](Request& r) { r.max_tokens = -1; }), HasSubstr("max_tokens"));
  EXPECT_THAT(refused([](Request& r) { r.stop = {"a", ""}; }), HasSubstr("stop"));
  EXPECT_THAT(refused([](Request& r) { r.max_thinking_tokens = -2; }), HasSubstr("max_thinking_tokens"));
}

TEST(EngineErrors, BadOptionsAndFiles) {
  const auto refused = [](ErrorCode code, auto change) {
    EngineOptions options = demo_options();
    change(options);
    return error_of(code, [&] { const Engine engine(options); });
  };
  EXPECT_THAT(refused(ErrorCode::kNotFound, [](EngineOptions& o) { o.model = "/nonexistent"; }), HasSubstr("/nonex"));
  EXPECT_THAT(refused(ErrorCode::kUsage, [](EngineOptions& o) { o.kv_type = "f8"; }), HasSubstr("f8"));
  EXPECT_THAT(refused(ErrorCode::kUsage, [](EngineOptions& o) { o.max_parallel = 0; }), HasSubstr("max_parallel"));
  EXPECT_THAT(refused(ErrorCode::kUsage, [](EngineOptions& o) { o.prefill_chunk = 0; }), HasSubstr("prefill_chunk"));
  EXPECT_THAT(refused(ErrorCode::kUsage, [](EngineOptions& o) { o.context = 5000; }), HasSubstr("4096"));
  EXPECT_THAT(refused(ErrorCode::kUsage, [](EngineOptions& o) { o.context = -1; }), HasSubstr("4096"));
  EXPECT_THAT(refused(ErrorCode::kUsage, [](EngineOptions& o) { o.kv_memory = 1000; }), HasSubstr("1024"));
  EXPECT_THAT(refused(ErrorCode::kUnsupported, [](EngineOptions& o) { o.device = "abacus"; }), HasSubstr("abacus"));
  const ModelCopy copy("eos");
  copy.write("generation_config.json", R"({"eos_token_id": 9999})");
  EXPECT_THAT(refused(ErrorCode::kBadFile, [&](EngineOptions& o) { o.model = copy.directory(); }), HasSubstr("9999"));
}

TEST(EngineErrors, WithoutATemplateRawWorks) {
  const ModelCopy copy("template");
  std::filesystem::remove(copy.directory() / "chat_template.jinja");
  copy.write("tokenizer_config.json", "{}");
  EngineOptions options = demo_options();
  options.model = copy.directory();
  Engine engine(options);
  EXPECT_EQ(run(engine, raw(engine, "Once", 3)).ids().size(), 3);
  EXPECT_THAT(error_of(ErrorCode::kUsage, [&] { engine.render({}); }),
              AllOf(HasSubstr("template"), HasSubstr("--raw")));
}

TEST(EngineCancel, EndsWithinAStep) {
  Engine engine(demo_options());
  Request request = raw(engine, "Once upon a time", 0);
  request.ignore_eos = true;
  RequestHandle handle = engine.submit(request);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(handle.next().token.has_value());
  handle.cancel();
  const Result rest = collect(handle);
  EXPECT_EQ(rest.finished.reason, FinishReason::kCancelled);
  EXPECT_LT(rest.ids().size(), 100);
  EXPECT_EQ(rest.ids().size(), rest.tokens.size() + 3);
  EXPECT_EQ(rest.finished.text, engine.detokenize(rest.ids(), true));
  const RequestHandle::Event after = handle.next();
  EXPECT_FALSE(after.token || after.finished);
}

TEST(EngineCancel, ADroppedHandleFreesItsPlace) {
  EngineOptions options = demo_options();
  options.max_parallel = 1;
  Engine engine(options);
  Request endless = raw(engine, "Once upon a time", 0);
  endless.ignore_eos = true;
  std::optional<RequestHandle> running = engine.submit(endless);
  running->next();
  std::optional<RequestHandle> waiting = engine.submit(endless);
  RequestHandle last = engine.submit(raw(engine, "The king", 3));
  waiting.reset();
  running.reset();
  EXPECT_EQ(collect(last).ids().size(), 3);
}

TEST(EngineCancel, DestroyingTheEngineEndsEverything) {
  std::vector<RequestHandle> handles;
  {
    EngineOptions options = demo_options();
    options.max_parallel = 2;
    Engine engine(options);
    Request endless = raw(engine, "Once upon a time", 0);
    endless.ignore_eos = true;
    for (int i = 0; i < 4; ++i) handles.push_back(engine.submit(endless));
    handles[0].next();
  }
  for (RequestHandle& handle : handles) EXPECT_EQ(collect(handle).finished.reason, FinishReason::kCancelled);
}

TEST(EngineThreads, ManySubmittersShareOneEngine) {
  EngineOptions options = demo_options();
  options.max_parallel = 3;
  Engine engine(options);
  const Result expected = run(engine, raw(engine, "Once upon a time", 6));
  std::vector<std::thread> clients;
  clients.reserve(8);
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&, i] {
      Request request = raw(engine, "Once upon a time", i % 4 == 3 ? 0 : 6);
      RequestHandle handle = engine.submit(std::move(request));
      if (i % 4 == 3) {
        handle.next();
        return;  // dropped
      }
      EXPECT_THAT(collect(handle).ids(), ElementsAreArray(expected.ids()));
    });
  }
  for (std::thread& client : clients) client.join();
  RequestHandle last = engine.submit(raw(engine, "Once", 2));
  collect(last);
  EXPECT_GE(engine.stats().generated_tokens, 7u * 6);
}

TEST(EngineTimings, AreFilledIn) {
  Engine engine(demo_options());
  const Result result = run(engine, raw(engine, "Once upon a time", 5));
  const Timings& t = result.finished.timings;
  EXPECT_GT(t.prompt_ms, 0);
  EXPECT_GT(t.decode_ms, 0);
  EXPECT_GE(t.ttft_ms, t.prompt_ms);
  EXPECT_GT(t.prompt_tps, 0);
  EXPECT_NEAR(t.decode_tps, 4 * 1000 / t.decode_ms, 1e-6);
  ASSERT_EQ(result.tokens.size(), 5u);
  EXPECT_DOUBLE_EQ(result.tokens.front().ms, t.ttft_ms);
  EXPECT_NEAR(result.tokens.back().ms, t.ttft_ms + t.decode_ms, 1e-6);
  for (size_t i = 1; i < 5; ++i) EXPECT_GT(result.tokens[i].ms, result.tokens[i - 1].ms);
}

}  // namespace
}  // namespace marlin::testing
