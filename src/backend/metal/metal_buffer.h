// Device memory of the Metal backend: host memory that the GPU reads and writes in place.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "backend/metal/objc.h"
#include "ops/ops.h"

namespace marlin::metal {

/// Where a view begins in Metal's terms.
struct Place {
  Id buffer = nullptr;
  size_t offset = 0;
  uint64_t address = 0;  // for pointers in tables
};

class MetalBuffer : public Buffer {
 public:
  /// Called before the memory goes, to wait for work that uses it. None: the owner knows that there is none.
  using Release = std::function<void(MetalBuffer&)>;

  /// Fresh zeroed pages of the system, committed when first written. Throws Error{kNoMemory}.
  static std::unique_ptr<MetalBuffer> allocate(Id device, size_t bytes, Release release);
  /// Host memory of someone else, kept alive by `owner`, never written: in place where it begins at a page, else
  /// copied.
  static std::unique_ptr<MetalBuffer> bind(Id device, const std::byte* data, size_t bytes,
                                           std::shared_ptr<const void> owner, Release release);
  ~MetalBuffer() override;

  std::byte* data() const { return data_; }
  bool writable() const { return writable_; }
  /// Where the `bytes` from `offset` on lie.
  Place place(size_t offset, size_t bytes) const;

  /// The newest work that uses it, and that writes it.
  uint64_t last_use() const { return last_use_.load(std::memory_order_relaxed); }
  uint64_t last_write() const { return last_write_.load(std::memory_order_relaxed); }
  void used_by(uint64_t serial) { last_use_.store(serial, std::memory_order_relaxed); }
  void written_by(uint64_t serial) {
    last_use_.store(serial, std::memory_order_relaxed);
    last_write_.store(serial, std::memory_order_relaxed);
  }

 private:
  MetalBuffer(size_t size, std::byte* data, size_t mapped_bytes, bool writable, std::shared_ptr<const void> owner,
              Release release);
  void make_windows(Id device, size_t bytes);

  /// Metal limits a buffer's length, so a long file is seen through windows that overlap by half.
  struct Window {
    Object handle;
    uint64_t address = 0;
  };

  std::byte* data_;
  size_t mapped_bytes_;  // 0: not ours
  bool writable_;
  std::shared_ptr<const void> owner_;
  Release release_;
  std::vector<Window> windows_;
  size_t window_bytes_ = 0;
  size_t window_step_ = 0;
  std::atomic<uint64_t> last_use_{0};
  std::atomic<uint64_t> last_write_{0};
};

}  // namespace marlin::metal
