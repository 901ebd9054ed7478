// `mmfp4 generate`: one prompt, one answer.
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>

#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/engine_flags.h"
#include "cli/flags.h"
#include "cli/input.h"
#include "cli/output.h"
#include "cli/sampling_flags.h"
#include "marlin/error.h"

namespace marlin::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  metal-marlin mmfp4 generate -m GLM-4.7-Flash-Demo-MMFP4 -p "Hello"
  metal-marlin mmfp4 generate -m DIR -p "Why is the sky blue?" --temperature 0 --no-think
  git diff | metal-marlin mmfp4 generate -m DIR --system "Review this patch." -p - > review.txt
  metal-marlin mmfp4 generate -m DIR --messages request.json --json | jq .tool_calls

Without a terminal standard output carries the answer's text alone; reasoning, tool calls and figures go to standard
error. The file of --messages is {"messages": [...], "tools": [...], "template_args": {...}} in OpenAI's shape, or an
array of messages.
One final newline of a prompt read with -f or from standard input is dropped, except with --raw.
Ctrl-C ends the answer with its figures and exit code 130 (a second one ends at once); otherwise the exit code is 0,
1 when something failed, 2 for a usage error.)";

struct GenerateFlags {
  EngineFlags engine;
  SamplingFlags sampling;
  std::optional<std::string> prompt;
  std::optional<std::string> file;
  std::optional<std::string> messages;
  std::optional<std::string> system;
  bool no_think = false;
  bool raw = false;
  bool allow_special = false;
  bool json = false;
};

/// CLI11 would read an empty text as an absent option.
CLI::Option* add_text(CLI::App& app, const char* name, std::optional<std::string>& text, const char* help) {
  return app.add_option_function<std::string>(
      name, [&text](const std::string& given) { text = given; }, help);
}

/// What to generate from: a raw text, or a conversation.
struct Prompt {
  std::string text;
  Conversation conversation;
};

std::string read_prompt_text(const GenerateFlags& flags) {
  const bool from_file = flags.file.has_value() || *flags.prompt == "-";
  const std::string source = flags.file ? *flags.file : *flags.prompt;
  std::string text = from_file ? read_input(source) : source;
  if (from_file && !flags.raw) {
    if (text.ends_with('\n')) text.pop_back();
    if (text.ends_with('\r')) text.pop_back();
  }
  const std::string name = !from_file ? "the prompt" : source == "-" ? "standard input" : source;
  require_utf8(text, name);
  if (text.empty()) {
    throw Error(ErrorCode::kUsage, fmt::format("{} is empty; give some text with -p, -f or --messages", name));
  }
  return text;
}

Prompt read_prompt(const GenerateFlags& flags) {
  const int sources = (flags.prompt ? 1 : 0) + (flags.file ? 1 : 0) + (flags.messages ? 1 : 0);
  if (sources != 1) throw Error(ErrorCode::kUsage, "give the prompt with exactly one of -p, -f and --messages");
  if (flags.raw && (flags.messages || flags.system || flags.no_think)) {
    throw Error(ErrorCode::kUsage,
                "--raw leaves the template out, so --messages, --system and --no-think do not go with it");
  }
  if (flags.messages && flags.system) {
    throw Error(ErrorCode::kUsage, "--system does not go with --messages; put a system message into the file");
  }
  Prompt prompt;
  if (flags.messages) {
    prompt.conversation = read_conversation(*flags.messages);
  } else {
    prompt.text = read_prompt_text(flags);
    if (flags.system) {
      require_utf8(*flags.system, "--system");
      prompt.conversation.messages.push_back({{"role", "system"}, {"content", *flags.system}});
    }
    prompt.conversation.messages.push_back({{"role", "user"}, {"content", prompt.text}});
  }
  if (flags.no_think) prompt.conversation.template_args["enable_thinking"] = false;
  return prompt;
}

Request make_request(const Engine& engine, const GenerateFlags& flags, const Prompt& prompt) {
  Request request;
  if (flags.raw) {
    request.prompt = engine.tokenize(prompt.text, /*allow_special=*/true);
    request.parse_output = false;
  } else {
    set_prompt(engine, prompt.conversation, flags.allow_special, request);
  }
  flags.sampling.apply(engine.info(), request);
  return request;
}

int run(const GenerateFlags& flags) {
  flags.sampling.check();
  const Prompt prompt = read_prompt(flags);
  const std::unique_ptr<Engine> engine = flags.engine.load(/*max_parallel=*/1);
  Request request = make_request(*engine, flags, prompt);
  const std::vector<int32_t> prompt_ids = request.prompt;
  const std::string settings = describe(request.sampling);
  RequestHandle handle = engine->submit(std::move(request));

  // Only now: a request that is refused leaves one line, the error's.
  const auto heading = [&] {
    print_model(engine->info(), flags.engine.verbose);
    if (flags.engine.verbose) say("{}\n", settings);
  };
  const Finished finished =
      receive(handle, {.print = !flags.json, .second_interrupt_ends_program = true, .heading = heading});
  if (flags.json) {
    write_stdout(to_json(finished, prompt_ids).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  }
  say("{}\n", figures(finished, flags.sampling.max_tokens));
  return finished.reason == FinishReason::kCancelled ? kInterrupted : kOk;
}

}  // namespace

void add_generate(CLI::App& parent, Action& action) {
  CLI::App* app = parent.add_subcommand("generate", "Answer one prompt");
  auto flags = std::make_shared<GenerateFlags>();
  add_text(*app, "-p,--prompt", flags->prompt, "The prompt; - reads standard input")->type_name("TEXT");
  add_text(*app, "-f,--file", flags->file, "Read the prompt from FILE")->type_name("FILE");
  add_text(*app, "--messages", flags->messages, "Read messages, tools and template arguments from FILE")
      ->type_name("FILE.json");
  add_text(*app, "--system", flags->system, "System message before the prompt")->type_name("TEXT");
  app->add_flag("--no-think", flags->no_think, "Answer without reasoning first");
  app->add_flag("--raw", flags->raw,
                "Take the prompt as it is: no template, control tokens recognised, output unparsed");
  app->add_flag("--allow-special", flags->allow_special, "Recognise control tokens in messages too");
  app->add_flag("--json", flags->json, "Print one JSON object at the end and nothing else");
  flags->sampling.add_to(*app);
  flags->engine.add_to(*app);
  app->footer(kExamples);
  app->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace marlin::cli
