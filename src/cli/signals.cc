#include "cli/signals.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "marlin/error.h"

namespace marlin::cli {
namespace {

// All that handlers touch. wake_fd: where to write the byte that wakes the watcher.
volatile std::sig_atomic_t wake_fd = -1;
volatile std::sig_atomic_t dimmed_fd = -1;
volatile std::sig_atomic_t terminated = 0;
volatile std::sig_atomic_t second_ends_program = 0;
volatile std::sig_atomic_t interrupts = 0;

void wake_watcher(int signal) {
  const int saved = errno;
  note_termination(signal);
  interrupts = interrupts + 1;
  if (interrupts > 1 && second_ends_program != 0) {
    const char normal[] = {'\x1b', '[', '0', 'm'};
    if (dimmed_fd >= 0 && write(dimmed_fd, normal, sizeof(normal)) < 0) {
      // Nothing more can be done here.
    }
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  const char interrupted = 'i';
  const int fd = wake_fd;
  if (fd >= 0 && write(fd, &interrupted, 1) < 0) {
    // The pipe is full of earlier signals: the watcher is awake anyway.
  }
  errno = saved;
}

}  // namespace

bool termination_requested() {
  return terminated != 0;
}

void note_termination(int signal) {
  if (signal == SIGTERM) terminated = 1;
}

void reset_terminal_at_signal(int fd) {
  dimmed_fd = fd;
}

InterruptScope::InterruptScope(std::function<void()> on_interrupt, Second second) {
  if (pipe(pipe_.data()) != 0) throw Error(ErrorCode::kIo, std::string("cannot open a pipe: ") + std::strerror(errno));
  for (const int end : pipe_) fcntl(end, F_SETFD, FD_CLOEXEC);
  // The handler must never block, however many signals come.
  fcntl(pipe_[1], F_SETFL, fcntl(pipe_[1], F_GETFL) | O_NONBLOCK);
  watcher_ = std::thread([read_end = pipe_[0], act = std::move(on_interrupt)] {
    for (char byte = 0;;) {
      const ssize_t n = read(read_end, &byte, 1);
      if (n < 0 && errno == EINTR) continue;
      if (n != 1 || byte == 'q') return;
      act();
    }
  });
  interrupts = 0;
  second_ends_program = second == Second::kEndsProgram ? 1 : 0;
  wake_fd = pipe_[1];
  struct sigaction action {};
  action.sa_handler = wake_watcher;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, &old_int_);
  sigaction(SIGTERM, &action, &old_term_);
}

InterruptScope::~InterruptScope() {
  sigaction(SIGINT, &old_int_, nullptr);
  sigaction(SIGTERM, &old_term_, nullptr);
  wake_fd = -1;
  // Closing the write end would race with a read that restarts; a byte cannot be missed.
  fcntl(pipe_[1], F_SETFL, fcntl(pipe_[1], F_GETFL) & ~O_NONBLOCK);
  const char quit = 'q';
  while (write(pipe_[1], &quit, 1) < 0 && errno == EINTR) {
  }
  watcher_.join();
  close(pipe_[0]);
  close(pipe_[1]);
}

}  // namespace marlin::cli
