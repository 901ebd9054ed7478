// The router and expert ops of the reference stream.
#include <algorithm>
#include <vector>

#include "backend/reference/reference_stream.h"
#include "ops/ref/experts.h"
#include "ops/ref/math.h"

namespace marlin::reference {
namespace {

const int32_t* expert_ids(const Access& access, View view, int rows, int top_k, size_t n_experts, const char* what) {
  const int64_t size = static_cast<int64_t>(rows) * top_k;
  const auto* ids = access.input<int32_t>(view, size, what);
  for (int64_t i = 0; i < size; ++i) {
    MARLIN_CHECK(ids[i] >= 0 && static_cast<size_t>(ids[i]) < n_experts, "{}: expert {} of {}", what, ids[i],
                 n_experts);
  }
  return ids;
}

}  // namespace

void ReferenceStream::route(const RouteArgs& args) {
  MARLIN_CHECK(args.n_group >= 1 && args.n_experts % args.n_group == 0 && args.topk_group >= 1 &&
                   args.topk_group <= args.n_group,
               "route: {} experts in {} groups, the best {}", args.n_experts, args.n_group, args.topk_group);
  MARLIN_CHECK(args.top_k >= 1 && args.top_k <= args.n_experts / args.n_group * args.topk_group,
               "route: the best {} of {} experts in {} of {} groups", args.top_k, args.n_experts, args.topk_group,
               args.n_group);
  const int64_t chosen = int64_t{args.rows} * args.top_k;
  const auto* logits = access().input<double>(args.logits, int64_t{args.rows} * args.n_experts, "route logits");
  const auto* bias = access().input<float>(args.bias, args.n_experts, "route bias");
  auto* ids = access().output<int32_t>(args.ids, chosen, "route ids");
  auto* weights = access().output<double>(args.weights, chosen, "route weights");
  const ref::RouteRule rule = {args.n_experts, args.top_k, args.n_group, args.topk_group, args.normalize, args.scale};
  for (int64_t t = 0; t < args.rows; ++t) {
    ref::route(rule, logits + t * args.n_experts, bias, ids + t * args.top_k, weights + t * args.top_k);
  }
}

void ReferenceStream::expert_linear(const ExpertLinearArgs& args) {
  const std::vector<ref::WeightReader> experts = access().experts(args.bank, "expert_linear bank");
  const auto* ids = expert_ids(access(), args.ids, args.rows, args.top_k, experts.size(), "expert_linear ids");
  const int64_t last_slot = args.rows == 0 ? 0 : (args.top_k - 1) * args.x_slot_stride;
  const int64_t x_size = extent(args.rows, args.x_row_stride, experts[0].in_features(), "expert_linear x") + last_slot;
  const auto* x = access().input<double>(args.x, x_size, "expert_linear x");
  access().optional_input<uint8_t>(args.roles, args.rows, "expert_linear roles");
  const int64_t out_size = int64_t{args.rows} * args.top_k * experts[0].out_features();
  auto* out = access().output<double>(args.out, out_size, "expert_linear out");
  ref::expert_linear(experts, args.rows, args.top_k, ids, x, args.x_row_stride, args.x_slot_stride, out);
}

void ReferenceStream::expert_sum(const ExpertSumArgs& args) {
  const int64_t chosen = int64_t{args.rows} * args.top_k;
  const auto* y = access().input<double>(args.y, chosen * args.width, "expert_sum y");
  const auto* weights = access().input<double>(args.weights, chosen, "expert_sum weights");
  const auto* shared = access().optional_input<double>(args.shared, args.rows * args.width, "expert_sum shared");
  auto* out = access().output<double>(args.out, args.rows * args.width, "expert_sum out");
  for (int64_t t = 0; t < args.rows; ++t) {
    ref::expert_sum(args.top_k, args.width, y + t * args.top_k * args.width, weights + t * args.top_k,
                    shared != nullptr ? shared + t * args.width : nullptr, out + t * args.width);
  }
}

void ReferenceStream::fused_moe(const FusedMoeArgs& args) {
  const std::vector<ref::WeightReader> gates = access().experts(args.gate, "fused_moe gate");
  const std::vector<ref::WeightReader> ups = access().experts(args.up, "fused_moe up");
  const std::vector<ref::WeightReader> downs = access().experts(args.down, "fused_moe down");
  const int64_t width = gates[0].in_features();
  const int64_t inner = gates[0].out_features();
  const int64_t chosen = int64_t{args.rows} * args.top_k;
  const auto* ids = expert_ids(access(), args.ids, args.rows, args.top_k, gates.size(), "fused_moe ids");
  const auto* weights = access().input<double>(args.weights, chosen, "fused_moe weights");
  const auto* x = access().input<double>(args.x, extent(args.rows, args.x_stride, width, "fused_moe x"), "fused_moe x");
  access().optional_input<uint8_t>(args.roles, args.rows, "fused_moe roles");
  access().output<double>(args.hidden, (chosen + args.rows) * inner, "fused_moe hidden");
  auto* out = access().output<double>(args.out, args.rows * width, "fused_moe out");

  std::vector<double> gate(static_cast<size_t>(chosen * inner));
  std::vector<double> up(gate.size());
  std::vector<double> down(static_cast<size_t>(chosen * width));
  ref::expert_linear(gates, args.rows, args.top_k, ids, x, args.x_stride, 0, gate.data());
  ref::expert_linear(ups, args.rows, args.top_k, ids, x, args.x_stride, 0, up.data());
  ref::swiglu(gate.data(), up.data(), chosen * inner, gate.data());
  ref::expert_linear(downs, args.rows, args.top_k, ids, gate.data(), args.top_k * inner, inner, down.data());

  std::vector<double> shared;
  if (args.shared_gate != nullptr) {
    const ref::WeightReader shared_gate = access().weight(args.shared_gate, "fused_moe shared_gate");
    const ref::WeightReader shared_up = access().weight(args.shared_up, "fused_moe shared_up");
    const ref::WeightReader shared_down = access().weight(args.shared_down, "fused_moe shared_down");
    const int64_t shared_inner = shared_gate.out_features();
    gate.resize(static_cast<size_t>(args.rows * shared_inner));
    up.resize(gate.size());
    shared.resize(static_cast<size_t>(args.rows * width));
    ref::linear(shared_gate, args.rows, x, args.x_stride, gate.data(), shared_inner);
    ref::linear(shared_up, args.rows, x, args.x_stride, up.data(), shared_inner);
    ref::swiglu(gate.data(), up.data(), args.rows * shared_inner, gate.data());
    ref::linear(shared_down, args.rows, gate.data(), shared_inner, shared.data(), width);
  }
  for (int64_t t = 0; t < args.rows; ++t) {
    ref::expert_sum(args.top_k, width, down.data() + t * args.top_k * width, weights + t * args.top_k,
                    shared.empty() ? nullptr : shared.data() + t * width, out + t * width);
  }
}

}  // namespace marlin::reference
