// Checkpoints that must be refused, with a message that names the tensor or file.
#include <gtest/gtest.h>

#include <functional>

#include "models.h"

namespace marlin {
namespace {

using testing_files::add_linear;
using testing_files::expect_error;
using testing_files::Matrix;
using testing_files::random_matrix;
using testing_files::Raw;
using testing_files::raw;
using testing_files::safetensors_bytes;
using testing_files::TempDir;
using testing_files::write;
using testing_files::write_single;

void expect_refused(ErrorCode code, const std::vector<std::string>& parts, const std::vector<Raw>& tensors,
                    const std::string& config = "{}", const CheckpointOptions& options = {}) {
  const TempDir dir;
  write_single(dir.path(), tensors, config);
  expect_error(code, parts, [&] { Checkpoint::open(dir.path(), options); });
}

std::vector<Raw> quantized(const Matrix& m) {
  std::vector<Raw> tensors;
  add_linear(tensors, "a.b", m);
  return tensors;
}

TEST(CheckpointRefusal, DirectoryWithoutACheckpoint) {
  const TempDir dir;
  expect_error(ErrorCode::kNotFound, {"config.json"}, [&] { Checkpoint::open(dir.path()); });
  write(dir / "config.json", "{}");
  expect_error(ErrorCode::kNotFound, {"model.safetensors", "--resume"}, [&] { Checkpoint::open(dir.path()); });
  write(dir / "config.json", "{\"a\":");
  expect_error(ErrorCode::kBadFile, {"config.json", "JSON"}, [&] { Checkpoint::open(dir.path()); });
  write(dir / "config.json", "[]");
  expect_error(ErrorCode::kBadFile, {"config.json", "array"}, [&] { Checkpoint::open(dir.path()); });
}

TEST(CheckpointRefusal, ScalesMissingOrAlone) {
  std::vector<Raw> tensors = quantized(random_matrix(8, 128, 128, 1));
  expect_refused(ErrorCode::kBadFile, {"a.b.weight", "U32 [8, 16]", "no scales"}, {tensors[0]});
  expect_refused(ErrorCode::kBadFile, {"a.b.scales", "no weight"}, {tensors[1]});
  tensors[0].name = "a.b";  // the stacked spelling without .weight
  expect_refused(ErrorCode::kBadFile, {"a.b.scales", "no weight"}, tensors);
  tensors = quantized(random_matrix(8, 128, 128, 1));
  tensors[0].name = "a.b.qweight";
  expect_refused(ErrorCode::kBadFile, {"a.b.qweight", "no scales"}, {tensors[0]});
  expect_refused(ErrorCode::kBadFile, {"a.group_size", "no weight"},
                 {raw("a.group_size", DType::kI32, {1}, std::vector<int32_t>{128})});
}

TEST(CheckpointRefusal, SecondPlaneMustBeWhole) {
  std::vector<Raw> tensors = quantized(random_matrix(8, 128, 128, 1));
  std::vector<Raw> second;
  add_linear(second, "a.b", random_matrix(8, 128, 64, 2), {".weight_2", ".scales_2"});
  expect_refused(ErrorCode::kBadFile, {"a.b.scales_2"}, {tensors[0], tensors[1], second[0]});
  expect_refused(ErrorCode::kBadFile, {"a.b.weight_2"}, {tensors[0], tensors[1], second[1]});
  second.clear();
  add_linear(second, "a.b", random_matrix(8, 256, 64, 2), {".weight_2", ".scales_2"});
  expect_refused(ErrorCode::kBadFile, {"a.b.weight_2", "[8, 256]", "[8, 128]"},
                 {tensors[0], tensors[1], second[0], second[1]});
}

TEST(CheckpointRefusal, ScalesNotFinite) {
  for (const uint16_t bad : {uint16_t{0x7c00}, uint16_t{0xfc00}, uint16_t{0x7e00}}) {
    Matrix m = random_matrix(8, 256, 128, 1);
    m.scales[5] = bad;
    expect_refused(ErrorCode::kBadFile, {"a.b.scales", "[2, 1]", bad == 0x7e00 ? "NaN" : "infinite"}, quantized(m));
    CheckpointOptions options;
    options.check_scales = false;
    const TempDir dir;
    write_single(dir.path(), quantized(m));
    EXPECT_NO_THROW(Checkpoint::open(dir.path(), options));
  }
}

TEST(CheckpointRefusal, ShapesThatDoNotBelongTogether) {
  std::vector<Raw> tensors = quantized(random_matrix(8, 384, 128, 1));
  tensors[1] = raw("a.b.scales", DType::kF16, {8, 5}, std::vector<uint16_t>(40, 0));  // 384 is no multiple of 5
  expect_refused(ErrorCode::kBadFile, {"a.b.weight", "U32 [8, 48]", "F16 [8, 5]"}, tensors);
  tensors[1] = raw("a.b.scales", DType::kF16, {7, 3}, std::vector<uint16_t>(21, 0));
  expect_refused(ErrorCode::kBadFile, {"a.b.scales", "F16 [7, 3]"}, tensors);
  tensors[1] = raw("a.b.scales", DType::kF32, {8, 3}, std::vector<float>(24, 0));
  expect_refused(ErrorCode::kBadFile, {"a.b.scales", "F32 [8, 3]"}, tensors);
  tensors[1] = raw("a.b.scales", DType::kF16, {24}, std::vector<uint16_t>(24, 0));
  expect_refused(ErrorCode::kBadFile, {"a.b.scales", "F16 [24]"}, tensors);
  tensors[1] = raw("a.b.scales", DType::kF16, {8, 0}, std::vector<uint16_t>());
  expect_refused(ErrorCode::kBadFile, {"a.b.scales", "F16 [8, 0]"}, tensors);
  tensors = quantized(random_matrix(8, 128, 128, 1));
  tensors[0].dtype = DType::kF32;
  expect_refused(ErrorCode::kBadFile, {"a.b.weight", "F32 [8, 16]"}, tensors);
}

TEST(CheckpointRefusal, IllegalGroupSizes) {
  expect_refused(ErrorCode::kBadFile, {"a.b.weight", "group size of 96", "32, 64 or 128"},
                 quantized(random_matrix(8, 96, 96, 1)));
  expect_refused(ErrorCode::kBadFile, {"group size of 16"}, quantized(random_matrix(8, 128, 16, 1)));
  expect_refused(ErrorCode::kBadFile, {"group size of 256"}, quantized(random_matrix(8, 256, 256, 1)));
  // The only square ambiguity: words and scales of one shape.
  expect_refused(ErrorCode::kBadFile, {"group size of 8", "either layout"}, quantized(random_matrix(16, 128, 8, 1)));
}

TEST(CheckpointRefusal, GroupSizeClaims) {
  std::vector<Raw> tensors = quantized(random_matrix(8, 128, 64, 1));
  expect_refused(ErrorCode::kBadFile, {"quantization_config", "128", "64", "a.b.weight"}, tensors,
                 R"({"quantization_config":{"group_size":128}})");
  tensors.push_back(raw("a.b.weight.group_size", DType::kI32, {1}, std::vector<int32_t>{32}));
  expect_refused(ErrorCode::kBadFile, {"a.b.weight.group_size", "32", "64"}, tensors);
  tensors.back() = raw("a.b.group_size", DType::kF32, {1}, std::vector<float>{64});
  expect_refused(ErrorCode::kBadFile, {"a.b.group_size", "F32 [1]"}, tensors);
  tensors.back() = raw("a.b.group_size", DType::kI32, {2}, std::vector<int32_t>{64, 64});
  expect_refused(ErrorCode::kBadFile, {"a.b.group_size", "I32 [2]"}, tensors);
}

TEST(CheckpointRefusal, RotatedWeights) {
  for (const char* name : {"a.b.weight.hadamard_block_size", "a.b.hadamard_block_size"}) {
    std::vector<Raw> tensors = quantized(random_matrix(8, 128, 128, 1));
    tensors.push_back(raw(name, DType::kI32, {1}, std::vector<int32_t>{64}));
    expect_refused(ErrorCode::kUnsupported, {name, "Hadamard"}, tensors);
  }
  expect_refused(ErrorCode::kUnsupported, {"use_hadamard"}, quantized(random_matrix(8, 128, 128, 1)),
                 R"({"quantization_config":{"use_hadamard":true}})");
}

TEST(CheckpointRefusal, OtherQuantizationFormats) {
  for (const char* suffix : {".qzeros", ".g_idx", ".biases", ".weight_scale_inv", ".weight_scale_2"}) {
    std::vector<Raw> tensors = quantized(random_matrix(8, 128, 128, 1));
    tensors.push_back(raw(std::string("a.b") + suffix, DType::kF16, {8, 1}, std::vector<uint16_t>(8, 0)));
    expect_refused(ErrorCode::kUnsupported, {std::string("a.b") + suffix}, tensors);
  }
  for (const char* config : {R"({"quantization_config":{"quant_method":"gptq","bits":4}})",
                             R"({"quantization_config":{"quant_method":"mmfp4","format":"int4"}})",
                             R"({"quantization_config":{"quant_method":"mmfp4","scale_dtype":"float8"}})"}) {
    expect_refused(ErrorCode::kUnsupported, {"config.json"}, quantized(random_matrix(8, 128, 128, 1)), config);
  }
}

TEST(CheckpointRefusal, NamesThatCollide) {
  std::vector<Raw> tensors = quantized(random_matrix(8, 128, 128, 1));
  tensors.push_back(tensors[1]);
  tensors.back().name = "a.b.weight.scales";
  expect_refused(ErrorCode::kBadFile, {"a.b.scales", "a.b.weight.scales", "twice"}, tensors);
  const std::vector<float> one = {1};
  expect_refused(ErrorCode::kBadFile, {"model.x", "twice"},
                 {raw("model.x", DType::kF32, {1}, one), raw("model.language_model.x", DType::kF32, {1}, one)});
  expect_refused(ErrorCode::kBadFile, {"a?b"}, {raw("a\nb", DType::kF32, {1}, one)});
}

TEST(CheckpointRefusal, FusedExperts) {
  const std::vector<float> values(12, 0.0f);
  expect_refused(ErrorCode::kBadFile, {"m.experts.gate_up_proj", "[2, 3, 2]"},
                 {raw("m.experts.gate_up_proj", DType::kF32, {2, 3, 2}, values)});
  expect_refused(ErrorCode::kBadFile, {"m.experts.down_proj", "U32"},
                 {raw("m.experts.down_proj", DType::kU32, {2, 3, 2}, values)});
  expect_refused(ErrorCode::kBadFile, {"m.experts.down_proj", "empty"},
                 {raw("m.experts.down_proj", DType::kF32, {1000000000, 0, 2}, std::vector<float>())});
  expect_refused(ErrorCode::kBadFile, {"m.experts.0.down_proj", "twice"},
                 {raw("m.experts.down_proj", DType::kF32, {2, 3, 2}, values),
                  raw("m.experts.0.down_proj.weight", DType::kF32, {3, 4}, values)});
}

TEST(CheckpointRefusal, BiasOfTheWrongShape) {
  std::vector<Raw> tensors = quantized(random_matrix(8, 128, 128, 1));
  tensors.push_back(raw("a.b.bias", DType::kF16, {7}, std::vector<uint16_t>(7, 0)));
  expect_refused(ErrorCode::kBadFile, {"a.b.bias", "F16 [7]", "[8]"}, tensors);
}

TEST(CheckpointRefusal, WideWordsWithMoreThan32Bits) {
  const TempDir dir;
  std::vector<Raw> tensors = quantized(random_matrix(1, 128, 128, 1));
  std::vector<int64_t> words(16, 1);
  words[9] = int64_t{1} << 32;
  tensors[0] = raw("a.b.weight", DType::kI64, {1, 16}, words);
  write_single(dir.path(), tensors);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  expect_error(ErrorCode::kBadFile, {"a.b.weight", "word 9"}, [&] { checkpoint.linear("a.b", 1, 128); });
}

// Two shards and an index, which `change` may spoil.
void expect_index(ErrorCode code, const std::vector<std::string>& parts,
                  const std::function<void(const TempDir&)>& change, const CheckpointOptions& options = {}) {
  const TempDir dir;
  const std::vector<float> one = {1};
  write(dir / "config.json", "{}");
  write(dir / "s1.safetensors", safetensors_bytes({raw("a", DType::kF32, {1}, one), raw("b", DType::kF32, {1}, one)}));
  write(dir / "s2.safetensors", safetensors_bytes({raw("c", DType::kF32, {1}, one)}));
  write(dir / "model.safetensors.index.json",
        R"({"weight_map":{"a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors"}})");
  ASSERT_EQ(Checkpoint::open(dir.path()).names(), (std::vector<std::string>{"a", "b", "c"}));
  change(dir);
  expect_error(code, parts, [&] { Checkpoint::open(dir.path(), options); });
}

TEST(CheckpointRefusal, IndexAndShardsDisagree) {
  const std::vector<float> one = {1};
  const char* index = "model.safetensors.index.json";
  expect_index(ErrorCode::kNotFound, {index, "s2.safetensors"},
               [](const TempDir& dir) { std::filesystem::remove(dir / "s2.safetensors"); });
  expect_index(ErrorCode::kBadFile, {"s2.safetensors"},
               [](const TempDir& dir) { std::filesystem::resize_file(dir / "s2.safetensors", 40); });
  expect_index(ErrorCode::kBadFile, {index, "no shard holds: b"}, [&](const TempDir& dir) {
    write(dir / "s1.safetensors", safetensors_bytes({raw("a", DType::kF32, {1}, one)}));
  });
  expect_index(ErrorCode::kBadFile, {index, "does not name", "d (s2.safetensors)"}, [&](const TempDir& dir) {
    write(dir / "s2.safetensors",
          safetensors_bytes({raw("c", DType::kF32, {1}, one), raw("d", DType::kF32, {1}, one)}));
  });
  expect_index(
      ErrorCode::kBadFile, {index, "tensor c is in s2.safetensors", "s1.safetensors"}, [&](const TempDir& dir) {
        write(dir / index, R"({"weight_map":{"a":"s1.safetensors","b":"s2.safetensors","c":"s1.safetensors"}})");
        write(dir / "s1.safetensors", safetensors_bytes({raw("a", DType::kF32, {1}, one)}));
        write(dir / "s2.safetensors",
              safetensors_bytes({raw("b", DType::kF32, {1}, one), raw("c", DType::kF32, {1}, one)}));
      });
  expect_index(ErrorCode::kBadFile, {"tensor a is stored twice", "s2.safetensors"}, [&](const TempDir& dir) {
    write(dir / "s2.safetensors",
          safetensors_bytes({raw("c", DType::kF32, {1}, one), raw("a", DType::kF32, {1}, one)}));
  });
}

TEST(CheckpointRefusal, PublishedFileWithoutItsNorm) {
  const TempDir dir;
  const std::vector<float> one = {1};
  write(dir / "config.json", "{}");
  write(dir / "s1.safetensors", safetensors_bytes({raw("a", DType::kF32, {1}, one)}));
  write(dir / "model.safetensors.index.json",
        R"({"weight_map":{"a":"s1.safetensors","model.norm.weight":"s1.safetensors"}})");
  expect_error(ErrorCode::kBadFile, {"model.norm.weight", "mmfp4 repair --from <BF16 checkpoint>"},
               [&] { Checkpoint::open(dir.path()); });
  CheckpointOptions options;
  options.tolerate_missing = true;
  const Checkpoint tolerated = Checkpoint::open(dir.path(), options);
  EXPECT_FALSE(tolerated.has_tensor("model.norm.weight"));
  EXPECT_EQ(tolerated.notes().size(), 1u);
  write(dir / "missing_norm.safetensors", safetensors_bytes({raw("model.norm.weight", DType::kF32, {1}, one)}));
  EXPECT_TRUE(Checkpoint::open(dir.path()).has_tensor("model.norm.weight"));
}

}  // namespace
}  // namespace marlin
