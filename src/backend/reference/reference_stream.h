// Resolves each op's views and calls the oracle (ops/ref) at once.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "backend/backend.h"
#include "backend/reference/host_memory.h"

namespace marlin::reference {

/// Serial of the last submitted work. Ops enqueued now belong to the next one.
using Serial = std::atomic<uint64_t>;

class ReferenceStream final : public Stream {
 public:
  explicit ReferenceStream(std::shared_ptr<Serial> serial) : serial_(std::move(serial)) {}

  void upload(View to, std::span<const std::byte> bytes) override;
  Fence submit() override;
  void read(const Completed& done, View from, std::span<std::byte> bytes) override;

  void embed(const EmbedArgs& args) override;
  void rms_norm(const RmsNormArgs& args) override;
  void linear(const LinearArgs& args) override;
  void add(const AddArgs& args) override;
  void rope(const RopeArgs& args) override;
  void kv_write(const KvWriteArgs& args) override;
  void mla_absorb(const MlaAbsorbArgs& args) override;
  void mla_attend(const MlaAttendArgs& args) override;
  void mla_unabsorb(const MlaUnabsorbArgs& args) override;
  void mla_expanded(const MlaExpandedArgs& args) override;
  void route(const RouteArgs& args) override;
  void expert_linear(const ExpertLinearArgs& args) override;
  void swiglu(const SwigluArgs& args) override;
  void expert_sum(const ExpertSumArgs& args) override;
  void gather_rows(const GatherRowsArgs& args) override;
  void sample(const SampleArgs& args) override;
  void copy(const CopyArgs& args) override;
  void check_finite(const CheckFiniteArgs& args) override;
  /// The decomposition, so that other devices' fused op has something to be compared with.
  void fused_moe(const FusedMoeArgs& args) override;

 protected:
  void wait_for(Fence fence) override;

 private:
  Access access() const { return Access(serial_->load() + 1); }

  std::shared_ptr<Serial> serial_;
};

}  // namespace marlin::reference
