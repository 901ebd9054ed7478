// Each op of the fused layer against the ops that it stands for, on the oracle: both roles in one batch and alone, all
// kinds of caches, plain and FP4 weights.
#include <gtest/gtest.h>

#include "ops/op_test_util.h"

namespace marlin::op_test {
namespace {

constexpr int kHidden = 160;
constexpr int kQueryRank = 96;
constexpr MlaShape kShape{.heads = 3, .nope = 12, .rope = 8, .value = 20, .latent = 64};
constexpr int kHead = kShape.nope + kShape.rope;
constexpr int kPositions = 80;
constexpr double kTheta = 1e4;
constexpr double kEps = 1e-5;

enum class Roles { kDecode, kPrompt, kMixed };

struct Case {
  std::string name;
  std::vector<int> groups;  // of FP4 planes; none: BF16
  KvType kv = KvType::kF32;
  Roles roles = Roles::kMixed;
  int rows = 5;
  bool fused = true;  // where the device has the fused layer
};

Role role_of(const Case& test, int row) {
  if (test.roles == Roles::kMixed) return row % 3 == 1 ? Role::kPrompt : Role::kDecode;
  return test.roles == Roles::kPrompt ? Role::kPrompt : Role::kDecode;
}

WeightPtr weight(const Case& test, int64_t out, int64_t in, uint64_t seed) {
  return random_weight({out, in, DType::kBF16, test.groups, false, DType::kF32}, seed);
}

/// One device's buffers and the ops of a layer over them, fused or by parts.
class Layer {
 public:
  Layer(Device& device, const Case& test) : rig_(device), test_(test), s_(rig_.stream()) {
    fused_ = test.fused && s_.has_fused_layer();
    make_batch();
    std::vector<float> angles;
    for (int p = 0; p < kPositions; ++p) {
      for (int i = 0; i < kShape.rope; i += 2) {
        const double angle = p * std::pow(kTheta, -static_cast<double>(i) / kShape.rope);
        angles.push_back(static_cast<float>(std::cos(angle)));
        angles.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    rope_table_ = rig_.array(angles);
    x_ = rig_.act(Random(1).activations(int64_t{test.rows} * kHidden));
    normed_ = rig_.act_out(int64_t{test.rows} * kHidden);
  }

  std::vector<Output> projections() {
    const LinearWeight* a = rig_.weight(weight(test_, 33, kHidden, 10));
    const LinearWeight* b = rig_.weight(weight(test_, 50, kHidden, 11));
    const VectorWeight gain = gain_of(kHidden, 12);
    const View out_a = rig_.act_out(rows() * 33);
    const View out_b = rig_.act_out(rows() * 50);
    if (fused_) {
      s_.normed_linears({rows(), x_, kHidden, &gain, kEps, normed_, {{a, out_a, 33}, {b, out_b, 50}}, 2, roles()});
    } else {
      s_.rms_norm({rows(), x_, kHidden, &gain, kEps, normed_, kHidden});
      s_.linear({rows(), normed_, kHidden, a, roles(), out_a, 33});
      s_.linear({rows(), normed_, kHidden, b, roles(), out_b, 50});
    }
    return {output("a", out_a, 33), output("b", out_b, 50)};
  }

  std::vector<Output> linear_add() {
    const LinearWeight* a = rig_.weight(weight(test_, 70, kHidden, 10));
    const View out = rig_.act(Random(13).activations(rows() * 70));
    const View sum = rig_.act_out(rows() * 70);
    if (fused_) {
      s_.linear_add({rows(), x_, kHidden, a, roles(), out, 70});
    } else {
      s_.linear({rows(), x_, kHidden, a, roles(), sum, 70});
      s_.add({rows(), 70, out, 70, sum, 70});
    }
    return {output("out", out, 70)};
  }

  /// Preparation, then attention, whose result also shows what preparation wrote to the cache.
  std::vector<Output> attention() {
    const View q = rig_.act_out(rows() * kShape.heads * kHead);
    const View out = rig_.act_out(rows() * kShape.heads * kShape.value);
    prepare(q);
    const View q_latent = rig_.act_out(rows() * kShape.heads * kShape.latent);
    const View o_latent = rig_.act_out(rows() * kShape.heads * kShape.latent);
    const LinearWeight* kv_b =
        rig_.weight(weight(test_, int64_t{kShape.heads} * (kShape.nope + kShape.value), kShape.latent, 20));
    if (fused_) {
      s_.mla_absorbed({&batch_, kv_, kShape, kv_b, 0.125, q, q_latent, o_latent, out});
    } else {
      constexpr int kWidth = kShape.heads * kHead;
      s_.mla_absorb({rows(), kShape, kv_b, roles(), q, kWidth, kHead, q_latent});
      s_.mla_attend({&batch_, kv_, kShape, 0.125, q_latent, rig_.offset(q, kShape.nope), kWidth, kHead, o_latent});
      s_.mla_unabsorb({rows(), kShape, kv_b, roles(), o_latent, out});
    }
    return {output("q", q, kShape.heads * kHead), output("out", out, kShape.heads * kShape.value)};
  }

  std::vector<Output> experts() {
    constexpr int kExperts = 7;
    constexpr int kTop = 3;
    constexpr int kWidth = 64;
    const VectorWeight gain = gain_of(kHidden, 12);
    const RouteArgs route = {.rows = rows(),
                             .n_experts = kExperts,
                             .top_k = kTop,
                             .scale = 1.8,
                             .logits = rig_.act_out(rows() * kExperts),
                             .bias = rig_.array(Random(31).activations(kExperts)),
                             .ids = rig_.array(std::vector<int32_t>(static_cast<size_t>(rows()) * kTop)),
                             .weights = rig_.act_out(rows() * kTop)};
    const LinearWeight* router = rig_.weight(random_weight({kExperts, kHidden, DType::kBF16, {}, false, {}}, 32));
    if (fused_) {
      s_.normed_route({x_, kHidden, &gain, kEps, normed_, router, roles(), route});
    } else {
      s_.rms_norm({rows(), x_, kHidden, &gain, kEps, normed_, kHidden});
      s_.linear({rows(), normed_, kHidden, router, {}, route.logits, kExperts});
      s_.route(route);
    }
    const auto bank = [&](int64_t out, int64_t in, uint64_t seed) {
      std::vector<WeightPtr> experts;
      for (uint64_t e = 0; e < kExperts; ++e) experts.push_back(weight(test_, out, in, seed + e));
      return rig_.bank(experts);
    };
    FusedMoeArgs moe = {.rows = rows(),
                        .top_k = kTop,
                        .ids = route.ids,
                        .weights = route.weights,
                        .x = normed_,
                        .x_stride = kHidden,
                        .gate = bank(kWidth, kHidden, 100),
                        .up = bank(kWidth, kHidden, 120),
                        .down = bank(kHidden, kWidth, 140),
                        .shared_gate = rig_.weight(weight(test_, kWidth, kHidden, 160)),
                        .shared_up = rig_.weight(weight(test_, kWidth, kHidden, 161)),
                        .shared_down = rig_.weight(weight(test_, kHidden, kWidth, 162)),
                        .roles = roles(),
                        .hidden = rig_.act_out(rows() * (kTop + 1) * kWidth),
                        .out = rig_.act(Random(33).activations(int64_t{rows()} * kHidden))};
    const View out = moe.out;
    moe.add_to_out = fused_;
    if (!fused_) moe.out = rig_.act_out(int64_t{rows()} * kHidden);
    s_.fused_moe(moe);
    if (!fused_) s_.add({rows(), kHidden, out, kHidden, moe.out, kHidden});
    return {exact("ids", kTop, rig_.read<int32_t>(route.ids, int64_t{rows()} * kTop)),
            output("weights", route.weights, kTop), output("normed", normed_, kHidden), output("out", out, kHidden)};
  }

 private:
  int rows() const { return test_.rows; }
  RoleView roles() const { return batch_.roles; }

  void make_batch() {
    std::vector<int32_t> positions;
    std::vector<int32_t> slots;
    std::vector<uint8_t> roles;
    bool prompt = false;
    bool decode = false;
    for (int t = 0; t < rows(); ++t) {
      positions.push_back(t / 2);
      slots.push_back(t % 2);
      const Role role = role_of(test_, t);
      (role == Role::kPrompt ? prompt : decode) = true;
      roles.push_back(static_cast<uint8_t>(role));
    }
    batch_.n_tokens = rows();
    batch_.ids = rig_.array(std::vector<int32_t>(static_cast<size_t>(rows())));
    batch_.positions = rig_.array(positions);
    batch_.slots = rig_.array(slots);
    batch_.roles = RoleView(rig_.array(roles), prompt, decode);
    batch_.block_tables = rig_.array(std::vector<int32_t>{2, 0, 1, 3});
    batch_.n_slots = 2;
    batch_.blocks_per_slot = 2;
    kv_.layout = {rig_.device().kv_type(test_.kv), kShape.latent, kShape.rope, 2};
    kv_.layer = 1;
    kv_.pool = rig_.allocate(kv_.layout.block_bytes() * 4);
  }

  VectorWeight gain_of(int64_t width, uint64_t seed) {
    return {rig_.weight(random_weight({1, width, DType::kBF16, {}, false, {}}, seed))->plain, DType::kBF16, width};
  }

  void prepare(View q) {
    const LinearWeight* q_b = rig_.weight(weight(test_, int64_t{kShape.heads} * kHead, kQueryRank, 21));
    const VectorWeight q_gain = gain_of(kQueryRank, 22);
    const VectorWeight kv_gain = gain_of(kShape.latent, 23);
    constexpr int kKeys = kShape.latent + kShape.rope;
    constexpr int kWidth = kShape.heads * kHead;
    const View q_a = rig_.act(Random(24).activations(int64_t{rows()} * kQueryRank));
    const View kv_a = rig_.act(Random(25).activations(int64_t{rows()} * kKeys));
    const View latent = rig_.act_out(int64_t{rows()} * kShape.latent);
    if (fused_) {
      s_.mla_prepare({&batch_, kv_, kShape, kEps, q_a, kQueryRank, &q_gain, q_b, kv_a, kKeys, &kv_gain, rope_table_,
                      kTheta, latent, q});
      return;
    }
    const View key = rig_.offset(kv_a, kShape.latent);
    s_.rms_norm({rows(), q_a, kQueryRank, &q_gain, kEps, q_a, kQueryRank});
    s_.linear({rows(), q_a, kQueryRank, q_b, roles(), q, kWidth});
    s_.rms_norm({rows(), kv_a, kKeys, &kv_gain, kEps, latent, kShape.latent});
    s_.rope({rows(), kShape.heads, kShape.rope, rig_.offset(q, kShape.nope), kWidth, kHead, batch_.positions, kTheta,
             rope_table_});
    s_.rope({rows(), 1, kShape.rope, key, kKeys, kShape.rope, batch_.positions, kTheta, rope_table_});
    s_.kv_write({&batch_, kv_, latent, kShape.latent, key, kKeys});
  }

  /// A wrong code, scale, index or row moves values by hundredths of the largest of the row; FP32 by less than 1e-4 of
  /// it, half factors and an f16 cache by less than 1e-2, and a q8 cache (127 steps) by less than 3e-2.
  Output output(const char* name, View view, int64_t width) {
    Output out = exact(name, width, rig_.read_act(view, rows() * width));
    for (int t = 0; t < rows(); ++t) {
      double largest = 0;
      for (int64_t i = 0; i < width; ++i) largest = std::max(largest, std::fabs(out.values[at(t, i, width)]));
      double relative = role_of(test_, t) == Role::kPrompt || test_.kv == KvType::kF16 ? 1e-2 : 1e-4;
      if (test_.kv == KvType::kQ8) relative = 3e-2;
      for (int64_t i = 0; i < width; ++i) out.tolerance[at(t, i, width)] = relative * largest;
    }
    return out;
  }
  static size_t at(int row, int64_t i, int64_t width) { return static_cast<size_t>(row * width + i); }

  Rig rig_;
  const Case& test_;
  Stream& s_;
  bool fused_ = false;
  TokenBatch batch_;
  KvView kv_;
  View rope_table_, x_, normed_;
};

class FusedLayerTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    for (const std::string& name : backends()) {
      std::unique_ptr<Device> device = make_if_available(name);
      if (device && device->make_stream()->has_fused_layer()) devices_.push_back(std::move(device));
    }
    if (devices_.empty()) GTEST_SKIP() << "no device of this build has a fused layer";
  }

  void expect_parts(std::vector<Output> (Layer::*op)()) {
    const std::unique_ptr<Device> oracle = make_device("reference", {});
    Layer expected(*oracle, GetParam());
    const std::vector<Output> values = (expected.*op)();
    for (const auto& device : devices_) {
      Layer fused(*device, GetParam());
      EXPECT_EQ(compare((fused.*op)(), values), "") << device->info().name;
      Case parts = GetParam();
      parts.fused = false;
      Layer decomposed(*device, parts);
      EXPECT_EQ(compare((decomposed.*op)(), values), "") << device->info().name << " by parts";
    }
  }

  std::vector<std::unique_ptr<Device>> devices_;
};

TEST_P(FusedLayerTest, Projections) {
  expect_parts(&Layer::projections);
}
TEST_P(FusedLayerTest, LinearAdd) {
  expect_parts(&Layer::linear_add);
}
TEST_P(FusedLayerTest, Attention) {
  expect_parts(&Layer::attention);
}
TEST_P(FusedLayerTest, Experts) {
  expect_parts(&Layer::experts);
}

INSTANTIATE_TEST_SUITE_P(Kinds, FusedLayerTest,
                         ::testing::Values(Case{"OneToken", {32}, KvType::kF16, Roles::kDecode, 1},
                                           Case{"PlainDecode", {}, KvType::kF32, Roles::kDecode, 7},
                                           Case{"PlainMixed", {}, KvType::kF16, Roles::kMixed, 9},
                                           Case{"Fp4Decode", {32}, KvType::kF32, Roles::kDecode, 4},
                                           Case{"Fp4Prompt", {32}, KvType::kF32, Roles::kPrompt, 37},
                                           Case{"Fp4Mixed", {32}, KvType::kQ8, Roles::kMixed, 40},
                                           Case{"PlanesMixed", {32, 32}, KvType::kF32, Roles::kMixed, 6}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace marlin::op_test
