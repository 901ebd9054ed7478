// Runs the launch code of the Metal backend on an NVIDIA GPU: the shaders as generate.py --target cuda makes them, a
// stream of CUDA in place of a command queue, and an allocation of its own for each buffer, so that compute-sanitizer
// knows where one ends.
#pragma once

#include <driver_types.h>

#include <array>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "backend/metal/commands.h"
#include "metal/cuda/kernel_table.h"

namespace marlin::metal_on_cuda {

/// Device memory, zeroed.
class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(size_t size, bool writable);
  ~CudaBuffer() override;
  std::byte* data() const { return data_; }
  bool writable() const { return writable_; }
  void fill(std::span<const std::byte> bytes);
  /// The address of `bytes` from `offset` on (checked).
  std::byte* at(size_t offset, size_t bytes) const;

 private:
  std::byte* data_ = nullptr;
  bool writable_;
};

class CudaEngine final : public metal::Commands {
 public:
  explicit CudaEngine(bool deterministic);
  ~CudaEngine() override;

  std::mutex& mutex() { return mutex_; }

  // With the lock held:
  void upload(View to, std::span<const std::byte> bytes);
  uint64_t submit();
  void wait(uint64_t serial);
  void read(uint64_t completed, View from, std::span<std::byte> bytes) const;

  void kernel(const char* name, std::initializer_list<metal::Constant> constants) override;
  void in(int index, View view, size_t bytes) override;
  void out(int index, View view, size_t bytes) override;
  void experts(int index, const ExpertBank& bank) override;
  void bytes(int index, const void* data, size_t size) override;
  void threadgroup_memory(int index, size_t bytes) override;
  void dispatch(metal::Size threadgroups, metal::Size threads) override;
  View scratch(metal::Scratch slot, size_t bytes) override;
  bool deterministic() const override { return deterministic_; }

 private:
  void bind(int index, void* address);

  std::mutex mutex_;
  cudaStream_t stream_ = nullptr;
  bool deterministic_;
  uint64_t serial_ = 1;

  const Kernel* kernel_ = nullptr;
  std::array<unsigned, kConstants> constants_{};
  Arguments arguments_{};
  size_t bytes_used_ = 0;
  std::vector<std::unique_ptr<CudaBuffer>> retired_;  // that unfinished work may use
  std::array<std::unique_ptr<CudaBuffer>, static_cast<size_t>(metal::Scratch::kCount)> scratch_;
};

}  // namespace marlin::metal_on_cuda
