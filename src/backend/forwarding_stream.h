// A stream that passes everything on to another one. Decorators (checking, tracing, test mutations) override what they
// are about. It has no fused layer, so that decorators see every part of a layer.
#pragma once

#include "backend/backend.h"

namespace marlin {

class ForwardingStream : public Stream {
 public:
  explicit ForwardingStream(Stream& inner) : inner_(inner) {}

  void mark(int layer, std::string_view part) override { inner_.mark(layer, part); }
  void embed(const EmbedArgs& args) override { inner_.embed(args); }
  void rms_norm(const RmsNormArgs& args) override { inner_.rms_norm(args); }
  void linear(const LinearArgs& args) override { inner_.linear(args); }
  void add(const AddArgs& args) override { inner_.add(args); }
  void rope(const RopeArgs& args) override { inner_.rope(args); }
  void kv_write(const KvWriteArgs& args) override { inner_.kv_write(args); }
  void mla_absorb(const MlaAbsorbArgs& args) override { inner_.mla_absorb(args); }
  void mla_attend(const MlaAttendArgs& args) override { inner_.mla_attend(args); }
  void mla_unabsorb(const MlaUnabsorbArgs& args) override { inner_.mla_unabsorb(args); }
  void mla_expanded(const MlaExpandedArgs& args) override { inner_.mla_expanded(args); }
  void route(const RouteArgs& args) override { inner_.route(args); }
  void expert_linear(const ExpertLinearArgs& args) override { inner_.expert_linear(args); }
  void swiglu(const SwigluArgs& args) override { inner_.swiglu(args); }
  void expert_sum(const ExpertSumArgs& args) override { inner_.expert_sum(args); }
  void gather_rows(const GatherRowsArgs& args) override { inner_.gather_rows(args); }
  void sample(const SampleArgs& args) override { inner_.sample(args); }
  void copy(const CopyArgs& args) override { inner_.copy(args); }
  void check_finite(const CheckFiniteArgs& args) override { inner_.check_finite(args); }
  bool has_fused_moe() const override { return inner_.has_fused_moe(); }
  void fused_moe(const FusedMoeArgs& args) override { inner_.fused_moe(args); }
  void upload(View to, std::span<const std::byte> bytes) override { inner_.upload(to, bytes); }
  Fence submit() override { return inner_.submit(); }
  void read(const Completed& done, View from, std::span<std::byte> bytes) override { inner_.read(done, from, bytes); }

 protected:
  void wait_for(Fence fence) override { inner_.wait(fence); }
  Stream& inner() { return inner_; }

 private:
  Stream& inner_;
};

}  // namespace marlin
