// Checkpoints that must be read, and that all of them mean the same weights.
#include "format/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "models.h"

namespace marlin {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing_files::add_linear;
using testing_files::expect_error;
using testing_files::floats_of;
using testing_files::Matrix;
using testing_files::random_matrix;
using testing_files::Raw;
using testing_files::raw;
using testing_files::Style;
using testing_files::TempDir;
using testing_files::values_of;
using testing_files::write_single;

struct Variant {
  const char* label;
  Style style;
  Writer writer;
};

void PrintTo(const Variant& variant, std::ostream* out) {
  *out << variant.label;
}

class EveryWriter : public testing::TestWithParam<Variant> {};

TEST_P(EveryWriter, GivesTheSameWeights) {
  const Variant& variant = GetParam();
  for (const int64_t group : {32, 64, 128}) {
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{24, 256}, {256, 256}, {32, 256}, {2, 128}, {80, 384}}) {
      const TempDir dir;
      const Matrix m = random_matrix(out, in, group, 7);
      std::vector<Raw> tensors;
      add_linear(tensors, "model.layers.0.mlp.up_proj", m, variant.style);
      tensors.push_back(raw("model.norm.weight", DType::kF32, {2}, std::vector<float>{1.0f, 2.0f}));
      write_single(dir.path(), tensors);
      const Checkpoint checkpoint = Checkpoint::open(dir.path());
      EXPECT_EQ(checkpoint.writer(), variant.writer);
      const LinearTensors linear = checkpoint.linear("model.layers.0.mlp.up_proj", out, in);
      ASSERT_EQ(linear.planes.size(), 1u);
      EXPECT_EQ(linear.planes[0].group_size, group);
      EXPECT_EQ(values_of(linear), m.values()) << out << "x" << in << " group " << group;
      EXPECT_THAT(checkpoint.unclaimed(), ElementsAre("model.norm.weight"));
      const bool copied = variant.style.layout_k || variant.style.container == DType::kI64;
      EXPECT_EQ(checkpoint.notes().empty(), !copied);
      EXPECT_EQ(linear.planes[0].weight.file == nullptr, copied);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Checkpoint, EveryWriter,
    testing::Values(
        Variant{"ours", {}, Writer::kOurs},
        Variant{"ours with I32 words", {".weight", ".scales", "", DType::kI32}, Writer::kOurs},
        Variant{"ours with I64 words", {".weight", ".scales", "", DType::kI64}, Writer::kOurs},
        Variant{"MR-GPTQ script", {".weight", ".weight.scales", ".weight.group_size"}, Writer::kMrGptqScript},
        Variant{
            "command line", {".weight", ".weight.scales", ".weight.group_size", DType::kU32, true}, Writer::kRtnCli},
        Variant{"layout K with I64 words", {".weight", ".scales", "", DType::kI64, true}, Writer::kRtnCli},
        Variant{"qweight", {".qweight", ".scales"}, Writer::kOlderNames},
        Variant{"packed_weight", {".packed_weight", ".weight_scale", ".group_size"}, Writer::kOlderNames},
        Variant{"scales_fp4", {".weight", ".scales_fp4", ".weight_group_size"}, Writer::kOlderNames}));

TEST(Checkpoint, LanguageModelPrefixIsTheSameThing) {
  for (const char* prefix : {"model.", "model.language_model.", "language_model.model.", "language_model."}) {
    const TempDir dir;
    const Matrix m = random_matrix(8, 128, 128, 3);
    std::vector<Raw> tensors;
    add_linear(tensors, std::string(prefix) + "layers.0.mlp.up_proj", m);
    write_single(dir.path(), tensors);
    const Checkpoint checkpoint = Checkpoint::open(dir.path());
    EXPECT_EQ(values_of(checkpoint.linear("model.layers.0.mlp.up_proj", 8, 128)), m.values()) << prefix;
    EXPECT_NE(checkpoint.stored("model.layers.0.mlp.up_proj.scales"), nullptr);
  }
}

TEST(Checkpoint, MisalignedTensorsAreCopiedAndSaid) {
  for (size_t shift = 0; shift < 8; ++shift) {
    const TempDir dir;
    const Matrix m = random_matrix(16, 256, 128, 5);
    const std::vector<float> norm = {1.5f, -2.0f, 3.0f};
    std::vector<Raw> tensors;
    add_linear(tensors, "a", m);
    tensors.push_back(raw("norm.weight", DType::kF32, {3}, norm));
    write_single(dir.path(), tensors, "{}", shift);
    const Checkpoint checkpoint = Checkpoint::open(dir.path());
    EXPECT_EQ(values_of(checkpoint.linear("a", 16, 256)), m.values());
    const TensorView view = checkpoint.tensor("norm.weight", {3});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data.data()) % 4, 0u);
    EXPECT_EQ(floats_of(view), norm);
    EXPECT_EQ(checkpoint.notes().empty(), shift % 4 == 0) << shift;
    // A second request gets the same copy.
    EXPECT_EQ(checkpoint.tensor("norm.weight", {3}).data.data(), view.data.data());
  }
}

TEST(Checkpoint, CopiesOutliveTheCheckpoint) {
  const TempDir dir;
  const Matrix m = random_matrix(16, 256, 128, 5);
  std::vector<Raw> tensors;
  add_linear(tensors, "k", m, {".weight", ".scales", "", DType::kU32, true});
  add_linear(tensors, "r", m);
  write_single(dir.path(), tensors);
  std::vector<LinearTensors> kept;
  {
    Checkpoint first = Checkpoint::open(dir.path());
    const Checkpoint moved = std::move(first);
    kept.push_back(moved.linear("k", 16, 256));
    kept.push_back(moved.linear("r", 16, 256));
  }
  EXPECT_EQ(values_of(kept[0]), m.values());
  EXPECT_EQ(values_of(kept[1]), m.values());
}

TEST(Checkpoint, TwoPlanesMayDifferInGroupSize) {
  const TempDir dir;
  const Matrix first = random_matrix(16, 256, 128, 1);
  const Matrix second = random_matrix(16, 256, 32, 2);
  std::vector<Raw> tensors;
  add_linear(tensors, "lm_head", first);
  add_linear(tensors, "lm_head", second, {".weight_2", ".scales_2"});
  write_single(dir.path(), tensors, R"({"quantization_config":{"quant_method":"mmfp4","group_size":128}})");
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  const LinearTensors linear = checkpoint.linear("lm_head", 16, 256);
  ASSERT_EQ(linear.planes.size(), 2u);
  EXPECT_EQ(linear.planes[0].group_size, 128);
  EXPECT_EQ(linear.planes[1].group_size, 32);
  std::vector<float> sum = first.values();
  const std::vector<float> rest = second.values();
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += rest[i];
  EXPECT_EQ(values_of(linear), sum);
  EXPECT_THAT(checkpoint.unclaimed(), IsEmpty());
  EXPECT_THAT(checkpoint.names(), ElementsAre("lm_head"));
}

TEST(Checkpoint, PlainLinearsBiasesAndTensors) {
  const TempDir dir;
  const std::vector<uint16_t> zeros(12, 0);
  const std::vector<float> bias = {0.5f, 1.5f, 2.5f};
  write_single(dir.path(), {raw("a.weight", DType::kBF16, {3, 4}, zeros), raw("a.bias", DType::kF32, {3}, bias),
                            raw("n.weight", DType::kF16, {12}, zeros), raw("n.bias", DType::kF16, {12}, zeros),
                            raw("gate.e_score_correction_bias", DType::kF32, {3}, bias)});
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  EXPECT_EQ(checkpoint.writer(), Writer::kPlain);
  EXPECT_THAT(checkpoint.names(), ElementsAre("a", "n.weight", "n.bias", "gate.e_score_correction_bias"));
  EXPECT_TRUE(checkpoint.has_linear("a"));
  EXPECT_TRUE(checkpoint.has_tensor("a.weight"));
  EXPECT_TRUE(checkpoint.has_tensor("a.bias"));
  EXPECT_FALSE(checkpoint.has_linear("n"));
  EXPECT_FALSE(checkpoint.has_tensor("b.weight"));
  EXPECT_EQ(checkpoint.unclaimed().size(), 5u);
  const LinearTensors linear = checkpoint.linear("a", 3, 4);
  EXPECT_FALSE(linear.quantized());
  ASSERT_TRUE(linear.plain && linear.bias);
  EXPECT_EQ(linear.plain->describe(), "BF16 [3, 4]");
  EXPECT_EQ(floats_of(*linear.bias), bias);
  EXPECT_EQ(checkpoint.tensor("n.weight", {12}).describe(), "F16 [12]");
  EXPECT_EQ(checkpoint.tensor("n.bias", {12}).describe(), "F16 [12]");
  EXPECT_THAT(checkpoint.unclaimed(), ElementsAre("gate.e_score_correction_bias"));
}

TEST(Checkpoint, QuantizedLinearIsNotAPlainTensor) {
  const TempDir dir;
  std::vector<Raw> tensors;
  add_linear(tensors, "model.embed_tokens", random_matrix(16, 128, 32, 1));
  write_single(dir.path(), tensors);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  EXPECT_TRUE(checkpoint.has_linear("model.embed_tokens"));
  EXPECT_FALSE(checkpoint.has_tensor("model.embed_tokens.weight"));
  EXPECT_FALSE(checkpoint.has_tensor("model.embed_tokens.scales"));
  expect_error(ErrorCode::kBadFile, {"model.embed_tokens.weight", "quantized"}, [&] {
    checkpoint.tensor("model.embed_tokens.weight", {16, 16});
  });
}

TEST(Checkpoint, MissingAndMisshapenTensorsAreNamed) {
  const TempDir dir;
  std::vector<Raw> tensors;
  add_linear(tensors, "q", random_matrix(16, 128, 128, 1));
  tensors.push_back(raw("n.weight", DType::kF32, {2}, std::vector<float>{1, 2}));
  write_single(dir.path(), tensors);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  expect_error(ErrorCode::kBadFile, {"linear q", "[16, 128]", "[16, 256]"}, [&] { checkpoint.linear("q", 16, 256); });
  expect_error(ErrorCode::kNotFound, {"r.weight", "[16, 256]"}, [&] { checkpoint.linear("r", 16, 256); });
  expect_error(ErrorCode::kBadFile, {"n.weight", "F32 [2]", "[3]"}, [&] { checkpoint.tensor("n.weight", {3}); });
  expect_error(ErrorCode::kNotFound, {"model.norm.weight", "mmfp4 repair --from"},
               [&] { checkpoint.tensor("model.norm.weight", {3}); });
  expect_error(ErrorCode::kNotFound, {"e_score_correction_bias", "mmfp4 repair --from"},
               [&] { checkpoint.tensor("model.layers.1.mlp.gate.e_score_correction_bias", {3}); });
  EXPECT_THAT(checkpoint.unclaimed(), ElementsAre("q.weight", "q.scales", "n.weight"));
}

TEST(Checkpoint, ExpertsOneByOne) {
  const TempDir dir;
  std::vector<Raw> tensors;
  std::vector<Matrix> matrices;
  for (uint32_t expert = 0; expert < 12; ++expert) {
    matrices.push_back(random_matrix(8, 128, 64, expert));
    add_linear(tensors, "model.layers.1.mlp.experts." + std::to_string(expert) + ".up_proj", matrices.back());
  }
  write_single(dir.path(), tensors);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  const std::vector<LinearTensors> experts = checkpoint.experts("model.layers.1.mlp", "up_proj", 11, 8, 128);
  ASSERT_EQ(experts.size(), 11u);
  for (size_t e = 0; e < experts.size(); ++e) EXPECT_EQ(values_of(experts[e]), matrices[e].values());
  EXPECT_THAT(checkpoint.unclaimed(), ElementsAre("model.layers.1.mlp.experts.11.up_proj.weight",
                                                  "model.layers.1.mlp.experts.11.up_proj.scales"));
  expect_error(ErrorCode::kNotFound, {"experts.12.up_proj"},
               [&] { checkpoint.experts("model.layers.1.mlp", "up_proj", 13, 8, 128); });
}

TEST(Checkpoint, FusedExpertsAreCutIntoViews) {
  const TempDir dir;
  constexpr int kExperts = 3;
  constexpr int kInner = 4;
  constexpr int kHidden = 6;
  std::vector<float> gate_up(kExperts * 2 * kInner * kHidden);
  std::vector<float> down(kExperts * kHidden * kInner);
  std::iota(gate_up.begin(), gate_up.end(), 0.0f);
  std::iota(down.begin(), down.end(), 0.0f);
  write_single(dir.path(),
               {raw("model.layers.1.mlp.experts.gate_up_proj", DType::kF32, {kExperts, 2 * kInner, kHidden}, gate_up),
                raw("model.layers.1.mlp.experts.down_proj", DType::kF32, {kExperts, kHidden, kInner}, down)});
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  const auto value = [](const LinearTensors& linear, size_t i) {
    return reinterpret_cast<const float*>(linear.plain->data.data())[i];
  };
  const auto gate = checkpoint.experts("model.layers.1.mlp", "gate_proj", kExperts, kInner, kHidden);
  const auto up = checkpoint.experts("model.layers.1.mlp", "up_proj", kExperts, kInner, kHidden);
  EXPECT_EQ(value(gate[0], 0), 0.0f);
  EXPECT_EQ(value(up[0], 0), 24.0f);
  EXPECT_EQ(value(gate[2], 5), 101.0f);
  EXPECT_EQ(value(up[2], 23), 143.0f);
  EXPECT_EQ(up[2].plain->describe(), "F32 [4, 6]");
  EXPECT_EQ(up[2].plain->data.size(), 96u);
  const auto some = checkpoint.experts("model.layers.1.mlp", "down_proj", 2, kHidden, kInner);
  EXPECT_EQ(value(some[1], 1), 25.0f);
  EXPECT_THAT(checkpoint.unclaimed(), ElementsAre("model.layers.1.mlp.experts.2.down_proj.weight"));
  EXPECT_EQ(checkpoint.names().size(), 9u);
  EXPECT_TRUE(checkpoint.has_linear("model.layers.1.mlp.experts.2.up_proj"));
}

TEST(Checkpoint, SideFileGivesWhatTheShardsLack) {
  const TempDir dir;
  const std::vector<float> two = {1, 2};
  const std::vector<float> other = {3, 4};
  write_single(dir.path(), {raw("a.weight", DType::kF32, {2}, two)});
  testing_files::write(dir / "missing_norm.safetensors",
                       testing_files::safetensors_bytes({raw("model.norm.weight", DType::kF32, {2}, other),
                                                         raw("a.weight", DType::kF32, {2}, other)}));
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  EXPECT_EQ(floats_of(checkpoint.tensor("model.norm.weight", {2})), other);
  EXPECT_EQ(floats_of(checkpoint.tensor("a.weight", {2})), two);
  EXPECT_THAT(checkpoint.notes(), ElementsAre(HasSubstr("missing_norm.safetensors")));
  EXPECT_EQ(checkpoint.files().size(), 2u);
}

TEST(Checkpoint, StoredGroupSizeSpeaksBeforeTheConfig) {
  const TempDir dir;
  std::vector<Raw> tensors;
  add_linear(tensors, "a", random_matrix(8, 128, 128, 1));
  add_linear(tensors, "b", random_matrix(8, 96, 32, 2), {".weight", ".scales", ".group_size"});
  write_single(dir.path(), tensors, R"({"quantization_config":{"quant_method":"mmfp4","group_size":128}})");
  EXPECT_EQ(Checkpoint::open(dir.path()).linear("b", 8, 96).planes[0].group_size, 32);
}

TEST(Checkpoint, SquareMatricesAreToldApartByTheirScales) {
  // Words [16, 16] and [128, 128] look the same in both layouts; the scales do not.
  for (const bool layout_k : {false, true}) {
    const TempDir dir;
    const Matrix m = random_matrix(16, 128, 32, 9);
    const Matrix big = random_matrix(128, 1024, 64, 10);
    std::vector<Raw> tensors;
    add_linear(tensors, "a", m, {".weight", ".scales", "", DType::kU32, layout_k});
    add_linear(tensors, "b", big, {".weight", ".scales", "", DType::kU32, layout_k});
    write_single(dir.path(), tensors);
    const Checkpoint checkpoint = Checkpoint::open(dir.path());
    EXPECT_EQ(values_of(checkpoint.linear("a", 16, 128)), m.values());
    EXPECT_EQ(values_of(checkpoint.linear("b", 128, 1024)), big.values());
  }
}

}  // namespace
}  // namespace marlin
