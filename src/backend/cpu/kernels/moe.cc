// Routed experts. Tokens are grouped by expert, so that an expert's row is decoded once for all its tokens; each result
// is one dot product and the weighted sum is taken in rank order, so the grouping never shows.
#include <algorithm>
#include <limits>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/rows.h"
#include "backend/cpu/kernels/scalar.h"
#include "backend/cpu/kernels/weights.h"

namespace marlin::cpu {
namespace {

// ---- route -------------------------------------------------------------------------------------------------------

/// Index of the largest of the keys not yet taken, the lowest on ties. A NaN ranks last but can be chosen, so that ids
/// stay in range and its weight carries the NaN on.
int take_best(const float* keys, uint8_t* taken, int n) {
  int best = -1;
  for (int i = 0; i < n; ++i) {
    if (taken[i] == 0 && (best < 0 || keys[i] > keys[best])) best = i;
  }
  MARLIN_CHECK(best >= 0, "fewer than {} candidates", n);
  taken[best] = 1;
  return best;
}

float or_lowest(float x) {
  return x == x ? x : -std::numeric_limits<float>::infinity();
}

struct RouteScratch {
  float* scores;  // [n_experts] sigmoid
  float* keys;    // [n_experts] what is ranked
  float* groups;  // [n_group]
  uint8_t* taken;
};

/// Marks the experts outside the best groups as taken.
void choose_groups(const RouteArgs& args, const RouteScratch& scratch) {
  const int size = args.n_experts / args.n_group;
  for (int g = 0; g < args.n_group; ++g) {
    const float* keys = scratch.keys + g * size;
    float best = -std::numeric_limits<float>::infinity();
    float second = size > 1 ? best : 0.0f;
    for (int i = 0; i < size; ++i) {
      if (keys[i] > best) {
        if (size > 1) second = best;
        best = keys[i];
      } else if (size > 1) {
        second = std::max(second, keys[i]);
      }
    }
    scratch.groups[g] = best + second;
  }
  uint8_t* taken_groups = scratch.taken + args.n_experts;
  std::fill_n(taken_groups, args.n_group, uint8_t{0});
  for (int i = 0; i < args.topk_group; ++i) take_best(scratch.groups, taken_groups, args.n_group);
  for (int g = 0; g < args.n_group; ++g) {
    std::fill_n(scratch.taken + g * size, size, static_cast<uint8_t>(taken_groups[g] == 0 ? 1 : 0));
  }
}

void route_row(const RouteArgs& args, const float* logits, const float* bias, const RouteScratch& scratch, int32_t* ids,
               float* weights) {
  for (int e = 0; e < args.n_experts; ++e) {
    scratch.scores[e] = sigmoid(logits[e]);
    scratch.keys[e] = or_lowest(scratch.scores[e] + (bias != nullptr ? bias[e] : 0.0f));
  }
  std::fill_n(scratch.taken, args.n_experts, uint8_t{0});
  if (args.n_group > 1) choose_groups(args, scratch);
  float sum = 0;
  for (int j = 0; j < args.top_k; ++j) {
    ids[j] = take_best(scratch.keys, scratch.taken, args.n_experts);
    weights[j] = scratch.scores[ids[j]];
    sum += weights[j];
  }
  const float scale = static_cast<float>(args.scale);
  for (int j = 0; j < args.top_k; ++j) weights[j] = (args.normalize ? weights[j] / (sum + 1e-20f) : weights[j]) * scale;
}

// ---- grouping ----------------------------------------------------------------------------------------------------

/// pairs[offsets[e] .. offsets[e + 1]) are the t * top_k + j whose chosen expert is e.
struct Groups {
  const int32_t* pairs;
  const int32_t* offsets;
  int n_experts;
};

Groups group_by_expert(Context& ctx, const int32_t* ids, int64_t n_pairs, int n_experts) {
  auto* pairs = ctx.shared<int32_t>(Scratch::kTokens, n_pairs);
  auto* offsets = ctx.shared<int32_t>(Scratch::kOffsets, n_experts + 1);
  std::fill_n(offsets, n_experts + 1, 0);
  for (int64_t i = 0; i < n_pairs; ++i) {
    MARLIN_CHECK(ids[i] >= 0 && ids[i] < n_experts, "expert {} of {}", ids[i], n_experts);
    ++offsets[ids[i] + 1];
  }
  for (int e = 0; e < n_experts; ++e) offsets[e + 1] += offsets[e];
  for (int64_t i = 0; i < n_pairs; ++i) pairs[offsets[ids[i]]++] = static_cast<int32_t>(i);
  for (int e = n_experts; e > 0; --e) offsets[e] = offsets[e - 1];
  offsets[0] = 0;
  return {pairs, offsets, n_experts};
}

/// The first expert from `e` on that has tokens; n_experts when there is none.
int next_expert(const Groups& groups, int e) {
  while (e < groups.n_experts && groups.offsets[e + 1] == groups.offsets[e]) ++e;
  return e;
}

/// Calls body(expert, following, pairs, n_pairs) for the experts that have tokens; `following` is the next of them, or
/// n_experts.
template <typename Body>
void for_experts(const Groups& groups, const Body& body) {
  for (int e = next_expert(groups, 0); e < groups.n_experts;) {
    const int following = next_expert(groups, e + 1);
    const int32_t begin = groups.offsets[e];
    body(e, following, groups.pairs + begin, groups.offsets[e + 1] - begin);
    e = following;
  }
}

// ---- fused_moe ---------------------------------------------------------------------------------------------------

/// Rows of an expert computed at a time for all its tokens: the unit that gate, up and the weighted sum meet in. Long
/// enough to be one stream of memory, short enough for every thread to have several and for the results of many tokens
/// to stay in the second-level cache.
int64_t tile_rows(int64_t rows, int64_t tokens, int n_threads) {
  const int64_t longest = tokens > 16 ? 64 : 256;
  const int64_t share = rows / (int64_t{n_threads} * ThreadPool::kChunksPerThread);
  return std::clamp((share + kRowBlock - 1) / kRowBlock * kRowBlock, kRowBlock, longest);
}

struct FusedWork {
  const FusedMoeArgs& args;
  const Context& ctx;
  Groups groups;
  TokenRows x;
  const float* weights;
  float* hidden;
  float* out;
  int64_t width;         // of x and out
  int64_t intermediate;  // of hidden
  PerWorker<uint8_t> decoded;
  PerWorker<float> tile;  // [2, rows, n] of gate and up; [pairs + rows, n] of down

  int64_t slots() const { return args.top_k + 1; }

  /// Row `first` of the expert that is computed after: of `bank`, then the shared one, then none.
  NextRows rows_of(const ExpertBank& bank, int expert, const LinearWeight* shared, int64_t first) const {
    if (expert < groups.n_experts) return {resolve(ctx, bank.experts[static_cast<size_t>(expert)]), first};
    return shared != nullptr ? NextRows(resolve(ctx, *shared), first) : NextRows();
  }

  // hidden rows [first, first + n) of one expert for the tokens x_row(0 .. count).
  template <typename XRow, typename HiddenRow>
  void gate_up(const LinearWeight& gate, const LinearWeight& up, int64_t first, int64_t n, int64_t count, int worker,
               const XRow& x_row, const HiddenRow& hidden_row, const NextRows& next) const {
    float* g = tile[worker];
    float* u = g + count * n;
    const Weight up_weight = resolve(ctx, up);
    linear_rows(resolve(ctx, gate), first, first + n, count, decoded[worker], x_row,
                [&](int64_t i) { return g + i * n; }, {up_weight, first});
    linear_rows(
        up_weight, first, first + n, count, decoded[worker], x_row, [&](int64_t i) { return u + i * n; }, next);
    for (int64_t i = 0; i < count; ++i) {
      ctx.family.swiglu(g + i * n, u + i * n, n, hidden_row(i) + first);
    }
  }

  void first_half(int64_t first, int64_t n, int worker) const {
    const auto x_row = [&](int64_t t) { return x.row(t * args.x_stride, t, t); };
    for_experts(groups, [&](int e, int following, const int32_t* pairs, int64_t count) {
      const auto index = static_cast<size_t>(e);
      gate_up(
          args.gate->experts[index], args.up->experts[index], first, n, count, worker,
          [&](int64_t i) { return x_row(pairs[i] / args.top_k); },
          [&](int64_t i) { return hidden + (pairs[i] / args.top_k * slots() + pairs[i] % args.top_k) * intermediate; },
          rows_of(*args.gate, following, args.shared_gate, first));
    });
    if (args.shared_gate == nullptr) return;
    gate_up(*args.shared_gate, *args.shared_up, first, n, args.rows, worker, x_row,
            [&](int64_t t) { return hidden + (t * slots() + args.top_k) * intermediate; }, {});
  }

  void second_half(const TokenRows& activated, int64_t first, int64_t n, int worker) const {
    const auto row = [&](int64_t t, int64_t slot) {
      const int64_t i = t * slots() + slot;
      return activated.row(i * intermediate, i, t);
    };
    float* routed = tile[worker];  // [rows, top_k, n]
    float* shared = routed + int64_t{args.rows} * args.top_k * n;
    for_experts(groups, [&](int e, int following, const int32_t* pairs, int64_t count) {
      linear_rows(
          resolve(ctx, args.down->experts[static_cast<size_t>(e)]), first, first + n, count, decoded[worker],
          [&](int64_t i) { return row(pairs[i] / args.top_k, pairs[i] % args.top_k); },
          [&](int64_t i) { return routed + pairs[i] * n; }, rows_of(*args.down, following, args.shared_down, first));
    });
    if (args.shared_down != nullptr) {
      linear_rows(
          resolve(ctx, *args.shared_down), first, first + n, args.rows, decoded[worker],
          [&](int64_t t) { return row(t, args.top_k); }, [&](int64_t t) { return shared + t * n; });
    }
    for (int64_t t = 0; t < args.rows; ++t) {
      rank_sums(weights + t * args.top_k, routed + t * args.top_k * n, n, args.top_k,
                args.shared_down != nullptr ? shared + t * n : nullptr, n, out + t * width + first);
    }
  }
};

/// Calls body(first, n, worker) for tiles of at most `tile` rows of [0, rows).
template <typename Body>
void for_tiles(ThreadPool& pool, int64_t rows, int64_t tile, const Body& body) {
  pool.parallel_for((rows + tile - 1) / tile, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) body(i * tile, std::min(tile, rows - i * tile), worker);
  });
}

}  // namespace

void route(Context& ctx, const RouteArgs& args) {
  MARLIN_CHECK(args.n_group >= 1 && args.n_experts % args.n_group == 0 && args.top_k <= args.n_experts,
               "{} experts, {} groups, top {}", args.n_experts, args.n_group, args.top_k);
  const int64_t n = args.n_experts;
  const float* logits = ctx.in<float>(args.logits, args.rows * n);
  const float* bias = args.bias ? ctx.in<float>(args.bias, n) : nullptr;
  int32_t* ids = ctx.out<int32_t>(args.ids, int64_t{args.rows} * args.top_k);
  float* weights = ctx.out<float>(args.weights, int64_t{args.rows} * args.top_k);
  const PerWorker<float> floats = ctx.per_worker<float>(Scratch::kScores, 2 * n + args.n_group);
  const PerWorker<uint8_t> taken = ctx.per_worker<uint8_t>(Scratch::kState, n + args.n_group);
  ctx.pool.parallel_for(args.rows, [&](int64_t begin, int64_t end, int worker) {
    float* area = floats[worker];
    const RouteScratch scratch{area, area + n, area + 2 * n, taken[worker]};
    for (int64_t t = begin; t < end; ++t) {
      route_row(args, logits + t * n, bias, scratch, ids + t * args.top_k, weights + t * args.top_k);
    }
  });
}

void expert_linear(Context& ctx, const ExpertLinearArgs& args) {
  const std::vector<LinearWeight>& experts = args.bank->experts;
  const int64_t n_out = experts.front().out_features;
  const int64_t width = experts.front().in_features;
  const int64_t n_pairs = int64_t{args.rows} * args.top_k;
  const int32_t* ids = ctx.in<int32_t>(args.ids, n_pairs);
  const float* x =
      ctx.in<float>(args.x, extent(args.rows, args.x_row_stride, (args.top_k - 1) * args.x_slot_stride + width));
  float* out = ctx.out<float>(args.out, n_pairs * n_out);
  const Groups groups = group_by_expert(ctx, ids, n_pairs, static_cast<int>(experts.size()));
  // Experts that share a token's input share its planes.
  const bool own = args.x_slot_stride != 0;
  const auto offset = [&](int64_t pair) {
    return pair / args.top_k * args.x_row_stride + pair % args.top_k * args.x_slot_stride;
  };
  const TokenRows tokens =
      split_rows(ctx, Scratch::kPlanes, uses_planes(ctx.family, experts.front()), x, own ? n_pairs : args.rows, width,
                 plane_roles(ctx, args.roles, args.rows), [&](int64_t i) { return offset(own ? i : i * args.top_k); });
  const PerWorker<uint8_t> scratch = ctx.per_worker<uint8_t>(Scratch::kWeights, linear_scratch(width));
  ctx.pool.parallel_for(n_out, [&](int64_t begin, int64_t end, int worker) {
    for_experts(groups, [&](int e, int /*following*/, const int32_t* pairs, int64_t count) {
      linear_rows(
          resolve(ctx, experts[static_cast<size_t>(e)]), begin, end, count, scratch[worker],
          [&](int64_t i) {
            const int64_t token = pairs[i] / args.top_k;
            return tokens.row(offset(pairs[i]), own ? pairs[i] : token, token);
          },
          [&](int64_t i) { return out + pairs[i] * n_out + begin; });
    });
  });
}

void expert_sum(Context& ctx, const ExpertSumArgs& args) {
  const float* y = ctx.in<float>(args.y, int64_t{args.rows} * args.top_k * args.width);
  const float* weights = ctx.in<float>(args.weights, int64_t{args.rows} * args.top_k);
  const float* shared = args.shared ? ctx.in<float>(args.shared, args.rows * args.width) : nullptr;
  float* out = ctx.out<float>(args.out, args.rows * args.width);
  ctx.pool.parallel_for(args.rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      rank_sums(weights + t * args.top_k, y + t * args.top_k * args.width, args.width, args.top_k,
                shared != nullptr ? shared + t * args.width : nullptr, args.width, out + t * args.width);
    }
  });
}

void fused_moe(Context& ctx, const FusedMoeArgs& args) {
  const LinearWeight& gate = args.gate->experts.front();
  const int64_t width = gate.in_features;
  const int64_t intermediate = gate.out_features;
  const int64_t n_pairs = int64_t{args.rows} * args.top_k;
  const int32_t* ids = ctx.in<int32_t>(args.ids, n_pairs);
  const Family& family = ctx.family;
  const bool split_x =
      uses_planes(family, gate) || uses_planes(family, args.up->experts.front()) ||
      (args.shared_gate != nullptr && (uses_planes(family, *args.shared_gate) || uses_planes(family, *args.shared_up)));
  const bool split_hidden = uses_planes(family, args.down->experts.front()) ||
                            (args.shared_down != nullptr && uses_planes(family, *args.shared_down));
  const float* x = ctx.in<float>(args.x, extent(args.rows, args.x_stride, width));
  const uint8_t* roles = plane_roles(ctx, args.roles, args.rows);
  // Each half has its own, so that threads get equal numbers of them.
  const int64_t first_tile = tile_rows(intermediate, args.rows, ctx.pool.size());
  const int64_t second_tile = tile_rows(width, args.rows, ctx.pool.size());
  const FusedWork work{
      args,
      ctx,
      group_by_expert(ctx, ids, n_pairs, static_cast<int>(args.gate->experts.size())),
      split_rows(ctx, Scratch::kPlanes, split_x, x, args.rows, width, roles,
                 [&](int64_t t) { return t * args.x_stride; }),
      ctx.in<float>(args.weights, n_pairs),
      ctx.out<float>(args.hidden, (n_pairs + args.rows) * intermediate),
      ctx.out<float>(args.out, args.rows * width),
      width,
      intermediate,
      ctx.per_worker<uint8_t>(Scratch::kWeights, linear_scratch(std::max(width, intermediate))),
      ctx.per_worker<float>(Scratch::kRows, 2 * (n_pairs + args.rows) * std::max(first_tile, second_tile))};
  for_tiles(ctx.pool, intermediate, first_tile, [&](int64_t first, int64_t n, int w) { work.first_half(first, n, w); });
  const TokenRows activated = split_rows(ctx, Scratch::kHiddenPlanes, split_hidden, work.hidden, n_pairs + args.rows,
                                         intermediate, roles, [&](int64_t i) { return i * intermediate; });
  for_tiles(ctx.pool, width, second_tile,
            [&](int64_t first, int64_t n, int w) { work.second_half(activated, first, n, w); });
}

}  // namespace marlin::cpu
