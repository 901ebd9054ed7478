// jinja_oracle_compare MODEL_DIRECTORY LINES: renders every {conversation, expected} and compares.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <string>

#include "text/chat_template.h"

namespace marlin {
namespace {

int compare(const char* model, const char* path) {
  const ChatTemplate chat_template = ChatTemplate::load(model);
  std::ifstream file(path);
  std::string line;
  int count = 0;
  int different = 0;
  while (std::getline(file, line)) {
    const Json entry = Json::parse(line);
    const Json& source = entry.at("conversation");
    Conversation conversation;
    conversation.messages = source.at("messages");
    conversation.tools = source.at("tools");
    conversation.template_args = source.at("template_args");
    conversation.add_generation_prompt = source.at("add_generation_prompt").get<bool>();
    const std::string actual = flatten(chat_template.render(conversation));
    ++count;
    if (actual == entry.at("expected").get<std::string>()) continue;
    ++different;
    fmt::print("conversation {}: {}\nexpected: {}\nactual:   {}\n", count, source.dump(), entry.at("expected").dump(),
               Json(actual).dump());
  }
  fmt::print("{} conversations, {} different\n", count, different);
  return count > 0 && different == 0 ? 0 : 1;
}

}  // namespace
}  // namespace marlin

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    return marlin::compare(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
