// Host memory behind a Buffer of the CPU device.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "ops/ops.h"

namespace marlin::cpu {

class CpuBuffer : public Buffer {
 public:
  /// Fresh zeroed pages of the system, committed when first written. Throws Error{kNoMemory}.
  static std::unique_ptr<CpuBuffer> map(size_t bytes);
  /// Memory of someone else, kept alive by `owner`, never written.
  CpuBuffer(const std::byte* data, size_t bytes, std::shared_ptr<const void> owner)
      : Buffer(bytes), data_(const_cast<std::byte*>(data)), owner_(std::move(owner)) {}
  ~CpuBuffer() override;

  const std::byte* data() const { return data_; }
  /// For an op that writes: the work with this serial covers the buffer's newest content.
  std::byte* written_by(uint64_t serial) {
    last_write_.store(serial, std::memory_order_relaxed);
    return data_;
  }
  bool writable() const { return mapped_; }
  uint64_t last_write() const { return last_write_.load(std::memory_order_relaxed); }

 private:
  CpuBuffer(std::byte* data, size_t bytes) : Buffer(bytes), data_(data), mapped_(true) {}

  std::byte* data_;
  bool mapped_ = false;
  std::shared_ptr<const void> owner_;
  std::atomic<uint64_t> last_write_{0};
};

}  // namespace marlin::cpu
