// Parses any output whole and in pieces, which must agree with each other and with their own deltas.
// The first bytes choose the options and the pieces, the rest is the output.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "text/output_parser.h"

namespace {

using marlin::OutputDelta;
using marlin::OutputParser;
using marlin::ParsedOutput;

struct Stream {
  std::string reasoning;
  std::string content;
  std::vector<std::string> names;
  std::vector<std::string> arguments;

  void add(const OutputDelta& delta) {
    reasoning += delta.reasoning;
    content += delta.content;
    for (const auto& call : delta.tool_calls) {
      const auto index = static_cast<size_t>(call.index);
      if (!call.name.empty()) {
        if (index != names.size()) std::abort();
        names.push_back(call.name);
        arguments.emplace_back();
      }
      if (index + 1 != names.size()) std::abort();
      arguments[index] += call.arguments;
    }
  }
};

OutputParser::Options options_of(uint8_t bits) {
  static const marlin::Json kTools = marlin::Json::parse(R"([{"function": {"name": "f", "parameters": {
    "properties": {"s": {"type": "string"}, "i": {"type": "integer"}, "q": {"type": ["string", "null", "array"]},
      "r": {"$ref": "#/$defs/r"}}, "$defs": {"r": {"anyOf": [{"$ref": "#/$defs/r"}, {"type": "object"}]}}}}}])");
  return {(bits & 1) != 0, (bits & 2) != 0 ? marlin::Json::array() : kTools, (bits & 28) != 0};
}

ParsedOutput parse(std::string_view text, uint8_t bits, const std::vector<size_t>& pieces) {
  OutputParser parser(options_of(bits));
  Stream stream;
  size_t turn = 0;
  while (!text.empty()) {
    const size_t size = pieces.empty() ? text.size() : std::min(text.size(), pieces[turn++ % pieces.size()]);
    stream.add(parser.feed(text.substr(0, size)));
    text.remove_prefix(size);
  }
  stream.add(parser.finish());
  const ParsedOutput& output = parser.output();
  if (stream.reasoning != output.reasoning || stream.content != output.content) std::abort();
  if (stream.names.size() != output.tool_calls.size()) std::abort();
  for (size_t i = 0; i < stream.names.size(); ++i) {
    if (stream.names[i] != output.tool_calls[i].name) std::abort();
    if (stream.arguments[i] != output.tool_calls[i].arguments.dump()) std::abort();
  }
  return output;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kHeader = 5;
  if (size < kHeader) return 0;
  std::vector<size_t> pieces;
  for (size_t i = 1; i < kHeader; ++i) pieces.push_back(1 + data[i] % 16);
  const std::string_view text(reinterpret_cast<const char*>(data) + kHeader, size - kHeader);
  const ParsedOutput whole = parse(text, data[0], {});
  const ParsedOutput split = parse(text, data[0], pieces);
  if (whole.reasoning != split.reasoning || whole.content != split.content) std::abort();
  if (whole.tool_calls.size() != split.tool_calls.size()) std::abort();
  for (size_t i = 0; i < whole.tool_calls.size(); ++i) {
    if (whole.tool_calls[i].name != split.tool_calls[i].name) std::abort();
    if (whole.tool_calls[i].arguments.dump() != split.tool_calls[i].arguments.dump()) std::abort();
  }
  return 0;
}
