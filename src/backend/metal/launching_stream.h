// A stream whose ops are dispatches of the launch code. What runs them is `Engine`, which is Commands and knows how to
// upload, submit, wait and read. A `Turn` of the engine lasts for one op: it holds the engine's lock, and whatever else
// the engine needs meanwhile.
#pragma once

#include <memory>
#include <span>
#include <utility>

#include "backend/backend.h"
#include "backend/metal/launch.h"

namespace marlin::metal {

template <typename Engine, typename Turn>
class LaunchingStream final : public Stream {
 public:
  explicit LaunchingStream(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}

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
    const Turn turn(*engine_);
    engine_->upload(to, bytes);
  }

  Fence submit() override {
    const Turn turn(*engine_);
    return {engine_->submit()};
  }

  void read(const Completed& done, View from, std::span<std::byte> bytes) override {
    if (bytes.empty()) return;
    const Turn turn(*engine_);
    engine_->read(done.serial(), from, bytes);
  }

 protected:
  void wait_for(Fence fence) override {
    const Turn turn(*engine_);
    engine_->wait(fence.serial);
  }

 private:
  template <typename Count, typename Launch, typename Args>
  void run(Count count, Launch launch, const Args& args) {
    if (count == 0) return;
    const Turn turn(*engine_);
    launch(*engine_, args);
  }

  std::shared_ptr<Engine> engine_;
};

}  // namespace marlin::metal
