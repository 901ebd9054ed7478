#include "format/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>

#include "marlin/error.h"

namespace marlin {
namespace {

// Linux writes at most 2 GiB - 4 KiB a call, macOS refuses more than 2 GiB - 1.
constexpr size_t kMaxWrite = size_t{1} << 30;

// Makes a rename durable. Some file systems refuse to fsync a directory; the file itself is safe by then.
void sync_directory(const std::filesystem::path& directory) {
  const int fd = ::open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::status(path_, error);
  if (fs::is_directory(status)) {
    throw Error(ErrorCode::kUsage, fmt::format("{} is a directory; give the name of a file", path_.string()));
  }
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd_ < 0) fail("open", errno);
    return;
  }
  constexpr int kMostLinks = 40;
  for (int links = 0; fs::is_symlink(path_, error) && links < kMostLinks; ++links) {
    path_ = path_.parent_path() / fs::read_symlink(path_, error);
  }
  temporary_ = path_;
  temporary_ += ".partial";
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("create", errno);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

void AtomicFile::fail(const char* action, int reason) const {
  const char* advice = reason == ENOSPC || reason == EFBIG || reason == EDQUOT
                           ? "; free some space or choose another directory, nothing was left under this name"
                           : "; check the directory and its permissions";
  throw Error(ErrorCode::kIo,
              fmt::format("cannot {} {}: {}{}", action, (temporary_.empty() ? path_ : temporary_).string(),
                          std::strerror(reason), advice));
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), std::min(bytes.size(), kMaxWrite));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("write", errno);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void AtomicFile::commit() {
  if (temporary_.empty()) {
    const int fd = std::exchange(fd_, -1);
    if (close(fd) != 0) fail("close", errno);
    return;
  }
  if (fsync(fd_) != 0) fail("sync", errno);
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename", errno);
  close(fd_);
  fd_ = -1;
  sync_directory(path_.parent_path());
}

}  // namespace marlin
