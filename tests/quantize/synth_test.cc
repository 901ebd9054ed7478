#include "quantize/synth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "backend/backend.h"
#include "format/checkpoint.h"
#include "format/fp4.h"
#include "marlin/engine.h"
#include "marlin/error.h"
#include "model/model.h"
#include "model/tensors.h"
#include "quantize/inspect.h"
#include "quantize/synth_files.h"

namespace marlin {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

fs::path fresh(const std::string& name) {
  fs::path path = fs::path(::testing::TempDir()) / ("synth_test_" + name);
  fs::remove_all(path);
  return path;
}

std::string bytes_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The real config with fewer and smaller layers.
Json small_config(int layers = 6) {
  Json config = synth_config("glm-4.7-flash", layers);
  for (const auto& [field, value] :
       std::initializer_list<std::pair<const char*, int>>{{"hidden_size", 256},
                                                          {"intermediate_size", 512},
                                                          {"moe_intermediate_size", 128},
                                                          {"num_attention_heads", 4},
                                                          {"n_routed_experts", 16},
                                                          {"q_lora_rank", 128},
                                                          {"kv_lora_rank", 128},
                                                          {"qk_nope_head_dim", 64},
                                                          {"qk_rope_head_dim", 32},
                                                          {"v_head_dim", 64},
                                                          {"max_position_embeddings", 1024},
                                                          {"vocab_size", 640},
                                                          {"pad_token_id", 580}}) {
    config[field] = value;
  }
  config["eos_token_id"] = {580, 587, 589};
  return config;
}

fs::path synthesize(const std::string& name, const Json& config, const SynthOptions& options = {}) {
  fs::path directory = fresh(name);
  synthesize_checkpoint(config, directory, options);
  return directory;
}

void expect_error(ErrorCode code, const std::function<void()>& action, const ::testing::Matcher<std::string>& message) {
  try {
    action();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(error.what(), message);
  }
}

TEST(Synth, TheRealModelsNumbers) {
  const Json config = synth_config("glm-4.7-flash");
  int64_t parameters = 0;
  for (const ExpectedTensor& tensor : expected_tensors(ModelConfig::from_json(config, "config"))) {
    int64_t elements = 1;
    for (const int64_t size : tensor.shape) elements *= size;
    parameters += elements;
  }
  EXPECT_EQ(parameters, 31'221'488'576);  // the published total, MTP's copies of embedding and head included
  EXPECT_EQ(synth_config("glm-4.7-flash", 2)["num_hidden_layers"], 2);
  expect_error(
      ErrorCode::kUsage, [] { synth_config("glm-4.7-flash", 48); }, HasSubstr("1 to 47"));
  expect_error(
      ErrorCode::kUsage, [] { synth_config("gpt-2"); }, HasSubstr("glm-4.7-flash"));
}

TEST(Synth, IsAWholeCheckpoint) {
  const fs::path directory = fresh("whole");
  const SynthReport report = synthesize_checkpoint(small_config(), directory, {});
  EXPECT_EQ(report.layers, 6);
  EXPECT_EQ(report.written_bytes, report.tensor_bytes);
  const Inspection found = inspect_checkpoint(directory);
  EXPECT_TRUE(found.whole());
  EXPECT_TRUE(found.has_mtp);
  EXPECT_TRUE(found.extra.empty());
  EXPECT_THAT(found.notes, ::testing::Contains(HasSubstr("synthetic")));
  EXPECT_EQ(found.total.parameters, report.parameters);
  EXPECT_EQ(found.total.bytes, report.tensor_bytes);
  EXPECT_EQ(Checkpoint::open(directory).config().at("synthetic"), true);
  for (const auto& [kind, totals] : found.kinds) {
    if (kind == "embeddings" || kind == "head" || kind == "routed experts") {
      EXPECT_THAT(totals.stored_as, ::testing::ElementsAre("FP4 g128")) << kind;
    }
  }
}

TEST(Synth, CodesAreRandomAndNeverNegativeZero) {
  const Checkpoint checkpoint = Checkpoint::open(synthesize("codes", small_config(2)));
  const LinearTensors linear = checkpoint.linear("model.layers.1.mlp.experts.3.gate_proj", 128, 256);
  ASSERT_TRUE(linear.quantized());
  const auto* codes = reinterpret_cast<const uint8_t*>(linear.planes[0].weight.data.data());
  std::array<int, 16> counts{};
  for (int64_t i = 0; i < 128 * 256; ++i) ++counts[fp4::code_at(codes, i)];
  EXPECT_EQ(counts[8], 0);
  for (size_t code = 1; code < 16; ++code) {
    if (code == 8) continue;
    EXPECT_NEAR(counts[code], 2048, 250) << code;  // 5.7 standard deviations
  }
}

TEST(Synth, BytesDependOnConfigAndSeedAlone) {
  const fs::path one = synthesize("one", small_config(2), {.seed = 7});
  const fs::path same = synthesize("same", small_config(2), {.seed = 7});
  const fs::path other = synthesize("other", small_config(2), {.seed = 8});
  for (const auto& entry : fs::directory_iterator(one)) {
    const fs::path name = entry.path().filename();
    EXPECT_EQ(bytes_of(entry.path()), bytes_of(same / name)) << name;
  }
  const Checkpoint a = Checkpoint::open(one);
  const Checkpoint b = Checkpoint::open(other);
  for (const char* name : {"lm_head.weight", "lm_head.scales", "model.layers.1.mlp.gate.weight", "model.norm.weight",
                           "model.layers.1.mlp.gate.e_score_correction_bias"}) {
    EXPECT_FALSE(std::ranges::equal(a.stored(name)->data, b.stored(name)->data)) << name;
  }
  // Tensors of one checkpoint differ too, and a layer does not depend on how many follow.
  EXPECT_FALSE(std::ranges::equal(a.stored("model.layers.1.mlp.experts.0.up_proj.weight")->data,
                                  a.stored("model.layers.1.mlp.experts.1.up_proj.weight")->data));
  const Checkpoint three = Checkpoint::open(synthesize("three", small_config(3), {.seed = 7}));
  EXPECT_TRUE(std::ranges::equal(a.stored("model.layers.1.mlp.experts.0.up_proj.weight")->data,
                                 three.stored("model.layers.1.mlp.experts.0.up_proj.weight")->data));
}

/// Stops the writing at a fraction of the bytes, as an interruption would.
struct Interrupted {};
ProgressFn stop_at(double fraction) {
  return [fraction](uint64_t done, uint64_t total, const std::string&) {
    if (static_cast<double>(done) >= fraction * static_cast<double>(total)) throw Interrupted();
  };
}

TEST(Synth, AnInterruptedOneIsRefusedAndContinued) {
  constexpr uint64_t kShard = 1'000'000;
  const fs::path whole = synthesize("uninterrupted", small_config(), {.max_shard_bytes = kShard});
  const fs::path directory = fresh("interrupted");
  for (const double fraction : {0.7, 1.0}) {  // within the shards, and when only the mark is left
    const SynthOptions options = {.max_shard_bytes = kShard, .progress = stop_at(fraction)};
    EXPECT_THROW(synthesize_checkpoint(small_config(), directory, options), Interrupted);
    expect_error(
        ErrorCode::kBadFile, [&] { Checkpoint::open(directory); },
        AllOf(HasSubstr(directory.string()), HasSubstr("unfinished"), HasSubstr("synth")));
    expect_error(
        ErrorCode::kBadFile, [&] { inspect_checkpoint(directory); }, HasSubstr("unfinished"));
  }
  fs::remove(directory / "model.safetensors.index.json");
  for (const auto& entry : fs::directory_iterator(whole)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("model-00002-of-")) fs::remove(directory / name);
  }
  const SynthReport report = synthesize_checkpoint(small_config(), directory, {.max_shard_bytes = kShard});
  EXPECT_GT(report.written_bytes, 0U);
  EXPECT_LT(report.written_bytes, report.tensor_bytes / 2);
  for (const auto& entry : fs::directory_iterator(whole)) {
    EXPECT_EQ(bytes_of(entry.path()), bytes_of(directory / entry.path().filename())) << entry.path().filename();
  }
}

TEST(Synth, ShardsOfAnotherRecipeAreMadeAgain) {
  const fs::path directory = fresh("recipe");
  EXPECT_THROW(
      synthesize_checkpoint(small_config(), directory, {.max_shard_bytes = 1'000'000, .progress = stop_at(0.7)}),
      Interrupted);
  std::ofstream(directory / "model-00009-of-00009.safetensors.partial") << "cut off";
  synthesize_checkpoint(small_config(2), directory, {.seed = 3});
  const fs::path expected = synthesize("recipe_expected", small_config(2), {.seed = 3});
  const auto files = [](const fs::path& path) {
    return std::distance(fs::directory_iterator(path), fs::directory_iterator());
  };
  EXPECT_EQ(files(directory), files(expected));
  EXPECT_EQ(bytes_of(directory / "model-00001-of-00001.safetensors"),
            bytes_of(expected / "model-00001-of-00001.safetensors"));
}

TEST(Synth, OtherPeoplesDirectoriesAreRefused) {
  const fs::path directory = synthesize("complete", small_config(2));
  const std::string config = bytes_of(directory / "config.json");
  expect_error(
      ErrorCode::kUsage, [&] { synthesize_checkpoint(small_config(3), directory, {}); }, HasSubstr("not empty"));
  EXPECT_EQ(bytes_of(directory / "config.json"), config);
  const fs::path foreign = fresh("foreign");
  fs::create_directories(foreign);
  std::ofstream(foreign / "letters.txt") << "dear";
  expect_error(
      ErrorCode::kUsage, [&] { synthesize_checkpoint(small_config(2), foreign, {}); }, HasSubstr("letters.txt"));
  expect_error(
      ErrorCode::kUsage, [&] { synthesize_checkpoint(small_config(2), foreign / "letters.txt", {}); },
      HasSubstr("is a file"));
}

TEST(Synth, AFullDiskIsRefusedBeforeTheFirstByte) {
  const fs::path directory = fresh("full");
  expect_error(
      ErrorCode::kIo, [&] { synthesize_checkpoint(small_config(), directory, {.free_bytes = 12345}); },
      AllOf(HasSubstr("needs"), HasSubstr("12345"), HasSubstr("free some space")));
  EXPECT_FALSE(fs::exists(directory));
}

TEST(Synth, ImpossibleConfigsAreRefused) {
  Json config = small_config(2);
  config["hidden_size"] = 200;
  expect_error(
      ErrorCode::kUsage, [&] { synthesize_checkpoint(config, fresh("bad"), {}); }, HasSubstr("200"));
  config = small_config(2);
  config["eos_token_id"] = 630;
  expect_error(
      ErrorCode::kUsage, [&] { synthesize_checkpoint(config, fresh("bad"), {}); }, HasSubstr("eos_token_id is 630"));
}

double rms(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

TEST(Synth, ActivationsStaySane) {
  constexpr int kTokens = 24;
  const Checkpoint checkpoint = Checkpoint::open(synthesize("forward", small_config(47)));
  const auto device = make_device("cpu", {.threads = 2});
  const auto stream = device->make_stream();
  const auto model = Model::load(
      checkpoint, *device, {.max_tokens = kTokens, .max_logit_rows = kTokens, .max_positions = 256, .with_mtp = true});
  KvCache cache(*device, model->kv_layout(), 4);
  KvSequence sequence(cache);
  ASSERT_TRUE(sequence.extend(*stream, kTokens));
  Step step;
  step.sequences = {&sequence};
  for (int i = 0; i < kTokens; ++i) step.tokens.push_back({i * 17 + 3, 0, i, Role::kPrompt, true});
  const int layers = model->config().n_layers;
  const int64_t layer_values = int64_t{kTokens} * model->config().hidden_size;
  const auto captured = device->allocate(activation_bytes(*device, layer_values * (layers + 1)));
  Model::Outputs out = model->forward(*stream, step, cache, {captured.get(), 0});
  const auto read = [&](View view, int64_t n) {
    return read_activations(*stream, *device, stream->wait(stream->submit()), view, n);
  };
  const std::vector<float> hidden = read({captured.get(), 0}, layer_values * (layers + 1));
  const std::vector<float> logits = read(out.logits, int64_t{kTokens} * model->config().vocab_size);
  for (int i = 0; i <= layers; ++i) {
    const double value = rms(std::span(hidden).subspan(static_cast<size_t>(i * layer_values), layer_values));
    EXPECT_GT(value, 0.8) << "layer " << i;
    EXPECT_LT(value, 2) << "layer " << i;
  }
  EXPECT_TRUE(std::ranges::all_of(logits, [](float value) { return std::isfinite(value); }));
  EXPECT_GT(rms(logits), 1.5);
  EXPECT_LT(rms(logits), 6);
  out.batch.n_tokens = kTokens - 1;
  const std::vector<int32_t> next(static_cast<size_t>(kTokens - 1), 5);
  const std::vector<float> mtp = read(model->mtp(*stream, out, next, cache), int64_t{kTokens - 1} * 640);
  EXPECT_TRUE(std::ranges::all_of(mtp, [](float value) { return std::isfinite(value) && std::abs(value) < 50; }));
}

TEST(Synth, TheEngineTakesItAndKnows) {
  EngineOptions options;
  options.model = synthesize("engine", small_config(2));
  options.device = "cpu";
  options.threads = 2;
  Engine engine(options);
  EXPECT_TRUE(engine.info().synthetic);
  EXPECT_TRUE(engine.info().has_mtp);
  EXPECT_EQ(engine.info().vocab_size, 580 + kSynthAddedTokens);
  EXPECT_THAT(engine.info().eos_ids, ::testing::ElementsAre(580, 587, 589));
  EXPECT_THAT(engine.tokenize("!\n ", false), ::testing::ElementsAre(0, 198, 220));  // as in the real vocabulary
  EXPECT_THAT(engine.tokenize("<think>/nothink<|video|>", true), ::testing::ElementsAre(601, 611, 615));
  EXPECT_EQ(engine.detokenize(std::vector<int32_t>{256, 579}, false), " w256 w579");
  std::string bytes;
  for (int c = 1; c < 0x250; ++c) {
    if (c < 0x80) {
      bytes += static_cast<char>(c);
    } else {
      bytes += {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
    }
  }
  EXPECT_EQ(engine.detokenize(engine.tokenize(bytes, false), false), bytes);

  Conversation conversation;
  conversation.messages.push_back({{"role", "user"}, {"content", "Hi"}});
  Request request;
  request.prompt = engine.tokenize(engine.render(conversation));
  EXPECT_EQ(request.prompt.front(), 582);  // [gMASK]
  EXPECT_EQ(request.prompt.back(), 601);   // <think>
  request.max_tokens = 8;
  request.ignore_eos = true;
  request.sampling.temperature = 0;
  RequestHandle handle = engine.submit(std::move(request));
  RequestHandle::Event event = handle.next();
  while (event.token) event = handle.next();
  ASSERT_TRUE(event.finished.has_value());
  EXPECT_EQ(event.finished->reason, FinishReason::kLength);
  EXPECT_EQ(event.finished->ids.size(), 8U);
}

TEST(Synth, TheRealVocabulary) {
  const Json tokenizer = Json::parse(synth_tokenizer(300));
  EXPECT_EQ(tokenizer["model"]["vocab"].size(), 300U);
  EXPECT_EQ(tokenizer["added_tokens"].size(), 36U);
  std::vector<std::string> special;
  for (const Json& token : tokenizer["added_tokens"]) {
    if (token["special"]) special.push_back(token["content"]);
  }
  EXPECT_EQ(special.size(), 21U);
  EXPECT_EQ(tokenizer["added_tokens"][7]["content"], "<|user|>");
  EXPECT_EQ(synth_chat_template(),
            bytes_of(fs::path(MARLIN_SOURCE_DIR) / "models/GLM-4.7-Flash-Demo-MMFP4/chat_template.jinja"));
}

}  // namespace
}  // namespace marlin
