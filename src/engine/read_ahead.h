// Reads a checkpoint's files in order on a thread of its own while the first requests run already.
#pragma once

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "base/mapped_file.h"

namespace marlin {

/// Without it, every first use of 64 KiB of weights is a page fault in the middle of a kernel; with 64 experts a layer
/// that goes on for many tokens (PERF.md). Destroying it stops it within one piece.
class ReadAhead {
 public:
  explicit ReadAhead(std::vector<std::shared_ptr<const MappedFile>> files);
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

 private:
  void run() const;

  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace marlin
