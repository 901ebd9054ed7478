// A model's chat template: Jinja with Hugging Face's settings, rendered to segments that know where they come from.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "marlin/text.h"

namespace marlin {

class ChatTemplate {
 public:
  /// chat_template.jinja of `model_directory`, else the "chat_template" field of tokenizer_config.json.
  /// Throws Error{kNotFound|kBadFile} with file, line and what was expected.
  static ChatTemplate load(const std::filesystem::path& model_directory);
  /// Compiles `source`; `name` stands in messages. Throws Error{kBadFile} "name:LINE: …".
  static ChatTemplate compile(std::string_view source, std::string_view name);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  /// Renders; adjacent segments of the same kind are merged. null content becomes "", tool-call arguments given as JSON
  /// text become objects. Throws Error{kUsage} naming the template line for a value the template cannot use, and when
  /// rendering exceeds its limits (steps, depth, output size).
  std::vector<Segment> render(const Conversation& conversation) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// The flat text of segments.
std::string flatten(const std::vector<Segment>& segments);

}  // namespace marlin
