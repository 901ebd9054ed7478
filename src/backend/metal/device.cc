#include "backend/metal/device.h"

#include <fmt/format.h>

#include <mutex>
#include <utility>

#include "backend/metal/engine.h"
#include "backend/metal/launching_stream.h"
#include "backend/metal/metal_buffer.h"
#include "backend/metal/objc.h"
#include "marlin/error.h"

namespace marlin {
namespace metal {
namespace {

class Turn {
 public:
  explicit Turn(Engine& engine) : lock_(engine.mutex()) {}

 private:
  std::lock_guard<std::mutex> lock_;
  AutoreleasePool pool_;
};

using MetalStream = LaunchingStream<Engine, Turn>;

class MetalDevice final : public Device {
 public:
  MetalDevice(Object device, bool deterministic) {
    info_.name = MARLIN_METAL_NAME;
    info_.description = fmt::format("{}, Metal 3", device::name(device.get()));
    info_.memory_budget = device::recommended_max_working_set_size(device.get());
    info_.half_prompts = !deterministic;
    engine_ = std::make_shared<Engine>(std::move(device), deterministic);
  }

  DeviceInfo info() const override { return info_; }
  DType activation_type() const override { return DType::kF32; }

  std::unique_ptr<Buffer> allocate(size_t bytes) override {
    const AutoreleasePool pool;
    return MetalBuffer::allocate(engine_->device(), bytes, release());
  }

  std::unique_ptr<Buffer> bind(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) override {
    const AutoreleasePool pool;
    return MetalBuffer::bind(engine_->device(), bytes.data(), bytes.size(), std::move(owner), release());
  }

  std::unique_ptr<Stream> make_stream() override { return std::make_unique<MetalStream>(engine_); }

 private:
  MetalBuffer::Release release() const {
    return [engine = engine_](MetalBuffer& buffer) { engine->released(buffer); };
  }

  DeviceInfo info_;
  std::shared_ptr<Engine> engine_;
};

std::string unfit(Id device) {
  if (device == nullptr) return "this machine has no GPU that Metal can use";
  if (!device::supports_family(device, kGpuFamilyMetal3) || !device::supports_family(device, kGpuFamilyApple7)) {
    return fmt::format("{} is too old: it takes an M1 or newer, and macOS 13", device::name(device));
  }
  if (!device::has_unified_memory(device)) {
    return fmt::format("{} has memory of its own: weights are used in place, in unified memory", device::name(device));
  }
  const std::string missing = missing_selectors(device);
  return missing.empty() ? "" : fmt::format("Metal on this system is not the one we know: {}", missing);
}

}  // namespace
}  // namespace metal

std::string metal_why_not() {
  const metal::AutoreleasePool pool;
  return metal::unfit(metal::create_system_default_device().get());
}

std::unique_ptr<Device> make_metal_device(const DeviceOptions& options) {
  const metal::AutoreleasePool pool;
  metal::Object device = metal::create_system_default_device();
  const std::string why_not = metal::unfit(device.get());
  if (!why_not.empty()) throw Error(ErrorCode::kUnsupported, fmt::format("device {}: {}", MARLIN_METAL_NAME, why_not));
  return std::make_unique<metal::MetalDevice>(std::move(device), options.deterministic);
}

}  // namespace marlin
