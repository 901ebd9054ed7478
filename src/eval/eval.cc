#include "eval/eval.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

#include "backend/backend.h"
#include "eval/windows.h"
#include "format/checkpoint.h"
#include "marlin/error.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace marlin {
namespace {

constexpr int kChunk = 128;  // tokens a step; all of them want logits

/// A model that is fed known tokens and gives the logits of each.
class TeacherForced {
 public:
  TeacherForced(const std::filesystem::path& directory, const EvalOptions& options, bool deterministic,
                int max_positions)
      : checkpoint_(Checkpoint::open(directory)),
        device_(make_device(options.device, {.threads = options.threads, .deterministic = deterministic})),
        stream_(device_->make_stream()),
        model_(Model::load(checkpoint_, *device_,
                           {.max_tokens = kChunk,
                            .max_logit_rows = kChunk,
                            .max_slots = 1,
                            .max_positions = max_positions,
                            .kv_type = parse_kv_type(options.kv_type)})),
        cache_(*device_, model_->kv_layout(), (max_positions + kKvBlockTokens - 1) / kKvBlockTokens),
        sequence_(cache_) {
    if (max_positions > model_->config().max_position_embeddings) {
      throw Error(ErrorCode::kUsage, fmt::format("a text of {} tokens is longer than the model's context of {}",
                                                 max_positions, model_->config().max_position_embeddings));
    }
  }

  const ModelConfig& config() const { return model_->config(); }
  void restart() { sequence_.clear(); }

  /// Logits [ids.size(), vocab] of the next tokens of the sequence.
  std::vector<float> feed(std::span<const int32_t> ids) {
    Step step;
    const int start = sequence_.length();
    if (!sequence_.extend(*stream_, static_cast<int>(ids.size()))) {
      throw Error(ErrorCode::kNoMemory, "the KV cache is full; expected one window to fit");
    }
    step.sequences = {&sequence_};
    for (size_t i = 0; i < ids.size(); ++i) {
      step.tokens.push_back({.id = ids[i],
                             .slot = 0,
                             .position = start + static_cast<int>(i),
                             .role = Role::kPrompt,
                             .wants_logits = true});
    }
    const Model::Outputs out = model_->forward(*stream_, step, cache_);
    const Completed done = stream_->wait(stream_->submit());
    return read_activations(*stream_, *device_, done, out.logits,
                            static_cast<int64_t>(ids.size()) * config().vocab_size);
  }

 private:
  Checkpoint checkpoint_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Model> model_;
  KvCache cache_;
  KvSequence sequence_;
};

/// log(sum(exp(row))) in double.
double log_sum_exp(std::span<const float> row) {
  const double largest = *std::ranges::max_element(row);
  double sum = 0;
  for (const float value : row) sum += std::exp(value - largest);
  return largest + std::log(sum);
}

/// Running sums over predictions.
class Scores {
 public:
  void add(std::span<const float> logits, int32_t target) {
    const double nll = log_sum_exp(logits) - logits[static_cast<size_t>(target)];
    if (!std::isfinite(nll)) {
      throw Error(
          ErrorCode::kNumeric,
          fmt::format("the logits of prediction {} are not finite; run `generate --check-numerics` on this model "
                      "to find the layer",
                      count_));
    }
    window_ += nll;
    ++window_count_;
    ++count_;
  }

  void add_reference(std::span<const float> logits, std::span<const float> reference, int32_t target) {
    const double own = log_sum_exp(logits);
    const double other = log_sum_exp(reference);
    double kl = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double log_p = reference[i] - other;
      kl += std::exp(log_p) * (log_p - (logits[i] - own));
    }
    const double nll = other - reference[static_cast<size_t>(target)];
    if (!std::isfinite(kl) || !std::isfinite(nll)) {
      throw Error(
          ErrorCode::kNumeric,
          fmt::format("the {}'s logits of prediction {} are not finite; run `generate --check-numerics` on it to "
                      "find the layer",
                      std::isfinite(nll) ? "model" : "reference", divergences_.size()));
    }
    divergences_.push_back(kl);
    const auto best = [](std::span<const float> row) { return std::ranges::max_element(row) - row.begin(); };
    agreed_ += best(logits) == best(reference) ? 1 : 0;
    reference_nll_ += nll;
  }

  void end_window() {
    if (window_count_ > 0) windows_.push_back({window_, window_count_});
    window_ = 0;
    window_count_ = 0;
  }

  EvalResult result() {
    EvalResult result;
    double sum = 0;
    for (const auto& [nll, n] : windows_) sum += nll;
    const auto total = static_cast<double>(count_);
    result.predictions = count_;
    result.mean_nll = sum / total;
    result.perplexity = std::exp(result.mean_nll);
    double squares = 0;  // of the windows' deviations from what the mean predicts for their length
    for (const auto& [nll, n] : windows_) squares += std::pow(nll - result.mean_nll * n, 2);
    const auto windows = static_cast<double>(windows_.size());
    if (windows > 1) result.nll_stderr = std::sqrt(squares * windows / (windows - 1)) / total;
    if (!divergences_.empty()) {
      EvalResult::Divergence divergence;
      for (const double kl : divergences_) divergence.kl_mean += kl / total;
      std::ranges::sort(divergences_);
      divergence.kl_p99 = divergences_[static_cast<size_t>(0.99 * static_cast<double>(divergences_.size() - 1))];
      divergence.top1_agreement = static_cast<double>(agreed_) / total;
      result.divergence = divergence;
      result.reference_perplexity = std::exp(reference_nll_ / total);
    }
    return result;
  }

 private:
  double window_ = 0;
  int64_t window_count_ = 0;
  int64_t count_ = 0;
  std::vector<std::pair<double, double>> windows_;  // sum of nll, predictions
  std::vector<double> divergences_;
  double reference_nll_ = 0;
  int64_t agreed_ = 0;
};

void score_window(const Window& window, TeacherForced& model, TeacherForced* reference, Scores& scores) {
  const auto vocab = static_cast<size_t>(model.config().vocab_size);
  model.restart();
  if (reference != nullptr) reference->restart();
  const std::span<const int32_t> inputs(window.ids.data(), window.ids.size() - 1);
  for (size_t begin = 0; begin < inputs.size(); begin += kChunk) {
    const auto chunk = inputs.subspan(begin, std::min<size_t>(kChunk, inputs.size() - begin));
    const std::vector<float> logits = model.feed(chunk);
    const std::vector<float> other = reference != nullptr ? reference->feed(chunk) : std::vector<float>();
    for (size_t i = 0; i < chunk.size(); ++i) {
      if (!window.scored[begin + i]) continue;
      const int32_t target = window.ids[begin + i + 1];
      const std::span<const float> row(logits.data() + i * vocab, vocab);
      scores.add(row, target);
      if (reference != nullptr) scores.add_reference(row, {other.data() + i * vocab, vocab}, target);
    }
  }
  scores.end_window();
}

/// `source` is what the ids come from.
void check_ids(std::span<const int32_t> ids, const ModelConfig& config, const std::filesystem::path& source,
               const char* advice) {
  for (const int32_t id : ids) {
    if (id >= 0 && id < config.vocab_size) continue;
    throw Error(ErrorCode::kUsage, fmt::format("{}: id {} is not one of the model's, 0 to {}; {}", source.string(), id,
                                               config.vocab_size - 1, advice));
  }
}

std::vector<int32_t> read_ids(const std::filesystem::path& path) {
  std::vector<int32_t> ids;
  if (path.extension() == ".safetensors") {
    const SafetensorsFile file = SafetensorsFile::open(path);
    const TensorView* tensor = file.find("ids");
    if (tensor == nullptr || tensor->dtype != DType::kI32 || tensor->shape.size() != 1) {
      throw Error(ErrorCode::kBadFile, fmt::format("{}: expected a tensor \"ids\" of I32 [T]", path.string()));
    }
    ids.resize(static_cast<size_t>(tensor->elements()));
    std::ranges::copy(tensor->data, reinterpret_cast<std::byte*>(ids.data()));
  } else {
    const Json json = Json::parse(read_text_file(path), nullptr, /*allow_exceptions=*/false);
    const bool whole = json.is_array() && std::ranges::all_of(json, [](const Json& id) {
                         return id.is_number_integer() && id.get<int64_t>() == id.get<int32_t>();
                       });
    if (!whole) throw Error(ErrorCode::kBadFile, fmt::format("{}: expected a JSON array of ids", path.string()));
    ids = json.get<std::vector<int32_t>>();
  }
  if (ids.empty()) throw Error(ErrorCode::kUsage, fmt::format("{}: expected at least one id", path.string()));
  return ids;
}

}  // namespace

Json EvalResult::to_json() const {
  Json json = {{"perplexity", perplexity},
               {"predictions", predictions},
               {"mean_nll", mean_nll},
               {"nll_stderr", nll_stderr},
               {"seconds", seconds}};
  if (divergence) {
    json["kl_mean"] = divergence->kl_mean;
    json["kl_p99"] = divergence->kl_p99;
    json["top1_agreement"] = divergence->top1_agreement;
    json["reference_perplexity"] = reference_perplexity;
  }
  return json;
}

EvalResult evaluate(const EvalOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<Window> windows = read_windows(options.text, options.model, options.windows);
  size_t longest = 0;
  for (const Window& window : windows) longest = std::max(longest, window.ids.size());
  TeacherForced model(options.model, options, options.deterministic, static_cast<int>(longest));
  for (const Window& window : windows) {
    check_ids(window.ids, model.config(), options.model / "tokenizer.json", "give the tokenizer of this model");
  }
  std::unique_ptr<TeacherForced> reference;
  if (!options.reference.empty()) {
    // The reference is the best that the device can do, so that the figures hold what the numerics class costs, too.
    reference = std::make_unique<TeacherForced>(options.reference, options, true, static_cast<int>(longest));
    if (reference->config().vocab_size != model.config().vocab_size) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("the reference {} has {} ids, the model {}; expected the same vocabulary",
                              options.reference.string(), reference->config().vocab_size, model.config().vocab_size));
    }
  }
  Scores scores;
  for (size_t i = 0; i < windows.size(); ++i) {
    if (options.progress) options.progress(i, windows.size(), fmt::format("window {}", i + 1));
    score_window(windows[i], model, reference.get(), scores);
  }
  EvalResult result = scores.result();
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

void write_logits(const EvalOptions& options, const std::filesystem::path& ids_file, const std::filesystem::path& out) {
  const std::vector<int32_t> ids = read_ids(ids_file);
  TeacherForced model(options.model, options, options.deterministic, static_cast<int>(ids.size()));
  const int vocab = model.config().vocab_size;
  check_ids(ids, model.config(), ids_file, "give ids of this model's tokenizer");
  const auto n = static_cast<int64_t>(ids.size());
  SafetensorsWriter writer(out, {{"logits", DType::kF32, {n, vocab}}, {"ids", DType::kI32, {n}}});
  for (size_t begin = 0; begin < ids.size(); begin += kChunk) {
    const auto chunk = std::span(ids).subspan(begin, std::min<size_t>(kChunk, ids.size() - begin));
    const std::vector<float> logits = model.feed(chunk);
    writer.append(std::as_bytes(std::span(logits)));
  }
  writer.append(std::as_bytes(std::span(ids)));
  writer.finish();
}

}  // namespace marlin
