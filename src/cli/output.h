// Standard output, and how an answer looks on it.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "marlin/engine.h"

namespace marlin::cli {

/// Nobody reads standard output any more, as in `| head`: end quietly.
struct BrokenPipe {};

/// Writes all of `text` at once. Throws BrokenPipe, or Error{kIo} when the disk is full or the like.
void write_stdout(std::string_view text);

/// Writes to standard error. A full disk or a closed pipe there is no reason to lose the answer.
void write_stderr(std::string_view text);
template <typename... Args>
void say(fmt::format_string<Args...> format, Args&&... args) {
  write_stderr(fmt::format(format, std::forward<Args>(args)...));
}

/// "1.5 GiB"
std::string human_bytes(uint64_t bytes);

/// Prints an answer as it comes. On a terminal the reasoning is dimmed and control characters are made visible;
/// elsewhere standard output gets the content alone, byte for byte; reasoning and tool calls go to standard error.
class AnswerPrinter {
 public:
  AnswerPrinter();
  ~AnswerPrinter();
  AnswerPrinter(const AnswerPrinter&) = delete;
  AnswerPrinter& operator=(const AnswerPrinter&) = delete;

  void print(const OutputDelta& delta);
  /// Ends the last line.
  void finish();

 private:
  enum class Part { kNone, kReasoning, kContent, kToolCall };
  void enter(Part part);
  void leave();
  void dim(bool on);
  void put(std::string_view text);

  bool terminal_;  // standard output is one
  bool colours_;   // reasoning can be dimmed
  bool dimmed_ = false;
  Part part_ = Part::kNone;
  bool line_open_ = false;  // the stream of the current part is in the middle of a line
};

/// "prompt 8 tokens, 95.2 tok/s | decode …": the last line on standard error. `max_tokens`: the request's.
std::string figures(const Finished& finished, int max_tokens);

/// What `generate --json` prints (see its --help).
Json to_json(const Finished& finished, const std::vector<int32_t>& prompt_ids);

}  // namespace marlin::cli
