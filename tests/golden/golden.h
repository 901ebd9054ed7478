// What tests/golden/mmfp4.safetensors holds: the double-precision oracle's view of the bundled MMFP4 model.
//   P.ids [T] I32, P.hidden [layers + 1, T, H] F32 (embedding, each layer, the last one after the final norm),
//   P.logits [16, V] F32 (last 16 positions), P.mtp_logits [4, V] F32 (last 4 rows), for P = prose, chat
//   greedy.N.prompt, greedy.N.ids I32: the prompts of reference.json and the oracle's greedy continuations
#pragma once

#include <nlohmann/json.hpp>

#include "demo_model.h"

namespace marlin::testing {

inline constexpr int kGoldenLogitRows = 16;
inline constexpr int kGoldenMtpRows = 4;
inline constexpr int kGreedyPrompts = 9;

inline std::filesystem::path golden_file() {
  return std::filesystem::path(MARLIN_SOURCE_DIR) / "tests/golden/mmfp4.safetensors";
}

inline nlohmann::json reference_json() {
  return nlohmann::json::parse(
      read_text_file(std::filesystem::path(MARLIN_SOURCE_DIR) / "tests/golden/reference.json"));
}

inline DemoOptions golden_options(const std::string& device, KvType kv, const std::string& kernels = "") {
  DemoOptions options;
  options.directory = mmfp4_demo();
  options.device = device;
  options.kernels = kernels;
  options.model.max_tokens = 256;
  options.model.kv_type = kv;
  return options;
}

/// Prefills `prompt` and picks the largest logit until a stop id or `limit` ids.
inline std::vector<int32_t> greedy(DemoModel& demo, const std::vector<int32_t>& prompt, size_t limit) {
  KvSequence sequence(demo.cache());
  EXPECT_TRUE(sequence.extend(demo.stream(), static_cast<int>(prompt.size())));
  Step step;
  step.sequences = {&sequence};
  for (size_t i = 0; i < prompt.size(); ++i) {
    step.tokens.push_back({prompt[i], 0, static_cast<int>(i), Role::kPrompt, i + 1 == prompt.size()});
  }
  std::vector<float> logits = demo.run(step);
  const std::vector<int32_t>& stops = demo.model().config().eos_token_ids;
  std::vector<int32_t> ids;
  while (true) {
    ids.push_back(static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin()));
    if (ids.size() >= limit || std::ranges::find(stops, ids.back()) != stops.end()) return ids;
    logits = demo.feed(sequence, std::span(ids).last(1), Role::kDecode);
  }
}

/// KL(golden || own), mean over rows.
inline double mean_kl(std::span<const float> own, std::span<const float> golden, size_t width) {
  const auto log_sum = [](std::span<const float> row) {
    double sum = 0;
    for (const float x : row) sum += std::exp(static_cast<double>(x));
    return std::log(sum);
  };
  double kl = 0;
  for (size_t at = 0; at < own.size(); at += width) {
    const double own_sum = log_sum(own.subspan(at, width));
    const double golden_sum = log_sum(golden.subspan(at, width));
    for (size_t i = at; i < at + width; ++i) {
      const double log_p = golden[i] - golden_sum;
      kl += std::exp(log_p) * (log_p - (own[i] - own_sum));
    }
  }
  const size_t rows = own.size() / width;
  return kl / static_cast<double>(rows);
}

/// What the golden file stores of one passage.
struct GoldenPassage {
  std::vector<int32_t> ids;
  std::vector<float> hidden, logits, mtp_logits;
};

inline GoldenPassage run_passage(DemoModel& demo, const std::vector<int32_t>& ids) {
  const auto n = static_cast<int>(ids.size());
  const int layers = demo.model().config().n_layers;
  const int64_t layer_values = int64_t{n} * demo.hidden();
  const auto captured = demo.device().allocate(activation_bytes(demo.device(), layer_values * (layers + 1)));
  KvSequence sequence(demo.cache());
  EXPECT_TRUE(sequence.extend(demo.stream(), n));
  Step step;
  step.sequences = {&sequence};
  for (int i = 0; i < n; ++i) {
    step.tokens.push_back({ids[static_cast<size_t>(i)], 0, i, Role::kPrompt, i >= n - kGoldenLogitRows});
  }
  Model::Outputs out = demo.model().forward(demo.stream(), step, demo.cache(), {captured.get(), 0});
  GoldenPassage passage{ids, {}, {}, {}};
  passage.logits = demo.read(out.logits, int64_t{kGoldenLogitRows} * demo.vocab());
  passage.hidden = demo.read({captured.get(), 0}, layer_values * (layers + 1));
  out.batch.n_tokens = n - 1;
  const View mtp = demo.model().mtp(demo.stream(), out, std::span(ids).subspan(1), demo.cache());
  const int64_t first = int64_t{n - 1 - kGoldenMtpRows} * demo.vocab();
  passage.mtp_logits =
      demo.read(mtp.at(activation_bytes(demo.device(), first)), int64_t{kGoldenMtpRows} * demo.vocab());
  return passage;
}

}  // namespace marlin::testing
