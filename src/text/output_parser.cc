#include "text/output_parser.h"

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <utility>

#include "text/output_parser_types.h"
#include "text/tokenizer.h"

namespace marlin {
namespace {

constexpr std::string_view kThinkTag = "<think>";
constexpr std::string_view kThinkEndTag = "</think>";
constexpr std::string_view kCallTag = "<tool_call>";
constexpr std::string_view kCallEndTag = "</tool_call>";
constexpr std::string_view kKeyTag = "<arg_key>";
constexpr std::string_view kKeyEndTag = "</arg_key>";
constexpr std::string_view kValueTag = "<arg_value>";
constexpr std::string_view kValueEndTag = "</arg_value>";
constexpr std::string_view kBlank = " \t\r\n";
constexpr size_t kMaxName = 256;  // more than that is prose that mentions the tag

enum class State {
  kReasoning,
  kContent,
  kName,          // behind <tool_call>; held_ has the text since then, the tag included
  kKey,           // behind <arg_key>
  kAfterKey,      // behind </arg_key>
  kValue,         // behind <arg_value>
  kAfterValue,    // behind </arg_value>, which ends the value only if a tag or the end follows; held_ has it
  kAfterCallEnd,  // behind a </tool_call> inside a value, which ends the value only at the end; held_ has it
};

// How an argument's text reaches the stream.
enum class ValueMode {
  kWhole,   // as JSON, once it is complete
  kString,  // as the contents of a JSON string, at once
  kRepeat,  // not at all: the key was there before, and what was delivered cannot be taken back
};

std::string strip(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(kBlank) + 1 - begin));
}

}  // namespace

struct OutputParser::Impl {
  explicit Impl(Options options)
      : types(std::move(options.tools)),
        parse_tool_calls(options.parse_tool_calls),
        state(options.starts_in_reasoning ? State::kReasoning : State::kContent) {}

  ArgumentTypes types;
  bool parse_tool_calls;
  State state;
  bool ended = false;
  Utf8Stream utf8;
  std::string pending;  // fed and not consumed
  size_t at = 0;        // of pending: consumed up to here
  std::string held;
  std::string key;
  std::string value;
  std::optional<TypeSet> value_types;
  bool value_is_blank = true;
  ValueMode value_mode = ValueMode::kWhole;
  ParsedOutput output;
  OutputDelta delta;

  OutputDelta run(const std::string& text) {
    pending.erase(0, at);
    at = 0;
    pending += text;
    while (step()) {
    }
    if (ended) close();
    return std::exchange(delta, {});
  }

  std::string_view rest() const { return std::string_view(pending).substr(at); }

  // What stands at the front of rest(): one of `tags`, text that may become one (an empty result), or neither.
  std::optional<std::string_view> match(std::initializer_list<std::string_view> tags) const {
    const std::string_view text = rest();
    bool partial = false;
    for (const std::string_view tag : tags) {
      if (text.starts_with(tag)) return tag;
      partial = partial || tag.starts_with(text);
    }
    return partial ? std::optional<std::string_view>("") : std::nullopt;
  }

  // Passes text to `take` up to one of the tags; that tag, consumed, is returned. Nothing when the text is used up,
  // except for a suffix that may still become a tag.
  template <typename Take>
  std::optional<std::string_view> text_until(std::initializer_list<std::string_view> tags, Take take) {
    while (at < pending.size()) {
      const size_t end = std::min(pending.find('<', at), pending.size());
      if (end > at) {
        take(std::string_view(pending).substr(at, end - at));
        at = end;
        continue;
      }
      const auto tag = match(tags);
      if (tag && !tag->empty()) {
        at += tag->size();
        return tag;
      }
      if (tag && !ended) return std::nullopt;
      take(rest().substr(0, 1));
      ++at;
    }
    return std::nullopt;
  }

  size_t blank_size() const { return std::min(rest().find_first_not_of(kBlank), rest().size()); }

  // Consumes some of the text; false when it needs more.
  bool step() {
    switch (state) {
      case State::kReasoning:
        return in_reasoning();
      case State::kContent:
        return in_content();
      case State::kName:
        return in_name();
      case State::kKey:
        return in_key();
      case State::kAfterKey:
        return after_key();
      case State::kValue:
        return in_value();
      case State::kAfterValue:
        return after_value();
      case State::kAfterCallEnd:
        return after_call_end();
    }
    return false;
  }

  void add_content(std::string_view text) {
    output.content += text;
    delta.content += text;
  }

  void open_call() {
    state = State::kName;
    held = kCallTag;
  }

  bool in_reasoning() {
    const auto take = [this](std::string_view text) {
      output.reasoning += text;
      delta.reasoning += text;
    };
    const auto tag = parse_tool_calls ? text_until({kThinkEndTag, kThinkTag, kCallTag}, take)
                                      : text_until({kThinkEndTag, kThinkTag}, take);
    if (!tag) return false;
    if (*tag == kThinkEndTag) state = State::kContent;
    if (*tag == kCallTag) open_call();
    return true;
  }

  bool in_content() {
    if (!parse_tool_calls) {
      add_content(rest());
      at = pending.size();
      return false;
    }
    const auto tag = text_until({kCallTag, kThinkEndTag}, [this](std::string_view text) { add_content(text); });
    if (!tag) return false;
    if (*tag == kCallTag) open_call();
    return true;
  }

  // It was no call: the text since <tool_call> is content.
  bool not_a_call() {
    add_content(std::exchange(held, {}));
    state = State::kContent;
    return true;
  }

  bool in_name() {
    while (at < pending.size()) {
      const auto tag = match({kKeyTag, kCallEndTag, kCallTag});
      if (tag && tag->empty()) return false;
      const std::string name = strip(std::string_view(held).substr(kCallTag.size()));
      if (tag) {
        if (name.empty()) return not_a_call();
        at += tag->size();
        start_call(name);
        if (*tag == kKeyTag) {
          state = State::kKey;
        } else {
          end_call();
          if (*tag == kCallTag) open_call();
        }
        return true;
      }
      // A name has no white space inside and no other tag behind it.
      const char next = pending[at];
      const bool blank = kBlank.find(next) != std::string_view::npos;
      const bool was_blank = kBlank.find(held.back()) != std::string_view::npos;
      if (next == '<' || held.size() > kMaxName || (!blank && was_blank && !name.empty())) return not_a_call();
      held += next;
      ++at;
    }
    return false;
  }

  bool in_key() {
    const auto tag = text_until({kKeyEndTag, kValueTag, kCallEndTag}, [this](std::string_view text) { key += text; });
    if (!tag) return false;
    if (*tag == kCallEndTag) {
      end_call();
    } else if (*tag == kValueTag) {
      start_value();
    } else {
      state = State::kAfterKey;
    }
    return true;
  }

  bool after_key() {
    at += blank_size();
    if (at >= pending.size()) return false;
    const auto tag = match({kValueTag, kKeyTag, kCallEndTag, kCallTag});
    if (tag && tag->empty()) return false;
    at += tag ? tag->size() : 0;
    if (!tag || *tag == kValueTag) {  // a value whose opening tag is missing is still the value
      start_value();
    } else if (*tag == kKeyTag) {
      key.clear();
      state = State::kKey;
    } else {
      end_call();
      if (*tag == kCallTag) open_call();
    }
    return true;
  }

  bool in_value() {
    const auto tag = text_until({kValueEndTag, kCallEndTag}, [this](std::string_view text) { add_value(text); });
    if (!tag) return false;
    held = *tag;
    state = *tag == kValueEndTag ? State::kAfterValue : State::kAfterCallEnd;
    return true;
  }

  // The tag held was part of the value.
  bool resume_value() {
    add_value(std::exchange(held, {}));
    state = State::kValue;
    return true;
  }

  bool after_value() {
    const size_t blank = blank_size();
    held += rest().substr(0, blank);
    at += blank;
    if (at >= pending.size()) return false;
    const auto tag = match({kKeyTag, kCallEndTag, kCallTag});
    if (!tag) return resume_value();
    if (tag->empty()) return false;
    at += tag->size();
    end_value();
    if (*tag == kKeyTag) {
      state = State::kKey;
    } else {
      end_call();
      if (*tag == kCallTag) open_call();
    }
    return true;
  }

  bool after_call_end() {
    const size_t blank = blank_size();
    held += rest().substr(0, blank);
    at += blank;
    return at < pending.size() && resume_value();
  }

  // The end of the output: whatever is open is closed.
  void close() {
    switch (state) {
      case State::kReasoning:
      case State::kContent:
        return;
      case State::kName: {
        const std::string name = strip(std::string_view(held).substr(kCallTag.size()));
        if (name.empty() || (types.any_declared() && !types.declares(name))) {
          held += rest();
          not_a_call();
          break;
        }
        start_call(name);
        end_call();
        break;
      }
      case State::kValue:
      case State::kAfterValue:
      case State::kAfterCallEnd:
        end_value();
        end_call();
        break;
      case State::kKey:
      case State::kAfterKey:
        end_call();
        break;
    }
    at = pending.size();
  }

  OutputDelta::ToolCallDelta& call_delta() {
    const int index = static_cast<int>(output.tool_calls.size()) - 1;
    if (delta.tool_calls.empty() || delta.tool_calls.back().index != index) {
      delta.tool_calls.push_back({index, "", ""});
    }
    return delta.tool_calls.back();
  }

  void start_call(const std::string& name) {
    output.tool_calls.push_back({name, Json::object()});
    call_delta().name = name;
    held.clear();
    key.clear();
  }

  void end_call() {
    call_delta().arguments += output.tool_calls.back().arguments.empty() ? "{}" : "}";
    state = State::kContent;
    key.clear();
  }

  void start_value() {
    const ToolCall& call = output.tool_calls.back();
    key = strip(key);
    value.clear();
    value_is_blank = true;
    value_types = types.types_of(call.name, key);
    value_mode = call.arguments.contains(key) ? ValueMode::kRepeat : ValueMode::kWhole;
    state = State::kValue;
    if (value_types == kTypeString) stream_string();
  }

  void add_value(std::string_view text) {
    value += text;
    if (value_mode == ValueMode::kString) {
      call_delta().arguments += escape(text);
    } else if (value_is_blank && text.find_first_not_of(kBlank) != std::string_view::npos) {
      value_is_blank = false;  // the first character that is not blank decides
      if (surely_string(text, value_types)) stream_string();
    }
  }

  void end_value() {
    held.clear();
    if (value_mode != ValueMode::kRepeat) {
      const Json parsed = value_mode == ValueMode::kString ? Json(value) : argument_value(value, value_types);
      std::string& fragment = call_delta().arguments;
      fragment += value_mode == ValueMode::kString ? "\"" : opening() + parsed.dump();
      output.tool_calls.back().arguments[key] = parsed;
    }
    key.clear();
  }

  void stream_string() {
    if (value_mode != ValueMode::kWhole) return;
    value_mode = ValueMode::kString;
    call_delta().arguments += opening() + '"' + escape(value);
  }

  // What precedes the value being delivered.
  std::string opening() const {
    return (output.tool_calls.back().arguments.empty() ? "{" : ",") + Json(key).dump() + ":";
  }

  static std::string escape(std::string_view text) {
    const std::string quoted = Json(text).dump();
    return quoted.substr(1, quoted.size() - 2);
  }
};

OutputParser::OutputParser(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}
OutputParser::~OutputParser() = default;
OutputParser::OutputParser(OutputParser&&) noexcept = default;

OutputDelta OutputParser::feed(std::string_view text) {
  return impl_->run(impl_->utf8.feed(text));
}

OutputDelta OutputParser::finish() {
  if (impl_->ended) return {};
  impl_->ended = true;
  return impl_->run(impl_->utf8.finish());
}

const ParsedOutput& OutputParser::output() const {
  return impl_->output;
}
bool OutputParser::in_reasoning() const {
  return impl_->state == State::kReasoning;
}

}  // namespace marlin
