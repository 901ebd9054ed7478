// Quality figures: perplexity, and KL divergence and top-1 agreement against a reference checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "marlin/text.h"

namespace marlin {

struct EvalOptions {
  std::filesystem::path model = {};
  std::filesystem::path text = {};       // JSON lines: {"text"} rows, or {"messages","tools"} rows
  std::filesystem::path reference = {};  // optional second checkpoint for KL and top-1
  int windows = 0;                       // at most this many windows of 1,024 predictions; 0 = all
  std::string device = "auto";
  std::string kv_type = "f16";
  int threads = 0;
  bool deterministic = false;
  ProgressFn progress = {};
};

struct EvalResult {
  double perplexity = 0;
  int64_t predictions = 0;
  double mean_nll = 0;    // nats
  double nll_stderr = 0;  // of the mean, over windows
  struct Divergence {
    double kl_mean = 0;  // KL(reference || model), nats, over all positions and valid ids
    double kl_p99 = 0;
    double top1_agreement = 0;
  };
  std::optional<Divergence> divergence;  // with a reference
  double reference_perplexity = 0;
  double seconds = 0;
  Json to_json() const;  // {"perplexity","predictions","kl_mean","kl_p99","top1_agreement",…}
};

/// Text rows: each text followed by <|endoftext|>, all concatenated and cut in windows of 1,024 predictions (window i
/// covers tokens 1024 i … 1024 i + 1024, from an empty cache at position 0); the rest is dropped. Message rows:
/// rendered with enable_thinking true iff the last answer has reasoning; only assistant tokens and their stop token are
/// scored, each row is a window. Throws Error.
EvalResult evaluate(const EvalOptions& options);

/// Teacher-forced logits of `ids_file` (safetensors with I32 "ids", or a JSON array) as a safetensors file: F32
/// "logits" [T, vocab] and I32 "ids".
void write_logits(const EvalOptions& options, const std::filesystem::path& ids_file, const std::filesystem::path& out);

}  // namespace marlin
