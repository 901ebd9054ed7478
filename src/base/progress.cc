#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

namespace marlin {

ProgressBar::ProgressBar(std::string title) : title_(std::move(title)), terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::fputs("\r\x1b[K", stderr);
}

void ProgressBar::update(uint64_t done, uint64_t total, const std::string& item) {
  if (!terminal_ || total == 0) return;
  using namespace std::chrono;
  const int64_t now_ms = duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
  if (done < total && now_ms - last_draw_ms_ < 100) return;
  last_draw_ms_ = now_ms;
  drawn_ = true;
  constexpr uint64_t kWidth = 24;
  const uint64_t filled = std::min(kWidth, kWidth * done / total);
  std::fputs(fmt::format("\r\x1b[K{} [{:#<{}}{:.<{}}] {:3d} % {:.60}", title_, "", filled, "", kWidth - filled,
                         100 * done / total, item)
                 .c_str(),
             stderr);
}

}  // namespace marlin
