// Fuzzes tokenizer.json and the text at once: up to the first zero byte the file, after it what is encoded.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "marlin/error.h"
#include "text/tokenizer.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void encode(const marlin::Tokenizer& tokenizer, std::string_view text) {
  using Added = marlin::Tokenizer::AddedTokens;
  const std::vector<int32_t> ids = tokenizer.encode(text);
  for (const int32_t id : ids) require(id >= 0 && id < tokenizer.size());
  // Added tokens decode to their text and all others to bytes, so decoding is the inverse of encoding.
  require(tokenizer.decode(ids) == marlin::to_valid_utf8(text));
  const size_t half = text.size() / 2;
  const std::vector<marlin::Segment> segments = {{std::string(text.substr(0, half)), false},
                                                 {std::string(text.substr(half)), false}};
  require(tokenizer.encode(segments) == tokenizer.encode(text, Added::kIgnore));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0'), input.size());
  try {
    const marlin::Tokenizer tokenizer = marlin::Tokenizer::parse(input.substr(0, end), "fuzz");
    encode(tokenizer, end < input.size() ? input.substr(end + 1) : std::string_view());
  } catch (const marlin::Error&) {
    // Refused, as most inputs should be.
  }
  return 0;
}
