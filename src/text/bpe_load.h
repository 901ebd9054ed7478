// Reads a tokenizer.json into tables. What the file asks for and this build does not do is refused by name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/bpe.h"
#include "text/bpe_added.h"
#include "text/bpe_split.h"
#include "text/tokenizer.h"

namespace marlin {

/// All that a tokenizer.json says.
struct TokenizerTables {
  BpeModel bpe;
  std::vector<RegexSplitter> splits;  // applied one after the other, each to the pieces of the one before
  std::vector<AddedToken> added;
  AddedTokenMatcher verbatim;     // added tokens with "normalized": false are taken out of the text first,
  AddedTokenMatcher normalized;   // then the others out of what is left (there is no normalizer in between)
  std::string bytes;              // of all tokens
  std::vector<uint32_t> offsets;  // token id -> [offsets[id], offsets[id + 1]) of bytes
  std::vector<bool> special;      // by id
};

/// Throws Error{kBadFile|kUnsupported} whose message begins with `name` and the field.
TokenizerTables load_tokenizer(std::string_view json, std::string_view name);

}  // namespace marlin
