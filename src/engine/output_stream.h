// From token bytes to what a client sees: whole characters, without stop strings, split into reasoning, content and
// tool calls.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/stop_matcher.h"
#include "marlin/text.h"
#include "text/output_parser.h"
#include "text/tokenizer.h"

namespace marlin {

struct OutputOptions {
  std::vector<std::string> stop;
  bool parse = true;  // false: everything is content, verbatim
  bool starts_in_reasoning = false;
  Json tools = Json::array();
};

class OutputStream {
 public:
  explicit OutputStream(OutputOptions options);

  /// The bytes of one token; what became certain.
  OutputDelta push(std::string_view bytes);
  /// The end of generation: what was held back. After a stop string nothing is left.
  OutputDelta finish();

  bool stopped() const { return stop_.matched(); }
  std::string matched_stop() const { return stop_.match(); }
  bool in_reasoning() const { return parser_ && parser_->in_reasoning(); }
  /// All text so far, tags included.
  const std::string& text() const { return text_; }
  ParsedOutput output() const;

 private:
  OutputDelta deliver(std::string_view text);

  Utf8Stream characters_;
  StopMatcher stop_;
  std::optional<OutputParser> parser_;
  std::string text_;
};

}  // namespace marlin
