// safetensors files: a u64 header length, a JSON header, then the tensors' bytes without holes.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "format/dtype.h"

namespace marlin {

class AtomicFile;

/// One tensor inside a mapped file. `data` points into the mapping and is checked against its bounds.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
  std::shared_ptr<const MappedFile> file;  // keeps `data` alive; null for tensors made in memory
  std::shared_ptr<const void> owner;       // keeps `data` alive when the reader had to copy it; null otherwise

  int64_t elements() const;
  /// "BF16 [256, 128]" for messages.
  std::string describe() const;
};

/// A read-only safetensors file. Before any view exists it has checked: header length (at most 100,000,000 and inside
/// the file), JSON form, known dtypes, non-negative shapes whose byte size does not overflow and equals the offsets'
/// distance, no duplicate names, offsets contiguous from 0 and covering the file, no overlaps.
class SafetensorsFile {
 public:
  /// Throws Error{kNotFound|kIo|kBadFile} naming the file and tensor.
  static SafetensorsFile open(const std::filesystem::path& path);
  /// The same checks over bytes in memory (fuzzing); `name` is used in messages. Views are valid while `bytes` is.
  static SafetensorsFile parse(std::span<const std::byte> bytes, std::string_view name);

  const std::vector<TensorView>& tensors() const { return tensors_; }  // in file order
  const TensorView* find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// Offset of the first tensor byte in the file.
  size_t data_start() const { return data_start_; }

 private:
  std::vector<TensorView> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
  size_t data_start_ = 0;
};

/// What a writer must know of each tensor before the first byte is written.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  /// Throws Error{kUsage} when the shape is negative or its size overflows.
  size_t bytes() const;
};

/// The first bytes of a file with these tensors: header length, JSON, and spaces up to a multiple of 16,384, where the
/// data starts. Throws Error{kUsage} on a repeated name or a shape that cannot be.
std::string safetensors_header(const std::vector<TensorSpec>& specs,
                               const std::map<std::string, std::string>& metadata = {});

/// Streams one safetensors file: the header first (padded with spaces so that data starts on a 16,384-byte boundary),
/// then the tensors in the order of the specs. Writes to a temporary name beside `path`; finish() fsyncs and renames.
/// Destroyed without finish(), it removes the temporary file. Throws Error{kIo} (disk full, permission) with the path.
class SafetensorsWriter {
 public:
  SafetensorsWriter(std::filesystem::path path, const std::vector<TensorSpec>& specs,
                    const std::map<std::string, std::string>& metadata = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// Appends bytes of the next tensors; a tensor may come in several pieces. finish() checks that all bytes came:
  /// Error{kUsage} when there were more or fewer than the specs say.
  void append(std::span<const std::byte> bytes);
  void finish();

 private:
  void flush();

  std::filesystem::path path_;
  size_t expected_ = 0;
  size_t written_ = 0;
  std::vector<std::byte> buffer_;
  std::unique_ptr<AtomicFile> file_;
};

/// Writes `text` (or bytes) atomically: temporary name, fsync, rename. Throws Error{kIo}.
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// Reads a whole small text file. Throws Error{kNotFound|kIo}; kBadFile above `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, size_t max_bytes = size_t{64} << 20);

}  // namespace marlin
