#include "text/chat_template.h"

#include <fmt/format.h>

#include <fstream>
#include <optional>
#include <sstream>

#include "marlin/error.h"
#include "text/jinja.h"

namespace marlin {
namespace {

using jinja::Dict;
using jinja::Value;

std::optional<std::string> read_file(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) throw Error(ErrorCode::kIo, fmt::format("{}: cannot be read", path.string()));
  return text.str();
}

// "chat_template" is a string, or a list of {name, template} of which "default" is taken.
std::string template_of_config(const std::string& text, const std::filesystem::path& path) {
  const Json config = Json::parse(text, nullptr, false);
  if (!config.is_object()) throw Error(ErrorCode::kBadFile, fmt::format("{}: expected a JSON object", path.string()));
  const auto field = config.find("chat_template");
  if (field == config.end()) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: no field \"chat_template\", and no chat_template.jinja next to it", path.string()));
  }
  if (field->is_string()) return field->get<std::string>();
  if (field->is_array()) {
    for (const Json& entry : *field) {
      if (entry.is_object() && entry.value("name", Json()) == "default" && entry.contains("template") &&
          entry["template"].is_string()) {
        return entry["template"].get<std::string>();
      }
    }
  }
  throw Error(
      ErrorCode::kBadFile,
      fmt::format("{}: chat_template: expected a string, or a list with a template named \"default\"", path.string()));
}

[[noreturn]] void refuse(const std::string& field, const char* expected) {
  throw Error(ErrorCode::kUsage, fmt::format("{}: expected {}", field, expected));
}

Value convert(const Json& json, const std::string& field) {
  try {
    return Value::from_json(json);
  } catch (const jinja::Failure& failure) {
    throw Error(ErrorCode::kUsage, fmt::format("{}: {}", field, failure.what()));
  }
}

Value convert_arguments(const Json& arguments, const std::string& field) {
  if (arguments.is_object()) return convert(arguments, field);
  if (!arguments.is_string()) refuse(field, "a JSON object, or the text of one");
  const Json parsed = Json::parse(arguments.get_ref<const std::string&>(), nullptr, false);
  if (!parsed.is_object()) refuse(field, "the text of a JSON object");
  return convert(parsed, field);
}

// A call is {function: {name, arguments}} or {name, arguments} itself.
Value convert_call(const Json& call, const std::string& field) {
  if (!call.is_object()) refuse(field, "an object");
  Dict out;
  for (const auto& [key, value] : call.items()) {
    const std::string inner = fmt::format("{}.{}", field, key);
    if (key == "function" && value.is_object()) {
      out.set(Value::string(key, false), convert_call(value, inner));
    } else if (key == "arguments") {
      out.set(Value::string(key, false), convert_arguments(value, inner));
    } else {
      out.set(Value::string(key, false), convert(value, inner));
    }
  }
  return Value::dict(std::move(out), true);
}

Value convert_calls(const Json& calls, const std::string& field) {
  if (!calls.is_array()) return convert(calls, field);
  std::vector<Value> out;
  out.reserve(calls.size());
  for (size_t i = 0; i < calls.size(); ++i) out.push_back(convert_call(calls[i], fmt::format("{}[{}]", field, i)));
  return Value::list(std::move(out), false, true);
}

Value convert_message(const Json& message, const std::string& field) {
  if (!message.is_object()) refuse(field, "an object");
  Dict out;
  for (const auto& [key, value] : message.items()) {
    const std::string inner = fmt::format("{}.{}", field, key);
    if (key == "content" && value.is_null()) {
      out.set(Value::string(key, false), Value::string("", false));
    } else if (key == "tool_calls") {
      out.set(Value::string(key, false), convert_calls(value, inner));
    } else {
      out.set(Value::string(key, false), convert(value, inner));
    }
  }
  return Value::dict(std::move(out), true);
}

Value convert_conversation(const Conversation& conversation) {
  if (!conversation.messages.is_array()) refuse("messages", "a list");
  if (!conversation.tools.is_array() && !conversation.tools.is_null()) refuse("tools", "a list");
  if (!conversation.template_args.is_object() && !conversation.template_args.is_null()) {
    refuse("template_args", "an object");
  }
  Dict context;
  if (conversation.template_args.is_object()) {
    for (const auto& [key, value] : conversation.template_args.items()) {
      context.set(Value::string(key, false), convert(value, "template_args." + key));
    }
  }
  std::vector<Value> messages;
  messages.reserve(conversation.messages.size());
  for (size_t i = 0; i < conversation.messages.size(); ++i) {
    messages.push_back(convert_message(conversation.messages[i], fmt::format("messages[{}]", i)));
  }
  context.set(Value::string("messages", false), Value::list(std::move(messages), false, true));
  // As transformers does: templates ask "tools is not none".
  context.set(Value::string("tools", false),
              conversation.tools.empty() ? Value::none() : convert(conversation.tools, "tools"));
  context.set(Value::string("add_generation_prompt", false), Value::boolean(conversation.add_generation_prompt));
  return Value::dict(std::move(context));
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Template compiled;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

ChatTemplate ChatTemplate::load(const std::filesystem::path& model_directory) {
  const std::filesystem::path path = model_directory / "chat_template.jinja";
  if (const auto source = read_file(path)) return compile(*source, path.string());
  const std::filesystem::path config = model_directory / "tokenizer_config.json";
  const auto text = read_file(config);
  if (!text) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: neither chat_template.jinja nor tokenizer_config.json", model_directory.string()));
  }
  return compile(template_of_config(*text, config), config.string() + ":chat_template");
}

ChatTemplate ChatTemplate::compile(std::string_view source, std::string_view name) {
  return ChatTemplate(std::make_unique<Impl>(Impl{jinja::Template::compile(source, name)}));
}

std::vector<Segment> ChatTemplate::render(const Conversation& conversation) const {
  try {
    return impl_->compiled.render(convert_conversation(conversation));
  } catch (const jinja::Failure& failure) {
    throw Error(ErrorCode::kUsage, fmt::format("messages: {}", failure.what()));
  }
}

std::string flatten(const std::vector<Segment>& segments) {
  std::string text;
  for (const Segment& segment : segments) text += segment.text;
  return text;
}

}  // namespace marlin
