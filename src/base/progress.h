// Progress of something long. The library reports; only the CLI draws.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace marlin {

/// Called with the units done and in all, and what is being worked on now. May be empty.
using ProgressFn = std::function<void(uint64_t done, uint64_t total, const std::string& item)>;

/// A one-line bar on stderr when that is a terminal, nothing otherwise; redrawn at most ten times a second.
class ProgressBar {
 public:
  explicit ProgressBar(std::string title);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(uint64_t done, uint64_t total, const std::string& item);
  ProgressFn callback() {
    return [this](uint64_t done, uint64_t total, const std::string& item) { update(done, total, item); };
  }

 private:
  std::string title_;
  bool terminal_;
  bool drawn_ = false;
  int64_t last_draw_ms_ = 0;
};

}  // namespace marlin
