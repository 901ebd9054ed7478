// Lines from the user: with editing and history on a terminal, plain ones otherwise.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

namespace marlin::cli {

class LineEditor {
 public:
  enum class Result { kLine, kInterrupted, kEnd };

  /// `history`: file that keeps the lines between runs; empty, or not writable: they are forgotten silently.
  explicit LineEditor(const std::filesystem::path& history);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  /// Standard input and output are a terminal.
  bool interactive() const { return terminal_ != nullptr; }
  /// The next line without its end. The prompt is shown on a terminal only; Ctrl-C there gives kInterrupted.
  Result read(const std::string& prompt, std::string& line);

 private:
  struct Terminal;
  std::unique_ptr<Terminal> terminal_;
};

/// chat_history in the XDG state directory; empty when there is none.
std::filesystem::path history_path();

}  // namespace marlin::cli
