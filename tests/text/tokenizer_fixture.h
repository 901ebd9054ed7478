// A small valid tokenizer.json for tests to change, and BPE in its plainest form to compare with.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/bpe.h"
#include "text/tokenizer.h"

namespace marlin {

inline constexpr const char* kGlmPattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"
    "|\\s+(?!\\S)|\\s+";

using Rules = std::vector<std::pair<std::string, std::string>>;

/// The 256 bytes as ids 0 to 255, then the result of every merge, then the added tokens.
inline Json small_tokenizer(const Rules& merges, const std::vector<std::string>& added = {}) {
  Json json = Json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
    "post_processor": null,
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
      "vocab": {}, "merges": []}})");
  json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = kGlmPattern;
  Json& vocab = json["model"]["vocab"];
  for (int byte = 0; byte < 256; ++byte) {
    std::string text;
    append_byte_level(std::string(1, static_cast<char>(byte)), text);
    vocab[text] = byte;
  }
  for (const auto& [left, right] : merges) {
    const int next = static_cast<int>(vocab.size());
    if (!vocab.contains(left + right)) vocab[left + right] = next;
    json["model"]["merges"].push_back(Json::array({left, right}));
  }
  int id = static_cast<int>(vocab.size());
  for (const std::string& text : added) {
    json["added_tokens"].push_back({{"id", id++},
                                    {"content", text},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", true}});
  }
  return json;
}

inline Tokenizer parse(const Json& json) {
  return Tokenizer::parse(json.dump(), "test.json");
}

/// The tokens of one piece: again and again the merge of lowest rank, the leftmost of equals.
inline std::vector<std::string> plain_bpe(std::string_view piece,
                                          const std::map<std::pair<std::string, std::string>, size_t>& ranks) {
  std::vector<std::string> symbols;
  for (const char c : piece) {
    symbols.emplace_back();
    append_byte_level(std::string(1, c), symbols.back());
  }
  while (true) {
    size_t best = symbols.size();
    size_t best_rank = ranks.size();
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = ranks.find({symbols[i], symbols[i + 1]});
      if (found == ranks.end() || found->second >= best_rank) continue;
      best = i;
      best_rank = found->second;
    }
    if (best == symbols.size()) return symbols;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

}  // namespace marlin
