// `mmfp4 quantize`: a BF16 checkpoint becomes an MMFP4 one.
#include "quantize/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/output.h"
#include "cli/table.h"
#include "format/safetensors.h"
#include "marlin/error.h"

namespace marlin::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  metal-marlin mmfp4 quantize GLM-4.7-Flash GLM-4.7-Flash-MMFP4
  metal-marlin mmfp4 quantize SRC DST --group-size 64 --include-head --report errors.json
  metal-marlin mmfp4 quantize SRC DST --resume

SRC is a Hugging Face directory in BF16, F16 or F32. It is mapped, not loaded; only tensors that do not lie at a
multiple of their element's size are copied. Memory holds the scales of one shard, which are 130 MB of its 4 GiB with
group size 128 and 480 MB with 32, and less than 100 MB beside them.

Until it is whole, DST holds INCOMPLETE and no command takes it for a model. --resume continues an interrupted
conversion of the same source with the same options: it keeps the finished shards.)";

struct QuantizeFlags {
  std::string source;
  std::string destination;
  std::string method = "rtn";
  std::string report;
  QuantizeOptions options;
  bool json = false;
};

/// "model.layers.3.mlp.experts.17.up_proj" -> "model.layers.*.mlp.experts.*.up_proj"
std::string family(const std::string& name) {
  std::string out;
  for (size_t i = 0; i < name.size(); ++i) {
    const bool number =
        std::isdigit(static_cast<unsigned char>(name[i])) != 0 && (out.ends_with('.') || out.ends_with('*'));
    if (!number) {
      out += name[i];
    } else if (!out.ends_with('*')) {
      out += '*';
    }
  }
  return out;
}

struct Family {
  int64_t tensors = 0;
  int64_t parameters = 0;
  double sum_rmse = 0;
  double worst_rmse = 0;
  double max_abs = 0;
};

std::string error_table(const std::vector<TensorError>& tensors) {
  std::map<std::string, Family> families;
  for (const TensorError& tensor : tensors) {
    Family& f = families[family(tensor.name)];
    ++f.tensors;
    f.parameters += tensor.rows * tensor.columns;
    f.sum_rmse += tensor.relative_rmse;
    f.worst_rmse = std::max(f.worst_rmse, tensor.relative_rmse);
    f.max_abs = std::max(f.max_abs, tensor.max_abs);
  }
  std::vector<std::vector<std::string>> rows = {
      {"tensors", "count", "parameters", "mean rel. RMSE", "worst", "max |error|"}};
  for (const auto& [name, f] : families) {
    rows.push_back({name, grouped(f.tensors), grouped(f.parameters),
                    fmt::format("{:.4f}", f.sum_rmse / static_cast<double>(f.tensors)),
                    fmt::format("{:.4f}", f.worst_rmse), fmt::format("{:.4g}", f.max_abs)});
  }
  return table(rows);
}

/// An hour's work must not be lost to a report that cannot be written.
void check_report_path(const std::string& report) {
  if (report.empty()) return;
  std::error_code ignored;
  if (std::filesystem::is_directory(report, ignored)) {
    throw Error(ErrorCode::kUsage, fmt::format("--report: {} is a directory; give a file to write", report));
  }
  const std::filesystem::path folder = std::filesystem::absolute(report).parent_path();
  if (!std::filesystem::is_directory(folder, ignored)) {
    throw Error(ErrorCode::kUsage, fmt::format("--report: {} is not a directory; make it first", folder.string()));
  }
}

int run(const QuantizeFlags& flags) {
  if (flags.options.max_shard_bytes == 0) {
    throw Error(ErrorCode::kUsage, "--max-shard-size is 0; give a size like 500MB, or leave it out for 4GiB");
  }
  check_report_path(flags.report);
  QuantizeReport report;
  {
    ProgressBar bar("quantizing");
    QuantizeOptions options = flags.options;
    options.progress = bar.callback();
    report = quantize_checkpoint(flags.source, flags.destination, options);
  }
  if (!flags.report.empty()) write_file_atomically(flags.report, report.to_json().dump(2) + "\n");
  if (flags.json) {
    write_stdout(report.to_json().dump() + "\n");
    return kOk;
  }
  if (!report.tensors.empty()) write_stdout(error_table(report.tensors) + "\n");
  write_stdout(fmt::format("{}: {} parameters in FP4, {} as they were, {}, {:.3f} bits a weight, {:.1f} s\n",
                           flags.destination, grouped(report.quantized_parameters), grouped(report.plain_parameters),
                           human_bytes(report.bytes), report.bits_per_weight, report.seconds));
  return kOk;
}

}  // namespace

void add_quantize(CLI::App& parent, Action& action) {
  CLI::App* app = parent.add_subcommand("quantize", "Convert a BF16 checkpoint to MMFP4");
  auto flags = std::make_shared<QuantizeFlags>();
  QuantizeOptions& options = flags->options;
  app->add_option("source", flags->source, "Directory of the BF16 checkpoint")->required()->type_name("SRC");
  app->add_option("destination", flags->destination, "Directory to write")->required()->type_name("DST");
  app->add_option("--method", flags->method, "rtn: round to nearest; default rtn")
      ->check(CLI::IsMember({"rtn"}).description(""))
      ->type_name("NAME");
  app->add_option("--group-size", options.group_size, "Weights that share a scale: 32, 64 or 128; default 128")
      ->check(CLI::IsMember({32, 64, 128}).description(""))
      ->type_name("N");
  app->add_flag("--include-head", options.include_head, "Quantize lm_head too");
  app->add_flag("--include-embeddings", options.include_embeddings, "Quantize the embeddings too");
  app->add_option("--report", flags->report, "Write the error of every tensor to FILE")->type_name("FILE.json");
  app->add_option("--max-shard-size", options.max_shard_bytes, "Most bytes of a shard, e.g. 500MB; default 4GiB")
      ->transform(CLI::AsSizeValue(true).description(""))
      ->type_name("SIZE");
  app->add_flag("--resume", options.resume, "Keep the finished shards of an interrupted run");
  app->add_flag("--json", flags->json, "Print the report as one JSON object");
  app->footer(kExamples);
  app->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace marlin::cli
