#include "cli/output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/memory.h"
#include "cli/signals.h"
#include "marlin/error.h"

namespace marlin::cli {
namespace {

constexpr std::string_view kDim = "\x1b[2m";
constexpr std::string_view kNormal = "\x1b[0m";

bool wants_colours(int fd) {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  const bool dumb = term == nullptr || std::string_view(term) == "dumb";
  return isatty(fd) == 1 && !dumb && (no_color == nullptr || *no_color == '\0');
}

/// A model's text must not steer the terminal: control characters other than newline and tab become U+FFFD.
std::string without_controls(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0U;
    const bool c1 = byte == 0xc2 && next >= 0x80 && next <= 0x9f;  // U+0080 to U+009F
    if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f || c1) {
      out += "\uFFFD";
      if (c1) ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string tokens(int count) {
  return fmt::format("{} token{}", count, count == 1 ? "" : "s");
}

/// How generation ended, where that is worth saying.
std::string_view remark(const Finished& finished, int max_tokens) {
  switch (finished.reason) {
    case FinishReason::kStop:
    case FinishReason::kError:
      return "";
    case FinishReason::kLength:
      return static_cast<int>(finished.ids.size()) == max_tokens ? " | ended by --max-tokens"
                                                                 : " | ended: the context is full (--ctx)";
    case FinishReason::kRepetition:
      return " | ended: it repeated itself";
    case FinishReason::kCancelled:
      return " | interrupted";
  }
  return "";
}

}  // namespace

void write_stdout(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(STDOUT_FILENO, text.data(), text.size());
    if (n >= 0) {
      text.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EPIPE) {
      throw BrokenPipe();
    } else if (errno != EINTR && errno != EAGAIN) {
      throw Error(ErrorCode::kIo, fmt::format("cannot write to standard output: {}", std::strerror(errno)));
    }
  }
}

std::string human_bytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1000 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", value, unit == 0 || value >= 100 ? 0 : 1, kUnits[unit]);
}

void write_stderr(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(STDERR_FILENO, text.data(), text.size());
    if (n < 0 && errno != EINTR && errno != EAGAIN) return;
    if (n > 0) text.remove_prefix(static_cast<size_t>(n));
  }
}

AnswerPrinter::AnswerPrinter() : terminal_(isatty(STDOUT_FILENO) == 1) {
  colours_ = wants_colours(terminal_ ? STDOUT_FILENO : STDERR_FILENO);
}

AnswerPrinter::~AnswerPrinter() {
  // Only an error or an interruption leaves a part open; the terminal must not stay dimmed.
  try {
    dim(false);
  } catch (...) {
    // Standard output is gone, and with it what was dimmed.
  }
}

// A signal that ends the program meanwhile puts the terminal right (signals.h).
void AnswerPrinter::dim(bool on) {
  if (on == dimmed_ || !colours_) return;
  dimmed_ = on;
  if (on) reset_terminal_at_signal(terminal_ ? STDOUT_FILENO : STDERR_FILENO);
  const std::string_view code = on ? kDim : kNormal;
  terminal_ ? write_stdout(code) : write_stderr(code);
  if (!on) reset_terminal_at_signal(-1);
}

void AnswerPrinter::put(std::string_view text) {
  if (text.empty()) return;
  line_open_ = text.back() != '\n';
  if (terminal_) {
    write_stdout(without_controls(text));
  } else if (part_ == Part::kContent) {
    write_stdout(text);
  } else {
    write_stderr(isatty(STDERR_FILENO) == 1 ? without_controls(text) : std::string(text));
  }
}

void AnswerPrinter::leave() {
  if (part_ == Part::kNone) return;
  if (line_open_) put("\n");
  dim(false);
  if (part_ == Part::kReasoning && terminal_) put("\n");
  part_ = Part::kNone;
  line_open_ = false;
}

void AnswerPrinter::enter(Part part) {
  if (part_ == part && part != Part::kToolCall) return;
  leave();
  part_ = part;
  dim(part == Part::kReasoning);
}

void AnswerPrinter::print(const OutputDelta& delta) {
  if (!delta.reasoning.empty()) {
    enter(Part::kReasoning);
    put(delta.reasoning);
  }
  if (!delta.content.empty()) {
    enter(Part::kContent);
    put(delta.content);
  }
  for (const OutputDelta::ToolCallDelta& call : delta.tool_calls) {
    if (!call.name.empty()) {
      enter(Part::kToolCall);
      put("tool call: " + call.name + " ");
    }
    put(call.arguments);
  }
}

void AnswerPrinter::finish() {
  leave();
}

std::string figures(const Finished& finished, int max_tokens) {
  const Timings& t = finished.timings;
  const std::string cached =
      finished.cached_tokens > 0 ? fmt::format(" ({} of them cached)", finished.cached_tokens) : "";
  return fmt::format(
      "prompt {}{}, {:.1f} tok/s | decode {}, {:.1f} tok/s | first token after {:.0f} ms | peak memory {} | seed {}{}",
      tokens(finished.prompt_tokens), cached, t.prompt_tps, tokens(static_cast<int>(finished.ids.size())), t.decode_tps,
      t.ttft_ms, human_bytes(peak_resident_bytes()), finished.seed, remark(finished, max_tokens));
}

Json to_json(const Finished& finished, const std::vector<int32_t>& prompt_ids) {
  Json calls = Json::array();
  for (const ToolCall& call : finished.output.tool_calls) {
    calls.push_back({{"name", call.name}, {"arguments", call.arguments}});
  }
  const bool length = finished.reason == FinishReason::kLength;
  const bool cancelled = finished.reason == FinishReason::kCancelled;
  return {{"text", finished.text},
          {"reasoning", finished.output.reasoning},
          {"content", finished.output.content},
          {"tool_calls", calls},
          {"finish_reason", length      ? "length"
                            : cancelled ? "cancelled"
                                        : "stop"},
          {"prompt_ids", prompt_ids},
          {"ids", finished.ids},
          {"usage", {{"prompt_tokens", finished.prompt_tokens}, {"completion_tokens", finished.ids.size()}}},
          {"timings",
           {{"prompt_tps", finished.timings.prompt_tps},
            {"decode_tps", finished.timings.decode_tps},
            {"ttft_ms", finished.timings.ttft_ms}}},
          {"peak_rss_bytes", peak_resident_bytes()},
          {"seed", finished.seed}};
}

}  // namespace marlin::cli
