// The demo model end to end on a Metal device against the double-precision oracle's vectors: prompts in chunks, texts
// alone and four together.
#include <fmt/format.h>

#include "golden.h"

namespace marlin::testing {
namespace {

class MetalGolden : public ::testing::Test {
 protected:
  void SetUp() override {
    if (metal_device().empty()) GTEST_SKIP() << "this build or machine has no Metal";
  }
  DemoOptions options(KvType kv, bool deterministic) const {
    DemoOptions options = golden_options(metal_device(), kv);
    options.deterministic = deterministic;
    options.model.max_logit_rows = 256;
    return options;
  }
  template <typename T>
  std::vector<T> golden(const std::string& name) {
    return tensor_values<T>(*file_.find(name));
  }
  SafetensorsFile file_ = SafetensorsFile::open(golden_file());
};

/// Logits of the last kGoldenLogitRows of `ids`, prefilled in chunks.
std::vector<float> prefill(DemoModel& demo, const std::vector<int32_t>& ids, size_t chunk) {
  KvSequence sequence(demo.cache());
  std::vector<float> logits;
  for (size_t begin = 0; begin < ids.size(); begin += chunk) {
    const std::vector<float> rows =
        demo.feed(sequence, std::span(ids).subspan(begin, std::min(chunk, ids.size() - begin)));
    logits.insert(logits.end(), rows.begin(), rows.end());
  }
  logits.erase(logits.begin(), logits.end() - kGoldenLogitRows * demo.vocab());
  return logits;
}

/// Largest difference of logits of each row.
std::vector<double> row_errors(std::span<const float> own, std::span<const float> golden, size_t width) {
  std::vector<double> errors;
  for (size_t at = 0; at < own.size(); at += width) {
    errors.push_back(max_difference(own.subspan(at, width), golden.subspan(at, width)));
  }
  std::ranges::sort(errors);
  return errors;
}

// A cache of halves errs by 2^-12 of each value, a prompt's products by as much for each factor. That moves logits of
// the demo model, of which the largest are about 20, by about 0.02, and where it moves a choice between two experts of
// nearly the same score, single rows by up to 1.
constexpr double kHalfLogits = 0.05;
constexpr double kHalfKl = 1e-5;
/// FP32 throughout (--deterministic, f32 cache), as on the CPU.
constexpr double kFloatLogits = 1e-4;

TEST_F(MetalGolden, PromptsInChunksMatchTheOracleAndEachOther) {
  for (const auto& [kv, deterministic] : {std::pair{KvType::kF16, false}, {KvType::kF16, true}, {KvType::kF32, true}}) {
    DemoModel demo(options(kv, deterministic));
    for (const std::string name : {"prose", "chat"}) {
      const auto ids = golden<int32_t>(name + ".ids");
      const auto expected = golden<float>(name + ".logits");
      const auto vocab = static_cast<size_t>(demo.vocab());
      const std::vector<float> whole = prefill(demo, ids, 64);
      const std::vector<double> errors = row_errors(whole, expected, vocab);
      const double median = errors[errors.size() / 2];
      const double kl = mean_kl(whole, expected, vocab);
      std::printf("%s, %s%s: logits %.2e (largest %.2e), KL %.2e\n", name.c_str(), kv == KvType::kF16 ? "f16" : "f32",
                  deterministic ? ", deterministic" : "", median, errors.back(), kl);
      EXPECT_LT(kv == KvType::kF32 ? errors.back() : median, kv == KvType::kF32 ? kFloatLogits : kHalfLogits);
      EXPECT_LT(kl, kHalfKl);
      EXPECT_EQ(prefill(demo, ids, 7), whole) << name << " in chunks of 7";
      if (kv == KvType::kF16) {
        EXPECT_EQ(prefill(demo, ids, 1), whole) << name << " in chunks of 1";
      }
    }
  }
}

// The original weights, in FP32 throughout, against transformers: the bounds are reference_test's.
TEST_F(MetalGolden, TheBf16ModelMatchesTransformers) {
  MARLIN_SKIP_WITHOUT(reference_vectors());
  DemoOptions options;
  options.device = metal_device();
  DemoModel demo(options);
  const Deviation deviation = measure(demo, read_passage("prose"));
  std::printf("BF16: logits %.2e, MTP logits %.2e, hidden %.2e\n", deviation.logits, deviation.mtp_logits,
              deviation.hidden);
  EXPECT_LT(deviation.logits, 1e-4);
  EXPECT_LT(deviation.mtp_logits, 1e-4);
  EXPECT_LT(deviation.hidden, 2.5e-6);
}

/// One text being generated: follows the oracle's, and may differ only where the choice is close.
struct Text {
  std::string name;
  std::vector<int32_t> expected;
  size_t done = 0;

  void check(std::span<const float> logits) {
    const auto id = static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
    const int32_t golden = expected[done];
    if (id != golden) {
      EXPECT_LT(logits[static_cast<size_t>(id)] - logits[static_cast<size_t>(golden)], 0.05)
          << name << ", token " << done << ": " << id << " instead of " << golden;
    }
    ++done;
  }
};

constexpr size_t kTextTokens = 48;

class MetalGoldenTexts : public MetalGolden {
 protected:
  Text text(int n) {
    Text text{fmt::format("greedy.{}", n), golden<int32_t>(fmt::format("greedy.{}.ids", n))};
    text.expected.resize(std::min(text.expected.size(), kTextTokens));
    return text;
  }
};

TEST_F(MetalGoldenTexts, AloneTheyMatchTheOracle) {
  DemoModel demo(options(KvType::kF16, false));
  for (int n = 0; n < kGreedyPrompts; ++n) {
    Text one = text(n);
    KvSequence sequence(demo.cache());
    const auto prompt = golden<int32_t>(one.name + ".prompt");
    const std::vector<float> rows = demo.feed(sequence, prompt);
    one.check(std::span(rows).last(static_cast<size_t>(demo.vocab())));
    while (one.done < one.expected.size()) {
      one.check(demo.feed(sequence, std::span(one.expected).subspan(one.done - 1, 1), Role::kDecode));
    }
  }
}

TEST_F(MetalGoldenTexts, FourTogetherMatchTheOracle) {
  DemoModel demo(options(KvType::kF16, false));
  const auto vocab = static_cast<size_t>(demo.vocab());
  std::vector<Text> texts;
  std::vector<KvSequence> sequences;
  for (int n = 0; n < 4; ++n) {
    texts.push_back(text(n));
    sequences.emplace_back(demo.cache());
    const std::vector<float> rows = demo.feed(sequences.back(), golden<int32_t>(texts.back().name + ".prompt"));
    texts.back().check(std::span(rows).last(vocab));
  }
  while (true) {
    Step step;
    std::vector<Text*> running;
    for (size_t s = 0; s < texts.size(); ++s) {
      Text& one = texts[s];
      if (one.done >= one.expected.size()) continue;
      const int position = sequences[s].length();
      ASSERT_TRUE(sequences[s].extend(demo.stream(), 1));
      step.tokens.push_back(
          {one.expected[one.done - 1], static_cast<int>(step.sequences.size()), position, Role::kDecode, true});
      step.sequences.push_back(&sequences[s]);
      running.push_back(&one);
    }
    if (running.empty()) break;
    const std::vector<float> logits = demo.run(step);
    for (size_t i = 0; i < running.size(); ++i) running[i]->check(std::span(logits).subspan(i * vocab, vocab));
  }
}

}  // namespace
}  // namespace marlin::testing
