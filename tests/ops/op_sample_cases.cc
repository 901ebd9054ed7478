// Cases of sampling: every path, with logits that FP32 holds exactly, so that ids must agree with the oracle's.
#include <fmt/format.h>

#include <algorithm>

#include "op_test_util.h"

namespace marlin::op_test {
namespace {

constexpr int kTop = 5;

struct SampleSetup {
  int64_t vocab = 0;
  int32_t n_valid = 0;
  int top_logprobs = kTop;
  std::vector<float> logits;  // [rows, vocab]
  std::vector<SampleParams> params;
  std::vector<uint32_t> counts;  // [rows, vocab] or empty
  std::vector<uint32_t> mask;    // [rows, words] or empty
  std::vector<int32_t> bias_ids;
  std::vector<float> bias_values;

  int64_t rows() const { return static_cast<int64_t>(params.size()); }
};

/// Multiples of 1/8: many ties, which the lower id must win.
SampleSetup random_setup(int64_t rows, int64_t vocab, int32_t n_valid, float step = 0.125f) {
  Random random(151);
  SampleSetup setup;
  setup.vocab = vocab;
  setup.n_valid = n_valid;
  for (int64_t i = 0; i < rows * vocab; ++i) setup.logits.push_back(static_cast<float>(random.index(160) - 80) * step);
  // Padding would win if it took part, NaN would show.
  for (int64_t i = 0; i < rows * vocab; ++i) {
    if (i % vocab >= n_valid) setup.logits[static_cast<size_t>(i)] = i % 2 == 0 ? 1e9f : NAN;
  }
  for (int64_t t = 0; t < rows; ++t) {
    SampleParams p;
    p.seed = 1000;
    p.choice = static_cast<uint32_t>(t % 3);
    p.position = t * 17;
    setup.params.push_back(p);
  }
  return setup;
}

template <typename T>
std::vector<T> slice(const std::vector<T>& values, RowRange range, int64_t width) {
  if (values.empty()) return values;
  const auto begin = values.begin() + range.first * width;
  return {begin, begin + range.count * width};
}

OpCase sample_case(const std::string& name, const SampleSetup& setup) {
  const auto run = [setup](Rig& rig, RowRange range) -> std::vector<Output> {
    std::vector<SampleParams> params = slice(setup.params, range, 1);
    for (SampleParams& p : params) {
      // Rows of the tables are the rows of the case.
      if (p.counts_row >= 0) p.counts_row -= static_cast<int32_t>(range.first);
      if (p.mask_row >= 0) p.mask_row -= static_cast<int32_t>(range.first);
    }
    const auto n = static_cast<size_t>(range.count);
    SampleArgs args;
    args.rows = static_cast<int>(range.count);
    args.vocab = setup.vocab;
    args.n_valid = setup.n_valid;
    args.top_logprobs = setup.top_logprobs;
    args.logits = rig.act(slice(setup.logits, range, setup.vocab));
    args.params = rig.array(params);
    if (!setup.counts.empty()) args.counts = rig.array(slice(setup.counts, range, setup.vocab));
    if (!setup.mask.empty()) args.mask = rig.array(slice(setup.mask, range, (setup.vocab + 31) / 32));
    if (!setup.bias_ids.empty()) {
      args.bias_ids = rig.array(setup.bias_ids);
      args.bias_values = rig.array(setup.bias_values);
    }
    args.ids = rig.array(std::vector<int32_t>(n, -7));
    args.status = rig.array(std::vector<int32_t>(n, -7));
    args.logprobs = rig.array(std::vector<float>(n, -7));
    if (setup.top_logprobs > 0) {
      args.top_ids = rig.array(std::vector<int32_t>(n * kTop, -7));
      args.top_values = rig.array(std::vector<float>(n * kTop, -7));
    }
    rig.stream().sample(args);
    // A log-probability is the difference of two numbers of at most about 40, after a sum of positive terms.
    const auto loose = [&](const char* what, int64_t width, std::vector<double> values) {
      Output out = exact(what, width, std::move(values));
      for (size_t i = 0; i < out.values.size(); ++i) out.tolerance[i] = 256 * rig.roundoff();
      return out;
    };
    std::vector<Output> outputs = {exact("status", 1, rig.read<int32_t>(args.status, range.count)),
                                   exact("ids", 1, rig.read<int32_t>(args.ids, range.count)),
                                   loose("logprobs", 1, rig.read<float>(args.logprobs, range.count))};
    if (setup.top_logprobs > 0) {
      outputs.push_back(exact("top_ids", kTop, rig.read<int32_t>(args.top_ids, range.count * kTop)));
      outputs.push_back(loose("top_values", kTop, rig.read<float>(args.top_values, range.count * kTop)));
    }
    if (!setup.counts.empty()) {
      outputs.push_back(exact("counts", setup.vocab, rig.read<uint32_t>(args.counts, range.count * setup.vocab)));
    }
    return outputs;
  };
  return {"Sample" + name, setup.rows(), run};
}

OpCase filter_case(const std::string& name, int64_t vocab, const SampleParams& filter, int top_logprobs = kTop) {
  SampleSetup setup = random_setup(16, vocab, static_cast<int32_t>(vocab - 3));
  setup.top_logprobs = top_logprobs;
  for (SampleParams& p : setup.params) {
    p.temperature = filter.temperature;
    p.top_k = filter.top_k;
    p.top_p = filter.top_p;
    p.min_p = filter.min_p;
  }
  return sample_case(name, setup);
}

SampleParams filter(float temperature, int32_t top_k = 0, float top_p = 1, float min_p = 0) {
  SampleParams p;
  p.temperature = temperature;
  p.top_k = top_k;
  p.top_p = top_p;
  p.min_p = min_p;
  return p;
}

/// All candidates weigh the same, so that every filter ends and every draw lands among ties.
OpCase ties_case(const std::string& name, int64_t vocab, const SampleParams& filter) {
  SampleSetup setup = random_setup(6, vocab, static_cast<int32_t>(vocab - 3), 0);
  for (SampleParams& p : setup.params) {
    p.temperature = filter.temperature;
    p.top_k = filter.top_k;
    p.top_p = filter.top_p;
  }
  return sample_case(name, setup);
}

/// As many ids as a real vocabulary has.
OpCase real_case() {
  SampleSetup setup = random_setup(4, 154880, 154856, 0.0625f);
  for (size_t t = 0; t < setup.params.size(); ++t) {
    SampleParams& p = setup.params[t];
    p.temperature = t == 0 ? 0.0f : 0.5f * static_cast<float>(t);
    if (t == 2) p.top_p = 0.95f;
    if (t == 3) p.top_k = 4000;
  }
  return sample_case("RealVocab", setup);
}

/// Rows with penalties by turns: none, repetition, presence, frequency, all; ids of the prompt, generated, and both.
OpCase penalty_case(const std::string& name, float temperature) {
  SampleSetup setup = random_setup(10, 200, 190);
  for (int64_t i = 0; i < setup.rows() * setup.vocab; ++i) {
    const auto k = static_cast<uint32_t>(i % 7);
    setup.counts.push_back(k < 3 ? 0 : (k % 2 == 1 ? 0x80000000u : 0u) + (k > 3 ? k - 3 : 0));
  }
  for (size_t t = 0; t < setup.params.size(); ++t) {
    SampleParams& p = setup.params[t];
    p.temperature = temperature;
    if (t % 5 == 0) continue;
    p.counts_row = static_cast<int32_t>(t);
    if (t % 5 == 1 || t % 5 == 4) p.repetition_penalty = 1.5f;
    if (t % 5 == 2 || t % 5 == 4) p.presence_penalty = 2.5f;
    if (t % 5 == 3 || t % 5 == 4) p.frequency_penalty = 0.75f;
  }
  return sample_case(name, setup);
}

/// Masks of some, one and no allowed ids, and biases that lift an id to the top; one row without either.
OpCase mask_case(const std::string& name, float temperature) {
  SampleSetup setup = random_setup(5, 100, 97);
  const int64_t words = (setup.vocab + 31) / 32;
  setup.mask.assign(static_cast<size_t>(setup.rows() * words), 0);
  for (int64_t w = 0; w < words; ++w) setup.mask[static_cast<size_t>(w)] = 0x5a5a00ffu;
  setup.mask[static_cast<size_t>(words + 2)] = 1u << 5;        // row 1: id 69 alone
  setup.mask[static_cast<size_t>(3 * words + 3)] = 0xfu << 1;  // row 3: ids 97 and above, which are padding
  setup.bias_ids = {3, 50, 96, 7, 7};
  setup.bias_values = {20, 20.5f, -3, 15, 15};
  for (size_t t = 0; t < setup.params.size(); ++t) {
    setup.params[t].temperature = temperature;
    if (t != 4) setup.params[t].mask_row = static_cast<int32_t>(t);
    setup.params[t].bias_begin = t == 4 ? 3 : 0;
    setup.params[t].bias_end = t == 4 ? 5 : 3;
  }
  return sample_case(name, setup);
}

OpCase not_finite_case() {
  SampleSetup setup = random_setup(4, 64, 60);
  setup.logits[5] = NAN;
  setup.logits[64 + 59] = INFINITY;
  setup.logits[2 * 64 + 1] = -INFINITY;
  return sample_case("NotFinite", setup);
}

OpCase few_allowed_case() {
  SampleSetup setup = random_setup(2, 32, 3);  // fewer than the top log-probabilities asked for
  return sample_case("FewerThanTop", setup);
}

}  // namespace

std::vector<OpCase> sample_cases() {
  return {filter_case("Greedy", 33, filter(0)),
          filter_case("GreedyLarge", 10000, filter(0), 0),
          filter_case("Plain", 33, filter(1)),
          filter_case("PlainNoTop", 300, filter(1), 0),
          filter_case("HotLarge", 10000, filter(8)),
          filter_case("Cool", 300, filter(0.5f)),
          filter_case("TopK1", 300, filter(2, 1)),
          filter_case("TopK7", 300, filter(4, 7)),
          filter_case("TopKBeyondVocab", 50, filter(4, 1000)),
          filter_case("TopP", 300, filter(3, 0, 0.7f)),
          filter_case("TopPTiny", 300, filter(3, 0, 1e-6f)),
          filter_case("TopPLarge", 10000, filter(6, 0, 0.95f)),
          filter_case("MinP", 300, filter(4, 0, 1, 0.2f)),
          filter_case("AllFilters", 10000, filter(5, 100, 0.8f, 0.05f)),
          filter_case("TopPThenMinP", 300, filter(5, 0, 0.9f, 0.3f)),
          ties_case("TiesGreedy", 5000, filter(0)),
          ties_case("Ties", 5000, filter(1)),
          ties_case("TiesTopKTopP", 5000, filter(1, 3000, 0.7f)),
          real_case(),
          penalty_case("PenaltiesGreedy", 0),
          penalty_case("Penalties", 2),
          mask_case("MaskAndBiasGreedy", 0),
          mask_case("MaskAndBias", 3),
          not_finite_case(),
          few_allowed_case()};
}

std::vector<OpCase> real_sample_cases() {
  return {lazy_case("RealGreedy", 16, [] { return filter_case("", 154880, filter(0)); }),
          lazy_case("RealAllFilters", 16, [] { return filter_case("", 154880, filter(1, 100, 0.95f, 0.05f)); })};
}

}  // namespace marlin::op_test
