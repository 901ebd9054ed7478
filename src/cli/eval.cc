// `mmfp4 eval`: how good a checkpoint is, in figures.
#include "eval/eval.h"

#include <fmt/format.h>

#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/model_path.h"
#include "cli/output.h"
#include "cli/table.h"
#include "marlin/error.h"

namespace marlin::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  metal-marlin mmfp4 eval -m GLM-4.7-Flash-Demo-MMFP4 --text heldout.jsonl
  metal-marlin mmfp4 eval -m MMFP4_DIR --text heldout.jsonl --reference BF16_DIR --windows 6 --json
  metal-marlin mmfp4 eval -m DIR --ids ids.json --logits-out logits.safetensors

FILE.jsonl has rows {"text": ...}, which are joined and cut in windows of 1,024 predictions, or rows
{"messages": [...]}, of which the assistant's tokens are scored.)";

struct EvalFlags {
  std::string model;
  std::string text;
  std::string reference;
  std::string ids;
  std::string logits_out;
  EvalOptions options;
  bool json = false;
};

std::string report(const EvalResult& result) {
  std::vector<std::vector<std::string>> rows = {
      {"perplexity", fmt::format("{:.4f}", result.perplexity)},
      {"mean negative log-likelihood", fmt::format("{:.5f} +- {:.5f}", result.mean_nll, result.nll_stderr)},
      {"predictions", grouped(result.predictions)}};
  if (result.divergence) {
    rows.push_back({"perplexity of the reference", fmt::format("{:.4f}", result.reference_perplexity)});
    rows.push_back({"KL divergence, mean", fmt::format("{:.5f}", result.divergence->kl_mean)});
    rows.push_back({"KL divergence, 99th percentile", fmt::format("{:.5f}", result.divergence->kl_p99)});
    rows.push_back({"top-1 agreement", fmt::format("{:.2f} %", 100 * result.divergence->top1_agreement)});
  }
  rows.push_back({"time", fmt::format("{:.1f} s", result.seconds)});
  return table(rows);
}

int run(const EvalFlags& flags) {
  const bool logits = !flags.ids.empty() || !flags.logits_out.empty();
  if (logits && (flags.ids.empty() || flags.logits_out.empty() || !flags.text.empty())) {
    throw Error(ErrorCode::kUsage, "give --ids and --logits-out together, and --text without them");
  }
  if (logits && (!flags.reference.empty() || flags.options.windows != 0)) {
    throw Error(ErrorCode::kUsage, fmt::format("{} is for --text; leave it out with --ids",
                                               flags.reference.empty() ? "--windows" : "--reference"));
  }
  if (!logits && flags.text.empty()) throw Error(ErrorCode::kUsage, "give --text, or --ids with --logits-out");
  EvalOptions options = flags.options;
  options.model = find_model(flags.model);
  if (logits) {
    write_logits(options, flags.ids, flags.logits_out);
    if (flags.json) write_stdout(Json{{"logits", flags.logits_out}}.dump() + "\n");
    return kOk;
  }
  options.text = flags.text;
  if (!flags.reference.empty()) options.reference = find_model(flags.reference);
  EvalResult result;
  {
    ProgressBar bar("scoring");
    options.progress = bar.callback();
    result = evaluate(options);
  }
  write_stdout(flags.json ? result.to_json().dump() + "\n" : report(result));
  return kOk;
}

}  // namespace

void add_eval(CLI::App& parent, Action& action) {
  CLI::App* app = parent.add_subcommand("eval", "Perplexity, and divergence from a reference checkpoint");
  auto flags = std::make_shared<EvalFlags>();
  EvalOptions& options = flags->options;
  app->add_option("-m,--model", flags->model, "Model: a directory, or the name of one in models/")
      ->required()
      ->type_name("DIR");
  app->add_option("--text", flags->text, "Held-out text to score")->type_name("FILE.jsonl");
  app->add_option("--reference", flags->reference, "Checkpoint to compare with: KL divergence and top-1 agreement")
      ->type_name("DIR");
  app->add_option("--windows", options.windows, "Score the first N windows; default: all")
      ->transform(whole_number(1))
      ->type_name("N");
  app->add_option("--ids", flags->ids,
                  "Token ids to compute logits of: a JSON array, or a safetensors file with \"ids\"")
      ->type_name("FILE");
  app->add_option("--logits-out", flags->logits_out, "Write the logits of --ids to FILE")
      ->type_name("FILE.safetensors");
  app->add_option("--device", options.device, "auto, cpu, or another that `metal-marlin doctor` lists")
      ->check(device_name())
      ->type_name("NAME");
  app->add_option("--kv", options.kv_type, "Type of the KV cache: f32, f16 or q8; default f16")
      ->check(CLI::IsMember({"f32", "f16", "q8"}).description(""))
      ->type_name("TYPE");
  app->add_option("--threads", options.threads, "CPU threads; default: one a physical core")
      ->transform(whole_number(1, kMostThreads))
      ->type_name("N");
  app->add_flag("--deterministic", options.deterministic, "One class of numerics for prompt and answer");
  app->add_flag("--json", flags->json, "Print the figures as one JSON object");
  app->footer(kExamples);
  app->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace marlin::cli
