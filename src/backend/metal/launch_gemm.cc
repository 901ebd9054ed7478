#include <algorithm>

#include "backend/metal/launch.h"
#include "base/check.h"

namespace marlin::metal {
namespace {

constexpr int64_t kTokens = 32;  // of a tile, as in gemm.metal
constexpr int64_t kRows = 64;
constexpr unsigned long kThreads = 128;

/// The lists that group_experts makes, in scratch memory.
struct Groups {
  View slots;
  View tiles;
  int64_t n_slots = 0;
  int64_t most_tiles = 0;
  size_t slot_bytes() const { return static_cast<size_t>(n_slots) * 4; }
  size_t tile_bytes() const { return static_cast<size_t>(most_tiles) * sizeof(ExpertTile); }
};

size_t aligned(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

/// Takes scratch for the lists and `extra` bytes behind them, and fills the lists.
Groups group_experts(Commands& commands, View ids, int rows, int top_k, int64_t n_experts, View roles,
                     RoleFilter filter, size_t extra, View* behind) {
  MARLIN_CHECK(n_experts <= MARLIN_MOST_EXPERTS, "{} experts, at most {}", n_experts, MARLIN_MOST_EXPERTS);
  Groups groups;
  groups.n_slots = int64_t{rows} * top_k;
  // Every expert may have one tile that is not full.
  groups.most_tiles = groups.n_slots / kTokens + std::min(n_experts, groups.n_slots);
  const size_t lists = aligned(groups.slot_bytes()) + aligned(groups.tile_bytes());
  groups.slots = commands.scratch(Scratch::kExperts, lists + extra);
  groups.tiles = groups.slots.at(aligned(groups.slot_bytes()));
  if (behind != nullptr) *behind = groups.slots.at(lists);

  commands.kernel("group_experts", {{FC_ROLE, filter}});
  commands.in(0, ids, groups.slot_bytes());
  commands.in(1, roles, static_cast<size_t>(rows));
  commands.out(2, groups.slots, groups.slot_bytes());
  commands.out(3, groups.tiles, groups.tile_bytes());
  commands.params(4, GroupParams{u(rows), u(top_k), u(n_experts), u(groups.most_tiles)});
  commands.dispatch({1}, {1024});
  return groups;
}

struct ExpertProduct {
  const ExpertBank* bank = nullptr;
  const ExpertBank* up = nullptr;  // with it, silu(bank x) * (up x)
  int top_k = 0;
  View x;
  size_t x_bytes = 0;
  int64_t x_row_stride = 0;
  int64_t x_slot_stride = 0;
  View out;
};

void gemm_experts(Commands& commands, const Groups& groups, const ExpertProduct& product) {
  const LinearWeight& weight = product.bank->experts.front();
  const LinearWeight& up = product.up != nullptr ? product.up->experts.front() : weight;
  const bool paired = product.up != nullptr;
  commands.kernel("gemm_experts", {{FC_FORMAT, format_of(weight)},
                                   {FC_PLANES, u(std::max(weight.n_planes, 1))},
                                   {FC_BIAS, bias_format(weight)},
                                   {FC_PRODUCTS, paired ? 2U : 1U}});
  commands.in(0, product.x, product.x_bytes);
  commands.experts(1, *product.bank);
  if (paired) commands.experts(2, *product.up);
  commands.in(3, groups.slots, groups.slot_bytes());
  commands.in(4, groups.tiles, groups.tile_bytes());
  commands.out(5, product.out, static_cast<size_t>(groups.n_slots * weight.out_features) * 4);
  commands.params(6, ExpertGemmParams{u(product.top_k),
                                      u(weight.in_features),
                                      u(weight.out_features),
                                      {u(weight.planes[0].group_size), u(weight.planes[1].group_size)},
                                      {u(up.planes[0].group_size), u(up.planes[1].group_size)},
                                      u(product.x_row_stride),
                                      u(product.x_slot_stride)});
  commands.dispatch(
      {over(weight.out_features, paired ? kRows / 2 : kRows), static_cast<unsigned long>(groups.most_tiles)},
      {kThreads});
}

/// One expression for both kinds: what the paired kernel demands of gate and up.
bool alike(const LinearWeight& a, const LinearWeight& b) {
  return format_of(a) == format_of(b) && a.n_planes == b.n_planes && bias_format(a) == bias_format(b);
}

}  // namespace

void linear_prompt(Commands& commands, const LinearArgs& args, RoleFilter filter, bool add) {
  const LinearWeight& weight = *args.weight;
  commands.kernel("gemm_linear", {{FC_FORMAT, format_of(weight)},
                                  {FC_PLANES, u(std::max(weight.n_planes, 1))},
                                  {FC_BIAS, bias_format(weight)},
                                  {FC_ROLE, filter},
                                  {FC_ADD, add ? 1U : 0U}});
  commands.in(0, args.x, matrix_bytes(args.rows, args.x_stride, weight.in_features));
  bind_weight(commands, 1, weight);
  commands.in(6, args.roles, static_cast<size_t>(args.rows));
  commands.out(7, args.out, matrix_bytes(args.rows, args.out_stride, weight.out_features));
  commands.params(8, GemmParams{u(args.rows),
                                u(weight.in_features),
                                u(weight.out_features),
                                {u(weight.planes[0].group_size), u(weight.planes[1].group_size)},
                                u(args.x_stride),
                                u(args.out_stride)});
  commands.dispatch({over(weight.out_features, kRows), over(args.rows, kTokens)}, {kThreads});
}

void expert_linear_prompt(Commands& commands, const ExpertLinearArgs& args, RoleFilter filter) {
  const Groups groups = group_experts(commands, args.ids, args.rows, args.top_k,
                                      static_cast<int64_t>(args.bank->experts.size()), args.roles, filter, 0, nullptr);
  const int64_t in = args.bank->experts.front().in_features;
  const int64_t row = args.x_slot_stride * (args.top_k - 1) + in;
  gemm_experts(commands, groups,
               {.bank = args.bank,
                .top_k = args.top_k,
                .x = args.x,
                .x_bytes = matrix_bytes(args.rows, args.x_row_stride, row),
                .x_row_stride = args.x_row_stride,
                .x_slot_stride = args.x_slot_stride,
                .out = args.out});
}

// Grouping, gate and up, down; the shared expert as dense products; then the weighted sum.
void fused_moe_prompt(Commands& commands, const FusedMoeArgs& args, RoleFilter filter) {
  const LinearWeight& gate = args.gate->experts.front();
  const LinearWeight& down = args.down->experts.front();
  MARLIN_CHECK(alike(gate, args.up->experts.front()), "gate and up of experts are stored unlike");
  const int64_t slots = int64_t{args.rows} * args.top_k;
  const int64_t width = gate.out_features;
  const auto floats = [](int64_t n) { return aligned(static_cast<size_t>(n) * 4); };
  const int64_t shared_width = args.shared_gate != nullptr ? args.shared_gate->out_features : 0;
  View y;
  const Groups groups = group_experts(commands, args.ids, args.rows, args.top_k,
                                      static_cast<int64_t>(args.gate->experts.size()), args.roles, filter,
                                      floats(slots * down.out_features) + floats(slots * width) +
                                          2 * floats(args.rows * shared_width) + floats(args.rows * down.out_features),
                                      &y);
  const View hidden = args.hidden;  // it has room for one slot more a token
  const View shared_gate = y.at(floats(slots * down.out_features));
  const View shared_up = shared_gate.at(floats(args.rows * shared_width));
  const View shared = shared_up.at(floats(args.rows * shared_width));

  gemm_experts(commands, groups,
               {.bank = args.gate,
                .up = args.up,
                .top_k = args.top_k,
                .x = args.x,
                .x_bytes = matrix_bytes(args.rows, args.x_stride, gate.in_features),
                .x_row_stride = args.x_stride,
                .out = hidden});
  gemm_experts(commands, groups,
               {.bank = args.down,
                .top_k = args.top_k,
                .x = hidden,
                .x_bytes = static_cast<size_t>(slots * width) * 4,
                .x_row_stride = args.top_k * width,
                .x_slot_stride = width,
                .out = y});
  if (shared_width > 0) {
    const auto product = [&](View x, int64_t stride, const LinearWeight& weight, View out) {
      linear_prompt(commands, {args.rows, x, stride, &weight, args.roles, out, weight.out_features}, filter, false);
    };
    product(args.x, args.x_stride, *args.shared_gate, shared_gate);
    product(args.x, args.x_stride, *args.shared_up, shared_up);
    swiglu(commands, {args.rows, shared_width, shared_gate, shared_up, shared_gate});
    product(shared_gate, shared_width, *args.shared_down, shared);
  }
  expert_sum(commands,
             {.rows = args.rows,
              .top_k = args.top_k,
              .width = down.out_features,
              .y = y,
              .weights = args.weights,
              .shared = shared_width > 0 ? shared : View{},
              .out = args.out},
             filter, args.roles, args.add_to_out);
}

}  // namespace marlin::metal
