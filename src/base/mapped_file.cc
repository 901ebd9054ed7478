#include "base/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "marlin/error.h"

namespace marlin {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kReadPiece = size_t{64} << 20;

struct FileDescriptor {
  int fd;
  ~FileDescriptor() {
    if (fd >= 0) close(fd);
  }
};

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path, Placement placement) {
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
  if (size == 0) return std::shared_ptr<const MappedFile>(new MappedFile(path, nullptr, 0, nullptr, 0));
  if (placement == Placement::kCopied) return copy(path, file.fd, size);
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) {
    throw Error(ErrorCode::kIo, fmt::format("cannot map {} ({} bytes): {}", path.string(), size, std::strerror(errno)));
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(path, data, size, static_cast<const std::byte*>(data), size));
}

std::shared_ptr<const MappedFile> MappedFile::copy(const std::filesystem::path& path, int fd, size_t size) {
  // The system gives huge pages only to whole, aligned ones.
  const size_t mapped = size + kHugePage;
  void* mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) {
    throw Error(ErrorCode::kNoMemory, fmt::format("no room for a copy of {} ({} bytes): {}; leave --load out",
                                                  path.string(), size, std::strerror(errno)));
  }
  auto* data = static_cast<std::byte*>(mapping);
  data += (kHugePage - reinterpret_cast<uintptr_t>(data) % kHugePage) % kHugePage;
  std::shared_ptr<const MappedFile> file(new MappedFile(path, mapping, mapped, data, size));
#if defined(MADV_HUGEPAGE)
  madvise(data, size, MADV_HUGEPAGE);
#endif
  for (size_t done = 0; done < size;) {
    const ssize_t n = pread(fd, data + done, std::min(size - done, kReadPiece), static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      throw Error(ErrorCode::kIo, fmt::format("cannot read {} at byte {}: {}", path.string(), done,
                                              n < 0 ? std::strerror(errno) : "it has become shorter"));
    }
    done += static_cast<size_t>(n);
#if defined(POSIX_FADV_DONTNEED)
    posix_fadvise(fd, 0, static_cast<off_t>(done), POSIX_FADV_DONTNEED);  // not in memory twice
#endif
  }
  mprotect(mapping, mapped, PROT_READ);
  return file;
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

void MappedFile::lock() const {
  if (size_ == 0 || mlock(data_, size_) == 0) return;
  const int reason = errno;
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  const std::string most = limit.rlim_cur == RLIM_INFINITY
                               ? "unlimited"
                               : fmt::format("{} KiB", static_cast<uint64_t>(limit.rlim_cur) / 1024);
  throw Error(ErrorCode::kNoMemory,
              fmt::format("cannot lock {} ({} bytes) in memory: {}; the limit is {} (ulimit -l): raise it, or leave "
                          "--mlock out",
                          path_.string(), size_, std::strerror(reason), most));
}

MappedFile::~MappedFile() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_);
}

}  // namespace marlin
