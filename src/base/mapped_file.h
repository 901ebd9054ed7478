// A whole file mapped read-only. The mapping is the lifetime of every pointer into a checkpoint.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace marlin {

class MappedFile {
 public:
  /// Maps `path` read-only. Throws Error{kNotFound} when it is absent, Error{kIo} when it cannot be opened, is not a
  /// regular file or cannot be mapped. An empty file gives an empty span.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);

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

 private:
  MappedFile(std::filesystem::path path, const std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  std::filesystem::path path_;
  const std::byte* data_;
  size_t size_;
};

}  // namespace marlin
