// Compiles any text as a template and renders it; only marlin::Error may come out, soon, and within the size limit.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "marlin/error.h"
#include "text/jinja.h"

namespace {

const marlin::Json& context() {
  static const marlin::Json kContext = marlin::Json::parse(R"({
    "messages": [{"role": "system", "content": "é"}, {"role": "user", "content": [{"type": "text", "text": " a b "}]},
      {"role": "assistant", "content": "x</think>y", "tool_calls": [{"function": {"name": "f",
        "arguments": {"s": "t", "n": 1.5, "l": [1, null, true]}}}]}, {"role": "tool", "content": "1"}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "add_generation_prompt": true, "s": "some text", "n": -7, "f": 0.5, "z": null})");
  return kContext;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  marlin::jinja::Limits limits;
  limits.steps = 100'000;
  limits.text = size_t{1} << 20;
  try {
    const auto compiled = marlin::jinja::Template::compile(source, "fuzz");
    size_t total = 0;
    for (const marlin::Segment& segment : compiled.render(context(), limits)) total += segment.text.size();
    if (total > limits.text) std::abort();
  } catch (const marlin::Error&) {
    return 0;  // refused
  }
  return 0;
}
