// A conversation with a model: its messages, and the commands that change it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cli/sampling_flags.h"
#include "marlin/engine.h"

namespace marlin::cli {

class ChatSession {
 public:
  ChatSession(Engine& engine, const SamplingFlags& sampling, bool allow_special)
      : engine_(engine), sampling_(sampling), allow_special_(allow_special) {}

  void set_system(const std::string& text);
  void set_thinking(bool on) { conversation_.template_args["enable_thinking"] = on; }

  /// Asks and prints the answer; both become part of the conversation. An error leaves the conversation as it was.
  void say(const std::string& text);
  /// The last answer was ended by a signal.
  bool interrupted() const { return last_ && last_->reason == FinishReason::kCancelled; }
  /// A line that begins with '/'. Returns false when the program is to end. Throws Error.
  bool command(const std::string& line);

 private:
  using Command = void (ChatSession::*)(const std::string& argument);
  struct Entry {
    const char* name;
    const char* argument;
    const char* help;
    Command run;
  };
  static const Entry kCommands[];

  void system(const std::string& text);
  void think(const std::string& text);
  void regen(const std::string& text);
  void undo(const std::string& text);
  void stats(const std::string& text);
  void reset(const std::string& text);
  void save(const std::string& file);
  void load(const std::string& file);
  void help(const std::string& text);

  void answer();
  bool has_system() const;
  size_t last_user_message() const;
  Json messages_before(size_t count) const;

  Engine& engine_;
  SamplingFlags sampling_;
  bool allow_special_;
  Conversation conversation_;
  std::optional<Finished> last_;
  uint32_t choice_ = 0;  // how often this answer was made again: another draw of the same seed
};

}  // namespace marlin::cli
