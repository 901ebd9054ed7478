#include "text/tokenizer.h"

#include <fmt/format.h>

#include <limits>
#include <unordered_map>
#include <utility>

#include "base/mapped_file.h"
#include "marlin/error.h"
#include "text/bpe_load.h"
#include "text/utf8.h"

namespace marlin {

namespace {

using Match = AddedTokenMatcher::Match;

/// The added tokens in text[begin, end), in order, appended to `out`.
void find_added(const TokenizerTables& tables, std::string_view text, size_t begin, size_t end,
                std::vector<Match>& out) {
  const auto find_all = [&](const AddedTokenMatcher& matcher, size_t from, size_t to, const auto& found) {
    if (matcher.empty()) return;
    for (Match match = matcher.find(text.substr(0, to), from); match.id >= 0;
         match = matcher.find(text.substr(0, to), match.end)) {
      found(match);
    }
  };
  const auto append = [&](const Match& match) { out.push_back(match); };
  size_t done = begin;
  find_all(tables.verbatim, begin, end, [&](const Match& match) {
    find_all(tables.normalized, done, match.begin, append);
    append(match);
    done = match.end;
  });
  find_all(tables.normalized, done, end, append);
}

/// A part of the text, all of it template or none of it.
struct Run {
  size_t begin;
  size_t end;
  bool match_added;
};

}  // namespace

struct Tokenizer::Impl {
  TokenizerTables tables;
  std::unordered_map<std::string_view, int32_t> added_ids;

  std::vector<int32_t> encode(std::string_view text, const std::vector<Run>& runs) const {
    if (text.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("text to tokenize: found {} bytes, expected less than 2 GiB; split it", text.size()));
    }
    std::vector<Match> added;
    for (const Run& run : runs) {
      if (run.match_added) find_added(tables, text, run.begin, run.end, added);
    }
    std::vector<int32_t> ids;
    BpeModel::Scratch scratch;
    size_t done = 0;
    for (const Match& match : added) {
      encode_ordinary(text.substr(done, match.begin - done), 0, scratch, ids);
      ids.push_back(match.id);
      done = match.end;
    }
    encode_ordinary(text.substr(done), 0, scratch, ids);
    return ids;
  }

  void encode_ordinary(std::string_view text, size_t split, BpeModel::Scratch& scratch,
                       std::vector<int32_t>& ids) const {
    if (text.empty()) return;
    if (split == tables.splits.size()) {
      tables.bpe.encode_piece(text, scratch, ids);
      return;
    }
    tables.splits[split].split(text, [&](std::string_view piece) { encode_ordinary(piece, split + 1, scratch, ids); });
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::load(const std::filesystem::path& tokenizer_json) {
  const auto file = MappedFile::open(tokenizer_json);
  const auto bytes = file->bytes();
  return parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, tokenizer_json.string());
}

Tokenizer Tokenizer::parse(std::string_view json, std::string_view name) {
  auto impl = std::make_unique<Impl>();
  impl->tables = load_tokenizer(json, name);
  for (const AddedToken& token : impl->tables.added) impl->added_ids.emplace(token.text, token.id);
  return Tokenizer(std::move(impl));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, AddedTokens added) const {
  std::string repaired;
  if (valid_utf8_prefix(text) != text.size()) {
    repaired = to_valid_utf8(text);
    text = repaired;
  }
  return impl_->encode(text, {{0, text.size(), added == AddedTokens::kMatch}});
}

std::vector<int32_t> Tokenizer::encode(std::span<const Segment> segments) const {
  std::string text;
  std::vector<Run> runs;
  for (const Segment& segment : segments) {
    if (runs.empty() || runs.back().match_added != segment.from_template) {
      runs.push_back({text.size(), text.size(), segment.from_template});
    }
    text += segment.text;
    runs.back().end = text.size();
  }
  if (valid_utf8_prefix(text) != text.size()) {
    // Repaired run by run, so that the borders stay where they are.
    std::string repaired;
    for (Run& run : runs) {
      const size_t begin = repaired.size();
      repaired += to_valid_utf8(std::string_view(text).substr(run.begin, run.end - run.begin));
      run = {begin, repaired.size(), run.match_added};
    }
    text = std::move(repaired);
  }
  return impl_->encode(text, runs);
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (id < 0 || id >= size()) return {};
  const auto& offsets = impl_->tables.offsets;
  const size_t index = static_cast<size_t>(id);
  return std::string_view(impl_->tables.bytes).substr(offsets[index], offsets[index + 1] - offsets[index]);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    const bool known = id >= 0 && id < size();
    if (known && skip_special && impl_->tables.special[static_cast<size_t>(id)]) continue;
    bytes += token_bytes(id);
  }
  return to_valid_utf8(bytes);
}

std::optional<int32_t> Tokenizer::id_of(std::string_view added_token_text) const {
  const auto found = impl_->added_ids.find(added_token_text);
  if (found == impl_->added_ids.end()) return std::nullopt;
  return found->second;
}

const std::vector<AddedToken>& Tokenizer::added_tokens() const {
  return impl_->tables.added;
}

int32_t Tokenizer::size() const {
  return static_cast<int32_t>(impl_->tables.special.size());
}

}  // namespace marlin
