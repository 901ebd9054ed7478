// The oracle against numbers worked out here, in another way than the oracle does.
#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <numeric>
#include <set>

#include "base/float16.h"
#include "ref_fixture.h"

namespace marlin {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

TEST_F(RefTest, EmbedCopiesTableRows) {
  std::vector<uint16_t> table(6);
  for (size_t i = 0; i < 6; ++i) table[i] = f32_to_bf16(static_cast<float>(i) + 0.5F);
  LinearWeight weight;
  weight.out_features = 3;
  weight.in_features = 2;
  weight.plain = put(table);
  weight.plain_type = DType::kBF16;
  const View out = make_acts(6);
  stream().embed({2, put<int32_t>({2, 0}), &weight, out, 3});
  EXPECT_EQ(get_acts(out, 5), (std::vector<double>{4.5, 5.5, 0, 0.5, 1.5}));
}

TEST_F(RefTest, RmsNormInPlaceAndStrided) {
  const VectorWeight gain = f32_vector({1, 2});
  const View x = put<double>({3, 4, 99, 0, 0, 99});
  stream().rms_norm({2, x, 3, &gain, 0.5, x, 3});
  const double r = 1 / std::sqrt(13.0);  // mean square 12.5, + 0.5
  expect_near(get_acts(x, 6), {3 * r, 8 * r, 99, 0, 0, 99}, 1e-15);
}

TEST_F(RefTest, LinearOfPlainTypesWithBias) {
  const std::vector<float> values = {1, 2, -3, 0.5F, 0, 4};  // exact in every type
  std::vector<uint16_t> f16;
  std::vector<uint16_t> bf16;
  for (const float v : values) {
    f16.push_back(f32_to_f16(v));
    bf16.push_back(f32_to_bf16(v));
  }
  LinearWeight weight = f32_linear(2, 3, values);
  weight.bias = put<uint16_t>({f32_to_f16(10), f32_to_f16(-1)});
  weight.bias_type = DType::kF16;
  const View x = put<double>({1, 1, 1, 7, 2, 4, 0});
  const std::vector<std::pair<DType, View>> stored = {
      {DType::kF32, weight.plain}, {DType::kF16, put(f16)}, {DType::kBF16, put(bf16)}};
  for (const auto& [type, data] : stored) {
    weight.plain = data;
    weight.plain_type = type;
    const View out = make_acts(4);
    stream().linear({2, x, 4, &weight, {}, out, 2});
    // row 0: (1+2-3)+10, (0.5+0+4)-1; row 1: (2+8)+10, (1+0)-1
    EXPECT_EQ(get_acts(out, 4), (std::vector<double>{10, 3.5, 20, 0}));
  }
}

TEST_F(RefTest, LinearOfTwoFp4PlanesWithTheirOwnGroups) {
  // One row, K = 64. Plane 1: groups of 64, all codes 3 (1.5) but k = 0 is 7 (6) and k = 1 is 15 (-6), scale 0.5.
  std::vector<uint8_t> first(32, 0x33);
  first[0] = 0xf7;
  // Plane 2: groups of 32; codes 1 (0.5) at even k, 9 (-0.5) at odd k; scales 0.25 and 2^-24 (a subnormal).
  const std::vector<uint8_t> second(32, 0x91);
  LinearWeight weight;
  weight.out_features = 1;
  weight.in_features = 64;
  weight.n_planes = 2;
  weight.planes[0] = {put(first), put<uint16_t>({f32_to_f16(0.5F)}), 64};
  weight.planes[1] = {put(second), put<uint16_t>({f32_to_f16(0.25F), 1}), 32};
  std::vector<double> unit(64 * 64, 0.0);
  for (size_t k = 0; k < 64; ++k) unit[k * 64 + k] = 1;
  const View out = make_acts(64);
  stream().linear({64, put(unit), 64, &weight, {}, out, 1});
  std::vector<double> expected(64, 0.75);
  expected[0] = 3;
  expected[1] = -3;
  for (size_t k = 0; k < 64; ++k) expected[k] += (k % 2 == 0 ? 0.5 : -0.5) * (k < 32 ? 0.25 : 0x1p-24);
  EXPECT_EQ(get_acts(out, 64), expected);

  const View row = make_acts(64);
  stream().embed({1, put<int32_t>({0}), &weight, row, 64});
  EXPECT_EQ(get_acts(row, 64), expected);
}

TEST_F(RefTest, AddLeavesTheGapsAlone) {
  const View x = put<double>({1, 2, 9, 3, 4, 9});
  stream().add({2, 2, x, 3, put<double>({10, 20, 30, 40}), 2});
  EXPECT_EQ(get_acts(x, 6), (std::vector<double>{11, 22, 9, 33, 44, 9}));
}

TEST_F(RefTest, RopeIsAComplexRotation) {
  const int heads = 2;
  const int dims = 6;
  const int head_stride = 8;
  const std::vector<int32_t> positions = {0, 1, 100000};
  const std::vector<double> before = random<double>(positions.size() * heads * head_stride);
  const View x = put(before);
  stream().rope({3, heads, dims, x, heads * head_stride, head_stride, put(positions), 1e6, {}});
  std::vector<double> expected = before;
  for (size_t t = 0; t < positions.size(); ++t) {
    for (size_t pair = 0; pair < heads * head_stride / 2; ++pair) {
      const size_t i = pair % (head_stride / 2);
      if (i >= dims / 2) continue;  // beyond dims: untouched
      const size_t at = t * heads * head_stride + 2 * pair;
      const double angle = positions[t] / std::pow(1e6, 2.0 * static_cast<double>(i) / dims);
      const auto rotated = std::complex<double>(before[at], before[at + 1]) * std::polar(1.0, angle);
      expected[at] = rotated.real();
      expected[at + 1] = rotated.imag();
    }
  }
  expect_near(get_acts(x, expected.size()), expected, 1e-10);  // 1e5 radians carry an error of 1e-11
}

TEST_F(RefTest, SwigluMayOverwriteTheGate) {
  const View gate = put<double>({0, 1, -2, -1e4});
  stream().swiglu({2, 2, gate, put<double>({5, 3, 1, 1}), gate});
  expect_near(get_acts(gate, 4), {0, 3 / (1 + std::exp(-1.0)), -2 / (1 + std::exp(2.0)), 0}, 1e-15);
}

TEST_F(RefTest, GatherAndCopy) {
  const View x = put<double>({1, 2, 3, 4, 5, 6});
  const View out = make_acts(4);
  stream().gather_rows({2, 2, x, 2, put<int32_t>({2, 0}), out});
  EXPECT_EQ(get_acts(out, 4), (std::vector<double>{5, 6, 1, 2}));
  stream().copy({x.at(8), out.at(16), 16});
  EXPECT_EQ(get_acts(out, 4), (std::vector<double>{5, 6, 2, 3}));
}

TEST_F(RefTest, CheckFiniteLooksAtTheRowsOnly) {
  const double inf = std::numeric_limits<double>::infinity();
  const View x = put<double>({1, 2, kNaN, 3, 4, inf});
  const View out = make(4);
  stream().check_finite({2, 2, x, 3, out});
  EXPECT_EQ(get<int32_t>(out, 1)[0], 0);
  stream().check_finite({2, 3, x, 3, out});
  EXPECT_EQ(get<int32_t>(out, 1)[0], 1);
  stream().check_finite({1, 2, x.at(32), 2, out});
  EXPECT_EQ(get<int32_t>(out, 1)[0], 1);
}

// ---- attention -----------------------------------------------------------------------------------------------------

class RefAttention : public RefTest {
 protected:
  static constexpr MlaShape kShape = {2, 3, 4, 5, 7};  // heads, nope, rope, value, latent
  static constexpr int kLayers = 2;
  static constexpr int kLayer = 1;
  static constexpr double kScale = 0.7;

  /// Two slots: 70 positions (two blocks, in descending order) and 3 positions, written in one call.
  void write_cache() {
    layout_ = {KvType::kF64, kShape.latent, kShape.rope, kLayers};
    kv_ = {make(5 * layout_.block_bytes()), layout_, kLayer};
    std::vector<int32_t> positions;
    std::vector<int32_t> slots;
    for (int p = 0; p < 70; ++p) {
      positions.push_back(p);
      slots.push_back(0);
      if (p >= 3) continue;
      positions.push_back(p);
      slots.push_back(1);
    }
    tables_ = put<int32_t>({4, 1, 2, -1});
    latent_ = random<double>(positions.size() * 7);
    rope_ = random<double>(positions.size() * 4);
    positions_ = positions;
    slots_ = slots;
    const TokenBatch batch = make_batch(positions, slots);
    stream().kv_write({&batch, kv_, put(latent_), 7, put(rope_), 4});
  }
  TokenBatch make_batch(const std::vector<int32_t>& positions, const std::vector<int32_t>& slots) {
    return {static_cast<int>(positions.size()), {}, put(positions), put(slots), {}, tables_, 2, 2};
  }

  /// Head h of a query over the tokens of `slot` up to `position`, with K and V written out.
  std::vector<double> naive(const std::vector<double>& q, size_t h, int slot, int position,
                            const std::vector<float>& kv_b) const {
    std::vector<double> exps;
    std::vector<std::vector<double>> values;
    for (size_t t = 0; t < positions_.size(); ++t) {
      if (slots_[t] != slot || positions_[t] > position) continue;
      std::vector<double> up;  // 3 of K, 5 of V
      for (size_t r = 0; r < 8; ++r) {
        up.push_back(std::inner_product(latent_.begin() + static_cast<ptrdiff_t>(t * 7),
                                        latent_.begin() + static_cast<ptrdiff_t>(t * 7 + 7),
                                        kv_b.begin() + static_cast<ptrdiff_t>((h * 8 + r) * 7), 0.0));
      }
      double score = 0;
      for (size_t i = 0; i < 3; ++i) score += q[i] * up[i];
      for (size_t i = 0; i < 4; ++i) score += q[3 + i] * rope_[t * 4 + i];
      exps.push_back(std::exp(kScale * score));
      values.emplace_back(up.begin() + 3, up.end());
    }
    std::vector<double> out(5, 0.0);
    for (size_t p = 0; p < values.size(); ++p) {
      for (size_t v = 0; v < 5; ++v) out[v] += exps[p] * values[p][v];
    }
    const double sum = std::accumulate(exps.begin(), exps.end(), 0.0);
    for (double& v : out) v /= sum;
    return out;
  }

  KvLayout layout_;
  KvView kv_;
  View tables_;
  std::vector<double> latent_, rope_;
  std::vector<int32_t> positions_, slots_;
};

TEST_F(RefAttention, AbsorbedAndExpandedEqualTheNaiveForm) {
  write_cache();
  const std::vector<float> kv_b_values = random<float>(2 * 8 * 7);
  const LinearWeight kv_b = f32_linear(16, 7, kv_b_values);
  const std::vector<int32_t> positions = {63, 2, 64, 69};
  const std::vector<int32_t> slots = {0, 1, 0, 0};
  const TokenBatch batch = make_batch(positions, slots);
  const std::vector<double> q_values = random<double>(4 * 14);  // [4, heads, nope + rope]
  const View q = put(q_values);

  const View q_latent = make_acts(56);
  const View o_latent = make_acts(56);
  const View absorbed = make_acts(40);
  const View expanded = make_acts(40);
  stream().mla_absorb({4, kShape, &kv_b, {}, q, 14, 7, q_latent});
  stream().mla_attend({&batch, kv_, kShape, kScale, q_latent, q.at(3 * 8), 14, 7, o_latent});
  stream().mla_unabsorb({4, kShape, &kv_b, {}, o_latent, absorbed});
  stream().mla_expanded({&batch, kv_, kShape, &kv_b, kScale, q, expanded});

  std::vector<double> expected;
  for (size_t row = 0; row < 8; ++row) {
    const auto begin = q_values.begin() + static_cast<ptrdiff_t>(row * 7);
    const std::vector<double> head =
        naive({begin, begin + 7}, row % 2, slots[row / 2], positions[row / 2], kv_b_values);
    expected.insert(expected.end(), head.begin(), head.end());
  }
  expect_near(get_acts(absorbed, 40), expected, 1e-12);
  expect_near(get_acts(expanded, 40), expected, 1e-12);
}

TEST_F(RefAttention, RowsLieWhereTheLayoutSays) {
  write_cache();
  // Position 66 of slot 0: its second block is 1; row 2 of layer 1. It is token 3 + 66 of the write.
  const size_t offset = (1 * kLayers + kLayer) * layout_.block_layer_bytes() + 2 * layout_.row_bytes();
  const std::vector<double> row = get_acts(kv_.pool.at(offset), 11);
  for (size_t i = 0; i < 7; ++i) EXPECT_EQ(row[i], latent_[69 * 7 + i]);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(row[7 + i], rope_[69 * 4 + i]);
}

TEST_F(RefAttention, OnePositionIsItsOwnAverage) {
  write_cache();
  const TokenBatch batch = make_batch({0}, {1});
  const View out = make_acts(14);
  const View q_rope = put(random<double>(8));
  stream().mla_attend({&batch, kv_, kShape, kScale, put(random<double>(14)), q_rope, 8, 4, out});
  const std::vector<double> got = get_acts(out, 14);
  for (size_t i = 0; i < 14; ++i) EXPECT_EQ(got[i], latent_[1 * 7 + i % 7]);  // token 1 is slot 1's first
}

// ---- router and experts --------------------------------------------------------------------------------------------

double logit(double p) {
  return std::log(p / (1 - p));
}

class RefRoute : public RefTest {
 protected:
  struct Result {
    std::vector<int32_t> ids;
    std::vector<double> weights;
  };
  Result route(RouteArgs args, const std::vector<double>& logits, const std::vector<float>& bias) {
    args.rows = 1;
    args.n_experts = static_cast<int>(logits.size());
    args.logits = put(logits);
    args.bias = put(bias);
    args.ids = make(4 * static_cast<size_t>(args.top_k));
    args.weights = make_acts(static_cast<size_t>(args.top_k));
    stream().route(args);
    const auto n = static_cast<size_t>(args.top_k);
    return {get<int32_t>(args.ids, n), get_acts(args.weights, n)};
  }
};

TEST_F(RefRoute, BiasRanksButDoesNotWeigh) {
  // s = 0.9, 0.6, 0.5, 0.2; with the bias 0.9, 0.6, 0.75, 1.2: experts 3, then 0.
  const std::vector<double> logits = {logit(0.9), logit(0.6), logit(0.5), logit(0.2)};
  RouteArgs args;
  args.top_k = 2;
  args.scale = 1.8;
  Result result = route(args, logits, {0, 0, 0.25F, 1});
  EXPECT_EQ(result.ids, (std::vector<int32_t>{3, 0}));
  expect_near(result.weights, {1.8 * 0.2 / 1.1, 1.8 * 0.9 / 1.1}, 1e-14);

  args.normalize = false;
  result = route(args, logits, {0, 0, 0.25F, 1});
  expect_near(result.weights, {1.8 * 0.2, 1.8 * 0.9}, 1e-14);
}

TEST_F(RefRoute, TiesGoToTheLowerId) {
  RouteArgs args;
  args.top_k = 3;
  const Result result = route(args, {0, 1, 0, 1, 1}, {0, 0, 0, 0, 0});
  EXPECT_EQ(result.ids, (std::vector<int32_t>{1, 3, 4}));
  expect_near(result.weights, {1.0 / 3, 1.0 / 3, 1.0 / 3}, 1e-14);
}

TEST_F(RefRoute, OnlyTheBestGroupsTakePart) {
  // Groups {0,1,2} {3,4,5} {6,7,8}: two-best sums 0.95 + 0.1, 0.6 + 0.5, 0.7 + 0.6. The best expert is in none of them.
  const std::vector<double> s = {0.95, 0.1, 0.1, 0.6, 0.5, 0.5, 0.7, 0.6, 0.1};
  std::vector<double> logits(s.size());
  std::transform(s.begin(), s.end(), logits.begin(), logit);
  RouteArgs args;
  args.top_k = 4;
  args.n_group = 3;
  args.topk_group = 2;
  args.normalize = false;
  const Result result = route(args, logits, std::vector<float>(9, 0));
  ASSERT_EQ(result.ids[0], 6);
  EXPECT_EQ(std::set<int32_t>(result.ids.begin(), result.ids.end()), (std::set<int32_t>{3, 4, 6, 7}));
}

TEST_F(RefRoute, NanIsChosenLastAndStaysVisible) {
  RouteArgs args;
  args.top_k = 2;
  Result result = route(args, {kNaN, 1, 2}, {0, 0, 0});
  EXPECT_EQ(result.ids, (std::vector<int32_t>{2, 1}));
  result = route(args, {kNaN, kNaN, 2}, {0, 0, 0});
  EXPECT_EQ(result.ids, (std::vector<int32_t>{2, 0}));
  EXPECT_TRUE(std::isnan(result.weights[1]));
}

TEST_F(RefTest, ExpertLinearWithSharedAndOwnInputs) {
  ExpertBank bank;
  bank.experts = {f32_linear(1, 2, {1, 0}), f32_linear(1, 2, {0, 1}), f32_linear(1, 2, {10, 10})};
  const View ids = put<int32_t>({2, 0, 1, 2});
  const View out = make_acts(4);
  stream().expert_linear({2, 2, ids, put<double>({1, 2, 3, 4}), 2, 0, &bank, {}, out});
  EXPECT_EQ(get_acts(out, 4), (std::vector<double>{30, 1, 4, 70}));
  stream().expert_linear({2, 2, ids, put<double>({1, 2, 3, 4, 5, 6, 7, 8}), 4, 2, &bank, {}, out});
  EXPECT_EQ(get_acts(out, 4), (std::vector<double>{30, 3, 6, 150}));
}

TEST_F(RefTest, ExpertSumAddsTheSharedOneUnscaled) {
  const View y = put<double>({1, 2, 3, 4});
  const View weights = put<double>({10, 0.5});
  const View out = make_acts(2);
  stream().expert_sum({1, 2, 2, y, weights, {}, out});
  EXPECT_EQ(get_acts(out, 2), (std::vector<double>{11.5, 22}));
  stream().expert_sum({1, 2, 2, y, weights, put<double>({100, 200}), out});
  EXPECT_EQ(get_acts(out, 2), (std::vector<double>{111.5, 222}));
}

TEST_F(RefTest, FusedMoeEqualsItsDecomposition) {
  const int rows = 3;
  const int top_k = 2;
  const int64_t width = 4;
  const int64_t inner = 5;
  ExpertBank gate, up, down;
  for (int e = 0; e < 3; ++e) {
    gate.experts.push_back(f32_linear(inner, width, random<float>(20)));
    up.experts.push_back(f32_linear(inner, width, random<float>(20)));
    down.experts.push_back(f32_linear(width, inner, random<float>(20)));
  }
  const LinearWeight shared_gate = f32_linear(inner, width, random<float>(20));
  const LinearWeight shared_up = f32_linear(inner, width, random<float>(20));
  const LinearWeight shared_down = f32_linear(width, inner, random<float>(20));
  const View ids = put<int32_t>({0, 2, 1, 0, 2, 1});
  const View weights = put(random<double>(6));
  const View x = put(random<double>(12));

  const View fused = make_acts(12);
  stream().fused_moe({rows,
                      top_k,
                      ids,
                      weights,
                      x,
                      width,
                      &gate,
                      &up,
                      &down,
                      &shared_gate,
                      &shared_up,
                      &shared_down,
                      {},
                      make_acts(45),
                      fused});

  const View g = make_acts(30), u = make_acts(30), d = make_acts(24), sg = make_acts(15), su = make_acts(15);
  const View shared = make_acts(12), out = make_acts(12);
  stream().expert_linear({rows, top_k, ids, x, width, 0, &gate, {}, g});
  stream().expert_linear({rows, top_k, ids, x, width, 0, &up, {}, u});
  stream().swiglu({rows * top_k, inner, g, u, g});
  stream().expert_linear({rows, top_k, ids, g, top_k * inner, inner, &down, {}, d});
  stream().linear({rows, x, width, &shared_gate, {}, sg, inner});
  stream().linear({rows, x, width, &shared_up, {}, su, inner});
  stream().swiglu({rows, inner, sg, su, sg});
  stream().linear({rows, sg, inner, &shared_down, {}, shared, width});
  stream().expert_sum({rows, top_k, width, d, weights, shared, out});
  EXPECT_EQ(get_acts(fused, 12), get_acts(out, 12));
}

}  // namespace
}  // namespace marlin
