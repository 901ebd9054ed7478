// metal_stdlib on the CPU, function by function, against C++.
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "metal/emulator_test_util.h"

namespace marlin::emulator {
namespace {

constexpr size_t kValues = 64;

/// Deterministic numbers in [-1, 1).
float noise(uint32_t seed) {
  seed *= 2654435761u;
  seed ^= seed >> 15;
  seed *= 2246822519u;
  seed ^= seed >> 13;
  return static_cast<float>(seed >> 8) / 8388608.0f - 1.0f;
}

double round_to_half(double x) {
  if (x == 0) return x;
  int exponent = 0;
  std::frexp(x, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent - 11, -24));
  return std::nearbyint(x / unit) * unit;
}
float round_to_bfloat(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u);
}

// ---- arithmetic ----------------------------------------------------------------------------------------------------

struct Four {
  float x, y, p, u;
};

struct FloatFunction {
  const char* name;
  std::function<double(Four)> reference;
  double relative = 1e-6;
};

double median(double a, double b, double c) {
  return std::max(std::min(a, b), std::min(std::max(a, b), c));
}
double smoothstep(double low, double high, double x) {
  const double t = std::clamp((x - low) / (high - low), 0.0, 1.0);
  return t * t * (3 - 2 * t);
}

/// In the order of float_functions in arithmetic.metal.
std::vector<FloatFunction> transcendental_functions() {
  return {
      {"acos", [](Four v) { return std::acos(double{v.u}); }},
      {"asin", [](Four v) { return std::asin(double{v.u}); }},
      {"atan", [](Four v) { return std::atan(double{v.x}); }},
      {"atan2", [](Four v) { return std::atan2(double{v.x}, double{v.y}); }},
      {"cos", [](Four v) { return std::cos(double{v.x}); }},
      {"sin", [](Four v) { return std::sin(double{v.x}); }},
      {"tan", [](Four v) { return std::tan(double{v.x}); }},
      {"cosh", [](Four v) { return std::cosh(double{v.x}); }},
      {"sinh", [](Four v) { return std::sinh(double{v.x}); }},
      {"tanh", [](Four v) { return std::tanh(double{v.x}); }},
      {"acosh", [](Four v) { return std::acosh(double{v.p + 1}); }},
      {"asinh", [](Four v) { return std::asinh(double{v.x}); }},
      {"atanh", [](Four v) { return std::atanh(double{v.u}); }},
      {"exp", [](Four v) { return std::exp(double{v.x}); }},
      {"exp2", [](Four v) { return std::exp2(double{v.x}); }},
      {"precise::exp", [](Four v) { return std::exp(double{v.x}); }},
      {"fast::exp", [](Four v) { return std::exp(double{v.x}); }},
      {"log", [](Four v) { return std::log(double{v.p}); }},
      {"log2", [](Four v) { return std::log2(double{v.p}); }},
      {"log10", [](Four v) { return std::log10(double{v.p}); }},
      {"sqrt", [](Four v) { return std::sqrt(double{v.p}); }},
      {"rsqrt", [](Four v) { return 1 / std::sqrt(double{v.p}); }},
      {"pow", [](Four v) { return std::pow(double{v.p}, double{v.y}); }},
      {"powr", [](Four v) { return std::pow(double{v.p}, double{v.y}); }},
  };
}

std::vector<FloatFunction> exact_functions() {
  return {
      {"floor", [](Four v) { return std::floor(v.x); }, 0},
      {"ceil", [](Four v) { return std::ceil(v.x); }, 0},
      {"trunc", [](Four v) { return std::trunc(v.x); }, 0},
      {"rint", [](Four v) { return std::nearbyint(v.x); }, 0},
      {"round", [](Four v) { return std::round(v.x); }, 0},
      {"fract", [](Four v) { return v.x - std::floor(v.x); }, 0},
      {"fabs", [](Four v) { return std::abs(v.x); }, 0},
      {"abs", [](Four v) { return std::abs(v.x); }, 0},
      {"sign", [](Four v) { return v.x > 0 ? 1 : -1; }, 0},
      {"fmod", [](Four v) { return std::fmod(v.x, v.p); }, 0},
      {"copysign", [](Four v) { return std::copysign(v.x, v.y); }, 0},
      {"fdim", [](Four v) { return std::fdim(v.x, v.y); }, 0},
      {"fma", [](Four v) { return std::fma(v.x, v.y, v.p); }, 0},
      {"min", [](Four v) { return std::min(v.x, v.y); }, 0},
      {"max", [](Four v) { return std::max(v.x, v.y); }, 0},
      {"fmin", [](Four v) { return v.x; }, 0},
      {"fmax", [](Four v) { return v.y; }, 0},
      {"clamp", [](Four v) { return std::clamp(v.x, -1.0f, 1.0f); }, 0},
      {"saturate", [](Four v) { return std::clamp(v.x, 0.0f, 1.0f); }, 0},
      {"mix", [](Four v) { return v.x + (v.y - v.x) * 0.25f; }, 0},
      {"step", [](Four v) { return v.y < v.x ? 0 : 1; }, 0},
      {"smoothstep", [](Four v) { return smoothstep(-4, 4, v.x); }, 1e-5},
      {"min3",
       [](Four v) {
         return std::min({v.x, v.y, v.p});
       },
       0},
      {"max3",
       [](Four v) {
         return std::max({v.x, v.y, v.p});
       },
       0},
      {"median3", [](Four v) { return median(v.x, v.y, v.p); }, 0},
      {"select", [](Four v) { return v.p > 1 ? v.y : v.x; }, 0},
      {"tests", [](Four v) { return 4 + (v.x < 0 ? 8 : 0) + 16 + 32; }, 0},
      {"ldexp", [](Four v) { return 8 * v.x; }, 0},
      {"half", [](Four v) { return round_to_half(v.x); }, 0},
      {"bfloat", [](Four v) { return round_to_bfloat(v.x); }, 0},
      {"half arithmetic",
       [](Four v) {
         return round_to_half(round_to_half(round_to_half(v.x) * round_to_half(v.y)) + round_to_half(v.p));
       },
       0},
      {"fma of halves",
       [](Four v) { return round_to_half(std::fma(round_to_half(v.x), round_to_half(v.y), round_to_half(v.p))); }, 0},
      {"half literal", [](Four v) { return round_to_half(1.5 * round_to_half(v.x)); }, 0},
      {"float literal", [](Four v) { return v.x * 0.1f; }, 0},
      {"as_type", [](Four v) { return -v.x; }, 0},
  };
}

TEST(EmulatorShim, FunctionsOfFloats) {
  std::vector<Four> values(kValues);
  for (uint32_t i = 0; i < kValues; ++i) {
    values[i] = {5 * noise(4 * i), 3 * noise(4 * i + 1), 2.01f + 2 * noise(4 * i + 2), 0.99f * noise(4 * i + 3)};
  }
  std::vector<FloatFunction> functions = transcendental_functions();
  for (FloatFunction& exact : exact_functions()) functions.push_back(std::move(exact));
  auto out = region_for<float>(kValues * functions.size());
  run_cleanly(dispatch_of("float_functions", {region_of(values), out}, {2}, {kValues / 2}));
  const auto results = values_of<float>(*out);
  for (size_t n = 0; n < functions.size(); ++n) {
    for (size_t i = 0; i < kValues; ++i) {
      const double expected = functions[n].reference(values[i]);
      // Near a zero of the function the argument's own rounding counts.
      const double tolerance = functions[n].relative * std::max(std::abs(expected), 0.1);
      EXPECT_NEAR(results[n * kValues + i], expected, tolerance) << functions[n].name << " of value " << i;
    }
  }
}

struct IntFunction {
  const char* name;
  std::function<int64_t(int64_t x, int64_t y)> reference;  // the low 32 bits count
};

constexpr int64_t kLow = 0xFFFFFFFF;

int64_t saturated(int64_t x) {
  return std::clamp<int64_t>(x, std::numeric_limits<int>::min(), std::numeric_limits<int>::max());
}
int64_t reversed(int64_t x) {
  int64_t result = 0;
  for (int bit = 0; bit < 32; ++bit) result |= (x >> bit & 1) << (31 - bit);
  return result;
}

/// In the order of int_functions in arithmetic.metal.
std::vector<IntFunction> int_functions() {
  return {
      {"abs", [](int64_t x, int64_t) { return std::abs(x); }},
      {"min", [](int64_t x, int64_t y) { return std::min(x, y); }},
      {"max of uint", [](int64_t x, int64_t y) { return std::max(x & kLow, y & kLow); }},
      {"clamp", [](int64_t x, int64_t) { return std::clamp<int64_t>(x, -100, 100); }},
      {"popcount", [](int64_t x, int64_t) { return std::popcount(static_cast<uint32_t>(x)); }},
      {"clz", [](int64_t x, int64_t) { return std::countl_zero(static_cast<uint32_t>(x)); }},
      {"ctz", [](int64_t x, int64_t) { return std::countr_zero(static_cast<uint32_t>(x)); }},
      {"clz of ushort", [](int64_t x, int64_t) { return std::countl_zero(static_cast<uint16_t>(x)); }},
      {"reverse_bits", [](int64_t x, int64_t) { return reversed(x & kLow); }},
      {"rotate",
       [](int64_t x, int64_t y) { return std::rotl(static_cast<uint32_t>(x), static_cast<int>((y & kLow) % 32)); }},
      {"mulhi", [](int64_t x, int64_t y) { return x * y >> 32; }},
      {"mulhi of uint",
       [](int64_t x, int64_t y) {
         return static_cast<int64_t>(static_cast<uint64_t>(x & kLow) * static_cast<uint64_t>(y & kLow) >> 32);
       }},
      {"addsat", [](int64_t x, int64_t y) { return saturated(x + y); }},
      {"subsat of uint", [](int64_t x, int64_t y) { return std::max<int64_t>((x & kLow) - (y & kLow), 0); }},
      {"absdiff", [](int64_t x, int64_t y) { return std::abs(x - y); }},
      {"hadd", [](int64_t x, int64_t y) { return (x + y) >> 1; }},
      {"rhadd", [](int64_t x, int64_t y) { return (x + y + 1) >> 1; }},
      {"extract_bits",
       [](int64_t x, int64_t) {
         const int64_t bits = x >> 5 & 127;
         return bits < 64 ? bits : bits - 128;
       }},
      {"extract_bits of uint", [](int64_t x, int64_t) { return x >> 5 & 127; }},
      {"insert_bits", [](int64_t x, int64_t y) { return (x & ~(63 << 9)) | (y & 63) << 9; }},
      {"as_type<short2>", [](int64_t x, int64_t) { return static_cast<int16_t>(x >> 16); }},
      {"as_type<uchar4>", [](int64_t x, int64_t) { return x >> 16 & 255; }},
      {"any and all", [](int64_t x, int64_t y) { return (x > 0 || y > 0) + 2 * (x > 0 && y > 0); }},
      {"numeric_limits", [](int64_t, int64_t) { return 0; }},
  };
}

TEST(EmulatorShim, FunctionsOfIntegers) {
  std::vector<int32_t> pairs;
  const std::vector<int32_t> special = {0, 1, -1, 7, -100, 65536, 2147483647, -2147483647};
  for (int32_t x : special) {
    for (int32_t y : special) pairs.insert(pairs.end(), {x, y});
  }
  ASSERT_EQ(pairs.size(), 2 * kValues);
  const std::vector<IntFunction> functions = int_functions();
  auto out = region_for<int32_t>(kValues * functions.size());
  run_cleanly(dispatch_of("int_functions", {region_of(pairs), out}, {1}, {kValues}));
  const auto results = values_of<int32_t>(*out);
  for (size_t n = 0; n < functions.size(); ++n) {
    for (size_t i = 0; i < kValues; ++i) {
      const int64_t expected = functions[n].reference(pairs[2 * i], pairs[2 * i + 1]);
      EXPECT_EQ(static_cast<uint32_t>(results[n * kValues + i]), static_cast<uint32_t>(expected))
          << functions[n].name << " of " << pairs[2 * i] << " and " << pairs[2 * i + 1];
    }
  }
}

/// In the order of vector_functions in arithmetic.metal.
std::vector<double> vector_results(const float* a) {
  const double x = a[0], y = a[1], z = a[2], w = a[3];
  const double b[4] = {y, z + 1, w, x + 1};
  const double dot = 2 * (x * w + y * z);
  return {dot,
          x * y + y * y + z * y,
          std::hypot(x, y),
          std::sqrt(2 * ((x - w) * (x - w) + (y - z) * (y - z))),
          y / std::sqrt(x * x + y * y + z * z),
          x * z - y * w,
          b[0],
          b[1],
          b[2],
          b[3],
          x - 0.5 + 10 * (3 * b[2] - 0.5),
          y < b[1] ? b[1] : y,
          std::max(x, 0.0) + std::min(y, b[1]),
          std::exp(y),
          round_to_half(z) + 3,
          3,
          y + z + 2 * x,
          2 * x + 3 * z,
          2 * y + 3 * w,
          z,
          w,
          z};
}

TEST(EmulatorShim, VectorsAndMatrices) {
  std::vector<float> values(4 * kValues);
  for (uint32_t i = 0; i < values.size(); ++i) values[i] = 2 * noise(i + 1000);
  const size_t count = vector_results(values.data()).size();
  auto out = region_for<float>(kValues * count);
  run_cleanly(
      dispatch_of("vector_functions", {region_of(values), out, region_for<float>(3 * kValues)}, {1}, {kValues}));
  const auto results = values_of<float>(*out);
  for (size_t i = 0; i < kValues; ++i) {
    const std::vector<double> expected = vector_results(&values[4 * i]);
    // Sums of a few products of values below 2: some 30 roundings of numbers below 50.
    for (size_t n = 0; n < count; ++n) EXPECT_NEAR(results[n * kValues + i], expected[n], 2e-5) << n << ", value " << i;
  }
}

// ---- simdgroups ----------------------------------------------------------------------------------------------------

constexpr uint32_t kLanes = 32;

std::vector<int32_t> lane_values() {
  std::vector<int32_t> values(kLanes);
  for (uint32_t i = 0; i < kLanes; ++i) values[i] = static_cast<int32_t>(i * 37 % 101);
  return values;
}

/// Rows of results of a kernel, in every schedule the same.
std::vector<std::vector<int32_t>> lane_results(const char* kernel, size_t rows) {
  std::vector<std::vector<int32_t>> result;
  for (Schedule schedule : {Schedule::kForward, Schedule::kReverse, Schedule::kRandom}) {
    auto out = region_for<int32_t>(rows * kLanes);
    run_cleanly(dispatch_of(kernel, {region_of(lane_values()), out}, {1}, {kLanes}), {.schedule = schedule});
    const auto values = values_of<int32_t>(*out);
    std::vector<std::vector<int32_t>> split;
    for (size_t row = 0; row < rows; ++row) {
      split.emplace_back(values.begin() + static_cast<ptrdiff_t>(row * kLanes),
                         values.begin() + static_cast<ptrdiff_t>((row + 1) * kLanes));
    }
    if (schedule != Schedule::kForward) {
      EXPECT_EQ(split, result);
    }
    result = split;
  }
  return result;
}

std::vector<int32_t> each_lane(const std::function<int32_t(uint32_t)>& value) {
  std::vector<int32_t> result(kLanes);
  for (uint32_t i = 0; i < kLanes; ++i) result[i] = value(i);
  return result;
}

TEST(EmulatorShim, SimdReductions) {
  const std::vector<int32_t> x = lane_values();
  const auto results = lane_results("simd_reductions", 12);
  auto folded = [&](int32_t start, auto combine) {
    const int32_t all = std::accumulate(x.begin(), x.end(), start, combine);
    return each_lane([all](uint32_t) { return all; });
  };
  auto sum = [&](uint32_t begin, uint32_t end) { return std::accumulate(&x[begin], x.data() + end, 0); };
  EXPECT_EQ(results[0], folded(0, std::plus<>()));
  EXPECT_EQ(results[1], folded(1000, [](int a, int b) { return std::min(a, b); }));
  EXPECT_EQ(results[2], folded(-1, [](int a, int b) { return std::max(a, b); }));
  EXPECT_EQ(results[3], folded(-1, std::bit_and<>()));
  EXPECT_EQ(results[4], folded(0, std::bit_or<>()));
  EXPECT_EQ(results[5], folded(0, std::bit_xor<>()));
  EXPECT_EQ(results[6], folded(1, [](int a, int b) { return a * (b % 2 * 2 + 1); }));
  EXPECT_EQ(results[7], each_lane([&](uint32_t i) { return sum(0, i + 1); }));
  EXPECT_EQ(results[8], each_lane([&](uint32_t i) { return sum(0, i); }));
  EXPECT_EQ(results[9], each_lane([&](uint32_t i) { return sum(i / 4 * 4, i / 4 * 4 + 4); }));
  EXPECT_EQ(results[10], each_lane([&](uint32_t i) { return *std::max_element(&x[i / 4 * 4], &x[i / 4 * 4] + 4); }));
  EXPECT_EQ(results[11], each_lane([&](uint32_t i) { return *std::min_element(&x[i / 4 * 4], &x[i / 4 * 4] + 4); }));
}

TEST(EmulatorShim, SimdVotes) {
  const std::vector<int32_t> x = lane_values();
  const auto results = lane_results("simd_votes", 7);
  uint32_t over_50 = 0;
  for (uint32_t i = 0; i < kLanes; ++i) over_50 |= static_cast<uint32_t>(x[i] > 50) << i;
  const std::vector<int32_t> expected = {static_cast<int32_t>(over_50), 1, 0, 1, 0};
  for (size_t row = 0; row < expected.size(); ++row) {
    EXPECT_EQ(results[row], each_lane([&](uint32_t) { return expected[row]; })) << row;
  }
  EXPECT_EQ(results[5], each_lane([](uint32_t i) { return i == 0; }));
  EXPECT_EQ(results[6], each_lane([](uint32_t) { return -1; }));
}

TEST(EmulatorShim, SimdShuffles) {
  const std::vector<int32_t> x = lane_values();
  const auto results = lane_results("simd_shuffles", 10);
  EXPECT_EQ(results[0], each_lane([&](uint32_t i) { return x[31 - i]; }));
  EXPECT_EQ(results[1], each_lane([&](uint32_t) { return x[5]; }));
  EXPECT_EQ(results[2], each_lane([&](uint32_t) { return x[0]; }));
  EXPECT_EQ(results[3], each_lane([&](uint32_t i) { return x[i ^ 9]; }));
  EXPECT_EQ(results[4], each_lane([&](uint32_t i) { return x[i + 3 < 32 ? i + 3 : i]; }));
  EXPECT_EQ(results[5], each_lane([&](uint32_t i) { return x[i >= 3 ? i - 3 : i]; }));
  EXPECT_EQ(results[6], each_lane([&](uint32_t i) { return x[(i + 3) % 32]; }));
  EXPECT_EQ(results[7], each_lane([&](uint32_t i) { return x[(i + 29) % 32]; }));
  EXPECT_EQ(results[8], each_lane([&](uint32_t i) { return x[i / 4 * 4 + 2]; }));
  EXPECT_EQ(results[9], each_lane([&](uint32_t i) { return x[i ^ 1]; }));
}

TEST(EmulatorShim, SumsOfFloatsHaveAnOrder) {
  std::vector<float> in(kLanes);
  for (uint32_t i = 0; i < kLanes; ++i) in[i] = noise(i);
  std::vector<float> sums = in;
  for (uint32_t apart = 16; apart > 0; apart /= 2) {
    for (uint32_t i = 0; i < apart; ++i) sums[i] += sums[i + apart];
  }
  auto out = region_for<float>(2 * kLanes);
  run_cleanly(dispatch_of("simd_float_sum", {region_of(in), out}, {1}, {kLanes}));
  const auto results = values_of<float>(*out);
  for (uint32_t i = 0; i < kLanes; ++i) {
    EXPECT_EQ(results[i], sums[0]);
    EXPECT_EQ(results[kLanes + i], 2 * sums[0]);
  }
}

TEST(EmulatorShim, LanesThatReturnedTakeNoPart) {
  const std::vector<int32_t> x = lane_values();
  const auto results = lane_results("simd_partial", 2);
  const int32_t sum = std::accumulate(x.begin(), x.begin() + 20, 0);
  EXPECT_EQ(results[0], each_lane([&](uint32_t i) { return i < 20 ? sum : -1; }));
  EXPECT_EQ(results[1], each_lane([&](uint32_t i) { return i < 20 ? 1 : -1; }));
}

// ---- matrices ------------------------------------------------------------------------------------------------------

TEST(EmulatorShim, MatricesLieInLanesAsOnAppleGpus) {
  std::vector<float> in(64);
  std::iota(in.begin(), in.end(), 0.0f);
  auto out = region_for<float>(64);
  run_cleanly(dispatch_of("matrix_layout", {region_of(in), out}, {1}, {kLanes}));
  // The first element's number of each lane; the second one's is next to it. Quads of lanes hold 2 x 4 blocks.
  const std::vector<float> first = {0,  2,  8,  10, 16, 18, 24, 26, 4,  6,  12, 14, 20, 22, 28, 30,
                                    32, 34, 40, 42, 48, 50, 56, 58, 36, 38, 44, 46, 52, 54, 60, 62};
  const auto results = values_of<float>(*out);
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    EXPECT_EQ(results[2 * lane], first[lane]) << lane;
    EXPECT_EQ(results[2 * lane + 1], first[lane] + 1) << lane;
  }
}

/// A half of a small integer.
uint16_t half_of(int value) {
  if (value == 0) return 0;
  const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | (((bits >> 23 & 255) - 112) << 10) | (bits >> 13 & 1023));
}

TEST(EmulatorShim, MatrixProductsOfMixedTypes) {
  constexpr size_t kStride = 10;
  std::vector<int> a(64), b(12 * kStride);
  std::vector<float> c(64), expected(64);
  for (uint32_t i = 0; i < a.size(); ++i) a[i] = static_cast<int>(8 * noise(i));
  for (uint32_t i = 0; i < b.size(); ++i) b[i] = static_cast<int>(8 * noise(i + 100));
  for (uint32_t i = 0; i < c.size(); ++i) c[i] = noise(i + 300);
  for (size_t row = 0; row < 8; ++row) {
    for (size_t column = 0; column < 8; ++column) {
      float sum = c[8 * row + column];
      // Row k and column `column` of the transposed matrix, whose origin is x = 2, y = 1.
      for (size_t k = 0; k < 8; ++k) {
        sum = std::fma(static_cast<float>(a[8 * row + k]), static_cast<float>(b[(2 + column) * kStride + 1 + k]), sum);
      }
      expected[8 * row + column] = sum;
    }
  }
  auto halves = [](const std::vector<int>& values) {
    std::vector<uint16_t> result;
    for (int value : values) result.push_back(half_of(value));
    return region_of(result);
  };
  auto out = region_for<float>(64);
  run_cleanly(dispatch_of("matrix_product", {halves(a), halves(b), region_of(c), out}, {1}, {kLanes}));
  EXPECT_EQ(values_of<float>(*out), expected);
}

TEST(EmulatorShim, MatricesOfOneValue) {
  auto out = region_for<float>(192);
  run_cleanly(dispatch_of("matrix_made", {out}, {1}, {kLanes}));
  const auto results = values_of<float>(*out);
  for (size_t i = 0; i < 64; ++i) {
    EXPECT_EQ(results[i], 3.0f);
    EXPECT_EQ(results[64 + i], i % 9 == 0 ? 2.0f : 0.0f);
    EXPECT_EQ(results[128 + i], 6.0f);
  }
}

}  // namespace
}  // namespace marlin::emulator
