// `mmfp4 inspect`: what a checkpoint is made of, and what it lacks. Reads headers only, never the weights.
#include "quantize/inspect.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/model_path.h"
#include "cli/output.h"
#include "cli/table.h"
#include "marlin/error.h"
#include "marlin/text.h"

namespace marlin::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  metal-marlin mmfp4 inspect GLM-4.7-Flash-Demo-MMFP4
  metal-marlin mmfp4 inspect DIR --json | jq .missing

Exit code 1 when something that the model needs is missing or has the wrong shape.)";

double bits_a_weight(const KindTotals& totals) {
  return totals.parameters == 0 ? 0 : 8.0 * static_cast<double>(totals.bytes) / static_cast<double>(totals.parameters);
}

Json to_json(const std::string& kind, const KindTotals& totals) {
  return {{"kind", kind},
          {"tensors", totals.tensors},
          {"parameters", totals.parameters},
          {"bytes", totals.bytes},
          {"bits_per_weight", bits_a_weight(totals)},
          {"stored_as", totals.stored_as}};
}

Json to_json(const std::filesystem::path& directory, const Inspection& i) {
  const ModelConfig& c = i.config;
  Json kinds = Json::array();
  for (const auto& [kind, totals] : i.kinds) kinds.push_back(to_json(kind, totals));
  return {{"directory", directory.string()},
          {"whole", i.whole()},
          {"writer", i.writer},
          {"producer", i.producer},
          {"config",
           {{"model_type", c.model_type},
            {"hidden_size", c.hidden_size},
            {"layers", c.n_layers},
            {"heads", c.n_heads},
            {"q_lora_rank", c.q_lora_rank},
            {"kv_lora_rank", c.kv_lora_rank},
            {"routed_experts", c.n_routed_experts},
            {"shared_experts", c.n_shared_experts},
            {"experts_per_token", c.top_k},
            {"vocab_size", c.vocab_size},
            {"context", c.max_position_embeddings}}},
          {"mtp", i.has_mtp},
          {"files", i.files},
          {"file_bytes", i.file_bytes},
          {"kinds", kinds},
          {"total", to_json("total", i.total)},
          {"missing", i.missing},
          {"misshapen", i.misshapen},
          {"extra", i.extra},
          {"missing_files", i.missing_files},
          {"notes", i.notes}};
}

std::string list(const std::string& heading, const std::vector<std::string>& names) {
  constexpr size_t kShown = 20;
  if (names.empty()) return "";
  std::string out = fmt::format("\n{} ({})\n", heading, names.size());
  for (size_t i = 0; i < std::min(kShown, names.size()); ++i) out += fmt::format("  {}\n", names[i]);
  if (names.size() > kShown) out += fmt::format("  and {} more: --json lists them all\n", names.size() - kShown);
  return out;
}

std::string to_text(const std::filesystem::path& directory, const Inspection& i) {
  const ModelConfig& c = i.config;
  std::string out =
      fmt::format("{}\n  {}: {} layers{}, hidden {}, {} heads, latent {} + {}, vocabulary {}, context {}\n",
                  directory.string(), c.model_type, c.n_layers, i.has_mtp ? " and MTP" : "", c.hidden_size, c.n_heads,
                  c.kv_lora_rank, c.qk_rope_head_dim, c.vocab_size, c.max_position_embeddings);
  out += fmt::format("  {} of {} experts a token and {} shared, expert width {}\n", c.top_k, c.n_routed_experts,
                     c.n_shared_experts, c.moe_intermediate_size);
  out += fmt::format("  written by {}{}; {} file{}, {}\n\n", i.writer,
                     i.producer.empty() ? "" : fmt::format(" ({})", i.producer), i.files, i.files == 1 ? "" : "s",
                     human_bytes(i.file_bytes));
  std::vector<std::vector<std::string>> rows = {{"kind", "tensors", "parameters", "size", "bits/weight", "stored as"}};
  const auto add = [&](const std::string& kind, const KindTotals& t) {
    rows.push_back({kind, grouped(t.tensors), grouped(t.parameters), human_bytes(t.bytes),
                    fmt::format("{:.3f}", bits_a_weight(t)), fmt::format("{}", fmt::join(t.stored_as, ", "))});
  };
  for (const auto& [kind, totals] : i.kinds) add(kind, totals);
  add("total", i.total);
  out += table(rows, /*text_last=*/true);
  out += list("missing tensors", i.missing);
  out += list("wrong shapes", i.misshapen);
  out += list("tensors the model does not use", i.extra);
  out += list("missing files", i.missing_files);
  out += list("notes", i.notes);
  return out;
}

int run(const std::string& model, bool json) {
  const std::filesystem::path directory = find_model(model);
  const Inspection result = inspect_checkpoint(directory);
  write_stdout(json ? to_json(directory, result).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"
                    : to_text(directory, result));
  if (result.whole()) return kOk;
  const bool tensors = !result.missing.empty() || !result.misshapen.empty();
  throw Error(
      ErrorCode::kBadFile,
      fmt::format("{} is not whole: {} tensors missing, {} of a wrong shape, {} files missing; {}", directory.string(),
                  result.missing.size(), result.misshapen.size(), result.missing_files.size(),
                  tensors ? "`metal-marlin mmfp4 repair` adds unquantized tensors, `quantize` makes it again"
                          : "`metal-marlin mmfp4 repair` copies them from the original model"));
}

}  // namespace

void add_inspect(CLI::App& parent, Action& action) {
  CLI::App* app = parent.add_subcommand("inspect", "What a checkpoint is made of, and what it lacks");
  auto model = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  app->add_option("model", *model, "The checkpoint's directory, or the name of one in models/")
      ->required()
      ->type_name("DIR");
  app->add_flag("--json", *json, "Print everything as one JSON object");
  app->footer(kExamples);
  app->callback([model, json, &action] { action = [model, json] { return run(*model, *json); }; });
}

}  // namespace marlin::cli
