// `mmfp4 synth`: a full-size checkpoint of random weights, to measure with.
#include "quantize/synth.h"

#include <fmt/format.h>

#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/output.h"
#include "cli/table.h"

namespace marlin::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  metal-marlin mmfp4 synth --arch glm-4.7-flash GLM-4.7-Flash-Synth
  metal-marlin mmfp4 synth --arch glm-4.7-flash --layers 2 --seed 7 Small
  metal-marlin mmfp4 generate -m GLM-4.7-Flash-Synth -p "Hello" --max-tokens 64 --ignore-eos

The checkpoint has the real model's shapes and random weights: it is as fast and as large as the real one (15.8 GB), and
talks nonsense. The same --layers and --seed give the same bytes. Until it is whole, the directory holds a file
INCOMPLETE and no command takes it for a model; the same command again continues an interrupted run.)";

struct SynthFlags {
  std::string arch;
  std::string directory;
  int layers = 0;
  SynthOptions options;
  bool json = false;
};

int run(const SynthFlags& flags) {
  SynthReport report;
  {
    ProgressBar bar("writing");
    SynthOptions options = flags.options;
    options.progress = bar.callback();
    report = synthesize_checkpoint(synth_config(flags.arch, flags.layers), flags.directory, options);
  }
  if (flags.json) {
    Json out = report.to_json();
    out["directory"] = flags.directory;
    out["arch"] = flags.arch;
    out["seed"] = flags.options.seed;
    write_stdout(out.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
    return kOk;
  }
  const double written = static_cast<double>(report.written_bytes) / 1e9;
  write_stdout(
      fmt::format("{}: {} layers and MTP, {} random parameters, {}; wrote {:.1f} GB in {:.1f} s, {:.2f} GB/s\n",
                  flags.directory, report.layers, grouped(report.parameters), human_bytes(report.tensor_bytes), written,
                  report.seconds, written / report.seconds));
  return kOk;
}

}  // namespace

void add_synth(CLI::App& parent, Action& action) {
  CLI::App* app = parent.add_subcommand("synth", "Write a full-size checkpoint of random weights, to measure with");
  auto flags = std::make_shared<SynthFlags>();
  app->add_option("--arch", flags->arch, "The model whose shapes it has: glm-4.7-flash")
      ->required()
      ->check(CLI::IsMember(synth_architectures()).description(""))
      ->type_name("NAME");
  app->add_option("directory", flags->directory, "Directory to write")->required()->type_name("DIR");
  app->add_option("--layers", flags->layers, "Only the first N layers, and MTP; default: all")
      ->transform(whole_number(1))
      ->type_name("N");
  app->add_option("--seed", flags->options.seed, "Of the random numbers; default 0")
      ->transform(unsigned_number())
      ->type_name("N");
  app->add_flag("--json", flags->json, "Print the result as one JSON object");
  app->footer(kExamples);
  app->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace marlin::cli
