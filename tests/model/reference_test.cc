// The BF16 demo model in FP32 arithmetic against transformers' logits, hidden states and greedy texts.
#include <nlohmann/json.hpp>

#include "demo_model.h"

namespace marlin::testing {
namespace {

// A correct FP32 engine differs from the reference by about 3e-5 in logits and 1e-6 in hidden states; the smallest
// structural mistake (eps 1e-5 in the inner norms) by 1.6e-4 and more.
constexpr double kLogitBound = 1e-4;
constexpr double kHiddenBound = 2.5e-6;

class Reference : public ::testing::TestWithParam<std::string> {};

TEST_P(Reference, LogitsHiddenStatesAndMtpLogitsMatch) {
  MARLIN_SKIP_WITHOUT(reference_vectors());
  DemoModel demo({});
  const Deviation deviation = measure(demo, read_passage(GetParam()));
  std::printf("%s: logits %.2e, MTP logits %.2e, hidden %.2e\n", GetParam().c_str(), deviation.logits,
              deviation.mtp_logits, deviation.hidden);
  EXPECT_LT(deviation.logits, kLogitBound);
  EXPECT_LT(deviation.mtp_logits, kLogitBound);
  EXPECT_LT(deviation.hidden, kHiddenBound);
}

TEST_P(Reference, ExpandedAttentionAgreesWithAbsorbed) {
  MARLIN_SKIP_WITHOUT(reference_vectors());
  const Passage passage = read_passage(GetParam());
  DemoModel absorbed({});
  DemoOptions options;
  options.model.attention = AttentionForm::kExpanded;
  DemoModel expanded(options);
  KvSequence a(absorbed.cache());
  KvSequence b(expanded.cache());
  const double difference = max_difference(absorbed.feed(a, passage.ids), expanded.feed(b, passage.ids));
  EXPECT_LT(difference, 1e-4);
  EXPECT_GT(difference, 0) << "both forms gave the same bits: is it one form run twice?";
}

TEST_P(Reference, UnfusedExpertsGiveTheSameBits) {
  MARLIN_SKIP_WITHOUT(reference_vectors());
  const Passage passage = read_passage(GetParam());
  DemoModel fused({});
  DemoOptions options;
  options.model.use_fused_moe = false;
  DemoModel unfused(options);
  KvSequence a(fused.cache());
  KvSequence b(unfused.cache());
  EXPECT_EQ(fused.feed(a, passage.ids), unfused.feed(b, passage.ids));
}

INSTANTIATE_TEST_SUITE_P(Passages, Reference, ::testing::Values("prose", "chat"),
                         [](const auto& test) { return test.param; });

TEST(ReferenceTexts, GreedyContinuationsAreEqualTokenForToken) {
  MARLIN_SKIP_WITHOUT(bf16_demo());
  const auto reference =
      nlohmann::json::parse(read_text_file(std::filesystem::path(MARLIN_SOURCE_DIR) / "tests/golden/reference.json"));
  DemoOptions options;
  options.model.max_tokens = 256;
  options.model.with_mtp = false;
  DemoModel demo(options);
  int compared = 0;
  for (const auto& generation : reference.at("generations")) {
    const auto prompt = generation.at("prompt_ids").get<std::vector<int32_t>>();
    const auto expected = generation.at("greedy_ids").get<std::vector<int32_t>>();
    KvSequence sequence(demo.cache());
    ASSERT_TRUE(sequence.extend(demo.stream(), static_cast<int>(prompt.size())));
    Step step;
    step.sequences = {&sequence};
    for (size_t i = 0; i < prompt.size(); ++i) {
      step.tokens.push_back({prompt[i], 0, static_cast<int>(i), Role::kPrompt, i + 1 == prompt.size()});
    }
    std::vector<float> logits = demo.run(step);
    std::vector<int32_t> ids;
    while (true) {
      ids.push_back(static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin()));
      if (ids.size() == expected.size()) break;
      logits = demo.feed(sequence, std::span(ids).last(1), Role::kDecode);
    }
    EXPECT_EQ(ids, expected) << generation.at("greedy_text");
    ++compared;
  }
  EXPECT_EQ(compared, 9);
}

}  // namespace
}  // namespace marlin::testing
