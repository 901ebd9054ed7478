// Text around the model: conversations, rendered prompts with provenance, and parsed output.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace marlin {

using Json = nlohmann::ordered_json;  // key order is part of a rendered prompt

/// A piece of a rendered prompt. Only template text may contain control tokens; data is the user's.
struct Segment {
  std::string text;
  bool from_template = false;
};

/// What the chat template is rendered with.
struct Conversation {
  Json messages = Json::array();  // OpenAI's shape; assistant tool-call arguments may be JSON strings or objects
  Json tools = Json::array();
  Json template_args = Json::object();  // enable_thinking, clear_thinking…
  bool add_generation_prompt = true;
};

struct ToolCall {
  std::string name;
  Json arguments = Json::object();  // typed by the tool's schema where there is one, else JSON if it parses, else text
};

/// A message parsed from model output.
struct ParsedOutput {
  std::string reasoning;
  std::string content;
  std::vector<ToolCall> tool_calls;
};

/// What became certain with the last piece of output. Concatenated deltas equal ParsedOutput exactly.
struct OutputDelta {
  std::string reasoning;
  std::string content;
  struct ToolCallDelta {
    int index = 0;
    std::string name;       // set once, whole, in the first delta of a call
    std::string arguments;  // a fragment of the arguments' JSON text
  };
  std::vector<ToolCallDelta> tool_calls;
  bool empty() const { return reasoning.empty() && content.empty() && tool_calls.empty(); }
};

}  // namespace marlin
