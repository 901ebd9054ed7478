#include "cli/chat_session.h"

#include <fmt/format.h>

#include <string_view>
#include <utility>
#include <vector>

#include "cli/answer.h"
#include "cli/input.h"
#include "cli/output.h"
#include "cli/table.h"
#include "format/json.h"
#include "format/safetensors.h"
#include "marlin/error.h"

namespace marlin::cli {
namespace {

/// Remarks about the conversation are not part of it: they go to standard error.
void say_aside(std::string_view text) {
  cli::say("{}\n", text);
}

Json assistant_message(const ParsedOutput& output) {
  Json message = {{"role", "assistant"}, {"content", output.content}};
  if (!output.reasoning.empty()) message["reasoning_content"] = output.reasoning;
  for (const ToolCall& call : output.tool_calls) {
    message["tool_calls"].push_back(
        {{"type", "function"}, {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
  }
  return message;
}

}  // namespace

const ChatSession::Entry ChatSession::kCommands[] = {
    {"system", "[TEXT]", "show or set the system message; - removes it", &ChatSession::system},
    {"think", "[on|off]", "switch reasoning before the answer", &ChatSession::think},
    {"regen", "", "answer the last message again", &ChatSession::regen},
    {"undo", "", "take back the last message and its answer", &ChatSession::undo},
    {"reset", "", "forget the conversation, keep the system message", &ChatSession::reset},
    {"stats", "", "figures of the last answer and of the cache", &ChatSession::stats},
    {"save", "FILE", "write the conversation, as `generate --messages` reads it", &ChatSession::save},
    {"load", "FILE", "continue a conversation from a file", &ChatSession::load},
    {"help", "", "this list", &ChatSession::help},
    {"exit", "", "leave; Ctrl-D does too", nullptr},
};

bool ChatSession::has_system() const {
  return !conversation_.messages.empty() && conversation_.messages.front().value("role", "") == "system";
}

void ChatSession::set_system(const std::string& text) {
  require_utf8(text, "the system message");
  Json& messages = conversation_.messages;
  if (has_system()) messages.erase(0);
  if (!text.empty()) messages.insert(messages.begin(), Json{{"role", "system"}, {"content", text}});
}

void ChatSession::say(const std::string& text) {
  require_utf8(text, "the message");
  const Json before = conversation_.messages;
  conversation_.messages.push_back({{"role", "user"}, {"content", text}});
  choice_ = 0;
  try {
    answer();
  } catch (...) {  // whatever went wrong, the next message starts from where this one did
    conversation_.messages = before;
    throw;
  }
}

void ChatSession::answer() {
  Request request;
  set_prompt(engine_, conversation_, allow_special_, request);
  sampling_.apply(engine_.info(), request);
  request.choice = choice_;
  RequestHandle handle = engine_.submit(std::move(request));
  last_ = receive(handle, {.print = true, .second_interrupt_ends_program = false});
  conversation_.messages.push_back(assistant_message(last_->output));
  if (last_->reason == FinishReason::kCancelled) say_aside("(interrupted; /undo takes it back, /regen tries again)");
  if (last_->reason == FinishReason::kRepetition) say_aside("(ended: it repeated itself; /regen tries again)");
  if (last_->reason == FinishReason::kLength) say_aside("(ended by --max-tokens or the context; see /stats and /undo)");
}

bool ChatSession::command(const std::string& line) {
  const size_t space = line.find(' ');
  const std::string name = line.substr(1, space == std::string::npos ? space : space - 1);
  const size_t start = space == std::string::npos ? space : line.find_first_not_of(' ', space);
  const std::string argument = start == std::string::npos ? "" : line.substr(start);
  if (name == "quit") return false;
  for (const Entry& entry : kCommands) {
    if (name != entry.name) continue;
    if (entry.run == nullptr) return false;
    (this->*entry.run)(argument);
    return true;
  }
  throw Error(ErrorCode::kUsage, fmt::format("no command /{}; /help lists them", printable(name)));
}

void ChatSession::system(const std::string& text) {
  if (!text.empty()) {
    set_system(text == "-" ? "" : text);
    return;
  }
  if (!has_system()) return say_aside("no system message");
  const Json content = conversation_.messages.front().value("content", Json());
  say_aside(content.is_string() ? content.get<std::string>() : content.dump());
}

void ChatSession::think(const std::string& text) {
  if (!text.empty() && text != "on" && text != "off") {
    throw Error(ErrorCode::kUsage, fmt::format("/think {}: expected on or off", printable(text)));
  }
  const bool now = conversation_.template_args.value("enable_thinking", true);
  const bool next = text.empty() ? !now : text == "on";
  set_thinking(next);
  say_aside(next ? "reasoning is on" : "reasoning is off");
}

size_t ChatSession::last_user_message() const {
  for (size_t i = conversation_.messages.size(); i-- > 0;) {
    if (conversation_.messages[i].value("role", "") == "user") return i;
  }
  throw Error(ErrorCode::kUsage, "there is no message yet; write one first");
}

Json ChatSession::messages_before(size_t count) const {
  Json messages = Json::array();
  for (size_t i = 0; i < count; ++i) messages.push_back(conversation_.messages[i]);
  return messages;
}

void ChatSession::regen(const std::string& /*text*/) {
  const Json before = conversation_.messages;
  conversation_.messages = messages_before(last_user_message() + 1);
  ++choice_;
  try {
    answer();
  } catch (...) {
    conversation_.messages = before;
    throw;
  }
}

void ChatSession::undo(const std::string& /*text*/) {
  conversation_.messages = messages_before(last_user_message());
  say_aside(fmt::format("taken back; {} messages are left", conversation_.messages.size()));
}

void ChatSession::reset(const std::string& /*text*/) {
  conversation_.messages = messages_before(has_system() ? 1 : 0);
  say_aside("forgotten");
}

void ChatSession::stats(const std::string& /*text*/) {
  const ModelInfo& info = engine_.info();
  const EngineStats stats = engine_.stats();
  if (last_) say_aside(figures(*last_, sampling_.max_tokens));
  const int used = last_ ? last_->prompt_tokens + static_cast<int>(last_->ids.size()) : 0;
  say_aside(fmt::format(
      "context: {} of {} positions | KV blocks: {} in use, {} kept for reuse, of {} | since the start: prompt "
      "{} tokens, {} of them cached, {} generated",
      grouped(used), grouped(info.context), stats.kv_blocks_used, stats.kv_blocks_cached, stats.kv_blocks,
      grouped(static_cast<int64_t>(stats.prompt_tokens)), grouped(static_cast<int64_t>(stats.cached_tokens)),
      grouped(static_cast<int64_t>(stats.generated_tokens))));
}

void ChatSession::save(const std::string& file) {
  if (file.empty()) throw Error(ErrorCode::kUsage, "/save needs the name of a file");
  write_file_atomically(file, conversation_text(conversation_));
  say_aside(fmt::format("{} messages written to {}", conversation_.messages.size(), printable(file)));
}

void ChatSession::load(const std::string& file) {
  if (file.empty() || file == "-") throw Error(ErrorCode::kUsage, "/load needs the name of a file");
  conversation_ = read_conversation(file);
  say_aside(fmt::format("{} messages read from {}", conversation_.messages.size(), printable(file)));
}

void ChatSession::help(const std::string& /*text*/) {
  std::vector<std::vector<std::string>> rows;
  for (const Entry& entry : kCommands) rows.push_back({fmt::format("/{} {}", entry.name, entry.argument), entry.help});
  say_aside(table(rows, /*text_last=*/true) +
            "A \\ at the end of a line continues the message on the next one. Ctrl-C ends an answer, not the program.");
}

}  // namespace marlin::cli
