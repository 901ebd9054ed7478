// Sampling, step by step: filters and penalties by hand, and the distribution over many draws.
#include <cmath>
#include <limits>
#include <set>

#include "ops/random.h"
#include "ref_fixture.h"

namespace marlin {
namespace {

constexpr uint32_t kInPrompt = 0x80000000u;

class RefSample : public RefTest {
 protected:
  struct Result {
    std::vector<int32_t> ids, status;
    std::vector<float> logprobs;
  };
  /// The same logits for all rows; the last id of the vocabulary is padding with the largest logit.
  Result sample(std::vector<double> logits, const std::vector<SampleParams>& params, SampleArgs args = {}) {
    args.rows = static_cast<int>(params.size());
    args.n_valid = static_cast<int32_t>(logits.size());
    logits.push_back(1000);
    args.vocab = static_cast<int64_t>(logits.size());
    std::vector<double> all;
    for (size_t t = 0; t < params.size(); ++t) all.insert(all.end(), logits.begin(), logits.end());
    args.logits = put(all);
    args.params = put(params);
    args.ids = make(4 * params.size());
    args.status = make(4 * params.size());
    args.logprobs = make(4 * params.size());
    stream().sample(args);
    return {get<int32_t>(args.ids, params.size()), get<int32_t>(args.status, params.size()),
            get<float>(args.logprobs, params.size())};
  }
  /// Fractions of each of `n` ids over many positions.
  std::vector<double> frequencies(const std::vector<double>& logits, SampleParams params, const SampleArgs& args = {}) {
    std::vector<SampleParams> rows(20000, params);
    for (size_t i = 0; i < rows.size(); ++i) rows[i].position = static_cast<int64_t>(i);
    std::vector<double> fractions(logits.size(), 0.0);
    for (const int32_t id : sample(logits, rows, args).ids) {
      fractions.at(static_cast<size_t>(id)) += 1.0 / static_cast<double>(rows.size());
    }
    return fractions;
  }
  static std::vector<double> logs(std::vector<double> p) {
    for (double& value : p) value = std::log(value);
    return p;
  }
  static SampleParams at_temperature(float temperature) {
    SampleParams params;
    params.temperature = temperature;
    params.seed = 42;
    return params;
  }
};

// 20,000 draws: three standard deviations are at most 0.011.
constexpr double kSpread = 0.011;

TEST_F(RefSample, TemperatureZeroTakesTheLargestAndTheLowestIdOnTies) {
  const Result result = sample({1, 3, 2, 3}, {SampleParams{}});
  EXPECT_EQ(result.ids[0], 1);
  EXPECT_EQ(result.status[0], 0);
  const double total = std::exp(1) + 2 * std::exp(3) + std::exp(2);
  EXPECT_NEAR(result.logprobs[0], 3 - std::log(total), 1e-6);
}

TEST_F(RefSample, DrawsFollowTheProbabilities) {
  expect_near(frequencies(logs({0.2, 0.5, 0.3}), at_temperature(1)), {0.2, 0.5, 0.3}, kSpread);
}

TEST_F(RefSample, TemperatureSharpens) {
  // p^2 normalised: 0.04, 0.25, 0.09 over 0.38.
  expect_near(frequencies(logs({0.2, 0.5, 0.3}), at_temperature(0.5F)), {0.04 / 0.38, 0.25 / 0.38, 0.09 / 0.38},
              kSpread);
}

TEST_F(RefSample, ADrawIsTheInverseCdfInDescendingOrder) {
  std::vector<SampleParams> rows(500, at_temperature(1));
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].choice = static_cast<uint32_t>(i % 3);
    rows[i].position = static_cast<int64_t>(i);
  }
  const Result result = sample(logs({0.25, 0.5, 0.25}), rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    const double u = uniform_draw(42, rows[i].choice, rows[i].position);
    EXPECT_EQ(result.ids[i], u < 0.5 ? 1 : u < 0.75 ? 0 : 2) << "u = " << u;
  }
}

TEST_F(RefSample, TopKKeepsTheLowerIdOfATie) {
  SampleParams params = at_temperature(1);
  params.top_k = 2;
  expect_near(frequencies(logs({0.1, 0.25, 0.4, 0.25}), params), {0, 0.25 / 0.65, 0.4 / 0.65, 0}, kSpread);
}

TEST_F(RefSample, TopPKeepsTheSmallestPrefixThatReachesIt) {
  SampleParams params = at_temperature(1);
  params.top_p = 0.6F;
  expect_near(frequencies(logs({0.1, 0.25, 0.4, 0.25}), params), {0, 0.25 / 0.65, 0.4 / 0.65, 0}, kSpread);
  params.top_p = 0.0F;
  expect_near(frequencies(logs({0.1, 0.25, 0.4, 0.25}), params), {0, 0, 1, 0}, 1e-9);
}

TEST_F(RefSample, TopPSeesWhatTopKLeft) {
  SampleParams params = at_temperature(1);
  params.top_k = 2;
  params.top_p = 0.65F;  // of 0.4 and 0.2 alone: 2/3 suffices
  expect_near(frequencies(logs({0.2, 0.4, 0.2, 0.2}), params), {0, 1, 0, 0}, 1e-9);
}

TEST_F(RefSample, MinPIsRelativeToTheLargest) {
  SampleParams params = at_temperature(1);
  params.min_p = 0.51F;
  expect_near(frequencies(logs({0.19, 0.4, 0.21, 0.2}), params), {0, 0.4 / 0.61, 0.21 / 0.61, 0}, kSpread);
}

TEST_F(RefSample, PenaltiesByHand) {
  // Vocabulary of 5 with the padding. Id 0: twice generated; 1: in the prompt; 2: both, once; 3: never seen.
  SampleArgs args;
  args.counts = put<uint32_t>({2, kInPrompt, kInPrompt | 1, 0, 0});
  args.top_logprobs = 4;
  args.top_ids = make(16);
  args.top_values = make(16);
  SampleParams params;
  params.counts_row = 0;
  params.repetition_penalty = 2;
  params.presence_penalty = 0.25F;
  params.frequency_penalty = 0.5F;
  const Result result = sample({4, 3, -1, 0}, {params}, args);
  // 4/2 - 0.25 - 1 = 0.75; 3/2 = 1.5; -1*2 - 0.25 - 0.5 = -2.75; 0
  EXPECT_EQ(get<int32_t>(args.top_ids, 4), (std::vector<int32_t>{1, 0, 3, 2}));
  const std::vector<double> adjusted = {1.5, 0.75, 0, -2.75};
  double total = 0;
  for (const double v : adjusted) total += std::exp(v);
  const std::vector<float> values = get<float>(args.top_values, 4);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(values[i], adjusted[i] - std::log(total), 1e-6);
  EXPECT_EQ(result.ids[0], 1);
  EXPECT_EQ(result.logprobs[0], values[0]);
  EXPECT_EQ(get<uint32_t>(args.counts, 5), (std::vector<uint32_t>{2, kInPrompt | 1, kInPrompt | 1, 0, 0}));
}

TEST_F(RefSample, BiasThenMask) {
  SampleArgs args;
  args.bias_ids = put<int32_t>({3, 0, 2, 2});
  args.bias_values = put<float>({50, 4, 1, 1});
  args.mask = put<uint32_t>({0xffffffffu, 0b0110u});  // two rows of one word
  SampleParams biased;
  biased.bias_begin = 1;
  biased.bias_end = 4;
  SampleParams masked = biased;
  masked.mask_row = 1;
  const Result result = sample({0, 1, 3, -40}, {biased, masked, SampleParams{}}, args);
  EXPECT_EQ(result.ids, (std::vector<int32_t>{2, 2, 2}));
  const double unmasked = std::exp(4) + std::exp(1) + std::exp(5) + std::exp(-40);
  EXPECT_NEAR(result.logprobs[0], 5 - std::log(unmasked), 1e-6);
  EXPECT_NEAR(result.logprobs[1], 5 - std::log(std::exp(1) + std::exp(5)), 1e-6);
}

TEST_F(RefSample, NothingAllowedAndNotFinite) {
  SampleArgs args;
  args.mask = put<uint32_t>({0b1000u});  // the padding only
  args.counts = put<uint32_t>({0, 0, 0, 0});
  SampleParams params;
  params.mask_row = 0;
  params.counts_row = 0;
  Result result = sample({1, 2, 3}, {params}, args);
  EXPECT_EQ(result.ids[0], -1);
  EXPECT_EQ(result.status[0], static_cast<int32_t>(SampleStatus::kNothingAllowed));
  EXPECT_EQ(get<uint32_t>(args.counts, 4), std::vector<uint32_t>(4, 0));
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                           -std::numeric_limits<double>::infinity()}) {
    result = sample({1, bad, 3}, {params}, args);
    EXPECT_EQ(result.ids[0], -1);
    EXPECT_EQ(result.status[0], static_cast<int32_t>(SampleStatus::kNotFinite));
  }
}

TEST_F(RefSample, TopLogprobsBeyondTheAllowedAreMarked) {
  SampleArgs args;
  args.mask = put<uint32_t>({0b010u});
  args.top_logprobs = 2;
  args.top_ids = make(8);
  args.top_values = make(8);
  SampleParams params;
  params.mask_row = 0;
  sample({1, 2, 3}, {params}, args);
  EXPECT_EQ(get<int32_t>(args.top_ids, 2), (std::vector<int32_t>{1, -1}));
  EXPECT_EQ(get<float>(args.top_values, 2), (std::vector<float>{0, -std::numeric_limits<float>::infinity()}));
}

}  // namespace
}  // namespace marlin
