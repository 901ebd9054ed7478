// A file that appears under its name only when it is whole.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace marlin {

/// Writes to `path` + ".partial"; commit() fsyncs and renames it to `path`. Destroyed before that, it removes the
/// temporary file, so that a failed or interrupted write never leaves something that looks like a whole file.
/// A symbolic link stays one: the file it points to is replaced. Devices and pipes are written to directly.
class AtomicFile {
 public:
  /// Throws Error{kUsage} for a directory, Error{kIo} when the temporary file cannot be created.
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Throws Error{kIo} (disk full, quota) with the path.
  void write(std::span<const std::byte> bytes);
  void commit();

 private:
  [[noreturn]] void fail(const char* action, int reason) const;

  std::filesystem::path path_;
  std::filesystem::path temporary_;  // empty: written directly
  int fd_ = -1;
};

}  // namespace marlin
