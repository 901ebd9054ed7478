// The dispatches of each op: one function an op, in a file a group. An op with FP4 products has two forms: the decode
// form reads weights once for a few tokens and sums in float; the prompt form multiplies tiles of many tokens by
// simdgroup_matrix with operands in half. A row's role alone chooses (DESIGN.md, row invariance).
#pragma once

#include "backend/metal/commands.h"
#include "backend/metal/kernels/params.h"
#include "ops/ops.h"

namespace marlin::metal {

// ---- common (launch.cc) --------------------------------------------------------------------------------------------

inline uint u(int64_t value) {
  return static_cast<uint>(value);
}
/// How many of `size` it takes to hold `count`.
inline unsigned long over(int64_t count, int64_t size) {
  return static_cast<unsigned long>((count + size - 1) / size);
}

Format format_of(DType type);
/// kFp4 or the plain type.
Format format_of(const LinearWeight& weight);
/// kNone without a bias.
Format bias_format(const LinearWeight& weight);
size_t format_bytes(Format format);

/// Which forms an op's rows need, and the filter with which each runs.
struct Forms {
  bool decode = false;
  bool prompt = false;
  RoleFilter decode_filter = kAllRows;
  RoleFilter prompt_filter = kAllRows;
};
Forms forms_of(const Commands& commands, const RoleView& roles);

/// Binds a weight's codes and scales (or plain data) and bias: codes at `first`, scales at first + 1, the second
/// plane's at first + 2 and + 3, the bias at first + 4. Absent parts bind nothing.
void bind_weight(Commands& commands, int first, const LinearWeight& weight);

/// How a weight is stored, for constants that name a kind.
uint32_t kind_of(const LinearWeight& weight);
/// A weight's sizes, as decode forms take them.
WeightParams weight_params(const LinearWeight& weight);
KvFormat kv_format(const KvLayout& layout);
KvParams kv_params(const KvView& kv, const TokenBatch& batch);

/// Bytes from `view` to the end of its buffer.
size_t rest_of(View view);

/// Rows of a matrix of floats that begins at `view`: bytes up to the end of the last row.
size_t matrix_bytes(int64_t rows, int64_t stride, int64_t width);

// ---- linear.metal, launch_linear.cc --------------------------------------------------------------------------------

void linear(Commands& commands, const LinearArgs& args);
void linear_add(Commands& commands, const LinearArgs& args);
void normed_linears(Commands& commands, const NormedLinearsArgs& args);
void mla_prepare(Commands& commands, const MlaPrepareArgs& args);

// ---- gemm.metal, launch_gemm.cc ------------------------------------------------------------------------------------

/// The prompt form of linear, with `filter` on the rows; `add` adds to out.
void linear_prompt(Commands& commands, const LinearArgs& args, RoleFilter filter, bool add);

/// The prompt forms: tokens grouped by expert, tiles of simdgroup_matrix.
void expert_linear_prompt(Commands& commands, const ExpertLinearArgs& args, RoleFilter filter);
void fused_moe_prompt(Commands& commands, const FusedMoeArgs& args, RoleFilter filter);

// ---- moe.metal, launch_moe.cc --------------------------------------------------------------------------------------

void route(Commands& commands, const RouteArgs& args);
void normed_route(Commands& commands, const NormedRouteArgs& args);
void expert_linear(Commands& commands, const ExpertLinearArgs& args);
/// Of the rows that `filter` wants; `add` adds to out.
void expert_sum(Commands& commands, const ExpertSumArgs& args, RoleFilter filter = kAllRows, View roles = {},
                bool add = false);
void fused_moe(Commands& commands, const FusedMoeArgs& args);

// ---- attention.metal, launch_attention.cc --------------------------------------------------------------------------

/// Of the rows that `filter` wants; `roles` is needed where that is not all.
void rope(Commands& commands, const RopeArgs& args, RoleFilter filter = kAllRows, View roles = {});
void kv_write(Commands& commands, const KvWriteArgs& args, RoleFilter filter = kAllRows);
void mla_absorb(Commands& commands, const MlaAbsorbArgs& args);
void mla_attend(Commands& commands, const MlaAttendArgs& args);
void mla_unabsorb(Commands& commands, const MlaUnabsorbArgs& args);
void mla_absorbed(Commands& commands, const MlaAbsorbedArgs& args);
void mla_expanded(Commands& commands, const MlaExpandedArgs& args);

// ---- sample.metal, launch_sample.cc --------------------------------------------------------------------------------

void sample(Commands& commands, const SampleArgs& args);

// ---- elementwise.metal, launch_elementwise.cc ----------------------------------------------------------------------

void embed(Commands& commands, const EmbedArgs& args);
void rms_norm(Commands& commands, const RmsNormArgs& args);
void add(Commands& commands, const AddArgs& args);
void swiglu(Commands& commands, const SwigluArgs& args);
void gather_rows(Commands& commands, const GatherRowsArgs& args);
void copy(Commands& commands, const CopyArgs& args);
void check_finite(Commands& commands, const CheckFiniteArgs& args);

}  // namespace marlin::metal
