// tokenizer_oracle_compare TOKENIZER_JSON LINES.jsonl: every line's text must encode to the line's ids and decode back.
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace {

/// The number of lines that differ, or -1 if there are none to compare.
int compare(const char* tokenizer_json, const char* lines) {
  using Ids = std::vector<int32_t>;
  const marlin::Tokenizer tokenizer = marlin::Tokenizer::load(tokenizer_json);
  std::ifstream file(lines);
  int count = 0;
  int different = 0;
  for (std::string line; std::getline(file, line); ++count) {
    const marlin::Json row = marlin::Json::parse(line);
    const std::string text = row.at("text").get<std::string>();
    const Ids expected = row.at("ids").get<Ids>();
    const Ids ids = tokenizer.encode(text);
    if (ids == expected && tokenizer.decode(ids) == text) continue;
    if (++different <= 10) {
      std::printf("line %d: %s\n  expected %s\n  found    %s\n", count + 1, row.at("text").dump().c_str(),
                  marlin::Json(expected).dump().c_str(), marlin::Json(ids).dump().c_str());
    }
  }
  std::printf("%d lines compared, %d differ\n", count, different);
  return count == 0 ? -1 : different;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: tokenizer_oracle_compare TOKENIZER_JSON LINES.jsonl\n");
    return 2;
  }
  try {
    return compare(argv[1], argv[2]) == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
