#include "backend/metal/metal_buffer.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "marlin/error.h"

namespace marlin::metal {
namespace {

size_t page_size() {
  static const auto size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

size_t whole_pages(size_t bytes) {
  return (std::max<size_t>(bytes, 1) + page_size() - 1) / page_size() * page_size();
}

std::byte* map_pages(size_t bytes) {
  // MAP_NORESERVE: a cache sized for the longest context takes memory only for the positions that are used.
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
  flags |= MAP_NORESERVE;
#endif
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (data == MAP_FAILED) {
    throw Error(ErrorCode::kNoMemory,
                fmt::format("cannot allocate {} bytes of memory: {}", bytes, std::strerror(errno)));
  }
  return static_cast<std::byte*>(data);
}

}  // namespace

MetalBuffer::MetalBuffer(size_t size, std::byte* data, size_t mapped_bytes, bool writable,
                         std::shared_ptr<const void> owner, Release release)
    : Buffer(size),
      data_(data),
      mapped_bytes_(mapped_bytes),
      writable_(writable),
      owner_(std::move(owner)),
      release_(std::move(release)) {}

// The handles go before the pages that they refer to.
MetalBuffer::~MetalBuffer() {
  if (release_) release_(*this);
  windows_.clear();
  if (mapped_bytes_ > 0) munmap(data_, mapped_bytes_);
}

std::unique_ptr<MetalBuffer> MetalBuffer::allocate(Id device, size_t bytes, Release release) {
  const size_t mapped = whole_pages(bytes);
  std::unique_ptr<MetalBuffer> buffer(
      new MetalBuffer(bytes, map_pages(mapped), mapped, true, nullptr, std::move(release)));
  const uint64_t longest = device::max_buffer_length(device);
  if (mapped > longest) {
    throw Error(ErrorCode::kNoMemory,
                fmt::format("a Metal buffer of {} bytes is wanted, and this GPU allows {}; use a smaller context",
                            bytes, longest));
  }
  buffer->make_windows(device, mapped);
  return buffer;
}

std::unique_ptr<MetalBuffer> MetalBuffer::bind(Id device, const std::byte* data, size_t bytes,
                                               std::shared_ptr<const void> owner, Release release) {
  if (reinterpret_cast<uintptr_t>(data) % page_size() != 0) {
    std::unique_ptr<MetalBuffer> copy = allocate(device, bytes, std::move(release));
    std::memcpy(copy->data_, data, bytes);
    copy->writable_ = false;
    return copy;
  }
  std::unique_ptr<MetalBuffer> buffer(
      new MetalBuffer(bytes, const_cast<std::byte*>(data), 0, false, std::move(owner), std::move(release)));
  buffer->make_windows(device, whole_pages(bytes));  // a mapped file's last page can be read to its end
  return buffer;
}

void MetalBuffer::make_windows(Id device, size_t bytes) {
  const size_t longest = device::max_buffer_length(device) / page_size() * page_size();
  window_bytes_ = std::min(bytes, longest);
  window_step_ = bytes <= longest ? bytes : longest / 2 / page_size() * page_size();
  for (size_t begin = 0; begin < bytes; begin += window_step_) {
    const size_t length = std::min(window_bytes_, bytes - begin);
    Window window;
    window.handle = device::new_buffer_no_copy(device, data_ + begin, length, kResourceStorageModeShared);
    if (!window.handle) {
      throw Error(
          ErrorCode::kNoMemory,
          fmt::format("Metal refused a buffer of {} bytes; {} of its working set of {} bytes are in use", length,
                      device::current_allocated_size(device), device::recommended_max_working_set_size(device)));
    }
    window.address = buffer::gpu_address(window.handle.get());
    windows_.push_back(std::move(window));
    if (begin + length == bytes) break;
  }
}

Place MetalBuffer::place(size_t offset, size_t bytes) const {
  MARLIN_CHECK(offset <= size() && bytes <= size() - offset, "{} bytes at {} of a buffer of {}", bytes, offset, size());
  size_t index = std::min(offset / window_step_, windows_.size() - 1);
  const size_t begin = index * window_step_;
  MARLIN_CHECK(offset - begin + bytes <= window_bytes_,
               "{} bytes at {}: longer than half of Metal's longest buffer, {}", bytes, offset, window_bytes_);
  const Window& window = windows_[index];
  return {window.handle.get(), offset - begin, window.address + (offset - begin)};
}

}  // namespace marlin::metal
