// Cases of linear, norm, rope, embedding and the elementwise ops.
#include <fmt/format.h>

#include <algorithm>

#include "op_test_util.h"

namespace marlin::op_test {
namespace {

constexpr int kRowCounts[] = {1, 2, 3, 5, 16, 17, 64, 65};

/// Rows `range` of `values`, whose rows are `stride` apart.
std::vector<float> slice(const std::vector<float>& values, RowRange range, int64_t stride) {
  const auto begin = values.begin() + range.first * stride;
  return {begin, begin + range.count * stride};
}

/// Drops the gap between rows.
std::vector<double> compact(const std::vector<double>& values, int64_t rows, int64_t stride, int64_t width) {
  std::vector<double> out;
  for (int64_t t = 0; t < rows; ++t) {
    out.insert(out.end(), values.begin() + t * stride, values.begin() + t * stride + width);
  }
  return out;
}

std::vector<double> linear_tolerance(const HostWeight& weight, const std::vector<float>& x, RowRange range,
                                     int64_t stride, const Rig& rig) {
  const int64_t n_out = weight.layout.out_features;
  const int64_t n_in = weight.layout.in_features;
  std::vector<double> tolerance;
  for (int64_t t = 0; t < range.count; ++t) {
    for (int64_t n = 0; n < n_out; ++n) {
      double sum = std::fabs(weight.bias[static_cast<size_t>(n)]);
      for (int64_t k = 0; k < n_in; ++k) {
        sum += std::fabs(weight.at(n, k) * static_cast<double>(x[static_cast<size_t>(t * stride + k)]));
      }
      tolerance.push_back(kSlack * std::sqrt(static_cast<double>(n_in)) * rig.roundoff() * sum +
                          rig.factor_error(weight, n, x.data() + t * stride, role_of(range.first + t)));
    }
  }
  return tolerance;
}

OpCase linear_case(std::string name, const WeightSpec& spec, int64_t rows, int64_t gap, bool with_nan = false) {
  const uint64_t seed = static_cast<uint64_t>(spec.in_features * 1000 + rows);
  const WeightPtr weight = random_weight(spec, seed);
  const int64_t stride = spec.in_features + gap;
  std::vector<float> x = Random(seed + 1).activations(rows * stride);
  if (with_nan) {
    x[static_cast<size_t>(stride + 2)] = NAN;
    x[static_cast<size_t>(2 * stride)] = INFINITY;
  }
  const auto run = [=](Rig& rig, RowRange range) -> std::vector<Output> {
    const std::vector<float> part = slice(x, range, stride);
    const int64_t out_stride = spec.out_features + gap;
    LinearArgs args;
    args.rows = static_cast<int>(range.count);
    args.x = rig.act(part);
    args.x_stride = stride;
    args.weight = rig.weight(weight);
    args.roles = roles(rig, range);
    args.out = rig.act_out(range.count * out_stride);
    args.out_stride = out_stride;
    rig.stream().linear(args);
    const std::vector<double> out = rig.read_act(args.out, range.count * out_stride);
    return {{"out", spec.out_features, compact(out, range.count, out_stride, spec.out_features),
             linear_tolerance(*weight, part, range, stride, rig)}};
  };
  return {std::move(name), rows, run};
}

void add_linear_cases(std::vector<OpCase>& cases) {
  struct Kind {
    const char* name;
    DType type;
    std::vector<int> groups;
    std::vector<int64_t> widths;
  };
  const std::vector<Kind> kinds = {{"BF16", DType::kBF16, {}, {7, 33, 100, 256}},
                                   {"F16", DType::kF16, {}, {8, 31, 100}},
                                   {"F32", DType::kF32, {}, {1, 33, 100}},
                                   {"Fp4G32", DType::kBF16, {32}, {32, 96, 160}},
                                   {"Fp4G64", DType::kBF16, {64}, {64, 192}},
                                   {"Fp4G128", DType::kBF16, {128}, {128, 384}},
                                   {"Fp4G32G128", DType::kBF16, {32, 128}, {128, 384}},
                                   {"Fp4G128G64", DType::kBF16, {128, 64}, {128, 384}}};
  constexpr int64_t kOutputs[] = {1, 7, 33, 50, 100};
  constexpr DType kBiasTypes[] = {DType::kF32, DType::kBF16, DType::kF16};
  size_t i = 0;
  for (const Kind& kind : kinds) {
    for (const int64_t width : kind.widths) {
      for (int repeat = 0; repeat < 3; ++repeat, ++i) {
        WeightSpec spec;
        spec.out_features = kOutputs[i % std::size(kOutputs)];
        spec.in_features = width;
        spec.type = kind.type;
        spec.groups = kind.groups;
        spec.has_bias = i % 4 != 3;
        spec.bias_type = kBiasTypes[i % 3];
        const int64_t rows = kRowCounts[i % std::size(kRowCounts)];
        cases.push_back(linear_case(fmt::format("Linear{}K{}N{}T{}", kind.name, width, spec.out_features, rows), spec,
                                    rows, repeat == 2 ? 5 : 0));
      }
    }
  }
  WeightSpec spec;
  spec.out_features = 9;
  spec.in_features = 40;
  cases.push_back(linear_case("LinearNanAndInf", spec, 5, 0, true));
}

OpCase embed_case(std::string name, const WeightSpec& spec) {
  const int64_t rows = 17;
  const WeightPtr table = random_weight(spec, 11);
  std::vector<int32_t> ids;
  Random random(12);
  for (int64_t t = 0; t < rows; ++t) ids.push_back(random.index(static_cast<int>(spec.out_features)));
  const auto run = [=](Rig& rig, RowRange range) -> std::vector<Output> {
    const int64_t stride = spec.in_features + 3;
    EmbedArgs args;
    args.rows = static_cast<int>(range.count);
    args.ids = rig.array(std::vector<int32_t>(ids.begin() + range.first, ids.begin() + range.first + range.count));
    args.table = rig.weight(table);
    args.out = rig.act_out(range.count * stride);
    args.out_stride = stride;
    rig.stream().embed(args);
    Output out = exact("out", spec.in_features,
                       compact(rig.read_act(args.out, range.count * stride), range.count, stride, spec.in_features));
    // One plane is exact in FP32; the sum of two rounds once.
    for (size_t i = 0; i < out.values.size(); ++i) out.tolerance[i] = 2 * rig.roundoff() * std::fabs(out.values[i]);
    return {out};
  };
  return {std::move(name), rows, run};
}

OpCase norm_case(int64_t width, DType type, bool in_place) {
  const int64_t rows = 17;
  const int64_t stride = width + 6;
  const std::vector<float> x = Random(21).activations(rows * stride);
  WeightSpec spec;
  spec.out_features = 1;
  spec.in_features = width;
  spec.type = type;
  const WeightPtr gain = random_weight(spec, 22);
  const auto run = [=](Rig& rig, RowRange range) -> std::vector<Output> {
    VectorWeight vector{rig.weight(gain)->plain, type, width};
    RmsNormArgs args;
    args.rows = static_cast<int>(range.count);
    args.x = rig.act(slice(x, range, stride));
    args.x_stride = stride;
    args.gain = &vector;
    args.eps = 1e-5;
    args.out = in_place ? args.x : rig.act_out(range.count * width);
    args.out_stride = in_place ? stride : width;
    rig.stream().rms_norm(args);
    const int64_t size = (range.count - 1) * args.out_stride + width;
    Output out = exact("out", width, compact(rig.read_act(args.out, size), range.count, args.out_stride, width));
    // The sum of squares has no cancellation: its relative error, halved by the root, and three roundings.
    const double relative = (kSlack * std::sqrt(static_cast<double>(width)) + 4) * rig.roundoff();
    for (size_t i = 0; i < out.values.size(); ++i) out.tolerance[i] = relative * std::fabs(out.values[i]);
    return {out};
  };
  return {fmt::format("RmsNorm{}W{}{}", dtype_name(type), width, in_place ? "InPlace" : ""), rows, run};
}

OpCase rope_case(int heads, int dims) {
  const int64_t rows = 16;
  const int64_t head_stride = dims + 4;
  const int64_t stride = heads * head_stride + 2;
  constexpr int kPositions = 300;
  constexpr double kTheta = 1e6;
  const std::vector<float> x = Random(31).activations(rows * stride);
  const auto run = [=](Rig& rig, RowRange range) -> std::vector<Output> {
    std::vector<float> table;
    for (int p = 0; p < kPositions; ++p) {
      for (int i = 0; i < dims; i += 2) {
        const double angle = p * std::pow(kTheta, -static_cast<double>(i) / dims);
        table.push_back(static_cast<float>(std::cos(angle)));
        table.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    std::vector<int32_t> positions;
    for (int64_t t = range.first; t < range.first + range.count; ++t) {
      positions.push_back(static_cast<int32_t>(t * 37 % kPositions));
    }
    RopeArgs args;
    args.rows = static_cast<int>(range.count);
    args.heads = heads;
    args.dims = dims;
    args.x = rig.act(slice(x, range, stride));
    args.row_stride = stride;
    args.head_stride = head_stride;
    args.positions = rig.array(positions);
    args.theta = kTheta;
    args.table = rig.array(table);
    rig.stream().rope(args);
    Output out = exact("x", stride, rig.read_act(args.x, range.count * stride));
    // Elements are at most 2: two products with a rounded table entry, and a sum.
    std::fill(out.tolerance.begin(), out.tolerance.end(), 16 * rig.roundoff());
    return {out};
  };
  return {fmt::format("RopeH{}D{}", heads, dims), rows, run};
}

OpCase add_case() {
  const int64_t rows = 5;
  const int64_t width = 33;
  const std::vector<float> x = Random(41).activations(rows * (width + 2));
  const std::vector<float> y = Random(42).activations(rows * width);
  const auto run = [=](Rig& rig, RowRange range) -> std::vector<Output> {
    AddArgs args;
    args.rows = static_cast<int>(range.count);
    args.width = width;
    args.x = rig.act(slice(x, range, width + 2));
    args.x_stride = width + 2;
    args.y = rig.act(slice(y, range, width));
    args.y_stride = width;
    rig.stream().add(args);
    Output out = exact("x", width + 2, rig.read_act(args.x, range.count * (width + 2)));
    std::fill(out.tolerance.begin(), out.tolerance.end(), 4 * rig.roundoff());
    return {out};
  };
  return {"Add", rows, run};
}

OpCase swiglu_case(bool in_place) {
  const int64_t rows = 17;
  const int64_t width = 33;
  std::vector<float> gate = Random(51).activations(rows * width);
  const std::vector<float> up = Random(52).activations(rows * width);
  for (size_t i = 0; i < gate.size(); ++i) gate[i] *= 8;
  gate[3] = 100;
  gate[4] = -100;
  gate[5] = 0;
  const auto run = [=](Rig& rig, RowRange range) -> std::vector<Output> {
    SwigluArgs args;
    args.rows = static_cast<int>(range.count);
    args.width = width;
    args.gate = rig.act(slice(gate, range, width));
    args.up = rig.act(slice(up, range, width));
    args.out = in_place ? args.gate : rig.act_out(range.count * width);
    rig.stream().swiglu(args);
    Output out = exact("out", width, rig.read_act(args.out, range.count * width));
    // Four roundings and exp's own error; below FP32's normal range only the absolute error counts.
    for (size_t i = 0; i < out.values.size(); ++i) {
      out.tolerance[i] = 8 * rig.roundoff() * std::fabs(out.values[i]) + 1e-37;
    }
    return {out};
  };
  return {in_place ? "SwigluInPlace" : "Swiglu", rows, run};
}

OpCase gather_case() {
  const int64_t rows = 5;
  const int64_t width = 33;
  const std::vector<float> x = Random(61).activations(8 * (width + 1));
  const auto run = [=](Rig& rig, RowRange range) -> std::vector<Output> {
    const std::vector<int32_t> index = {7, 0, 3, 3, 1};
    GatherRowsArgs args;
    args.rows = static_cast<int>(range.count);
    args.width = width;
    args.x = rig.act(x);
    args.x_stride = width + 1;
    args.index = rig.array(index).at(static_cast<size_t>(range.first) * sizeof(int32_t));
    args.out = rig.act_out(range.count * width);
    rig.stream().gather_rows(args);
    return {exact("out", width, rig.read_act(args.out, range.count * width))};
  };
  return {"GatherRows", rows, run};
}

}  // namespace

std::vector<OpCase> dense_cases() {
  std::vector<OpCase> cases;
  add_linear_cases(cases);
  cases.push_back(embed_case("EmbedBF16", {50, 33, DType::kBF16, {}, false, DType::kF32}));
  cases.push_back(embed_case("EmbedFp4", {50, 128, DType::kBF16, {128}, false, DType::kF32}));
  cases.push_back(embed_case("EmbedFp4TwoPlanes", {50, 128, DType::kBF16, {64, 32}, false, DType::kF32}));
  cases.push_back(norm_case(33, DType::kBF16, false));
  cases.push_back(norm_case(100, DType::kF32, true));
  cases.push_back(norm_case(256, DType::kF16, false));
  cases.push_back(rope_case(1, 16));
  cases.push_back(rope_case(3, 10));
  cases.push_back(add_case());
  cases.push_back(swiglu_case(false));
  cases.push_back(swiglu_case(true));
  cases.push_back(gather_case());
  return cases;
}

std::vector<OpCase> real_dense_cases() {
  struct Shape {
    const char* name;
    std::vector<int> groups;
    int64_t out;
    int64_t in;
    int64_t rows;
  };
  std::vector<OpCase> cases;
  for (const Shape& shape :
       {Shape{"Fp4", {32}, 2048, 5120, 5}, Shape{"Fp4", {32}, 2048, 10240, 37}, Shape{"Fp4", {32}, 10240, 2048, 34},
        Shape{"Fp4TwoPlanes", {32, 32}, 768, 2048, 6}, Shape{"BF16", {}, 576, 2048, 9},
        Shape{"BF16", {}, 154880, 2048, 2}, Shape{"Fp4", {32}, 154880, 2048, 2}}) {
    std::string name = fmt::format("RealLinear{}K{}N{}T{}", shape.name, shape.in, shape.out, shape.rows);
    cases.push_back(lazy_case(name, shape.rows, [name, shape] {
      const WeightSpec spec{shape.out, shape.in, DType::kBF16, shape.groups, false, DType::kF32};
      return linear_case(name, spec, shape.rows, 0);
    }));
  }
  cases.push_back(lazy_case("RealRmsNorm", 17, [] { return norm_case(2048, DType::kBF16, false); }));
  return cases;
}

}  // namespace marlin::op_test
