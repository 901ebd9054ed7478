#include "cli/line_editor.h"

#include <fcntl.h>
#include <histedit.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>

#include "cli/signals.h"

namespace marlin::cli {
namespace {

constexpr int kHistoryLines = 1000;

// Ctrl-C and SIGTERM reach the waiting reader through a pipe: a signal between the prompt and the read, or on another
// thread, would not interrupt the read itself.
int interrupt_pipe[2] = {-1, -1};

void note_interrupt(int signal) {
  const int saved_errno = errno;
  note_termination(signal);
  const char byte = 0;
  [[maybe_unused]] const ssize_t written = write(interrupt_pipe[1], &byte, 1);
  errno = saved_errno;
}

void forget_interrupts() {
  char bytes[64];
  while (::read(interrupt_pipe[0], bytes, sizeof bytes) > 0) {
  }
}

}  // namespace

struct LineEditor::Terminal {
  EditLine* editor = nullptr;
  History* history = nullptr;
  std::string prompt;
  std::string history_file;
  struct sigaction old_int {};
  struct sigaction old_term {};
  std::mbstate_t partial_character{};
  bool interrupted = false;

  explicit Terminal(const std::filesystem::path& file) : history_file(file.string()) {
    // libedit reads characters of the locale; without a UTF-8 one it would take bytes apart.
    const char* locale = std::setlocale(LC_CTYPE, "");
    if (locale == nullptr || std::string_view(locale) == "C" || std::string_view(locale) == "POSIX") {
      std::setlocale(LC_CTYPE, "C.UTF-8");
    }
    if (pipe(interrupt_pipe) == 0) {
      for (const int end : interrupt_pipe) {
        fcntl(end, F_SETFL, O_NONBLOCK);
        fcntl(end, F_SETFD, FD_CLOEXEC);
      }
    }
    struct sigaction action {};
    action.sa_handler = note_interrupt;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &old_int);
    sigaction(SIGTERM, &action, &old_term);

    HistEvent event{};
    history = history_init();
    ::history(history, &event, H_SETSIZE, kHistoryLines);
    ::history(history, &event, H_SETUNIQUE, 1);
    if (!history_file.empty()) ::history(history, &event, H_LOAD, history_file.c_str());

    editor = el_init("metal-marlin", stdin, stdout, stderr);
    el_set(editor, EL_CLIENTDATA, this);
    el_set(
        editor, EL_PROMPT, +[](EditLine* e) -> char* { return of(e)->prompt.data(); });
    el_set(
        editor, EL_GETCFN, +[](EditLine* e, wchar_t* character) { return of(e)->read_character(character); });
    el_set(editor, EL_EDITOR, "emacs");
    el_set(editor, EL_SIGNAL, 0);
    el_set(editor, EL_HIST, ::history, history);
    el_set(editor, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    el_source(editor, nullptr);
  }

  ~Terminal() {
    el_end(editor);
    history_end(history);
    sigaction(SIGINT, &old_int, nullptr);
    sigaction(SIGTERM, &old_term, nullptr);
    for (int& end : interrupt_pipe) close(std::exchange(end, -1));
  }

  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  static Terminal* of(EditLine* editor) {
    void* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return static_cast<Terminal*>(self);
  }

  /// libedit's reader: 1 and a character, 0 at the end, -1 after Ctrl-C or an error.
  int read_character(wchar_t* character) {
    for (;;) {
      pollfd ready[] = {{interrupt_pipe[0], POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
      if (poll(ready, 2, -1) < 0) {
        if (errno == EINTR) continue;
        return -1;
      }
      if (ready[0].revents != 0) {
        interrupted = true;
        return -1;
      }
      char byte = 0;
      const ssize_t n = ::read(STDIN_FILENO, &byte, 1);
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n <= 0) return static_cast<int>(n);
      const size_t length = std::mbrtowc(character, &byte, 1, &partial_character);
      if (length <= 1) return 1;
      if (length == static_cast<size_t>(-1)) partial_character = {};  // not of the locale's encoding: dropped
    }
  }

  void remember(const std::string& line) const {
    HistEvent event{};
    ::history(history, &event, H_ENTER, line.c_str());
    if (history_file.empty()) return;
    const mode_t old_mask = umask(077);  // what one asks a model is nobody else's business
    ::history(history, &event, H_SAVE, history_file.c_str());
    umask(old_mask);
  }
};

LineEditor::LineEditor(const std::filesystem::path& history) {
  if (isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1) terminal_ = std::make_unique<Terminal>(history);
}

LineEditor::~LineEditor() = default;

LineEditor::Result LineEditor::read(const std::string& prompt, std::string& line) {
  if (!terminal_) {
    if (!std::getline(std::cin, line)) return Result::kEnd;
    if (line.ends_with('\r')) line.pop_back();
    return Result::kLine;
  }
  terminal_->prompt = prompt;
  terminal_->interrupted = false;
  forget_interrupts();
  int count = 0;
  const char* text = el_gets(terminal_->editor, &count);
  if (terminal_->interrupted || text == nullptr || count <= 0) {
    if (terminal_->interrupted) el_reset(terminal_->editor);
    std::fputs("\n", stdout);
    std::fflush(stdout);
    return terminal_->interrupted && !termination_requested() ? Result::kInterrupted : Result::kEnd;
  }
  line.assign(text, static_cast<size_t>(count));
  while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
  if (!line.empty()) terminal_->remember(line);
  return Result::kLine;
}

std::filesystem::path history_path() {
  std::filesystem::path folder;
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  if (state != nullptr && *state == '/') {
    folder = state;
  } else if (home != nullptr && *home == '/') {
    folder = std::filesystem::path(home) / ".local" / "state";
  } else {
    return {};
  }
  folder /= "metal-marlin";
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  return error ? std::filesystem::path() : folder / "chat_history";
}

}  // namespace marlin::cli
