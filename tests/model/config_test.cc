#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "marlin/error.h"
#include "model/tensors.h"

namespace marlin {
namespace {

using nlohmann::json;

json real_config() {
  return json::parse(R"({"model_type":"glm4_moe_lite","hidden_size":2048,"intermediate_size":10240,
    "num_hidden_layers":47,"num_nextn_predict_layers":1,"num_attention_heads":20,"q_lora_rank":768,"kv_lora_rank":512,
    "qk_nope_head_dim":192,"qk_rope_head_dim":64,"v_head_dim":256,"moe_intermediate_size":1536,"n_routed_experts":64,
    "n_shared_experts":1,"num_experts_per_tok":4,"routed_scaling_factor":1.8,"first_k_dense_replace":1,
    "rope_theta":1000000,"rope_scaling":null,"rms_norm_eps":1e-05,"vocab_size":154880,"max_position_embeddings":202752,
    "attention_bias":false,"eos_token_id":[154820,154827,154829]})");
}

TEST(Config, TheRealModelHasTheRealNumberOfParametersAndTensors) {
  const ModelConfig config = ModelConfig::from_json(real_config(), "config.json");
  int64_t parameters = 0;
  int64_t tensors = 0;
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    int64_t size = 1;
    for (const int64_t extent : tensor.shape) size *= extent;
    parameters += size;
    ++tensors;
  }
  // With MTP's own embedding and head: the published checkpoint's totals.
  EXPECT_EQ(parameters, 31'221'488'576);
  EXPECT_EQ(tensors, 9703);
  EXPECT_DOUBLE_EQ(config.attention_scale(), 0.0625);
  EXPECT_DOUBLE_EQ(config.latent_norm_eps, 1e-6);
}

TEST(Config, BothSpellingsOfRopeAndLayerTypes) {
  json re_saved = real_config();
  re_saved.erase("rope_theta");
  re_saved.erase("first_k_dense_replace");
  re_saved["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5e5}, {"partial_rotary_factor", 1.0}};
  re_saved["mlp_layer_types"] = json::array();
  for (int i = 0; i < 47; ++i) re_saved["mlp_layer_types"].push_back(i < 2 ? "dense" : "sparse");
  const ModelConfig config = ModelConfig::from_json(re_saved, "config.json");
  EXPECT_DOUBLE_EQ(config.rope_theta, 5e5);
  EXPECT_FALSE(config.sparse[1]);
  EXPECT_TRUE(config.sparse[2]);
}

struct BadConfig {
  const char* field;
  json value;  // discarded = erase the field
  ErrorCode code;
};

class BadConfigs : public ::testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigs, AreRefusedByName) {
  json config = real_config();
  if (GetParam().value.is_discarded()) {
    config.erase(GetParam().field);
  } else {
    config[GetParam().field] = GetParam().value;
  }
  try {
    ModelConfig::from_json(config, "config.json");
    FAIL() << "accepted " << config[GetParam().field];
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), GetParam().code);
    EXPECT_THAT(error.what(), ::testing::HasSubstr(GetParam().field));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("config.json"));
    EXPECT_THAT(error.what(), ::testing::Not(::testing::HasSubstr("\n")));
  }
}

INSTANTIATE_TEST_SUITE_P(Fields, BadConfigs,
                         ::testing::Values(BadConfig{"model_type", "llama", ErrorCode::kUnsupported},
                                           BadConfig{"hidden_size", json(json::value_t::discarded),
                                                     ErrorCode::kBadFile},
                                           BadConfig{"hidden_size", -1, ErrorCode::kBadFile},
                                           BadConfig{"hidden_size", 2048.5, ErrorCode::kBadFile},
                                           BadConfig{"hidden_size", 1LL << 40, ErrorCode::kBadFile},
                                           BadConfig{"num_experts_per_tok", 65, ErrorCode::kBadFile},
                                           BadConfig{"qk_rope_head_dim", 63, ErrorCode::kBadFile},
                                           BadConfig{"rms_norm_eps", 0, ErrorCode::kBadFile},
                                           BadConfig{"attention_bias", true, ErrorCode::kUnsupported},
                                           BadConfig{"rope_scaling", {{"type", "yarn"}}, ErrorCode::kUnsupported},
                                           BadConfig{"rope_interleave", false, ErrorCode::kUnsupported},
                                           BadConfig{"scoring_func", "softmax", ErrorCode::kUnsupported},
                                           BadConfig{"mlp_layer_types", json::array({"dense"}), ErrorCode::kBadFile},
                                           BadConfig{"eos_token_id", 154880, ErrorCode::kBadFile},
                                           BadConfig{"n_group", 3, ErrorCode::kBadFile},
                                           BadConfig{"num_nextn_predict_layers", 2, ErrorCode::kBadFile}));

}  // namespace
}  // namespace marlin
