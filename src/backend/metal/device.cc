#include "backend/metal/device.h"

#include <fmt/format.h>

#include <mutex>
#include <utility>

#include "backend/metal/engine.h"
#include "backend/metal/launch.h"
#include "backend/metal/metal_buffer.h"
#include "backend/metal/objc.h"
#include "marlin/error.h"

namespace marlin {
namespace metal {
namespace {

class MetalStream final : public Stream {
 public:
  explicit MetalStream(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}

  void embed(const EmbedArgs& args) override { run(args.rows, metal::embed, args); }
  void rms_norm(const RmsNormArgs& args) override { run(args.rows, metal::rms_norm, args); }
  void linear(const LinearArgs& args) override { run(args.rows, metal::linear, args); }
  void add(const AddArgs& args) override { run(args.rows, metal::add, args); }
  void rope(const RopeArgs& args) override {
    run(
        args.rows, [](Commands& commands, const RopeArgs& a) { metal::rope(commands, a); }, args);
  }
  void kv_write(const KvWriteArgs& args) override {
    run(
        args.batch->n_tokens, [](Commands& commands, const KvWriteArgs& a) { metal::kv_write(commands, a); }, args);
  }
  void mla_absorb(const MlaAbsorbArgs& args) override { run(args.rows, metal::mla_absorb, args); }
  void mla_attend(const MlaAttendArgs& args) override { run(args.batch->n_tokens, metal::mla_attend, args); }
  void mla_unabsorb(const MlaUnabsorbArgs& args) override { run(args.rows, metal::mla_unabsorb, args); }
  void mla_expanded(const MlaExpandedArgs& args) override { run(args.batch->n_tokens, metal::mla_expanded, args); }
  void route(const RouteArgs& args) override { run(args.rows, metal::route, args); }
  void expert_linear(const ExpertLinearArgs& args) override { run(args.rows, metal::expert_linear, args); }
  void swiglu(const SwigluArgs& args) override { run(args.rows, metal::swiglu, args); }
  void expert_sum(const ExpertSumArgs& args) override {
    run(
        args.rows, [](Commands& commands, const ExpertSumArgs& a) { metal::expert_sum(commands, a); }, args);
  }
  void gather_rows(const GatherRowsArgs& args) override { run(args.rows, metal::gather_rows, args); }
  void sample(const SampleArgs& args) override { run(args.rows, metal::sample, args); }
  void copy(const CopyArgs& args) override { run(args.bytes, metal::copy, args); }
  void check_finite(const CheckFiniteArgs& args) override { run(1, metal::check_finite, args); }
  bool has_fused_moe() const override { return true; }
  void fused_moe(const FusedMoeArgs& args) override { run(args.rows, metal::fused_moe, args); }

  bool has_fused_layer() const override { return true; }
  void normed_linears(const NormedLinearsArgs& args) override { run(args.rows, metal::normed_linears, args); }
  void mla_prepare(const MlaPrepareArgs& args) override { run(args.batch->n_tokens, metal::mla_prepare, args); }
  void mla_absorbed(const MlaAbsorbedArgs& args) override { run(args.batch->n_tokens, metal::mla_absorbed, args); }
  void normed_route(const NormedRouteArgs& args) override { run(args.route.rows, metal::normed_route, args); }
  void linear_add(const LinearArgs& args) override { run(args.rows, metal::linear_add, args); }

  void upload(View to, std::span<const std::byte> bytes) override {
    if (bytes.empty()) return;
    const std::lock_guard lock(engine_->mutex());
    const AutoreleasePool pool;
    engine_->upload(to, bytes);
  }

  Fence submit() override {
    const std::lock_guard lock(engine_->mutex());
    const AutoreleasePool pool;
    return {engine_->submit()};
  }

  void read(const Completed& done, View from, std::span<std::byte> bytes) override {
    if (bytes.empty()) return;
    const std::lock_guard lock(engine_->mutex());
    engine_->read(done.serial(), from, bytes);
  }

 protected:
  void wait_for(Fence fence) override {
    const std::lock_guard lock(engine_->mutex());
    const AutoreleasePool pool;
    engine_->wait(fence.serial);
  }

 private:
  template <typename Count, typename Launch, typename Args>
  void run(Count count, Launch launch, const Args& args) {
    if (count == 0) return;
    const std::lock_guard lock(engine_->mutex());
    const AutoreleasePool pool;
    launch(*engine_, args);
  }

  std::shared_ptr<Engine> engine_;
};

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
