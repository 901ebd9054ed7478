#include "quantize/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "base/float16.h"
#include "format/checkpoint.h"
#include "format/fp4.h"
#include "marlin/error.h"
#include "model/tensors.h"
#include "quantize/repair.h"
#include "quantize/rtn.h"

namespace marlin {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

fs::path bf16_demo() {
  return fs::path(MARLIN_SHARED_DIR) / "demo-model/bf16";
}
fs::path bundled() {
  return fs::path(MARLIN_SOURCE_DIR) / "models/GLM-4.7-Flash-Demo-MMFP4";
}

#define SKIP_WITHOUT(path) \
  if (!fs::exists(path)) GTEST_SKIP() << "needs " << (path).string() << ", which is not on this machine"

fs::path fresh(const std::string& name) {
  fs::path path = fs::path(::testing::TempDir()) / ("quantize_test_" + name);
  fs::remove_all(path);
  return path;
}

std::string bytes_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::set<std::string> files_in(const fs::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename().string());
  return names;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

/// A config with few, small layers, and a BF16 checkpoint of it with random weights.
nlohmann::json tiny_config() {
  return {{"model_type", "glm4_moe_lite"},
          {"hidden_size", 128},
          {"intermediate_size", 256},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 2},
          {"q_lora_rank", 128},
          {"kv_lora_rank", 128},
          {"qk_nope_head_dim", 64},
          {"qk_rope_head_dim", 32},
          {"v_head_dim", 64},
          {"moe_intermediate_size", 128},
          {"n_routed_experts", 4},
          {"n_shared_experts", 1},
          {"num_experts_per_tok", 2},
          {"vocab_size", 64},
          {"max_position_embeddings", 128},
          {"num_nextn_predict_layers", 1},
          {"eos_token_id", 1}};
}

fs::path tiny_checkpoint(const std::string& name,
                         const std::function<void(const std::string&, std::vector<uint16_t>&)>& edit = {}) {
  fs::path directory = fresh(name);
  fs::create_directories(directory);
  const ModelConfig config = ModelConfig::from_json(tiny_config(), "tiny");
  std::vector<TensorSpec> specs;
  std::vector<std::vector<std::byte>> data;
  uint32_t state = 1;
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    if (!tensor.required) continue;
    const bool f32 = tensor.name.ends_with("e_score_correction_bias");
    specs.push_back(
        {tensor.linear ? tensor.name + ".weight" : tensor.name, f32 ? DType::kF32 : DType::kBF16, tensor.shape});
    std::vector<uint16_t> values(specs.back().bytes() / 2, 0);
    for (uint16_t& value : values) {
      state = state * 1664525 + 1013904223;
      if (!f32) value = f32_to_bf16(static_cast<float>(static_cast<int32_t>(state)) * 0x1p-34f);
    }
    if (edit) edit(specs.back().name, values);
    const auto bytes = std::as_bytes(std::span(values));
    data.emplace_back(bytes.begin(), bytes.end());
  }
  SafetensorsWriter writer(directory / "model.safetensors", specs);
  for (const auto& bytes : data) writer.append(bytes);
  writer.finish();
  write_file_atomically(directory / "config.json", tiny_config().dump());
  return directory;
}

TEST(Quantize, TheBundledModelIsWhatThisCodeMakes) {
  SKIP_WITHOUT(bf16_demo());
  const fs::path out = fresh("bundled");
  const QuantizeReport report = quantize_checkpoint(bf16_demo(), out, {.include_embeddings = true});
  for (const auto& entry : fs::directory_iterator(out)) {
    const fs::path name = entry.path().filename();
    if (name == "config.json") continue;
    EXPECT_EQ(bytes_of(entry.path()), bytes_of(bundled() / name)) << name;
  }
  nlohmann::json made = nlohmann::json::parse(bytes_of(out / "config.json"));
  nlohmann::json stored = nlohmann::json::parse(bytes_of(bundled() / "config.json"));
  made["quantization_config"].erase("producer");  // tells the version, which may be newer
  stored["quantization_config"].erase("producer");
  EXPECT_EQ(made, stored);
  EXPECT_LT(report.bytes, uint64_t{20} << 20);
  EXPECT_GT(report.tensors.size(), 600U);
  for (const TensorError& tensor : report.tensors) {
    EXPECT_LT(tensor.relative_rmse, 0.2) << tensor.name;
    EXPECT_GT(tensor.relative_rmse, 0.05) << tensor.name;  // 4 bits cannot do better
  }
}

TEST(Quantize, EveryValueIsTheNearestOfItsGrid) {
  const fs::path source = tiny_checkpoint("nearest_source");
  const fs::path out = fresh("nearest");
  quantize_checkpoint(source, out, {.group_size = 64});
  const std::string name = "model.layers.1.mlp.experts.3.up_proj";
  const Checkpoint before = Checkpoint::open(source);
  const Checkpoint after = Checkpoint::open(out);
  const LinearTensors plain = before.linear(name, 128, 128);
  const LinearTensors fp4 = after.linear(name, 128, 128);
  ASSERT_TRUE(fp4.quantized());
  ASSERT_EQ(fp4.planes[0].group_size, 64);
  const auto* codes = reinterpret_cast<const uint8_t*>(fp4.planes[0].weight.data.data());
  const auto* scales = reinterpret_cast<const uint16_t*>(fp4.planes[0].scales.data.data());
  for (int64_t n = 0; n < 128; ++n) {
    for (int64_t k = 0; k < 128; ++k) {
      const float w = element_at(*plain.plain, n * 128 + k);
      const float scale = f16_to_f32(scales[n * 2 + k / 64]);
      const float chosen = fp4::kValues[fp4::code_at(codes + n * 64, k)] * scale;
      for (const float value : fp4::kValues)
        EXPECT_LE(std::abs(w - chosen), std::abs(w - value * scale)) << n << " " << k;
    }
  }
}

TEST(Quantize, RoutersAndNormsAndTheHeadStayAsTheyWere) {
  const fs::path source = tiny_checkpoint("kept_source");
  const fs::path out = fresh("kept");
  quantize_checkpoint(source, out, {});
  const Checkpoint before = Checkpoint::open(source);
  const Checkpoint after = Checkpoint::open(out);
  for (const char* name : {"model.norm.weight", "model.layers.1.mlp.gate.weight", "lm_head.weight",
                           "model.embed_tokens.weight", "model.layers.1.mlp.gate.e_score_correction_bias"}) {
    ASSERT_NE(after.stored(name), nullptr) << name;
    EXPECT_TRUE(std::ranges::equal(after.stored(name)->data, before.stored(name)->data)) << name;
  }
  const auto kept = after.config().at("quantization_config").at("modules_to_not_convert");
  EXPECT_THAT(kept.dump(), HasSubstr("lm_head"));
}

TEST(Quantize, BadWeightsAndOptionsAreNamed) {
  const std::string bad = "model.layers.1.self_attn.q_a_proj.weight";
  const auto put = [&](uint16_t bits) {
    return tiny_checkpoint("bad_source", [&, bits](const std::string& name, std::vector<uint16_t>& values) {
      if (name == bad) values[5 * 128 + 7] = bits;
    });
  };
  const fs::path out = fresh("bad");
  EXPECT_THAT(message_of([&] { quantize_checkpoint(put(0x7fc0), out, {}); }),
              HasSubstr(bad + ": element [5, 7] is nan"));
  EXPECT_FALSE(fs::exists(out / "config.json"));
  EXPECT_FALSE(fs::exists(out / "model.safetensors.index.json"));
  EXPECT_THAT(message_of([&] { quantize_checkpoint(put(0x7f00), fresh("bad"), {}); }), HasSubstr("65504"));
  const fs::path good = tiny_checkpoint("good_source");
  EXPECT_THAT(message_of([&] { quantize_checkpoint(good, fresh("bad"), {.group_size = 48}); }), HasSubstr("48"));
  EXPECT_THAT(message_of([&] { quantize_checkpoint(good, good, {}); }), HasSubstr("both source and destination"));
  EXPECT_THAT(message_of([&] { quantize_checkpoint("absent", fresh("bad"), {}); }), HasSubstr("absent"));
}

TEST(Quantize, KeptTensorsAreCheckedToo) {
  using Case = std::pair<std::string, std::string>;
  for (const Case& bad : {Case{"model.norm.weight", "[7]"}, Case{"lm_head.weight", "[0, 7]"},
                          Case{"model.layers.1.mlp.gate.weight", "[0, 7]"},
                          Case{"model.layers.1.mlp.gate.e_score_correction_bias", "[3]"}}) {
    const fs::path source =
        tiny_checkpoint("kept_bad_source", [&](const std::string& tensor, std::vector<uint16_t>& values) {
          if (tensor == bad.first) values[7] = 0x7f80;  // the upper half of the F32 element 3
        });
    const fs::path out = fresh("kept_bad");
    EXPECT_THAT(message_of([&] { quantize_checkpoint(source, out, {}); }),
                AllOf(HasSubstr(bad.first + ": element"), HasSubstr(bad.second + " is inf")));
    EXPECT_FALSE(fs::exists(out / "model.safetensors.index.json"));
  }
}

TEST(Quantize, IntegerNormsAreRefused) {
  const fs::path source = tiny_checkpoint("integer_source");
  const fs::path file = source / "model.safetensors";
  const auto change = [&](const std::string& from, const std::string& to) {
    std::string bytes = bytes_of(file);
    const size_t at = bytes.find(from);
    ASSERT_NE(at, std::string::npos);
    write_file_atomically(file, bytes.replace(at, from.size(), to));
  };
  change(R"("model.norm.weight":{"dtype":"BF16")", R"("model.norm.weight":{"dtype":"I16" )");
  EXPECT_THAT(message_of([&] { quantize_checkpoint(source, fresh("integer"), {}); }),
              HasSubstr("tensor model.norm.weight is I16 [128], expected F32, F16 or BF16;"));
  change(R"("model.norm.weight":{"dtype":"I16" )", R"("model.norm.weight":{"dtype":"BF16")");
  change(R"(e_score_correction_bias":{"dtype":"F32")", R"(e_score_correction_bias":{"dtype":"I32")");
  EXPECT_THAT(message_of([&] { quantize_checkpoint(source, fresh("integer"), {}); }),
              HasSubstr("e_score_correction_bias is I32 [4]; expected F32"));
}

TEST(Quantize, AQuantizedSourceIsRefused) {
  EXPECT_THAT(message_of([&] { quantize_checkpoint(bundled(), fresh("again"), {}); }), HasSubstr("quantized already"));
}

/// Stops the writing before a tensor, as an interruption would.
struct Interrupted {};
ProgressFn stop_before(const std::string& tensor) {
  return [tensor](uint64_t, uint64_t, const std::string& item) {
    if (item == tensor) throw Interrupted();
  };
}

constexpr uint64_t kSmallShard = 100'000;
constexpr const char* kLateTensor = "model.layers.1.mlp.experts.3.up_proj.weight";

/// A directory with the first shards of `source`.
fs::path interrupted(const std::string& name, const fs::path& source) {
  fs::path directory = fresh(name);
  EXPECT_THROW(
      quantize_checkpoint(source, directory, {.max_shard_bytes = kSmallShard, .progress = stop_before(kLateTensor)}),
      Interrupted);
  return directory;
}

TEST(Quantize, ResumeKeepsWholeShardsAndGivesTheSameFiles) {
  const fs::path source = tiny_checkpoint("resume_source");
  const fs::path whole = fresh("whole");
  const QuantizeReport expected = quantize_checkpoint(source, whole, {.max_shard_bytes = kSmallShard});
  const fs::path partial = interrupted("partial", source);
  const fs::path kept = partial / "model-00002-of-00005.safetensors";
  ASSERT_TRUE(fs::exists(kept));
  const auto written = fs::last_write_time(kept);
  EXPECT_THAT(message_of([&] { Checkpoint::open(partial); }),
              AllOf(HasSubstr("unfinished"), HasSubstr("quantize --resume")));
  EXPECT_THAT(message_of([&] { quantize_checkpoint(source, partial, {.max_shard_bytes = kSmallShard}); }),
              HasSubstr("continue it with --resume"));

  const QuantizeReport report = quantize_checkpoint(source, partial, {.max_shard_bytes = kSmallShard, .resume = true});
  EXPECT_EQ(fs::last_write_time(kept), written);
  EXPECT_EQ(files_in(partial), files_in(whole));
  for (const auto& entry : fs::directory_iterator(whole)) {
    EXPECT_EQ(bytes_of(entry.path()), bytes_of(partial / entry.path().filename())) << entry.path().filename();
  }
  EXPECT_EQ(report.quantized_parameters, expected.quantized_parameters);
  EXPECT_EQ(report.plain_parameters, expected.plain_parameters);
  EXPECT_EQ(report.bytes, expected.bytes);
  EXPECT_EQ(report.to_json()["tensors"].dump(), expected.to_json()["tensors"].dump());
}

TEST(Quantize, ResumeRefusesAnotherConversion) {
  const fs::path source = tiny_checkpoint("resume_source");
  const fs::path partial = interrupted("partial", source);
  const auto resume = [&](const fs::path& from, QuantizeOptions options) {
    options.resume = true;
    return message_of([&] { quantize_checkpoint(from, partial, options); });
  };
  const std::set<std::string> before = files_in(partial);
  EXPECT_THAT(resume(source, {.group_size = 64, .max_shard_bytes = kSmallShard}),
              HasSubstr("group_size was 128, is 64;"));
  EXPECT_THAT(resume(source, {.include_head = true}), AllOf(HasSubstr("include_head was false, is true"),
                                                            HasSubstr("max_shard_bytes was 100000, is 4294967296")));
  // The same names and shapes with other weights, as a fine-tuned model has them.
  const fs::path tuned = tiny_checkpoint("tuned_source", [](const std::string& name, std::vector<uint16_t>& values) {
    if (name != "lm_head.weight") return;
    for (uint16_t& value : values) value ^= 1;
  });
  EXPECT_THAT(resume(tuned, {.max_shard_bytes = kSmallShard}),
              AllOf(HasSubstr("INCOMPLETE"), HasSubstr("model.safetensors was"), HasSubstr("same source")));
  EXPECT_EQ(files_in(partial), before);
  EXPECT_EQ(resume(source, {.max_shard_bytes = kSmallShard}), "no error");
}

TEST(Quantize, ADamagedNoteIsRefused) {
  const fs::path source = tiny_checkpoint("resume_source");
  const fs::path partial = interrupted("partial", source);
  nlohmann::ordered_json mark = nlohmann::ordered_json::parse(bytes_of(partial / "INCOMPLETE"));
  mark["note"] = {{{"name", 7}}};
  write_file_atomically(partial / "INCOMPLETE", mark.dump());
  EXPECT_THAT(
      message_of([&] { quantize_checkpoint(source, partial, {.max_shard_bytes = kSmallShard, .resume = true}); }),
      HasSubstr("INCOMPLETE: the note about finished tensors is damaged"));
}

TEST(Quantize, OnlyAnInterruptedRunIsContinued) {
  const fs::path source = tiny_checkpoint("resume_source");
  const fs::path whole = fresh("whole");
  quantize_checkpoint(source, whole, {.resume = true});  // nothing to continue yet
  EXPECT_THAT(message_of([&] { quantize_checkpoint(source, whole, {.resume = true}); }),
              AllOf(HasSubstr("not empty"), HasSubstr("no interrupted")));
  write_file_atomically(whole / "INCOMPLETE", R"({"unfinished":"metal-marlin mmfp4 synth","recipe":{}})");
  EXPECT_THAT(message_of([&] { quantize_checkpoint(source, whole, {.resume = true}); }), HasSubstr("mmfp4 synth"));
  write_file_atomically(whole / "INCOMPLETE", "[");
  EXPECT_THAT(message_of([&] { quantize_checkpoint(source, whole, {.resume = true}); }), HasSubstr("another program"));
}

TEST(Quantize, TheIndexIsWrittenLast) {
  const fs::path source = tiny_checkpoint("last_source");
  write_file_atomically(source / "tokenizer.json", "{}");
  const fs::path out = fresh("last");
  EXPECT_THAT(message_of([&] {
                quantize_checkpoint(source, out, {.progress = [&](uint64_t, uint64_t, const std::string&) {
                                      fs::create_directories(out / "model.safetensors.index.json.partial");
                                    }});
              }),
              AllOf(HasSubstr((out / "model.safetensors.index.json.partial").string()), HasSubstr("directory")));
  EXPECT_EQ(files_in(out), (std::set<std::string>{"INCOMPLETE", "config.json", "model-00001-of-00001.safetensors",
                                                  "model.safetensors.index.json.partial", "tokenizer.json"}));
}

TEST(Quantize, WhatIsInTheWayIsNamed) {
  const fs::path source = tiny_checkpoint("way_source");
  const fs::path folder = fresh("way");
  fs::create_directories(folder);
  write_file_atomically(folder / "file", "x");
  const auto quantize = [&](const fs::path& out) { return message_of([&] { quantize_checkpoint(source, out, {}); }); };
  EXPECT_THAT(quantize(folder / "file"), HasSubstr("file is a file; give a directory"));
  EXPECT_THAT(quantize(folder / "file/out"), AllOf(HasSubstr("file/out"), HasSubstr("choose another directory")));
  EXPECT_THAT(quantize(folder / std::string(300, 'a')), HasSubstr("choose another directory"));
  EXPECT_THAT(quantize("/proc/out"), AllOf(HasSubstr("/proc/out"), HasSubstr("choose another")));
  fs::create_directories(source / "tokenizer.json");
  EXPECT_THAT(quantize(folder / "new"), HasSubstr("tokenizer.json is not a regular file"));
  EXPECT_FALSE(fs::exists(folder / "new"));
}

/// A copy of a quantized tiny model in a single file that lacks the named tensors, as the published checkpoint does.
fs::path without(const fs::path& source, const std::vector<std::string>& lacking) {
  fs::path directory = fresh("lacking");
  fs::create_directories(directory);
  fs::copy_file(source / "config.json", directory / "config.json");
  std::vector<TensorSpec> specs;
  std::vector<TensorView> kept;
  const SafetensorsFile file = SafetensorsFile::open(source / "model-00001-of-00001.safetensors");
  for (const TensorView& tensor : file.tensors()) {
    if (std::ranges::find(lacking, tensor.name) != lacking.end()) continue;
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
    kept.push_back(tensor);
  }
  SafetensorsWriter writer(directory / "model.safetensors", specs);
  for (const TensorView& tensor : kept) writer.append(tensor.data);
  writer.finish();
  return directory;
}

TEST(Repair, AddsNormAndCorrectionBias) {
  const fs::path source = tiny_checkpoint("repair_source");
  const fs::path whole = fresh("repair_whole");
  quantize_checkpoint(source, whole, {});
  const std::vector<std::string> lacking = {"model.norm.weight", "model.layers.1.mlp.gate.e_score_correction_bias"};
  const fs::path broken = without(whole, lacking);
  const ModelConfig config = ModelConfig::from_json(tiny_config(), "tiny");
  EXPECT_EQ(missing_tensors(Checkpoint::open(broken), config, true).size(), 2U);

  const RepairReport report = repair_checkpoint(broken, source);
  EXPECT_THAT(report.added, ::testing::UnorderedElementsAreArray(lacking));
  const Checkpoint repaired = Checkpoint::open(broken);
  EXPECT_TRUE(missing_tensors(repaired, config, true).empty());
  EXPECT_TRUE(std::ranges::equal(repaired.stored(lacking[0])->data, Checkpoint::open(source).stored(lacking[0])->data));
  EXPECT_TRUE(repair_checkpoint(broken, source).added.empty());
}

TEST(Repair, RefusesWhatItCannotKnow) {
  const fs::path source = tiny_checkpoint("refuse_source");
  const fs::path whole = fresh("refuse_whole");
  quantize_checkpoint(source, whole, {});
  const std::string linear = "model.layers.0.mlp.up_proj";
  const fs::path broken = without(whole, {linear + ".weight", linear + ".scales"});
  EXPECT_THAT(message_of([&] { repair_checkpoint(broken, source); }), HasSubstr(linear));
  EXPECT_THAT(message_of([&] {
                repair_checkpoint(without(whole, {"model.norm.weight"}), without(whole, {"model.norm.weight"}));
              }),
              HasSubstr("model.norm.weight"));
}

}  // namespace
}  // namespace marlin
