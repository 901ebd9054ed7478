// What `mmfp4 bench` measures and how it computes its figures: no engine here, so that all of it can be tested alone.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "marlin/engine.h"

namespace marlin::cli {

/// The numbers of a list as in llama-bench: "512", "128,512", and ranges "128-512*2" (times 2) or "1-4+1" (plus 1;
/// "1-4" is the same). Throws Error{kUsage} for anything else, for numbers outside low to high, and for very long
/// lists. `option` stands in the message.
std::vector<int> parse_list(const std::string& text, int low, int high, const std::string& option);

/// One row of the report: prompts of `tokens` tokens, or `tokens` decode steps, behind `depth` cached positions.
struct BenchTest {
  bool prompt = false;
  int tokens = 0;
  int depth = 0;
  int batch = 1;

  std::string kind() const;   // "pp512", "tg128"
  std::string label() const;  // "pp512 @ d4096"
  int prompt_tokens() const;  // of each sequence, the depth included
  int new_tokens() const;     // that each sequence generates
};

/// All combinations, by depth, then batch, then prompts before generation. A 0 among the lengths means no test.
std::vector<BenchTest> plan_tests(std::span<const int> prompts, std::span<const int> generations,
                                  std::span<const int> depths, std::span<const int> batches);

/// The positions the longest sequence of these tests needs.
int longest_sequence(std::span<const BenchTest> tests);

struct Spread {
  double median = 0;  // the mean of the middle two when there is no middle one
  double min = 0;
  double max = 0;
};
/// Of at least one value.
Spread spread_of(std::vector<double> values);

/// Tokens a second of sequences that decode together. `times[i]` are the moments, in ms on one clock, at which sequence
/// i got its tokens. Only the time counts in which all decode: from when the last one has its first token to when the
/// first one has its last. The rate is the sum of each sequence's tokens between two of its own moments inside that
/// time. 0 when a sequence has no two.
double decode_rate(std::span<const std::vector<double>> times);

/// How many of `experts` a step of `batch` tokens is expected to read when each token takes `taken` at random:
/// experts * (1 - (1 - taken / experts)^batch).
double expected_experts(int experts, int taken, int batch);

/// Bytes of weights that a decode step of `batch` sequences reads: exact for one, an expectation for more.
double step_bytes(const ModelInfo& info, int batch);

}  // namespace marlin::cli
