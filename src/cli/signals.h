// Ctrl-C while an answer is being made.
#pragma once

#include <csignal>
#include <functional>
#include <thread>

namespace marlin::cli {

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
  int pipe_[2] = {-1, -1};
  struct sigaction old_int_ {};
  struct sigaction old_term_ {};
  std::thread watcher_;
};

}  // namespace marlin::cli
