// `mmfp4 repair`: adds what a checkpoint's writer left out.
#include "quantize/repair.h"

#include <fmt/format.h>

#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/model_path.h"
#include "cli/output.h"
#include "marlin/text.h"

namespace marlin::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  metal-marlin mmfp4 repair GLM-4.7-Flash-MMFP4 --from GLM-4.7-Flash
  metal-marlin mmfp4 inspect GLM-4.7-Flash-MMFP4

Adds unquantized tensors (norms, router biases) and files (tokenizer, template) that the checkpoint lacks. Its shards
are not touched: the tensors go to a new one, and the index is rewritten last.)";

struct RepairFlags {
  std::string directory;
  std::string source;
  bool json = false;
};

int run(const RepairFlags& flags) {
  const RepairReport report = repair_checkpoint(find_model(flags.directory), find_model(flags.source));
  if (flags.json) {
    write_stdout(Json{{"added", report.added}, {"copied_files", report.copied_files}}.dump() + "\n");
    return kOk;
  }
  for (const std::string& name : report.added) write_stdout(fmt::format("added {}\n", name));
  for (const std::string& name : report.copied_files) write_stdout(fmt::format("copied {}\n", name));
  if (report.added.empty() && report.copied_files.empty()) write_stdout("nothing is missing\n");
  return kOk;
}

}  // namespace

void add_repair(CLI::App& parent, Action& action) {
  CLI::App* app = parent.add_subcommand("repair", "Add what a checkpoint lacks from the model it was made of");
  auto flags = std::make_shared<RepairFlags>();
  app->add_option("directory", flags->directory, "The MMFP4 checkpoint")->required()->type_name("DIR");
  app->add_option("--from", flags->source, "The BF16 checkpoint it was made of")->required()->type_name("BF16_DIR");
  app->add_flag("--json", flags->json, "Print what was done as one JSON object");
  app->footer(kExamples);
  app->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace marlin::cli
