// Every case on every backend against the oracle, twice.
#include <gtest/gtest.h>

#include <algorithm>

#include "op_test_util.h"

namespace marlin::op_test {
namespace {

using Param = std::tuple<std::string, OpCase>;

std::vector<Output> run_on(Device& device, const OpCase& op_case) {
  Rig rig(device);
  return op_case.run(rig, {0, op_case.rows});
}

class OpTest : public testing::TestWithParam<Param> {};

TEST_P(OpTest, MatchesOracle) {
  const auto& [backend, op_case] = GetParam();
  const std::unique_ptr<Device> device = make_if_available(backend);
  if (!device) GTEST_SKIP() << backend << " cannot be used here";
  const std::unique_ptr<Device> oracle = make_device("reference", {});
  const std::vector<Output> actual = run_on(*device, op_case);
  EXPECT_EQ(compare(actual, run_on(*oracle, op_case)), "");
  EXPECT_EQ(compare_bits(actual, run_on(*device, op_case)), "") << "a second run differs";
}

INSTANTIATE_TEST_SUITE_P(Ops, OpTest, testing::Combine(testing::ValuesIn(backends()), testing::ValuesIn(all_cases())),
                         [](const testing::TestParamInfo<Param>& test) {
                           std::string name = std::get<0>(test.param) + "_" + std::get<1>(test.param).name;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

class BackendTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    device_ = make_if_available(GetParam());
    if (!device_) GTEST_SKIP() << GetParam() << " cannot be used here";
    rig_ = std::make_unique<Rig>(*device_);
  }
  std::unique_ptr<Device> device_;
  std::unique_ptr<Rig> rig_;
};

TEST_P(BackendTest, CheckFiniteFindsOneBadValue) {
  constexpr int kRows = 5;
  constexpr int64_t kWidth = 37;
  for (const float bad : {0.0f, NAN, INFINITY, -INFINITY}) {
    std::vector<float> x(kRows * (kWidth + 1), 1.0f);
    x[kWidth] = NAN;  // between two rows: not looked at
    x[4 * (kWidth + 1) + 36] = bad;
    const View out = rig_->array(std::vector<int32_t>{-7});
    rig_->stream().check_finite({kRows, kWidth, rig_->act(x), kWidth + 1, out});
    EXPECT_EQ(rig_->read<int32_t>(out, 1)[0], bad == 0.0f ? 0 : 1) << bad;
  }
}

TEST_P(BackendTest, CopyMovesExactlyTheBytes) {
  std::vector<uint8_t> bytes(100);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i);
  const View from = rig_->array(bytes);
  const View to = rig_->array(std::vector<uint8_t>(100, 255));
  rig_->stream().copy({from.at(3), to.at(50), 33});
  const std::vector<double> result = rig_->read<uint8_t>(to, 100);
  for (size_t i = 0; i < result.size(); ++i) {
    EXPECT_EQ(result[i], i >= 50 && i < 83 ? static_cast<double>(i) - 47 : 255) << i;
  }
}

TEST_P(BackendTest, FreshMemoryIsZero) {
  const View view = rig_->allocate(10000);
  const std::vector<double> bytes = rig_->read<uint8_t>(view, 10000);
  EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](double b) { return b == 0; }));
}

// Rows 0, 2 and 4 share a row of counts whose presence penalty rules out what was sampled; rows 1 and 3 have none.
TEST_P(BackendTest, RowsThatShareCountsSeeEachOthersIds) {
  constexpr int kRows = 5;
  constexpr int64_t kVocab = 40;
  std::vector<float> logits;
  for (int64_t i = 0; i < kRows * kVocab; ++i) logits.push_back(static_cast<float>(i % kVocab) * -0.25f);
  std::vector<SampleParams> params(kRows);
  for (size_t t = 0; t < kRows; t += 2) {
    params[t].counts_row = 1;
    params[t].presence_penalty = 100;
  }
  SampleArgs args;
  args.rows = kRows;
  args.vocab = args.n_valid = kVocab;
  args.logits = rig_->act(logits);
  args.params = rig_->array(params);
  args.counts = rig_->array(std::vector<uint32_t>(2 * kVocab, 0));
  args.ids = rig_->array(std::vector<int32_t>(kRows, -7));
  args.status = rig_->array(std::vector<int32_t>(kRows, -7));
  args.logprobs = rig_->array(std::vector<float>(kRows, -7));
  rig_->stream().sample(args);
  EXPECT_EQ(rig_->read<int32_t>(args.ids, kRows), (std::vector<double>{0, 0, 1, 0, 2}));
  const std::vector<double> counts = rig_->read<uint32_t>(args.counts, 2 * kVocab);
  for (size_t i = 0; i < counts.size(); ++i) EXPECT_EQ(counts[i], i >= kVocab && i < kVocab + 3 ? 1 : 0) << i;
}

TEST_P(BackendTest, NoRowsIsNoWork) {
  EmbedArgs args;  // no buffers either
  rig_->stream().embed(args);
  rig_->stream().wait(rig_->stream().submit());
}

INSTANTIATE_TEST_SUITE_P(Ops, BackendTest, testing::ValuesIn(backends()));

// ---- the harness itself
// ----------------------------------------------------------------------------------------------

std::vector<Output> linear_output(Device& device, const WeightPtr& weight) {
  Rig rig(device);
  const int64_t rows = 3;
  const std::vector<float> x = Random(7).activations(rows * 384);
  LinearArgs args{3, rig.act(x), 384, rig.weight(weight), {}, rig.act_out(rows * 20), 20};
  rig.stream().linear(args);
  std::vector<double> bound;
  for (int64_t i = 0; i < rows * 20; ++i) {
    double sum = 0;
    const float* row = x.data() + i / 20 * 384;
    for (int64_t k = 0; k < 384; ++k) sum += std::fabs(weight->at(i % 20, k) * static_cast<double>(row[k]));
    bound.push_back(kSlack * std::sqrt(384.0) * rig.roundoff() * sum +
                    rig.factor_error(*weight, i % 20, row, Role::kDecode));
  }
  return {{"out", 20, rig.read_act(args.out, rows * 20), bound}};
}

// A harness that cannot fail proves nothing: one code, one scale bit and one bias change must each be seen.
TEST_P(BackendTest, HarnessDetectsOneWrongCodeScaleOrBias) {
  const std::unique_ptr<Device> oracle = make_device("reference", {});
  const WeightPtr weight = random_weight({20, 384, DType::kBF16, {128}, true, DType::kF32}, 5);
  const std::vector<Output> expected = linear_output(*oracle, weight);
  EXPECT_EQ(compare(linear_output(*device_, weight), expected), "");
  const LinearWeight& layout = weight->layout;
  for (const size_t byte :
       {layout.planes[0].codes.offset + 1234, layout.planes[0].scales.offset + 20, layout.bias.offset + 6}) {
    auto wrong = std::make_shared<HostWeight>(*weight);
    wrong->blob[byte] ^= std::byte{4};
    EXPECT_NE(compare(linear_output(*device_, wrong), expected), "") << "byte " << byte;
  }
}

TEST(HarnessTest, ReportsTheWorstElementWithItsPlace) {
  const std::vector<Output> expected = {{"y", 3, {1, 2, 3, 4, 5, 6}, std::vector<double>(6, 0.1)}};
  std::vector<Output> actual = expected;
  actual[0].values[2] = 3.05;
  EXPECT_EQ(compare(actual, expected), "");
  actual[0].values[2] = 3.2;
  actual[0].values[4] = 7;
  EXPECT_NE(compare(actual, expected).find("y[1, 1] = 7, expected 5"), std::string::npos);
  actual[0].values[4] = NAN;
  EXPECT_NE(compare(actual, expected), "");
  EXPECT_EQ(compare(actual, actual), "");
  actual[0].values[4] = -INFINITY;
  EXPECT_NE(compare(actual, expected), "");
}

}  // namespace
}  // namespace marlin::op_test
