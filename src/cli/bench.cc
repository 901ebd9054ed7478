// `mmfp4 bench`: how fast a model is here, in llama-bench's rows.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "base/memory.h"
#include "cli/bench_plan.h"
#include "cli/bench_report.h"
#include "cli/bench_run.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/lifetime.h"
#include "cli/model_path.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "marlin/error.h"

namespace marlin::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  metal-marlin mmfp4 bench -m GLM-4.7-Flash-Demo-MMFP4
  metal-marlin mmfp4 bench -m DIR -p 512 -n 128 -d 0,4096,16384 --roofline
  metal-marlin mmfp4 bench -m DIR -p 0 -n 64 -b 1-4*2 -r 3 -o csv > bench.csv

Rows: pp512 is a prompt of 512 tokens, tg128 are 128 decode steps; "@ d4096" means behind 4096 positions that come
from the prefix cache (that nothing but the last partial block of 64 is computed again, is checked). Lists are
"128,512" or ranges "1-4", "1-8*2", "0-8192+4096". Prompts are pseudo-random ids, the same in every run.

  t/s     median, min and max over the repetitions, after a warm-up that does not count. Prompts: tokens computed,
          cached ones left out, / time from the start of the first prompt to the last first token. Generation:
          tokens after the first / time from the first token to the last. With a batch only the time counts in
          which all sequences decode: from when all have their first token to when the first one ends; t/s is the
          total, the batch has different prompts, and a few tokens more are generated to fill that time.
  ttft    submission to first token, median over sequences and repetitions; cached positions cost nothing.
  GB/s    of generation: bytes of weights a step must read * steps a second. The KV cache is left out. With a batch
          an expectation (marked ~): experts are taken at random, E * (1 - (1 - k/E)^batch) of them in a layer.
  %       of the memory bandwidth that --roofline measures in the same run (CPU only): the median of read-only
          passes over 1 GiB or 4 times the last-level cache, whichever is more, by as many threads, before the
          first and after every test; of plain passes and passes that ask for memory ahead, the faster.

The program ends when the one that started it does, and does not run where CI is set unless --allow-ci says so:
figures of a machine shared with others mean little.)";

constexpr int kMostTokens = 1 << 24;
constexpr int kMostSequences = 1024;

struct ListFlag {
  const char* option;
  int low, high;
  std::vector<std::string> texts = {};

  std::vector<int> values() const {
    std::vector<int> all;
    for (const std::string& text : texts) {
      const std::vector<int> some = parse_list(text, low, high, option);
      all.insert(all.end(), some.begin(), some.end());
    }
    return all;
  }
};

struct BenchFlags {
  std::string model;
  ListFlag prompts = {"-p", 0, kMostTokens, {"512"}};
  ListFlag generations = {"-n", 0, kMostTokens, {"128"}};
  ListFlag depths = {"-d", 0, kMostTokens, {"0"}};
  ListFlag batches = {"-b", 1, kMostSequences, {"1"}};
  std::string output = "md";
  BenchOptions options;
  bool allow_ci = false;
};

bool in_ci() {
  const char* value = std::getenv("CI");
  std::string text = value == nullptr ? "" : value;
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return !text.empty() && text != "false";
}

void warn_of_swapping() {
  const MemoryStatus memory = memory_status();
  if (memory.swap_used <= memory.swap_total / 4) return;
  say("swap {} of {} used: should the machine swap meanwhile, the figures mean little\n", human_bytes(memory.swap_used),
      human_bytes(memory.swap_total));
}

/// Nothing is half-written and nobody waits: ending at once is the cleanest end.
void end_interrupted() {
  if (isatty(STDERR_FILENO) == 1) write_stderr("\r\x1b[K");
  write_stderr("metal-marlin: interrupted\n");
  std::_Exit(kInterrupted);
}

int run(const BenchFlags& flags) {
  if (in_ci() && !flags.allow_ci) {
    throw Error(ErrorCode::kUsage, "CI is set, and figures of a shared machine mean little; give --allow-ci to bench");
  }
  BenchOptions options = flags.options;
  options.tests =
      plan_tests(flags.prompts.values(), flags.generations.values(), flags.depths.values(), flags.batches.values());
  if (options.tests.empty()) throw Error(ErrorCode::kUsage, "-p 0 and -n 0 leave nothing to measure");
  end_with_parent();
  const InterruptScope scope(end_interrupted, InterruptScope::Second::kEndsProgram);
  options.engine.model = find_model(flags.model);
  warn_of_swapping();
  write_stdout(format_report(run_bench(options), flags.output));
  return kOk;
}

void add_list(CLI::App& app, const std::string& names, ListFlag& flag, const std::string& description) {
  const auto check = [&flag](const std::string& text) -> std::string {
    try {
      parse_list(text, flag.low, flag.high, flag.option);
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  };
  app.add_option(names, flag.texts, description)
      ->allow_extra_args(false)
      ->check(CLI::Validator(check, ""))
      ->type_name("LIST");
}

}  // namespace

void add_bench(CLI::App& parent, Action& action) {
  CLI::App* app = parent.add_subcommand("bench", "Measure speed: prompts, generation, memory bandwidth");
  auto flags = std::make_shared<BenchFlags>();
  EngineOptions& engine = flags->options.engine;
  app->add_option("-m,--model", flags->model, "Model: a directory, or the name of one in models/")
      ->required()
      ->type_name("DIR");
  add_list(*app, "-p,--n-prompt", flags->prompts, "Lengths of prompts; 0 = none; default 512");
  add_list(*app, "-n,--n-gen", flags->generations, "Tokens to generate; 0 = none; default 128");
  add_list(*app, "-d,--n-depth", flags->depths, "Positions that are there before; default 0");
  add_list(*app, "-b,--batch", flags->batches, "Sequences at a time; default 1");
  app->add_option("-t,--threads", engine.threads, "CPU threads; default: one a physical core")
      ->transform(whole_number(1, kMostThreads))
      ->type_name("N");
  app->add_option("-r,--repetitions", flags->options.repetitions, "Repetitions of each test; default 5")
      ->transform(whole_number(1))
      ->type_name("N");
  app->add_option("-o,--output", flags->output, "md, json, jsonl or csv; default md")
      ->check(CLI::IsMember({"md", "json", "jsonl", "csv"}).description(""))
      ->type_name("FORMAT");
  app->add_option("--kv", engine.kv_type, "Type of the KV cache: f32, f16 or q8; default f16")
      ->check(CLI::IsMember({"f32", "f16", "q8"}).description(""))
      ->type_name("TYPE");
  app->add_option("--device", engine.device, "auto, cpu, or another that `metal-marlin doctor` lists")
      ->check(device_name())
      ->type_name("NAME");
  app->add_option("--load", engine.load,
                  "Weights: mmap uses the files in place, copy reads them into huge pages; default mmap")
      ->check(CLI::IsMember({"auto", "mmap", "copy"}).description(""))
      ->type_name("HOW");
  app->add_flag("--mlock", engine.lock_memory, "Keep the weights in memory: the system may not page them out");
  app->add_flag("--deterministic", engine.deterministic, "Compute prompts as precisely as answers (slower prompts)");
  app->add_flag("--roofline", flags->options.roofline, "Measure memory bandwidth too, and compare with it");
  app->add_flag("--allow-ci", flags->allow_ci, "Run although CI is set");
  app->footer(kExamples);
  app->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace marlin::cli
