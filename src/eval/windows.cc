#include "eval/windows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>

#include "format/safetensors.h"
#include "marlin/error.h"
#include "marlin/text.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace marlin {
namespace {

constexpr size_t kWindowPredictions = 1024;

std::vector<Json> read_rows(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    throw Error(ErrorCode::kUsage, fmt::format("{} is a directory; give a file of JSON lines", path.string()));
  }
  std::ifstream file(path);
  if (!file) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("cannot open {}: {}; give a file of JSON lines", path.string(), std::strerror(errno)));
  }
  std::vector<Json> rows;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (line.empty()) continue;
    Json row = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const bool text = row.is_object() && row.contains("text") && row["text"].is_string();
    const bool chat = row.is_object() && row.contains("messages") && row["messages"].is_array();
    if (text == chat) {
      throw Error(ErrorCode::kBadFile,
                  fmt::format("{}:{}: expected one JSON object with \"text\" or \"messages\"", path.string(), number));
    }
    if (!rows.empty() && rows.front().contains("text") != text) {
      throw Error(ErrorCode::kBadFile,
                  fmt::format("{}:{}: text and message rows in one file; expected one kind", path.string(), number));
    }
    rows.push_back(std::move(row));
  }
  if (file.bad()) throw Error(ErrorCode::kIo, fmt::format("cannot read {}; check the disk", path.string()));
  if (rows.empty()) {
    throw Error(ErrorCode::kBadFile,
                fmt::format("{} holds no rows; expected JSON objects with \"text\" or \"messages\", one a line",
                            path.string()));
  }
  return rows;
}

int32_t require_token(const Tokenizer& tokenizer, const char* text) {
  const auto id = tokenizer.id_of(text);
  if (!id)
    throw Error(ErrorCode::kUnsupported, fmt::format("the tokenizer has no {} token, which scoring needs", text));
  return *id;
}

std::vector<Window> text_windows(const std::vector<Json>& rows, const Tokenizer& tokenizer, size_t limit) {
  const int32_t end = require_token(tokenizer, "<|endoftext|>");
  std::vector<int32_t> ids;
  for (const Json& row : rows) {
    const auto more = tokenizer.encode(row["text"].get<std::string>(), Tokenizer::AddedTokens::kIgnore);
    ids.insert(ids.end(), more.begin(), more.end());
    ids.push_back(end);
  }
  std::vector<Window> windows;
  // The protocol's last window starts strictly before size - 1025, as the reference script's range does.
  for (size_t begin = 0; begin + kWindowPredictions + 1 < ids.size() && windows.size() < limit;
       begin += kWindowPredictions) {
    const auto first = ids.begin() + static_cast<std::ptrdiff_t>(begin);
    windows.push_back({{first, first + kWindowPredictions + 1}, std::vector<bool>(kWindowPredictions, true)});
  }
  return windows;
}

/// Marks what the assistant said: from behind its <|assistant|> to the token that ends its turn, that token included.
void mark_assistant(Window& window, const Tokenizer& tokenizer) {
  const int32_t assistant = require_token(tokenizer, "<|assistant|>");
  const int32_t stops[] = {require_token(tokenizer, "<|user|>"), require_token(tokenizer, "<|observation|>"),
                           require_token(tokenizer, "<|endoftext|>")};
  bool speaking = false;
  for (size_t i = 0; i + 1 < window.ids.size(); ++i) {
    if (window.ids[i] == assistant) speaking = true;
    window.scored[i] = speaking;
    for (const int32_t stop : stops) speaking = speaking && window.ids[i + 1] != stop;
  }
}

std::vector<Window> chat_windows(const std::vector<Json>& rows, const Tokenizer& tokenizer,
                                 const ChatTemplate& chat_template, size_t limit) {
  std::vector<Window> windows;
  for (const Json& row : rows) {
    if (windows.size() == limit) break;
    Conversation conversation;
    conversation.messages = row["messages"];
    if (row.contains("tools") && !row["tools"].is_null()) conversation.tools = row["tools"];
    conversation.add_generation_prompt = false;
    const Json& last = conversation.messages.empty() ? Json() : conversation.messages.back();
    conversation.template_args["enable_thinking"] = last.is_object() && last.contains("reasoning_content") &&
                                                    last["reasoning_content"].is_string() &&
                                                    !last["reasoning_content"].get<std::string>().empty();
    Window window;
    window.ids = tokenizer.encode(chat_template.render(conversation));
    window.ids.push_back(require_token(
        tokenizer, last.is_object() && last.contains("tool_calls") && !last["tool_calls"].empty() ? "<|observation|>"
                                                                                                  : "<|user|>"));
    window.scored.resize(window.ids.size() - 1);
    mark_assistant(window, tokenizer);
    windows.push_back(std::move(window));
  }
  return windows;
}

}  // namespace

std::vector<Window> read_windows(const std::filesystem::path& text, const std::filesystem::path& model_directory,
                                 int limit) {
  const std::vector<Json> rows = read_rows(text);
  const Tokenizer tokenizer = Tokenizer::load(model_directory / "tokenizer.json");
  const size_t most = limit > 0 ? static_cast<size_t>(limit) : SIZE_MAX;
  std::vector<Window> windows = rows.front().contains("text")
                                    ? text_windows(rows, tokenizer, most)
                                    : chat_windows(rows, tokenizer, ChatTemplate::load(model_directory), most);
  if (windows.empty()) {
    throw Error(ErrorCode::kUsage, fmt::format("{} is too short: expected more than {} tokens of text", text.string(),
                                               kWindowPredictions + 1));
  }
  const auto has_scored = [](const Window& window) {
    return std::ranges::find(window.scored, true) != window.scored.end();
  };
  if (std::ranges::none_of(windows, has_scored)) {
    throw Error(ErrorCode::kUsage, fmt::format("{}: nothing to score in {} rows; expected messages of the assistant",
                                               text.string(), windows.size()));
  }
  return windows;
}

}  // namespace marlin
