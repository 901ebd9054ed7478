#include "quantize/synth_files.h"

#include <fmt/format.h>

#include <array>
#include <string_view>

#include "base/check.h"
#include "marlin/text.h"
#include "quantize/chat_template_text.h"
#include "text/bpe.h"

namespace marlin {
namespace {

struct Added {
  const char* text;
  bool special;
};

// In the order of GLM-4.7-Flash's ids 154820 to 154855.
constexpr std::array<Added, kSynthAddedTokens> kAdded = {{
    {"<|endoftext|>", true},
    {"[MASK]", true},
    {"[gMASK]", true},
    {"[sMASK]", true},
    {"<sop>", true},
    {"<eop>", true},
    {"<|system|>", true},
    {"<|user|>", true},
    {"<|assistant|>", true},
    {"<|observation|>", true},
    {"<|begin_of_image|>", true},
    {"<|end_of_image|>", true},
    {"<|begin_of_video|>", true},
    {"<|end_of_video|>", true},
    {"<|begin_of_audio|>", true},
    {"<|end_of_audio|>", true},
    {"<|begin_of_transcription|>", true},
    {"<|end_of_transcription|>", true},
    {"<|code_prefix|>", true},
    {"<|code_middle|>", true},
    {"<|code_suffix|>", true},
    {"<think>", false},
    {"</think>", false},
    {"<tool_call>", false},
    {"</tool_call>", false},
    {"<tool_response>", false},
    {"</tool_response>", false},
    {"<arg_key>", false},
    {"</arg_key>", false},
    {"<arg_value>", false},
    {"</arg_value>", false},
    {"/nothink", false},
    {"<|begin_of_box|>", false},
    {"<|end_of_box|>", false},
    {"<|image|>", false},
    {"<|video|>", false},
}};

constexpr const char* kPattern =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";

Json added_tokens(int32_t first) {
  Json list = Json::array();
  for (const Added& token : kAdded) {
    list.push_back({{"id", first + static_cast<int32_t>(list.size())},
                    {"content", token.text},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", false},
                    {"special", token.special}});
  }
  return list;
}

Json pre_tokenizer() {
  return {{"type", "Sequence"},
          {"pretokenizers",
           {{{"type", "Split"}, {"pattern", {{"Regex", kPattern}}}, {"behavior", "Isolated"}, {"invert", false}},
            {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}}}}};
}

/// GPT-2's order: the bytes that stand for themselves first.
std::array<unsigned char, 256> byte_order() {
  std::array<unsigned char, 256> order{};
  size_t n = 0;
  for (const bool itself : {true, false}) {
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
      if (printable == itself) order[n++] = static_cast<unsigned char>(byte);
    }
  }
  return order;
}

/// As text: an ordered JSON object finds its keys one by one, too slow for this many.
std::string vocabulary(int32_t size) {
  std::string out = "{";
  int32_t id = 0;
  for (const unsigned char byte : byte_order()) {
    std::string text;
    append_byte_level(std::string_view(reinterpret_cast<const char*>(&byte), 1), text);
    out += fmt::format("{}:{},", Json(text).dump(), id++);
  }
  std::string space;
  append_byte_level(" ", space);
  for (; id < size; ++id) out += fmt::format("\"{}w{}\":{},", space, id, id);
  out.back() = '}';
  return out;
}

}  // namespace

std::string synth_tokenizer(int32_t first_added) {
  MARLIN_CHECK(first_added >= 256, "{} is no place for added tokens: the bytes come before them", first_added);
  const Json decoder = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  return fmt::format(
      R"({{"version":"1.0","truncation":null,"padding":null,"added_tokens":{},"normalizer":null,"pre_tokenizer":{},)"
      R"("post_processor":null,"decoder":{},"model":{{"type":"BPE","dropout":null,"unk_token":null,)"
      R"("continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,)"
      R"("ignore_merges":false,"vocab":{},"merges":[]}}}})"
      "\n",
      added_tokens(first_added).dump(), pre_tokenizer().dump(), decoder.dump(), vocabulary(first_added));
}

std::string synth_chat_template() {
  return kChatTemplateText;
}

}  // namespace marlin
