// Ctrl-C and SIGTERM while an answer is being made.
#pragma once

#include <array>
#include <csignal>
#include <functional>
#include <thread>

namespace marlin::cli {

/// Whether a SIGTERM has come to somebody who asked for it here, with InterruptScope or note_termination.
bool termination_requested();
/// For signal handlers.
void note_termination(int signal);

/// The terminal whose dimmed text a signal that ends the program must end first; -1: none.
void reset_terminal_at_signal(int fd);

/// While it lives, the first SIGINT or SIGTERM calls `on_interrupt` on a thread of its own. What the next one does is
/// up to `Second`: end the program at once, or nothing. One object at a time.
class InterruptScope {
 public:
  enum class Second { kEndsProgram, kIsIgnored };
  InterruptScope(std::function<void()> on_interrupt, Second second);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  std::array<int, 2> pipe_ = {-1, -1};
  struct sigaction old_int_ {};
  struct sigaction old_term_ {};
  std::thread watcher_;
};

}  // namespace marlin::cli
