#include "backend/reference/reference_device.h"

#include <utility>

#include "backend/reference/host_memory.h"
#include "backend/reference/reference_stream.h"
#include "base/memory.h"

namespace marlin {
namespace {

class ReferenceDevice final : public Device {
 public:
  DeviceInfo info() const override {
    return {"reference", "double-precision oracle, for tests and diagnosis; very slow", memory_status().total, 1};
  }
  DType activation_type() const override { return DType::kF64; }
  KvType kv_type(KvType /*requested*/) const override { return KvType::kF64; }

  std::unique_ptr<Buffer> allocate(size_t bytes) override { return std::make_unique<reference::HostBuffer>(bytes); }
  std::unique_ptr<Buffer> bind(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) override {
    return std::make_unique<reference::HostBuffer>(bytes, std::move(owner));
  }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<reference::ReferenceStream>(serial_); }

 private:
  // One count for all streams, so that a fence of one stream can be compared with a buffer another one wrote.
  std::shared_ptr<reference::Serial> serial_ = std::make_shared<reference::Serial>(0);
};

}  // namespace

std::unique_ptr<Device> make_reference_device(const DeviceOptions& /*options*/) {
  return std::make_unique<ReferenceDevice>();
}

}  // namespace marlin
