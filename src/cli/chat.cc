// `mmfp4 chat`: a conversation in the terminal.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>

#include "cli/chat_session.h"
#include "cli/commands.h"
#include "cli/engine_flags.h"
#include "cli/line_editor.h"
#include "cli/output.h"
#include "cli/sampling_flags.h"
#include "cli/signals.h"
#include "marlin/error.h"

namespace marlin::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  metal-marlin mmfp4 chat -m GLM-4.7-Flash-Demo-MMFP4
  metal-marlin mmfp4 chat -m DIR --system "Answer in one sentence." --temperature 0.7
  printf 'Hello\nWhat is 23 + 45?\n' | metal-marlin mmfp4 chat -m DIR --no-think

In the chat, /help lists the commands: /system /think /regen /undo /reset /stats /save /load /exit. Ctrl-C ends an
answer and not the program; Ctrl-D or /exit leaves. Without a terminal each line of standard input is a message, the
answers alone go to standard output, and the exit code is 1 when a message failed; Ctrl-C ends it with 130.)";

struct ChatFlags {
  EngineFlags engine;
  SamplingFlags sampling;
  std::string system;
  bool no_think = false;
  bool allow_special = false;
};

/// A whole message: lines that end with a backslash go on.
LineEditor::Result read_message(LineEditor& editor, std::string& message) {
  message.clear();
  for (std::string line;;) {
    const LineEditor::Result result = editor.read(message.empty() ? "> " : "| ", line);
    if (result == LineEditor::Result::kInterrupted) return result;
    if (result == LineEditor::Result::kEnd) return message.empty() ? result : LineEditor::Result::kLine;
    message += line;
    if (!message.ends_with('\\')) return result;
    message.back() = '\n';
  }
}

/// Ctrl-C ends an answer and not the program, where there is a terminal to go on at; SIGTERM ends both.
bool interrupted(const ChatSession& session, const LineEditor& editor) {
  return termination_requested() || (!editor.interactive() && session.interrupted());
}

/// One line of the user. Returns false when the program is to end.
bool handle(ChatSession& session, const std::string& message) {
  if (message.find_first_not_of(" \t\n") == std::string::npos) return true;
  if (message.front() == '/') return session.command(message);
  session.say(message);
  return true;
}

int run(const ChatFlags& flags) {
  flags.sampling.check();
  const std::unique_ptr<Engine> engine = flags.engine.load(/*max_parallel=*/1);
  ChatSession session(*engine, flags.sampling, flags.allow_special);
  if (!flags.system.empty()) session.set_system(flags.system);
  if (flags.no_think) session.set_thinking(false);
  LineEditor editor(history_path());
  print_model(engine->info(), flags.engine.verbose);
  if (flags.engine.verbose) {
    say("{}\n", describe(flags.sampling.over(engine->info().default_sampling)));
  }
  if (editor.interactive()) say("/help lists the commands, Ctrl-D leaves\n");
  bool failed = false;
  for (std::string message;;) {
    const LineEditor::Result result = read_message(editor, message);
    if (result == LineEditor::Result::kEnd) break;
    if (result == LineEditor::Result::kInterrupted) {
      say("(Ctrl-D or /exit leaves)\n");
      continue;
    }
    try {
      if (!handle(session, message)) break;
    } catch (const Error& error) {  // the request's boundary: the conversation goes on
      say("metal-marlin: {}\n", error.what());
      failed = true;
    }
    if (interrupted(session, editor)) return kInterrupted;
  }
  if (termination_requested()) return kInterrupted;
  return failed && !editor.interactive() ? kFailed : kOk;
}

}  // namespace

void add_chat(CLI::App& parent, Action& action) {
  CLI::App* app = parent.add_subcommand("chat", "Talk with a model, turn by turn");
  auto flags = std::make_shared<ChatFlags>();
  app->add_option("--system", flags->system, "System message of the conversation")->type_name("TEXT");
  app->add_flag("--no-think", flags->no_think, "Answer without reasoning first; /think switches it");
  app->add_flag("--allow-special", flags->allow_special, "Recognise control tokens in messages");
  flags->sampling.add_to(*app);
  flags->engine.add_to(*app);
  app->footer(kExamples);
  app->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace marlin::cli
