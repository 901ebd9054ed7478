#include "engine/output_stream.h"

#include <iterator>
#include <utility>

namespace marlin {
namespace {

void append(OutputDelta& delta, OutputDelta more) {
  delta.reasoning += more.reasoning;
  delta.content += more.content;
  std::move(more.tool_calls.begin(), more.tool_calls.end(), std::back_inserter(delta.tool_calls));
}

}  // namespace

OutputStream::OutputStream(OutputOptions options) : stop_(std::move(options.stop)) {
  if (!options.parse) return;
  parser_.emplace(OutputParser::Options{
      .starts_in_reasoning = options.starts_in_reasoning, .tools = std::move(options.tools), .parse_tool_calls = true});
}

OutputDelta OutputStream::push(std::string_view bytes) {
  return deliver(stop_.feed(characters_.feed(bytes)));
}

OutputDelta OutputStream::finish() {
  // A match ends the text there, also in the middle of a token whose bytes go on.
  OutputDelta delta = deliver(stop_.feed(characters_.finish()));
  if (!stop_.matched()) append(delta, deliver(stop_.finish()));
  if (parser_) append(delta, parser_->finish());
  return delta;
}

OutputDelta OutputStream::deliver(std::string_view text) {
  if (text.empty()) return {};
  text_ += text;
  if (parser_) return parser_->feed(text);
  OutputDelta delta;
  delta.content = text;
  return delta;
}

ParsedOutput OutputStream::output() const {
  if (parser_) return parser_->output();
  ParsedOutput output;
  output.content = text_;
  return output;
}

}  // namespace marlin
