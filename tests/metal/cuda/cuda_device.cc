#include "metal/cuda/cuda_device.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <mutex>

#include "backend/metal/launching_stream.h"
#include "metal/cuda/cuda_engine.h"

namespace marlin::metal_on_cuda {
namespace {

class Turn {
 public:
  explicit Turn(CudaEngine& engine) : lock_(engine.mutex()) {}

 private:
  std::lock_guard<std::mutex> lock_;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(bool deterministic) : engine_(std::make_shared<CudaEngine>(deterministic)) {
    cudaDeviceProp properties{};
    cudaGetDeviceProperties(&properties, 0);
    info_.name = kName;
    info_.description = fmt::format("{}, Metal's shaders by CUDA", properties.name);
    info_.memory_budget = properties.totalGlobalMem;
    info_.half_prompts = !deterministic;
  }

  DeviceInfo info() const override { return info_; }
  DType activation_type() const override { return DType::kF32; }
  std::unique_ptr<Buffer> allocate(size_t bytes) override { return std::make_unique<CudaBuffer>(bytes, true); }
  std::unique_ptr<Buffer> bind(std::span<const std::byte> bytes, std::shared_ptr<const void>) override {
    auto buffer = std::make_unique<CudaBuffer>(bytes.size(), false);
    buffer->fill(bytes);
    return buffer;
  }
  std::unique_ptr<Stream> make_stream() override {
    return std::make_unique<metal::LaunchingStream<CudaEngine, Turn>>(engine_);
  }

 private:
  DeviceInfo info_;
  std::shared_ptr<CudaEngine> engine_;
};

}  // namespace

std::string why_not() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return count > 0 ? "" : "no NVIDIA GPU";
}

std::unique_ptr<Device> make_cuda_device(const DeviceOptions& options) {
  return std::make_unique<CudaDevice>(options.deterministic);
}

}  // namespace marlin::metal_on_cuda
