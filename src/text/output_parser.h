// Splits model output into reasoning, content and tool calls while it streams.
//
//   [reasoning]</think>[content]<tool_call>name<arg_key>k</arg_key><arg_value>v</arg_value>…</tool_call>…
//
// Rules: a suffix that may still become a tag is held back; <tool_call> inside reasoning ends the reasoning; a stray
// <think> while reasoning and a stray </think> in content are swallowed; keys are stripped, values verbatim; an open
// call is closed at the end of the output, so nothing is lost; a name is delivered whole and once; a call without
// arguments delivers "{}".
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "marlin/text.h"

namespace marlin {

class OutputParser {
 public:
  struct Options {
    bool starts_in_reasoning = false;  // the prompt ended with <think>
    Json tools = Json::array();        // types of the arguments; a string parameter is never parsed as JSON
    /// Off: everything after reasoning is content (tool_choice none, or raw text).
    bool parse_tool_calls = true;
  };
  explicit OutputParser(Options options);
  ~OutputParser();
  OutputParser(OutputParser&&) noexcept;

  /// Feeds text (valid UTF-8, any split) and returns what became certain.
  OutputDelta feed(std::string_view text);
  /// The model stopped: returns what was held back.
  OutputDelta finish();
  /// Everything so far; the same for every split of the same text.
  const ParsedOutput& output() const;
  bool in_reasoning() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace marlin
