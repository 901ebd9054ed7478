// Buffers of the reference device, and the only way to a pointer into them: with bounds, alignment and ownership
// checked. Violations abort (base/check.h): they are errors of the caller's code, never of its input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/check.h"
#include "ops/ops.h"
#include "ops/ref/weight_reader.h"

namespace marlin::reference {

class HostBuffer final : public Buffer {
 public:
  /// Zeroed memory. Throws Error{kNoMemory}.
  explicit HostBuffer(size_t bytes);
  /// Read-only memory that `owner` keeps alive.
  HostBuffer(std::span<const std::byte> bytes, std::shared_ptr<const void> owner);

  const std::byte* data() const { return data_; }
  /// For a write whose work has this serial. Aborts on a bound buffer.
  std::byte* data_for_write(uint64_t serial, const char* what);
  /// Serial of the latest write; 0 before the first.
  uint64_t last_write() const { return last_write_; }

 private:
  std::shared_ptr<const void> owner_;
  const std::byte* data_;
  std::byte* writable_ = nullptr;
  uint64_t last_write_ = 0;
};

/// The buffer behind a view, which must have `bytes` bytes. `what` names the op and the argument.
HostBuffer& host_buffer(View view, size_t bytes, const char* what);

/// Elements from the first to the last of a strided matrix; rows must not overlap.
int64_t extent(int64_t rows, int64_t stride, int64_t width, const char* what);

/// Resolves the views of one op. `serial` is that of the work which the op will be part of.
class Access {
 public:
  explicit Access(uint64_t serial) : serial_(serial) {}

  const std::byte* bytes(View view, int64_t count, const char* what) const;

  /// `count` elements that are read.
  template <typename T>
  const T* input(View view, int64_t count, const char* what) const {
    return aligned<const T>(bytes(view, count * static_cast<int64_t>(sizeof(T)), what), what);
  }
  /// `count` elements that are written.
  template <typename T>
  T* output(View view, int64_t count, const char* what) const {
    return aligned<T>(bytes_for_write(view, count * static_cast<int64_t>(sizeof(T)), what), what);
  }
  /// Optional arguments: null without a buffer.
  template <typename T>
  const T* optional_input(View view, int64_t count, const char* what) const {
    return view ? input<T>(view, count, what) : nullptr;
  }

  std::byte* bytes_for_write(View view, int64_t count, const char* what) const;

  ref::WeightReader weight(const LinearWeight* weight, const char* what) const;
  std::vector<ref::WeightReader> experts(const ExpertBank* bank, const char* what) const;
  std::vector<double> vector(const VectorWeight* weight, const char* what) const;

 private:
  template <typename T, typename Byte>
  static T* aligned(Byte* bytes, const char* what) {
    MARLIN_CHECK(reinterpret_cast<uintptr_t>(bytes) % alignof(T) == 0, "{}: the address is not a multiple of {}", what,
                 alignof(T));
    return reinterpret_cast<T*>(bytes);
  }

  uint64_t serial_;
};

}  // namespace marlin::reference
