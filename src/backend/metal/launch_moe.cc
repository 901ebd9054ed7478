// The router and the decode forms of the experts.
#include <algorithm>

#include "backend/metal/launch.h"
#include "base/check.h"

namespace marlin::metal {
namespace {

// A threadgroup: 2 simdgroups of 4 rows each (moe.metal).
constexpr uint kTileRows = 8;
constexpr Size kThreads{64, 1, 1};
// normed_route: 4 rows of the router for each simdgroup, which makes 64 experts one round.
constexpr unsigned long kRouterThreads = 512;

uint tiles(int64_t rows) {
  return static_cast<uint>((rows + kTileRows - 1) / kTileRows);
}

/// One that goes through all tokens if only some are wanted (next_row in weights.h).
uint token_groups(int rows, RoleFilter filter) {
  return filter == kAllRows ? static_cast<uint>(rows) : 1;
}

const LinearWeight& expert(const ExpertBank& bank) {
  return bank.experts.front();
}

/// kNone where there is no weight.
uint32_t kind_or_none(const LinearWeight* weight) {
  return weight != nullptr ? kind_of(*weight) : weight_kind(kNone, 0, kNone);
}

RouteParams route_params(const RouteArgs& args) {
  MARLIN_CHECK(args.n_experts <= MAX_ROUTED_EXPERTS, "{} experts", args.n_experts);
  MARLIN_CHECK(args.n_group >= 1 && args.n_experts % args.n_group == 0 && args.topk_group <= args.n_group,
               "{} experts, {} of {} groups", args.n_experts, args.topk_group, args.n_group);
  const int allowed = args.n_group > 1 ? args.topk_group * (args.n_experts / args.n_group) : args.n_experts;
  MARLIN_CHECK(args.top_k <= allowed, "top {} of {} experts", args.top_k, allowed);
  RouteParams params{};
  params.n_experts = static_cast<uint>(args.n_experts);
  params.top_k = static_cast<uint>(args.top_k);
  params.n_group = static_cast<uint>(args.n_group);
  params.topk_group = static_cast<uint>(args.topk_group);
  params.normalize = args.normalize ? 1 : 0;
  params.scale = static_cast<float>(args.scale);
  return params;
}

/// Of the ids, and of the weights.
size_t choice_bytes(const RouteArgs& args) {
  return static_cast<size_t>(args.rows) * static_cast<size_t>(args.top_k) * 4;
}

size_t bias_bytes(const RouteArgs& args) {
  return static_cast<size_t>(args.n_experts) * sizeof(float);
}

void decode_experts(Commands& commands, const ExpertLinearArgs& args, RoleFilter filter) {
  const LinearWeight& weight = expert(*args.bank);
  const int64_t pairs = int64_t{args.rows} * args.top_k;
  commands.kernel("expert_linear", {{FC_GATE, kind_of(weight)}, {FC_ROLE, filter}});
  ExpertLinearParams params{};
  params.rows = static_cast<uint>(args.rows);
  params.top_k = static_cast<uint>(args.top_k);
  params.n_experts = static_cast<uint>(args.bank->experts.size());
  params.x_row_stride = static_cast<uint>(args.x_row_stride);
  params.x_slot_stride = static_cast<uint>(args.x_slot_stride);
  params.weight = weight_params(weight);
  commands.experts(0, *args.bank);
  commands.in(1, args.ids, static_cast<size_t>(pairs) * sizeof(int32_t));
  commands.in(2, args.x,
              matrix_bytes(args.rows, args.x_row_stride, (args.top_k - 1) * args.x_slot_stride + weight.in_features));
  if (filter != kAllRows) commands.in(3, args.roles, static_cast<size_t>(args.rows));
  commands.out(4, args.out, matrix_bytes(pairs, weight.out_features, weight.out_features));
  commands.params(5, params);
  commands.dispatch({token_groups(args.rows, filter), tiles(weight.out_features), params.top_k}, kThreads);
}

// ---- fused_moe -----------------------------------------------------------------------------------------------------

void check_shapes(const FusedMoeArgs& args) {
  const LinearWeight& gate = expert(*args.gate);
  const LinearWeight& up = expert(*args.up);
  const LinearWeight& down = expert(*args.down);
  const bool routed = gate.out_features == up.out_features && gate.in_features == up.in_features &&
                      down.out_features == gate.in_features && down.in_features == gate.out_features;
  MARLIN_CHECK(routed, "gate [{}, {}], up [{}, {}], down [{}, {}]", gate.out_features, gate.in_features,
               up.out_features, up.in_features, down.out_features, down.in_features);
  if (args.shared_gate == nullptr) return;
  MARLIN_CHECK(args.shared_gate->out_features == gate.out_features && args.shared_up->out_features == gate.out_features,
               "a shared expert of {} rows among experts of {}", args.shared_gate->out_features, gate.out_features);
}

size_t hidden_bytes(const FusedMoeArgs& args) {
  const int64_t width = expert(*args.gate).out_features;
  return matrix_bytes(int64_t{args.rows} * (args.top_k + 1), width, width);
}

void decode_gate_up(Commands& commands, const FusedMoeArgs& args, RoleFilter filter) {
  const LinearWeight& gate = expert(*args.gate);
  const LinearWeight& up = expert(*args.up);
  const bool shared = args.shared_gate != nullptr;
  commands.kernel("moe_gate_up", {{FC_GATE, kind_of(gate)},
                                  {FC_UP, kind_of(up)},
                                  {FC_SHARED_GATE, kind_or_none(args.shared_gate)},
                                  {FC_SHARED_UP, kind_or_none(args.shared_up)},
                                  {FC_SHARED, shared ? 1U : 0U},
                                  {FC_ROLE, filter}});
  MoeGateUpParams params{};
  params.rows = static_cast<uint>(args.rows);
  params.top_k = static_cast<uint>(args.top_k);
  params.n_experts = static_cast<uint>(args.gate->experts.size());
  params.x_stride = static_cast<uint>(args.x_stride);
  params.gate = weight_params(gate);
  params.up = weight_params(up);
  commands.experts(0, *args.gate);
  commands.experts(1, *args.up);
  if (shared) {
    params.shared_gate = weight_params(*args.shared_gate);
    params.shared_up = weight_params(*args.shared_up);
    bind_weight(commands, 2, *args.shared_gate);
    bind_weight(commands, 7, *args.shared_up);
  }
  const auto pairs = static_cast<size_t>(args.rows) * static_cast<size_t>(args.top_k);
  commands.in(12, args.ids, pairs * sizeof(int32_t));
  commands.in(13, args.x, matrix_bytes(args.rows, args.x_stride, gate.in_features));
  if (filter != kAllRows) commands.in(14, args.roles, static_cast<size_t>(args.rows));
  commands.out(15, args.hidden, hidden_bytes(args));
  commands.params(16, params);
  const auto slots = static_cast<uint>(args.top_k) + (shared ? 1 : 0);
  commands.dispatch({token_groups(args.rows, filter), tiles(gate.out_features), slots}, kThreads);
}

void decode_down(Commands& commands, const FusedMoeArgs& args, RoleFilter filter) {
  const LinearWeight& down = expert(*args.down);
  const bool shared = args.shared_down != nullptr;
  commands.kernel("moe_down", {{FC_GATE, kind_of(down)},
                               {FC_SHARED_GATE, kind_or_none(args.shared_down)},
                               {FC_SHARED, shared ? 1U : 0U},
                               {FC_ROLE, filter},
                               {FC_ADD, args.add_to_out ? 1U : 0U}});
  MoeDownParams params{};
  params.rows = static_cast<uint>(args.rows);
  params.top_k = static_cast<uint>(args.top_k);
  params.n_experts = static_cast<uint>(args.down->experts.size());
  params.down = weight_params(down);
  commands.experts(0, *args.down);
  if (shared) {
    params.shared_down = weight_params(*args.shared_down);
    bind_weight(commands, 1, *args.shared_down);
  }
  const auto pairs = static_cast<size_t>(args.rows) * static_cast<size_t>(args.top_k);
  commands.in(6, args.ids, pairs * sizeof(int32_t));
  commands.in(7, args.weights, pairs * sizeof(float));
  commands.in(8, args.hidden, hidden_bytes(args));
  if (filter != kAllRows) commands.in(9, args.roles, static_cast<size_t>(args.rows));
  commands.out(10, args.out, matrix_bytes(args.rows, down.out_features, down.out_features));
  commands.params(11, params);
  commands.dispatch({token_groups(args.rows, filter), tiles(down.out_features), 1}, kThreads);
}

}  // namespace

void route(Commands& commands, const RouteArgs& args) {
  if (args.rows == 0) return;
  commands.kernel("route", {{FC_CHOICE_BIAS, args.bias ? 1U : 0U}});
  commands.in(0, args.logits, matrix_bytes(args.rows, args.n_experts, args.n_experts));
  if (args.bias) commands.in(1, args.bias, bias_bytes(args));
  commands.out(2, args.ids, choice_bytes(args));
  commands.out(3, args.weights, choice_bytes(args));
  commands.params(4, route_params(args));
  commands.dispatch({static_cast<uint>(args.rows), 1, 1}, {32, 1, 1});
}

// One numerics class: a token's norm, logits and choice come from its own threadgroup whatever its role.
void normed_route(Commands& commands, const NormedRouteArgs& args) {
  const RouteArgs& route = args.route;
  if (route.rows == 0) return;
  const LinearWeight& router = *args.router;
  MARLIN_CHECK(router.out_features == route.n_experts && args.gain->size == router.in_features,
               "a router [{}, {}] for {} experts of {} values", router.out_features, router.in_features,
               route.n_experts, args.gain->size);
  const Format gain = format_of(args.gain->type);
  commands.kernel("normed_route", {{FC_FORMAT, format_of(router)},
                                   {FC_PLANES, static_cast<uint>(router.n_planes)},
                                   {FC_BIAS, bias_format(router)},
                                   {FC_GAIN, gain},
                                   {FC_CHOICE_BIAS, route.bias ? 1U : 0U}});
  NormedRouteParams params{};
  params.x_stride = static_cast<uint>(args.x_stride);
  params.eps = static_cast<float>(args.eps);
  params.router = weight_params(router);
  params.route = route_params(route);
  bind_weight(commands, 0, router);
  commands.in(5, args.x, matrix_bytes(route.rows, args.x_stride, router.in_features));
  commands.in(6, args.gain->data, static_cast<size_t>(args.gain->size) * format_bytes(gain));
  if (route.bias) commands.in(7, route.bias, bias_bytes(route));
  commands.out(8, args.normed, matrix_bytes(route.rows, router.in_features, router.in_features));
  commands.out(9, route.ids, choice_bytes(route));
  commands.out(10, route.weights, choice_bytes(route));
  commands.params(11, params);
  commands.dispatch({static_cast<uint>(route.rows), 1, 1}, {kRouterThreads, 1, 1});
}

void expert_linear(Commands& commands, const ExpertLinearArgs& args) {
  if (args.rows == 0) return;
  const Forms forms = forms_of(commands, args.roles);
  if (forms.decode) decode_experts(commands, args, forms.decode_filter);
  if (forms.prompt) expert_linear_prompt(commands, args, forms.prompt_filter);
}

void expert_sum(Commands& commands, const ExpertSumArgs& args, RoleFilter filter, View roles, bool add) {
  if (args.rows == 0) return;
  constexpr unsigned long kSumThreads = 256;
  const int64_t pairs = int64_t{args.rows} * args.top_k;
  commands.kernel("expert_sum", {{FC_ROLE, filter}, {FC_ADD, add ? 1U : 0U}, {FC_SHARED, args.shared ? 1U : 0U}});
  ExpertSumParams params{};
  params.top_k = static_cast<uint>(args.top_k);
  params.width = static_cast<uint>(args.width);
  commands.in(0, args.y, matrix_bytes(pairs, args.width, args.width));
  commands.in(1, args.weights, static_cast<size_t>(pairs) * sizeof(float));
  const size_t bytes = matrix_bytes(args.rows, args.width, args.width);
  if (args.shared) commands.in(2, args.shared, bytes);
  commands.out(3, args.out, bytes);
  commands.params(4, params);
  if (filter != kAllRows) commands.in(5, roles, static_cast<size_t>(args.rows));
  const auto groups = (static_cast<unsigned long>(args.width) + kSumThreads - 1) / kSumThreads;
  commands.dispatch({groups, static_cast<uint>(args.rows), 1}, {kSumThreads, 1, 1});
}

void fused_moe(Commands& commands, const FusedMoeArgs& args) {
  if (args.rows == 0) return;
  check_shapes(args);
  const Forms forms = forms_of(commands, args.roles);
  if (forms.decode) {
    decode_gate_up(commands, args, forms.decode_filter);
    decode_down(commands, args, forms.decode_filter);
  }
  if (forms.prompt) fused_moe_prompt(commands, args, forms.prompt_filter);
}

}  // namespace marlin::metal
