#include "text/bpe_load.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <unordered_map>
#include <utility>

#include "marlin/error.h"
#include "text/utf8.h"

namespace marlin {

namespace {

namespace dom = simdjson::dom;

std::string_view type_name(dom::element value) {
  switch (value.type()) {
    case dom::element_type::ARRAY:
      return "an array";
    case dom::element_type::OBJECT:
      return "an object";
    case dom::element_type::STRING:
      return "a string";
    case dom::element_type::BOOL:
      return "a boolean";
    case dom::element_type::NULL_VALUE:
      return "null";
    default:
      return "a number";
  }
}

/// A value for a message: short ones as they are written.
std::string shown(dom::element value) {
  std::string text = simdjson::minify(value);
  constexpr size_t kLongest = 60;
  return text.size() <= kLongest ? text : std::string(type_name(value));
}

class Loader {
 public:
  Loader(std::string_view json, std::string_view name) : json_(json), name_(name) {}

  TokenizerTables load() {
    dom::element document;
    const simdjson::error_code error = parser_.parse(json_.data(), json_.size()).get(document);
    if (error != simdjson::SUCCESS) {
      throw Error(ErrorCode::kBadFile, fmt::format("{}: not valid JSON: {}; expected a Hugging Face tokenizer.json, "
                                                   "download the file again",
                                                   name_, simdjson::error_message(error)));
    }
    const dom::object root = object_of(document, "the document");
    read_model(object_at(root, "model", "model"));
    read_pre_tokenizer(object_at(root, "pre_tokenizer", "pre_tokenizer"));
    read_decoder(object_at(root, "decoder", "decoder"));
    read_post_processor(root);
    refuse_fields(root, "", {"version", "added_tokens", "pre_tokenizer", "post_processor", "decoder", "model"});
    read_added_tokens(root);
    index_tokens();
    return std::move(tables_);
  }

 private:
  std::string where(std::string_view field) const { return fmt::format("{}: {}", name_, field); }

  [[noreturn]] void bad(std::string_view field, std::string_view found, std::string_view expected) const {
    throw Error(ErrorCode::kBadFile,
                fmt::format("{}: {}: found {}, expected {}; download the file again", name_, field, found, expected));
  }

  [[noreturn]] void unsupported(std::string_view field, std::string_view found, std::string_view expected) const {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: {}: found {}, which is not supported, expected {}; use a model with a byte-level BPE "
                            "tokenizer",
                            name_, field, found, expected));
  }

  dom::object object_of(dom::element value, std::string_view field) const {
    dom::object object;
    if (value.get(object) != simdjson::SUCCESS) bad(field, type_name(value), "an object");
    return object;
  }

  dom::array array_of(dom::element value, std::string_view field) const {
    dom::array array;
    if (value.get(array) != simdjson::SUCCESS) bad(field, type_name(value), "an array");
    return array;
  }

  std::string_view string_of(dom::element value, std::string_view field) const {
    std::string_view text;
    if (value.get(text) != simdjson::SUCCESS) bad(field, type_name(value), "a string");
    return text;
  }

  int32_t id_of(dom::element value, std::string_view field) const {
    int64_t id = 0;
    if (value.get(id) != simdjson::SUCCESS || id < 0 || id > kMaxTokenId) {
      bad(field, shown(value), fmt::format("an id from 0 to {}", kMaxTokenId));
    }
    return static_cast<int32_t>(id);
  }

  dom::element at(dom::object object, std::string_view key, std::string_view field) const {
    dom::element value;
    if (object.at_key(key).get(value) != simdjson::SUCCESS) bad(field, "nothing", "a value");
    return value;
  }

  dom::object object_at(dom::object object, std::string_view key, std::string_view field) const {
    return object_of(at(object, key, field), field);
  }

  bool flag_at(dom::object object, std::string_view key, std::string_view field, bool otherwise) const {
    dom::element value;
    if (object.at_key(key).get(value) != simdjson::SUCCESS) return otherwise;
    bool flag = false;
    if (value.get(flag) != simdjson::SUCCESS) bad(field, type_name(value), "true or false");
    return flag;
  }

  /// Fields other than `known` must be off: null, false, 0 or "". So a feature that this build has never heard of is
  /// refused, and one that is written down as unused is not.
  void refuse_fields(dom::object object, std::string_view prefix, std::initializer_list<std::string_view> known) const {
    for (const auto [key, value] : object) {
      if (std::find(known.begin(), known.end(), key) != known.end()) continue;
      bool flag = false;
      double number = 0;
      std::string_view text;
      const bool off = value.is_null() || (value.get(flag) == simdjson::SUCCESS && !flag) ||
                       (value.get(number) == simdjson::SUCCESS && number == 0) ||
                       (value.get(text) == simdjson::SUCCESS && text.empty());
      if (!off) unsupported(fmt::format("{}{}", prefix, key), shown(value), "null or false");
    }
  }

  void read_model(dom::object model) {
    const std::string_view type = string_of(at(model, "type", "model.type"), "model.type");
    if (type != "BPE") unsupported("model.type", fmt::format("\"{}\"", type), "\"BPE\"");
    // fuse_unk says what to do with unknown characters; in a byte-level model there are none.
    refuse_fields(model, "model.", {"type", "fuse_unk", "ignore_merges", "vocab", "merges"});
    tables_.bpe.ignore_merges = flag_at(model, "ignore_merges", "model.ignore_merges", false);
    read_vocab(object_at(model, "vocab", "model.vocab"));
    read_merges(array_of(at(model, "merges", "model.merges"), "model.merges"));
    for (unsigned byte = 0; byte < 256; ++byte) {
      std::string text;
      append_byte_level(std::string(1, static_cast<char>(byte)), text);
      tables_.bpe.byte_ids[byte] = tables_.bpe.vocab.find(text);
      const bool occurs = byte < 0xF5 && byte != 0xC0 && byte != 0xC1;  // in UTF-8
      if (occurs && tables_.bpe.byte_ids[byte] < 0) {
        bad("model.vocab", fmt::format("no token for the byte 0x{:02x}", byte), "the whole byte-level alphabet");
      }
    }
  }

  void read_vocab(dom::object vocab) {
    tables_.bpe.vocab.reserve(vocab.size());
    tokens_.reserve(vocab.size());
    for (const auto [text, value] : vocab) {
      int64_t id = 0;
      if (value.get(id) != simdjson::SUCCESS || id < 0 || id > kMaxTokenId) {
        id = id_of(value, fmt::format("model.vocab[\"{}\"]", text));
      }
      if (!tables_.bpe.vocab.insert(text, static_cast<int32_t>(id))) {
        bad("model.vocab", fmt::format("the token \"{}\" twice", text), "every token once");
      }
      place(static_cast<int32_t>(id), text, "model.vocab");
    }
  }

  /// `text` must stay valid as long as the parser's document.
  void place(int32_t id, std::string_view text, std::string_view field) {
    const size_t index = static_cast<size_t>(id);
    if (index >= tokens_.size()) tokens_.resize(index + 1);
    if (tokens_[index].data() != nullptr) {
      bad(field, fmt::format("the id {} for \"{}\" and \"{}\"", id, tokens_[index], text), "every id once");
    }
    tokens_[index] = text;
  }

  void read_merges(dom::array merges) {
    tables_.bpe.merges.reserve(merges.size());
    uint32_t rank = 0;
    std::string merged;
    for (const dom::element rule : merges) {
      const auto [left, right] = sides_of(rule, rank);
      merged.assign(left).append(right);
      const VocabTable& vocab = tables_.bpe.vocab;
      const int32_t left_id = token_id(left, rank);
      const int32_t right_id = token_id(right, rank);
      tables_.bpe.merges.insert(left_id, right_id, {rank, vocab.find(merged)});
      if (vocab.find(merged) < 0) token_id(merged, rank);
      ++rank;
    }
  }

  int32_t token_id(std::string_view text, uint32_t rank) const {
    const int32_t id = tables_.bpe.vocab.find(text);
    if (id < 0) bad(fmt::format("model.merges[{}]", rank), fmt::format("\"{}\"", text), "a token of model.vocab");
    return id;
  }

  /// A rule is "a b" or ["a", "b"].
  std::pair<std::string_view, std::string_view> sides_of(dom::element rule, uint32_t rank) const {
    constexpr std::string_view kExpected = "\"left right\" or [\"left\", \"right\"]";
    const auto refuse = [&] { bad(fmt::format("model.merges[{}]", rank), shown(rule), kExpected); };
    std::string_view text;
    dom::array pair;
    if (rule.get(text) == simdjson::SUCCESS) {
      const size_t space = text.find(' ');
      if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) refuse();
      return {text.substr(0, space), text.substr(space + 1)};
    }
    if (rule.get(pair) != simdjson::SUCCESS || pair.size() != 2) refuse();
    std::string_view left;
    std::string_view right;
    if (pair.at(0).get(left) != simdjson::SUCCESS || pair.at(1).get(right) != simdjson::SUCCESS) refuse();
    return {left, right};
  }

  void read_pre_tokenizer(dom::object object) {
    constexpr std::string_view kField = "pre_tokenizer";
    const std::string_view type = string_of(at(object, "type", "pre_tokenizer.type"), "pre_tokenizer.type");
    if (type != "Sequence") {
      read_pre_tokenizer_step(object, kField, true);
      return;
    }
    refuse_fields(object, "pre_tokenizer.", {"type", "pretokenizers"});
    const std::string steps_field = "pre_tokenizer.pretokenizers";
    const dom::array steps = array_of(at(object, "pretokenizers", steps_field), steps_field);
    if (steps.size() == 0) bad(steps_field, "an empty array", "Split steps and then ByteLevel");
    size_t index = 0;
    for (const dom::element step : steps) {
      const std::string field = fmt::format("{}[{}]", steps_field, index++);
      read_pre_tokenizer_step(object_of(step, field), field, index == steps.size());
    }
  }

  /// ByteLevel is the last step, and the last step is ByteLevel: what it gives is not text any more.
  void read_pre_tokenizer_step(dom::object step, std::string_view field, bool last) {
    const std::string type_field = fmt::format("{}.type", field);
    const std::string_view type = string_of(at(step, "type", type_field), type_field);
    const std::string_view expected = last ? "ByteLevel" : "Split";
    if (type != expected) unsupported(type_field, fmt::format("\"{}\"", type), fmt::format("\"{}\"", expected));
    if (last) {
      read_byte_level(step, field);
    } else {
      read_split(step, field);
    }
  }

  void read_byte_level(dom::object step, std::string_view field) {
    refuse_fields(step, fmt::format("{}.", field), {"type", "add_prefix_space", "trim_offsets", "use_regex"});
    const std::string prefix_field = fmt::format("{}.add_prefix_space", field);
    if (flag_at(step, "add_prefix_space", prefix_field, true)) unsupported(prefix_field, "true", "false");
    const std::string regex_field = fmt::format("{}.use_regex", field);
    if (flag_at(step, "use_regex", regex_field, true)) tables_.splits.emplace_back(kGpt2Pattern, where(regex_field));
  }

  void read_split(dom::object step, std::string_view field) {
    refuse_fields(step, fmt::format("{}.", field), {"type", "pattern", "behavior"});
    const std::string behavior_field = fmt::format("{}.behavior", field);
    const std::string_view behavior = string_of(at(step, "behavior", behavior_field), behavior_field);
    if (behavior != "Isolated") unsupported(behavior_field, fmt::format("\"{}\"", behavior), "\"Isolated\"");
    const std::string pattern_field = fmt::format("{}.pattern", field);
    const dom::object pattern = object_at(step, "pattern", pattern_field);
    refuse_fields(pattern, fmt::format("{}.", pattern_field), {"Regex"});
    const std::string regex_field = fmt::format("{}.Regex", pattern_field);
    const std::string_view regex = string_of(at(pattern, "Regex", regex_field), regex_field);
    tables_.splits.emplace_back(regex, where(regex_field));
  }

  void read_decoder(dom::object decoder) const {
    const std::string_view type = string_of(at(decoder, "type", "decoder.type"), "decoder.type");
    if (type != "ByteLevel") unsupported("decoder.type", fmt::format("\"{}\"", type), "\"ByteLevel\"");
  }

  /// ByteLevel only moves offsets, which nobody asks for here; the others add tokens.
  void read_post_processor(dom::object root) const {
    dom::element value;
    if (root.at_key("post_processor").get(value) != simdjson::SUCCESS || value.is_null()) return;
    const dom::object object = object_of(value, "post_processor");
    const std::string_view type = string_of(at(object, "type", "post_processor.type"), "post_processor.type");
    if (type != "ByteLevel") {
      unsupported("post_processor.type", fmt::format("\"{}\"", type), "null or \"ByteLevel\"");
    }
  }

  void read_added_tokens(dom::object root) {
    dom::element value;
    if (root.at_key("added_tokens").get(value) != simdjson::SUCCESS || value.is_null()) return;
    std::unordered_map<std::string_view, int32_t> seen;
    size_t index = 0;
    for (const dom::element element : array_of(value, "added_tokens")) {
      const std::string field = fmt::format("added_tokens[{}]", index++);
      const dom::object object = object_of(element, field);
      const auto sub = [&](std::string_view key) { return fmt::format("{}.{}", field, key); };
      const int32_t id = id_of(at(object, "id", sub("id")), sub("id"));
      const std::string_view text = string_of(at(object, "content", sub("content")), sub("content"));
      if (text.empty()) bad(sub("content"), "an empty string", "the token's text");
      // lstrip, rstrip and single_word would change what is around a token; they are refused here when true.
      refuse_fields(object, fmt::format("{}.", field), {"id", "content", "special", "normalized"});
      const bool special = flag_at(object, "special", sub("special"), false);
      const bool normalized = flag_at(object, "normalized", sub("normalized"), !special);
      if (!seen.emplace(text, id).second) bad(sub("content"), fmt::format("\"{}\" twice", text), "every token once");
      place_added(id, text, sub("id"));
      (normalized ? tables_.normalized : tables_.verbatim).add(text, id);
      tables_.added.push_back({id, std::string(text), special});
    }
  }

  /// An added token may also be in the vocabulary, under the same id.
  void place_added(int32_t id, std::string_view text, std::string_view field) {
    const int32_t known = tables_.bpe.vocab.find(text);
    if (known < 0) {
      place(id, text, field);
    } else if (known != id) {
      bad(field, fmt::format("{} for \"{}\"", id, text), fmt::format("{} as in model.vocab", known));
    }
  }

  void index_tokens() {
    tables_.special.assign(tokens_.size(), false);
    std::vector<bool> verbatim(tokens_.size(), false);
    for (const AddedToken& token : tables_.added) {
      verbatim[static_cast<size_t>(token.id)] = true;
      tables_.special[static_cast<size_t>(token.id)] = token.special;
    }
    tables_.offsets.reserve(tokens_.size() + 1);
    tables_.offsets.push_back(0);
    for (size_t id = 0; id < tokens_.size(); ++id) {
      const std::string_view text = tokens_[id];
      const std::optional<std::string> bytes = verbatim[id] ? std::nullopt : from_byte_level(text);
      tables_.bytes.append(bytes ? std::string_view(*bytes) : text);
      tables_.offsets.push_back(static_cast<uint32_t>(tables_.bytes.size()));
    }
  }

  std::string_view json_;
  std::string_view name_;
  dom::parser parser_;
  std::vector<std::string_view> tokens_;  // id -> text in the document; no data where there is no token
  TokenizerTables tables_;
};

}  // namespace

TokenizerTables load_tokenizer(std::string_view json, std::string_view name) {
  return Loader(json, name).load();
}

}  // namespace marlin
