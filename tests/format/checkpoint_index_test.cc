#include "format/checkpoint_index.h"

#include <gtest/gtest.h>

#include "files.h"
#include "format/checkpoint_names.h"
#include "format/json.h"

namespace marlin {
namespace {

using testing_files::expect_error;

TEST(ShardIndex, ReadsShardsSortedAndOnce) {
  const ShardIndex index =
      parse_shard_index(R"({"metadata":{"total_size":1},"weight_map":{"a":"m-2","b":"m-1","c":"m-2"}})", "index");
  EXPECT_EQ(index.shards, (std::vector<std::string>{"m-1", "m-2"}));
  EXPECT_EQ(index.weight_map.at("c"), "m-2");
}

TEST(ShardIndex, RefusesWhatIsNoIndex) {
  for (const char* text : {"", "{", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{"a":1}})",
                           R"({"weight_map":{"a":"m","a":"m"}})"}) {
    expect_error(ErrorCode::kBadFile, {"index.json"}, [&] { parse_shard_index(text, "index.json"); });
  }
}

TEST(ShardIndex, RefusesShardsElsewhere) {
  for (const char* shard : {"../m", "/etc/passwd", "a/m", "..", ".", "", "a\\\\m", "m\\u0000", "m\\n"}) {
    const std::string text = R"({"weight_map":{"a":")" + std::string(shard) + R"("}})";
    expect_error(ErrorCode::kBadFile, {"shard"}, [&] { parse_shard_index(text, "index.json"); });
  }
}

TEST(QuantizationClaims, Fields) {
  const auto parse = [](const char* text) { return parse_quantization_claims(nlohmann::json::parse(text), "config"); };
  EXPECT_EQ(parse(R"({"quant_method":"mmfp4","format":"e2m1","group_size":64,"scale_dtype":"float16"})").group_size,
            64);
  EXPECT_FALSE(parse("{}").group_size.has_value());
  EXPECT_FALSE(parse(R"({"group_size":null})").group_size.has_value());
  EXPECT_TRUE(parse(R"({"format":"mmfp4_e2m1_marlin","use_hadamard":true,"actorder":true})").hadamard);
  EXPECT_TRUE(parse(R"({"format":"marlin_fp4","actorder":true})").act_order);
  for (const char* text : {"[]", "1", R"({"group_size":"128"})", R"({"group_size":1.5})", R"({"quant_method":1})",
                           R"({"use_hadamard":1})"}) {
    expect_error(ErrorCode::kBadFile, {"config"}, [&] { parse(text); });
  }
}

TEST(TensorNames, Roles) {
  const auto expect = [](const char* name, std::string_view base, TensorRole role) {
    const TensorName parsed = parse_tensor_name(name);
    EXPECT_EQ(parsed.base, base) << name;
    EXPECT_EQ(static_cast<int>(parsed.role), static_cast<int>(role)) << name;
  };
  expect("a.b.weight", "a.b", TensorRole::kWeight);
  expect("a.b.weight.scales", "a.b", TensorRole::kScales);
  expect("a.b.scales", "a.b", TensorRole::kScales);
  expect("a.b.weight_scale", "a.b", TensorRole::kScales);
  expect("a.b.weight_2", "a.b", TensorRole::kWeight2);
  expect("a.b.scales_2", "a.b", TensorRole::kScales2);
  expect("a.b.weight.group_size", "a.b", TensorRole::kGroupSize);
  expect("a.b.weight.hadamard_block_size", "a.b", TensorRole::kHadamard);
  expect("gate.e_score_correction_bias", "gate.e_score_correction_bias", TensorRole::kOther);
  expect(".weight", ".weight", TensorRole::kOther);
  expect("", "", TensorRole::kOther);
}

TEST(TensorNames, Experts) {
  const auto name = parse_expert_name("model.layers.3.mlp.experts.17.gate_proj.weight_2");
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->expert, 17);
  EXPECT_EQ(name->kind, "gate_proj");
  EXPECT_EQ(name->suffix, "weight_2");
  for (const char* other :
       {"a.experts.gate_up_proj", "a.experts.x.up.weight", "a.experts.1", "a.experts.1.up", "a.experts.-1.up.weight",
        "a.shared_experts.up_proj.weight", "a.experts.99999999999999999999.up.weight"}) {
    EXPECT_FALSE(parse_expert_name(other).has_value()) << other;
  }
}

TEST(Json, ParseErrorsAreOneLine) {
  expect_error(ErrorCode::kBadFile, {"c.json", "JSON"}, [] { parse_json_object("{\"a\":\n\n}", "c.json"); });
  expect_error(ErrorCode::kBadFile, {"c.json", "number"}, [] { parse_json_object("3", "c.json"); });
  EXPECT_EQ(parse_json_object("{\"a\":1}", "c.json")["a"], 1);
}

}  // namespace
}  // namespace marlin
