// A whole file in memory, read-only: mapped, or copied into huge pages. It is the lifetime of every pointer into a
// checkpoint.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace marlin {

/// Where a file's bytes lie: in the system's page cache, or in memory of this process, in huge pages where the system
/// has them.
enum class Placement { kMapped, kCopied };

class MappedFile {
 public:
  /// Throws Error{kNotFound} when `path` is absent, Error{kIo} when it cannot be opened, read or mapped or is not a
  /// regular file, Error{kNoMemory} when there is no room for the copy. An empty file gives an empty span.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path,
                                                Placement placement = Placement::kMapped);

  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// Page-aligned start; valid as long as this object lives.
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  /// Brings bytes [offset, offset + length) into memory and into this process's page tables, so that their first use
  /// costs no fault; blocks while the disk reads. `offset` is a multiple of the page size. Only a hint: a failure shows
  /// later, as any page that cannot be read.
  void read_ahead(size_t offset, size_t length) const;

  /// Reads everything and keeps it from being paged out. Throws Error{kNoMemory} with the system's limit.
  void lock() const;

 private:
  MappedFile(std::filesystem::path path, void* mapping, size_t mapped, const std::byte* data, size_t size)
      : path_(std::move(path)), mapping_(mapping), mapped_(mapped), data_(data), size_(size) {}
  static std::shared_ptr<const MappedFile> copy(const std::filesystem::path& path, int fd, size_t size);

  std::filesystem::path path_;
  void* mapping_;  // of mapped_ bytes, in which the file's lie
  size_t mapped_;
  const std::byte* data_;
  size_t size_;
};

}  // namespace marlin
