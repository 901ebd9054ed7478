#include "cli/line_editor.h"

#include <histedit.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>

namespace marlin::cli {
namespace {

constexpr int kHistoryLines = 1000;

// Installed without SA_RESTART: its only effect is that the read of the terminal ends with EINTR.
void do_nothing(int /*signal*/) {}

}  // namespace

struct LineEditor::Terminal {
  EditLine* editor = nullptr;
  History* history = nullptr;
  std::string prompt;
  std::string history_file;
  struct sigaction old_int {};

  explicit Terminal(const std::filesystem::path& file) : history_file(file.string()) {
    // libedit reads characters of the locale; without a UTF-8 one it would take bytes apart.
    const char* locale = std::setlocale(LC_CTYPE, "");
    if (locale == nullptr || std::string_view(locale) == "C" || std::string_view(locale) == "POSIX") {
      std::setlocale(LC_CTYPE, "C.UTF-8");
    }
    struct sigaction action {};
    action.sa_handler = do_nothing;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &old_int);

    HistEvent event{};
    history = history_init();
    ::history(history, &event, H_SETSIZE, kHistoryLines);
    ::history(history, &event, H_SETUNIQUE, 1);
    if (!history_file.empty()) ::history(history, &event, H_LOAD, history_file.c_str());

    editor = el_init("metal-marlin", stdin, stdout, stderr);
    el_set(editor, EL_CLIENTDATA, this);
    el_set(
        editor, EL_PROMPT, +[](EditLine* e) -> char* {
          void* self = nullptr;
          el_get(e, EL_CLIENTDATA, &self);
          return static_cast<Terminal*>(self)->prompt.data();
        });
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
  }

  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

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
  int count = 0;
  errno = 0;
  const char* text = el_gets(terminal_->editor, &count);
  if (text == nullptr || count <= 0) {
    const bool interrupted = count < 0 && errno == EINTR;
    if (interrupted) el_reset(terminal_->editor);
    std::fputs("\n", stdout);
    std::fflush(stdout);
    return interrupted ? Result::kInterrupted : Result::kEnd;
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
