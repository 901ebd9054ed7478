// What a kernel gets: the threads, scratch memory and pointers into buffers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "backend/cpu/cpu_buffer.h"
#include "backend/cpu/kernels/family.h"
#include "base/check.h"
#include "base/thread_pool.h"
#include "ops/ops.h"

namespace marlin::cpu {

/// Elements from the first of row 0 to the last of the last row.
constexpr int64_t extent(int64_t rows, int64_t stride, int64_t width) {
  return rows == 0 ? 0 : (rows - 1) * stride + width;
}

/// One scratch area a worker.
template <typename T>
class PerWorker {
 public:
  PerWorker(T* base, size_t stride) : base_(base), stride_(stride) {}
  T* operator[](int worker) const { return base_ + stride_ * static_cast<size_t>(worker); }

 private:
  T* base_;
  size_t stride_;
};

/// Scratch areas that are alive at the same time have different names; each keeps the largest size ever asked for, so
/// that a step of a known size allocates nothing.
enum class Scratch {
  kWeights,
  kGain,
  kRows,
  kScores,
  kQuery,
  kState,
  kKeys,
  kValues,
  kTokens,
  kOffsets,
  kPlanes,
  kHiddenPlanes,
  kPartialState,
  kPartialSums,
  kCount
};

class Context {
 public:
  Context(const std::vector<ThreadPlace>& places, const Family& kernels, bool one_class)
      : family(kernels), deterministic(one_class), pool(places) {}

  const Family& family;
  const bool deterministic;  // a token's role chooses no precision
  ThreadPool pool;
  uint64_t serial = 1;  // of the work being enqueued

  template <typename T>
  const T* in(View view, int64_t count) const {
    return reinterpret_cast<const T*>(checked(view, static_cast<size_t>(count) * sizeof(T)).data() + view.offset);
  }

  template <typename T>
  T* out(View view, int64_t count) const {
    CpuBuffer& buffer = checked(view, static_cast<size_t>(count) * sizeof(T));
    MARLIN_CHECK(buffer.writable(), "an op writes to bound memory of {} bytes", buffer.size());
    return reinterpret_cast<T*>(buffer.written_by(serial) + view.offset);
  }

  /// Must be called outside a parallel region: it may allocate.
  template <typename T>
  T* shared(Scratch name, int64_t count) {
    return static_cast<T*>(reserve(name, static_cast<size_t>(count) * sizeof(T)));
  }
  template <typename T>
  PerWorker<T> per_worker(Scratch name, int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + kLine - 1) / kLine * kLine;
    return {static_cast<T*>(reserve(name, bytes * static_cast<size_t>(pool.size()))), bytes / sizeof(T)};
  }

 private:
  static constexpr size_t kLine = 64;
  struct Area {
    std::unique_ptr<std::byte[]> memory;
    size_t size = 0;
  };

  static CpuBuffer& checked(View view, size_t bytes) {
    MARLIN_CHECK(view.buffer != nullptr, "an op's view of {} bytes is empty", bytes);
    MARLIN_CHECK(view.offset <= view.buffer->size() && bytes <= view.buffer->size() - view.offset,
                 "{} bytes at offset {} of a buffer of {}", bytes, view.offset, view.buffer->size());
    return static_cast<CpuBuffer&>(*view.buffer);
  }

  void* reserve(Scratch name, size_t bytes) {
    Area& area = areas_[static_cast<size_t>(name)];
    if (area.size < bytes + kLine) {
      area.memory.reset();
      area.memory = std::make_unique_for_overwrite<std::byte[]>(bytes + kLine);
      area.size = bytes + kLine;
    }
    void* start = area.memory.get();
    size_t space = area.size;
    return std::align(kLine, bytes, start, space);
  }

  std::array<Area, static_cast<size_t>(Scratch::kCount)> areas_;
};

}  // namespace marlin::cpu
