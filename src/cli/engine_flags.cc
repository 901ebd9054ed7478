#include "cli/engine_flags.h"

#include <fmt/format.h>

#include "base/progress.h"
#include "cli/flags.h"
#include "cli/model_path.h"
#include "cli/output.h"

namespace marlin::cli {

void EngineFlags::add_to(CLI::App& app) {
  app.add_option("-m,--model", model, "Model: a directory, or the name of one in models/")
      ->required()
      ->type_name("DIR");
  app.add_option("--ctx", context, "Positions for prompt and answer; default: what fits memory, at most 32,768")
      ->transform(whole_number(1))
      ->type_name("N");
  app.add_option("--threads", threads, "CPU threads; default: one a physical core")
      ->transform(whole_number(1, kMostThreads))
      ->type_name("N");
  app.add_option("--kv", kv, "Type of the KV cache: f32, f16 or q8; default f16")
      ->check(CLI::IsMember({"f32", "f16", "q8"}).description(""))
      ->type_name("TYPE");
  app.add_option("--device", device, "auto, cpu, or another that `metal-marlin doctor` lists")
      ->check(device_name())
      ->type_name("NAME");
  app.add_option("--load", weights,
                 "Weights: mmap uses the files in place, copy reads them into huge pages; default mmap")
      ->check(CLI::IsMember({"auto", "mmap", "copy"}).description(""))
      ->type_name("HOW");
  app.add_flag("--mlock", mlock, "Keep the weights in memory: the system may not page them out");
  app.add_flag("--deterministic", deterministic,
               "Compute prompts as precisely as answers, so that not even a cached history shows (slower prompts)");
  app.add_flag("--check-numerics", check_numerics, "Check the result of every op for NaN and Inf (slow)");
  app.add_flag("--no-fused-moe", no_fused_moe, "Compute experts op by op, for diagnosis");
  app.add_flag("-v,--verbose", verbose, "Say more about the model and the settings");
}

std::unique_ptr<Engine> EngineFlags::load(int max_parallel) const {
  ProgressBar bar("loading");
  EngineOptions options;
  options.model = find_model(model);
  options.device = device;
  options.threads = threads;
  options.context = context;
  options.kv_type = kv;
  options.max_parallel = max_parallel;
  options.deterministic = deterministic;
  options.check_numerics = check_numerics;
  options.load = weights;
  options.lock_memory = mlock;
  options.use_fused_moe = !no_fused_moe;
  options.progress = bar.callback();
  return std::make_unique<Engine>(options);
}

void print_model(const ModelInfo& info, bool verbose) {
  say("{} on {}: {} of weights{}, context {} of {}, KV cache {} ({} a token), loaded in {:.1f} s\n", info.name,
      info.device, human_bytes(info.weight_bytes), info.synthetic ? " (synthetic)" : "", info.context,
      info.model_context, info.kv_type, human_bytes(info.kv_bytes_per_token), info.load_seconds);
  if (info.synthetic) say("warning: {} is synthetic: random weights, which talk nonsense\n", info.name);
  if (!verbose) return;
  say("{}, vocabulary {}, {} MTP layer; device: {}\n", info.architecture, info.vocab_size,
      info.has_mtp ? "with an" : "no", info.device_description);
  for (const std::string& note : info.notes) say("note: {}\n", note);
}

}  // namespace marlin::cli
