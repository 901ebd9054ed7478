#include "base/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "marlin/error.h"

namespace marlin {
namespace {

struct FileDescriptor {
  int fd;
  ~FileDescriptor() {
    if (fd >= 0) close(fd);
  }
};

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const FileDescriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) {
    const int reason = errno;
    throw Error(reason == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo,
                fmt::format("cannot open {}: {}", path.string(), std::strerror(reason)));
  }
  struct stat status {};
  if (fstat(file.fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::kIo, fmt::format("{} is not a regular file; expected a file to map", path.string()));
  }
  const auto size = static_cast<size_t>(status.st_size);
  if (size == 0) return std::shared_ptr<const MappedFile>(new MappedFile(path, nullptr, 0));
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) {
    throw Error(ErrorCode::kIo, fmt::format("cannot map {} ({} bytes): {}", path.string(), size, std::strerror(errno)));
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(path, static_cast<const std::byte*>(data), size));
}

void MappedFile::read_ahead(size_t offset, size_t length) const {
  if (offset >= size_) return;
  void* start = const_cast<std::byte*>(data_) + offset;
  length = std::min(length, size_ - offset);
#if defined(MADV_POPULATE_READ)
  if (madvise(start, length, MADV_POPULATE_READ) == 0) return;
#endif
  madvise(start, length, MADV_WILLNEED);  // before Linux 5.14, and on other systems
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace marlin
