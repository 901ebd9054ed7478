// One function an op, one file a family. Each has the meaning ops.h gives it.
#pragma once

#include "backend/cpu/context.h"
#include "ops/ops.h"

namespace marlin::cpu {

// elementwise.cc
void embed(Context& ctx, const EmbedArgs& args);
void rms_norm(Context& ctx, const RmsNormArgs& args);
void add(Context& ctx, const AddArgs& args);
void rope(Context& ctx, const RopeArgs& args);
void swiglu(Context& ctx, const SwigluArgs& args);
void gather_rows(Context& ctx, const GatherRowsArgs& args);
void copy(Context& ctx, const CopyArgs& args);
void check_finite(Context& ctx, const CheckFiniteArgs& args);

// linear.cc
void linear(Context& ctx, const LinearArgs& args);
void mla_absorb(Context& ctx, const MlaAbsorbArgs& args);
void mla_unabsorb(Context& ctx, const MlaUnabsorbArgs& args);

// attention.cc
void kv_write(Context& ctx, const KvWriteArgs& args);
void mla_attend(Context& ctx, const MlaAttendArgs& args);
void mla_expanded(Context& ctx, const MlaExpandedArgs& args);

// moe.cc
void route(Context& ctx, const RouteArgs& args);
void expert_linear(Context& ctx, const ExpertLinearArgs& args);
void expert_sum(Context& ctx, const ExpertSumArgs& args);
void fused_moe(Context& ctx, const FusedMoeArgs& args);

// sample.cc
void sample(Context& ctx, const SampleArgs& args);

}  // namespace marlin::cpu
