// Cases of the router and the experts.
#include <fmt/format.h>

#include <algorithm>

#include "op_test_util.h"

namespace marlin::op_test {
namespace {

double root(int64_t n) {
  return std::sqrt(static_cast<double>(n));
}

template <typename T>
std::vector<T> slice(const std::vector<T>& values, RowRange range, int64_t width) {
  const auto begin = values.begin() + range.first * width;
  return {begin, begin + range.count * width};
}

/// A permutation of 0 … n - 1.
std::vector<int> permutation(int n, Random& random) {
  std::vector<int> order;
  for (int i = 0; i < n; ++i) order.insert(order.begin() + random.index(i + 1), i);
  return order;
}

// ---- route
// -----------------------------------------------------------------------------------------------------------

OpCase route_case(int n_experts, int top_k, int n_group, int topk_group, bool normalize) {
  const int64_t rows = 9;
  Random random(91);
  std::vector<float> logits;
  for (int64_t t = 0; t < rows - 1; ++t) {
    const int middle = n_experts / 2;
    // Well apart, so that FP32 and the oracle rank alike: the bias moves ranks by whole steps of s.
    for (const int rank : permutation(n_experts, random)) logits.push_back(static_cast<float>(rank - middle) / 16);
  }
  logits.insert(logits.end(), static_cast<size_t>(n_experts), 0.25f);  // all equal: the lower id wins
  std::vector<float> bias;
  bias.reserve(static_cast<size_t>(n_experts));
  for (int e = 0; e < n_experts; ++e) bias.push_back(static_cast<float>(e % 4) * 0.3f);
  const auto run = [=](Rig& rig, RowRange range) -> std::vector<Output> {
    RouteArgs args;
    args.rows = static_cast<int>(range.count);
    args.n_experts = n_experts;
    args.top_k = top_k;
    args.n_group = n_group;
    args.topk_group = topk_group;
    args.normalize = normalize;
    args.scale = 1.8;
    args.logits = rig.act(slice(logits, range, n_experts));
    args.bias = rig.array(bias);
    const int64_t n = range.count * top_k;
    args.ids = rig.array(std::vector<int32_t>(static_cast<size_t>(n), -7));
    args.weights = rig.act_out(n);
    rig.stream().route(args);
    Output weights = exact("weights", top_k, rig.read_act(args.weights, n));
    // Exponential, division, a sum of positive terms, division, product.
    std::fill(weights.tolerance.begin(), weights.tolerance.end(), (8 + top_k) * 1.8 * rig.roundoff());
    return {exact("ids", top_k, rig.read<int32_t>(args.ids, n)), weights};
  };
  return {fmt::format("RouteE{}Top{}Groups{}Of{}{}", n_experts, top_k, topk_group, n_group, normalize ? "" : "Raw"),
          rows, run};
}

// ---- experts
// -----------------------------------------------------------------------------------------------------------

std::vector<WeightPtr> random_bank(int n_experts, const WeightSpec& spec, uint64_t seed) {
  std::vector<WeightPtr> bank;
  bank.reserve(static_cast<size_t>(n_experts));
  for (int e = 0; e < n_experts; ++e) bank.push_back(random_weight(spec, seed + static_cast<uint64_t>(e)));
  return bank;
}

/// Different experts for each row; expert 0 is never chosen, expert 1 by nearly all.
std::vector<int32_t> random_ids(int64_t rows, int top_k, int n_experts) {
  Random random(101);
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < rows; ++t) {
    std::vector<int32_t> row = {1};
    while (static_cast<int>(row.size()) < top_k) {
      const auto id = static_cast<int32_t>(1 + random.index(n_experts - 1));
      if (std::find(row.begin(), row.end(), id) == row.end()) row.push_back(id);
    }
    std::rotate(row.begin(), row.begin() + random.index(top_k), row.end());
    ids.insert(ids.end(), row.begin(), row.end());
  }
  return ids;
}

/// Sum of the absolute products of one output, and the output.
struct Sum {
  double value = 0;
  double absolute = 0;
};
template <typename T>
Sum dot(const HostWeight& weight, int64_t n, const T* x) {
  Sum sum{weight.bias[static_cast<size_t>(n)], std::fabs(weight.bias[static_cast<size_t>(n)])};
  for (int64_t k = 0; k < weight.layout.in_features; ++k) {
    const double product = weight.at(n, k) * static_cast<double>(x[k]);
    sum.value += product;
    sum.absolute += std::fabs(product);
  }
  return sum;
}

OpCase expert_linear_case(const std::string& name, const WeightSpec& spec, int64_t rows, int top_k, bool shared_x) {
  constexpr int kExperts = 9;
  const std::vector<WeightPtr> bank = random_bank(kExperts, spec, 111);
  const std::vector<int32_t> ids = random_ids(rows, top_k, kExperts);
  const int64_t slot_stride = shared_x ? 0 : spec.in_features;
  const int64_t row_stride = shared_x ? spec.in_features + 3 : top_k * spec.in_features;
  const std::vector<float> x = Random(112).activations(rows * row_stride);
  const auto run = [=](Rig& rig, RowRange range) -> std::vector<Output> {
    const std::vector<float> part = slice(x, range, row_stride);
    const std::vector<int32_t> chosen = slice(ids, range, top_k);
    ExpertLinearArgs args;
    args.rows = static_cast<int>(range.count);
    args.top_k = top_k;
    args.ids = rig.array(chosen);
    args.x = rig.act(part);
    args.x_row_stride = row_stride;
    args.x_slot_stride = slot_stride;
    args.bank = rig.bank(bank);
    args.roles = roles(rig, range);
    const int64_t width = top_k * spec.out_features;
    args.out = rig.act_out(range.count * width);
    rig.stream().expert_linear(args);
    Output out = exact("out", width, rig.read_act(args.out, range.count * width));
    for (size_t i = 0; i < out.values.size(); ++i) {
      const auto pair = static_cast<int64_t>(i) / spec.out_features;
      const HostWeight& expert = *bank[static_cast<size_t>(chosen[static_cast<size_t>(pair)])];
      const float* row = part.data() + pair / top_k * row_stride + pair % top_k * slot_stride;
      const Sum sum = dot(expert, static_cast<int64_t>(i) % spec.out_features, row);
      out.tolerance[i] = kSlack * root(spec.in_features) * rig.roundoff() * sum.absolute +
                         rig.factor_error(expert, static_cast<int64_t>(i) % spec.out_features, row,
                                          role_of(range.first + pair / top_k));
    }
    return {out};
  };
  return {fmt::format("ExpertLinear{}Top{}T{}{}", name, top_k, rows, shared_x ? "" : "OwnInputs"), rows, run};
}

OpCase expert_sum_case(int top_k, bool with_shared) {
  const int64_t rows = 5;
  const int64_t width = 33;
  const std::vector<float> y = Random(121).activations(rows * top_k * width);
  const std::vector<float> weights = Random(122).activations(rows * top_k);
  const std::vector<float> shared = Random(123).activations(rows * width);
  const auto run = [=](Rig& rig, RowRange range) -> std::vector<Output> {
    ExpertSumArgs args;
    args.rows = static_cast<int>(range.count);
    args.top_k = top_k;
    args.width = width;
    args.y = rig.act(slice(y, range, top_k * width));
    args.weights = rig.act(slice(weights, range, top_k));
    if (with_shared) args.shared = rig.act(slice(shared, range, width));
    args.out = rig.act_out(range.count * width);
    rig.stream().expert_sum(args);
    Output out = exact("out", width, rig.read_act(args.out, range.count * width));
    // top_k products of at most 4 and a shared value of at most 2.
    const double bound = (4 * top_k + 2) * (top_k + 1) * rig.roundoff();
    std::fill(out.tolerance.begin(), out.tolerance.end(), bound);
    return {out};
  };
  return {fmt::format("ExpertSumTop{}{}", top_k, with_shared ? "Shared" : ""), rows, run};
}

// ---- fused
// -------------------------------------------------------------------------------------------------------------

struct Moe {
  std::vector<WeightPtr> gate, up, down;
  WeightPtr shared_gate, shared_up, shared_down;
  int64_t width = 0;
  int64_t intermediate = 0;
  int top_k = 0;
};

/// A value with a bound of its error.
struct Bounded {
  double value = 0;
  double error = 0;
};

/// Outputs of one expert for one input row with the error that FP32 may make: the dot products' own, what silu and the
/// product pass on (silu's slope is at most 1.1), and what the down projection adds.
std::vector<Bounded> expert_bound(const HostWeight& gate, const HostWeight& up, const HostWeight& down, const float* x,
                                  Role role, const Rig& rig) {
  const double u = rig.roundoff();
  std::vector<double> hidden;
  std::vector<double> hidden_error;
  const double dot_error = kSlack * root(gate.layout.in_features) * u;
  for (int64_t i = 0; i < gate.layout.out_features; ++i) {
    const Sum g = dot(gate, i, x);
    const Sum v = dot(up, i, x);
    const double silu = g.value / (1 + std::exp(-g.value));
    hidden.push_back(silu * v.value);
    const double gate_error = dot_error * g.absolute + rig.factor_error(gate, i, x, role);
    const double up_error = dot_error * v.absolute + rig.factor_error(up, i, x, role);
    hidden_error.push_back(1.1 * gate_error * (std::fabs(v.value) + up_error) + std::fabs(silu) * up_error +
                           8 * u * std::fabs(hidden.back()));
  }
  std::vector<Bounded> out;
  for (int64_t n = 0; n < down.layout.out_features; ++n) {
    const Sum y = dot(down, n, hidden.data());
    double error = kSlack * root(down.layout.in_features) * u * y.absolute +
                   rig.factor_error(down, n, hidden.data(), role, hidden_error.data());
    for (size_t k = 0; k < hidden.size(); ++k) {
      error += std::fabs(down.at(n, static_cast<int64_t>(k))) * hidden_error[k];
    }
    out.push_back({y.value, error});
  }
  return out;
}

std::vector<double> moe_tolerance(const Moe& moe, const std::vector<int32_t>& ids, const std::vector<float>& weights,
                                  const std::vector<float>& x, int64_t first_row, const Rig& rig) {
  const double u = rig.roundoff();
  std::vector<double> tolerance;
  const size_t rows = x.size() / static_cast<size_t>(moe.width);
  const auto top_k = static_cast<size_t>(moe.top_k);
  for (size_t t = 0; t < rows; ++t) {
    const float* row = x.data() + t * static_cast<size_t>(moe.width);
    const Role role = role_of(first_row + static_cast<int64_t>(t));
    std::vector<double> bound(static_cast<size_t>(moe.width));
    const auto add = [&](const std::vector<Bounded>& y, double weight) {
      for (size_t n = 0; n < y.size(); ++n) {
        bound[n] += std::fabs(weight) * (y[n].error + static_cast<double>(top_k + 2) * u * std::fabs(y[n].value));
      }
    };
    for (size_t j = 0; j < top_k; ++j) {
      const auto e = static_cast<size_t>(ids[t * top_k + j]);
      add(expert_bound(*moe.gate[e], *moe.up[e], *moe.down[e], row, role, rig),
          static_cast<double>(weights[t * top_k + j]));
    }
    if (moe.shared_gate) add(expert_bound(*moe.shared_gate, *moe.shared_up, *moe.shared_down, row, role, rig), 1);
    tolerance.insert(tolerance.end(), bound.begin(), bound.end());
  }
  return tolerance;
}

/// The definition of the fused op by the ops it fuses.
void decomposed_moe(Rig& rig, const FusedMoeArgs& args, const Moe& moe) {
  const int64_t pairs = int64_t{args.rows} * args.top_k;
  const View gate = rig.act_out(pairs * moe.intermediate);
  const View up = rig.act_out(pairs * moe.intermediate);
  const View y = rig.act_out(pairs * moe.width);
  Stream& s = rig.stream();
  s.expert_linear({args.rows, args.top_k, args.ids, args.x, args.x_stride, 0, args.gate, args.roles, gate});
  s.expert_linear({args.rows, args.top_k, args.ids, args.x, args.x_stride, 0, args.up, args.roles, up});
  s.swiglu({static_cast<int>(pairs), moe.intermediate, gate, up, gate});
  s.expert_linear({args.rows, args.top_k, args.ids, gate, args.top_k * moe.intermediate, moe.intermediate, args.down,
                   args.roles, y});
  View shared;
  if (args.shared_gate != nullptr) {
    const View g = rig.act_out(args.rows * moe.intermediate);
    const View v = rig.act_out(args.rows * moe.intermediate);
    shared = rig.act_out(args.rows * moe.width);
    s.linear({args.rows, args.x, args.x_stride, args.shared_gate, args.roles, g, moe.intermediate});
    s.linear({args.rows, args.x, args.x_stride, args.shared_up, args.roles, v, moe.intermediate});
    s.swiglu({args.rows, moe.intermediate, g, v, g});
    s.linear({args.rows, g, moe.intermediate, args.shared_down, args.roles, shared, moe.width});
  }
  s.expert_sum({args.rows, args.top_k, moe.width, y, args.weights, shared, args.out});
}

/// Fused on devices that can; the twin "DecomposedMoe…" never, on the same inputs.
OpCase moe_case(bool fused, const std::string& name, const Moe& moe, int64_t rows) {
  const auto n_experts = static_cast<int>(moe.gate.size());
  const std::vector<int32_t> ids = random_ids(rows, moe.top_k, n_experts);
  const std::vector<float> weights = Random(131).activations(rows * moe.top_k);
  const std::vector<float> x = Random(132).activations(rows * moe.width);
  const auto run = [=](Rig& rig, RowRange range) -> std::vector<Output> {
    const std::vector<int32_t> chosen = slice(ids, range, moe.top_k);
    const std::vector<float> factors = slice(weights, range, moe.top_k);
    const std::vector<float> part = slice(x, range, moe.width);
    FusedMoeArgs args;
    args.rows = static_cast<int>(range.count);
    args.top_k = moe.top_k;
    args.ids = rig.array(chosen);
    args.weights = rig.act(factors);
    args.x = rig.act(part);
    args.x_stride = moe.width;
    args.roles = roles(rig, range);
    args.gate = rig.bank(moe.gate);
    args.up = rig.bank(moe.up);
    args.down = rig.bank(moe.down);
    if (moe.shared_gate) {
      args.shared_gate = rig.weight(moe.shared_gate);
      args.shared_up = rig.weight(moe.shared_up);
      args.shared_down = rig.weight(moe.shared_down);
    }
    args.hidden = rig.act_out(range.count * (moe.top_k + 1) * moe.intermediate);
    const int64_t n = range.count * moe.width;
    args.out = rig.act_out(n);
    if (fused && rig.stream().has_fused_moe()) {
      rig.stream().fused_moe(args);
    } else {
      decomposed_moe(rig, args, moe);
    }
    return {{"out", moe.width, rig.read_act(args.out, n), moe_tolerance(moe, chosen, factors, part, range.first, rig)}};
  };
  return {fmt::format("{}Moe{}Top{}T{}", fused ? "Fused" : "Decomposed", name, moe.top_k, rows), rows, run};
}

Moe make_moe(const std::vector<int>& groups, bool has_bias, bool with_shared, int top_k, int64_t width,
             int64_t intermediate) {
  constexpr int kExperts = 9;
  const WeightSpec in{intermediate, width, DType::kBF16, groups, has_bias, DType::kF32};
  const WeightSpec out{width, intermediate, DType::kBF16, groups, has_bias, DType::kBF16};
  Moe moe;
  moe.width = width;
  moe.intermediate = intermediate;
  moe.top_k = top_k;
  moe.gate = random_bank(kExperts, in, 200);
  moe.up = random_bank(kExperts, in, 220);
  moe.down = random_bank(kExperts, out, 240);
  if (with_shared) {
    moe.shared_gate = random_weight(in, 260);
    moe.shared_up = random_weight(in, 261);
    moe.shared_down = random_weight(out, 262);
  }
  return moe;
}

}  // namespace

std::vector<OpCase> moe_cases() {
  std::vector<OpCase> cases;
  for (int top_k = 1; top_k <= 8; ++top_k) cases.push_back(route_case(16, top_k, 1, 1, top_k % 2 == 0));
  cases.push_back(route_case(64, 4, 1, 1, true));
  cases.push_back(route_case(16, 4, 4, 2, true));
  cases.push_back(route_case(24, 6, 3, 1, true));
  cases.push_back(route_case(8, 2, 8, 3, true));
  const WeightSpec bf16{33, 40, DType::kBF16, {}, true, DType::kF16};
  const WeightSpec fp4{50, 96, DType::kBF16, {32}, false, DType::kF32};
  const WeightSpec planes{17, 128, DType::kBF16, {128, 32}, true, DType::kBF16};
  cases.push_back(expert_linear_case("BF16", bf16, 1, 4, true));
  cases.push_back(expert_linear_case("BF16", bf16, 17, 1, true));
  cases.push_back(expert_linear_case("Fp4", fp4, 1, 8, false));
  cases.push_back(expert_linear_case("Fp4", fp4, 65, 4, true));
  cases.push_back(expert_linear_case("Fp4TwoPlanes", planes, 16, 3, false));
  for (const int top_k : {1, 2, 8}) cases.push_back(expert_sum_case(top_k, top_k != 2));
  for (const bool fused : {true, false}) {
    cases.push_back(moe_case(fused, "BF16", make_moe({}, true, true, 4, 40, 33), 5));
    cases.push_back(moe_case(fused, "Fp4", make_moe({32}, false, true, 4, 96, 64), 17));
    cases.push_back(moe_case(fused, "Fp4NoShared", make_moe({32}, false, false, 2, 64, 96), 3));
    cases.push_back(moe_case(fused, "Fp4TwoPlanes", make_moe({64, 32}, false, true, 8, 64, 128), 1));
  }
  return cases;
}

std::vector<OpCase> real_moe_cases() {
  std::vector<OpCase> cases = {lazy_case("RealRoute", 9, [] { return route_case(64, 4, 1, 1, true); })};
  for (const int64_t rows : {1, 7}) {
    cases.push_back(lazy_case(fmt::format("RealFusedMoeT{}", rows), rows,
                              [rows] { return moe_case(true, "", make_moe({32}, false, true, 4, 2048, 1536), rows); }));
  }
  return cases;
}

}  // namespace marlin::op_test
