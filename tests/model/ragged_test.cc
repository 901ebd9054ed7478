// The promise everything above the model builds on: what a token gets depends on its own sequence only, bit for bit.
#include <random>

#include "demo_model.h"

namespace marlin::testing {
namespace {

std::vector<int32_t> random_ids(int n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % 8160);
  return ids;
}

std::filesystem::path any_demo() {
  return std::filesystem::exists(bf16_demo()) ? bf16_demo() : mmfp4_demo();
}

DemoOptions demo_options() {
  DemoOptions options;
  options.directory = any_demo();
  options.model.max_tokens = 256;
  options.model.max_logit_rows = 256;
  options.model.with_mtp = false;
  return options;
}

/// A sequence of `total` known tokens of which the first `cached` are in the cache before the common step.
struct Participant {
  std::vector<int32_t> ids;
  int cached;
  Role role;  // in the common step
};

// Five sequences of different lengths at different positions in one step, tokens interleaved.
void expect_solo_bits(const DemoOptions& options) {
  DemoModel demo(options);
  const std::vector<Participant> participants = {{random_ids(3, 1), 0, Role::kPrompt},
                                                 {random_ids(65, 2), 64, Role::kDecode},
                                                 {random_ids(130, 3), 63, Role::kPrompt},
                                                 {random_ids(20, 4), 7, Role::kDecode},
                                                 {random_ids(70, 5), 69, Role::kDecode}};
  std::vector<std::vector<float>> solo;
  for (const Participant& p : participants) {
    KvSequence sequence(demo.cache());
    if (p.cached > 0) demo.feed(sequence, std::span(p.ids).first(static_cast<size_t>(p.cached)));
    solo.push_back(demo.feed(sequence, std::span(p.ids).subspan(static_cast<size_t>(p.cached)), p.role));
  }

  std::vector<KvSequence> sequences;
  Step step;
  for (size_t s = 0; s < participants.size(); ++s) {
    const Participant& p = participants[s];
    sequences.emplace_back(demo.cache());
    if (p.cached > 0) demo.feed(sequences[s], std::span(p.ids).first(static_cast<size_t>(p.cached)));
    ASSERT_TRUE(sequences[s].extend(demo.stream(), static_cast<int>(p.ids.size()) - p.cached));
  }
  for (const KvSequence& sequence : sequences) step.sequences.push_back(&sequence);
  for (int i = 0; i < 130; ++i) {  // token i of everybody, so that neighbours in the batch belong to others
    for (size_t s = 0; s < participants.size(); ++s) {
      const int position = participants[s].cached + i;
      if (position >= static_cast<int>(participants[s].ids.size())) continue;
      step.tokens.push_back({participants[s].ids[static_cast<size_t>(position)], static_cast<int32_t>(s), position,
                             participants[s].role, true});
    }
  }
  const std::vector<float> together = demo.run(step);
  const auto vocab = static_cast<size_t>(demo.vocab());
  std::vector<size_t> next(participants.size(), 0);
  for (size_t i = 0; i < step.tokens.size(); ++i) {
    const auto slot = static_cast<size_t>(step.tokens[i].slot);
    const float* own = solo[slot].data() + next[slot]++ * vocab;
    ASSERT_EQ(0, std::memcmp(own, together.data() + i * vocab, vocab * sizeof(float)))
        << "sequence " << slot << ", position " << step.tokens[i].position;
  }
}

class Ragged : public ::testing::TestWithParam<std::tuple<KvType, AttentionForm>> {};

TEST_P(Ragged, ABatchGivesEverySequenceItsSoloBits) {
  MARLIN_SKIP_WITHOUT(any_demo());
  DemoOptions options = demo_options();
  options.model.kv_type = std::get<0>(GetParam());
  options.model.attention = std::get<1>(GetParam());
  expect_solo_bits(options);
}

// On FP4 weights, where prompts may be computed differently from answers.
TEST(RaggedSteps, PromptsAndAnswersInOneStepGiveTheirSoloBits) {
  DemoOptions options = demo_options();
  options.directory = mmfp4_demo();
  for (const bool deterministic : {true, false}) {
    options.deterministic = deterministic;
    expect_solo_bits(options);
  }
}

TEST(RaggedSteps, PromptsAndAnswersInOneStepGiveTheirSoloBitsOnMetal) {
  DemoOptions options = demo_options();
  options.directory = mmfp4_demo();
  options.device = metal_device();
  if (options.device.empty()) return;  // a build without Metal: nothing is left out
  for (const auto& [kv, deterministic] : {std::pair{KvType::kF16, false}, {KvType::kQ8, true}}) {
    options.model.kv_type = kv;
    options.deterministic = deterministic;
    expect_solo_bits(options);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Ragged,
                         ::testing::Combine(::testing::Values(KvType::kF32, KvType::kF16, KvType::kQ8),
                                            ::testing::Values(AttentionForm::kAbsorbed, AttentionForm::kExpanded)));

TEST(RaggedSteps, ChunksOfThePromptGiveTheSameBits) {
  MARLIN_SKIP_WITHOUT(any_demo());
  DemoOptions options = demo_options();
  options.model.kv_type = KvType::kF16;
  DemoModel demo(options);
  const std::vector<int32_t> ids = random_ids(150, 9);
  std::vector<float> whole;
  for (const size_t chunk : {size_t{150}, size_t{1}, size_t{3}, size_t{7}, size_t{64}}) {
    KvSequence sequence(demo.cache());
    std::vector<float> logits;
    for (size_t begin = 0; begin < ids.size(); begin += chunk) {
      const auto part = demo.feed(sequence, std::span(ids).subspan(begin, std::min(chunk, ids.size() - begin)));
      logits.insert(logits.end(), part.begin(), part.end());
    }
    if (whole.empty()) whole = logits;
    EXPECT_EQ(whole, logits) << "chunks of " << chunk;
  }
}

TEST(RaggedSteps, ThreadsGiveTheSameBits) {
  MARLIN_SKIP_WITHOUT(any_demo());
  const std::vector<int32_t> ids = random_ids(70, 11);
  std::vector<float> first;
  for (const int threads : {1, 2, 5}) {
    DemoOptions options = demo_options();
    options.threads = threads;
    DemoModel demo(options);
    KvSequence sequence(demo.cache());
    std::vector<float> logits = demo.feed(sequence, ids);
    const std::vector<float> decoded = demo.feed(sequence, std::span(ids).first(1), Role::kDecode);
    logits.insert(logits.end(), decoded.begin(), decoded.end());
    if (first.empty()) first = logits;
    EXPECT_EQ(first, logits) << threads << " threads";
  }
}

// A fork shares blocks until one side writes; then each goes on as if it were alone.
TEST(RaggedSteps, ForkedAndSharedPrefixesGiveTheSameBits) {
  MARLIN_SKIP_WITHOUT(any_demo());
  DemoModel demo(demo_options());
  const std::vector<int32_t> prefix = random_ids(100, 21);
  const std::vector<int32_t> left = random_ids(40, 22);
  const std::vector<int32_t> right = random_ids(40, 23);
  const auto alone = [&](const std::vector<int32_t>& tail) {
    KvSequence sequence(demo.cache());
    demo.feed(sequence, prefix);
    return demo.feed(sequence, tail);
  };
  const std::vector<float> left_alone = alone(left);
  const std::vector<float> right_alone = alone(right);

  KvSequence trunk(demo.cache());
  demo.feed(trunk, prefix);
  KvSequence branch = trunk.fork();
  EXPECT_EQ(demo.feed(branch, left), left_alone);
  EXPECT_EQ(demo.feed(trunk, right), right_alone);

  KvSequence reused(demo.cache());
  reused.append_shared(trunk.blocks()[0]);
  demo.feed(reused, std::span(prefix).subspan(kKvBlockTokens));
  EXPECT_EQ(demo.feed(reused, left), left_alone);

  reused.truncate(100);
  EXPECT_EQ(demo.feed(reused, right), right_alone);
}

}  // namespace
}  // namespace marlin::testing
