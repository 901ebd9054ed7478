// The int8-plane products of every family that has them, bit for bit against planes.h's definition in scalars.
#include "backend/cpu/kernels/planes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "backend/cpu/kernels/families.h"
#include "base/float16.h"
#include "format/fp4.h"
#include "op_test_util.h"

namespace marlin::op_test {
namespace {

using cpu::Family;

/// 64-byte aligned bytes.
class Bytes {
 public:
  explicit Bytes(int64_t n) : lines_(static_cast<size_t>(n / 64 + 1)) {}
  uint8_t* data() { return lines_.front().bytes; }

 private:
  struct alignas(64) Line {
    uint8_t bytes[64];
  };
  std::vector<Line> lines_;
};

float definition(const HostWeight& weight, int64_t n, const float* x, bool high_only, float start) {
  const LinearWeight& layout = weight.layout;
  const int64_t width = layout.in_features;
  const int group = layout.planes[0].group_size;
  const auto* codes = reinterpret_cast<const uint8_t*>(weight.blob.data() + layout.planes[0].codes.offset);
  float acc = 0;
  for (int64_t first = 0; first < width; first += group) {
    const int64_t block = first / 128 * 128;
    float largest = 0;
    for (int64_t k = block; k < std::min(block + 128, width); ++k) largest = std::max(largest, std::fabs(x[k]));
    int32_t sum = 0;
    for (int64_t k = first; k < first + group; ++k) {
      const uint8_t code = fp4::code_at(codes + n * width / 2, k);
      auto q = static_cast<int32_t>(std::nearbyint(x[k] * (32639 / largest)));
      if (high_only) q = (q + 128) >> 8 << 8;
      sum += static_cast<int32_t>(2 * fp4::kValues[code]) * q;
    }
    uint16_t scale = 0;
    std::memcpy(&scale, weight.blob.data() + layout.planes[0].scales.offset + (n * width + first) / group * 2, 2);
    acc = std::fma(static_cast<float>(sum), f16_to_f32(scale) * (largest / 32639 * 0.5f), acc);
  }
  return start + acc;
}

class PlanesTest : public testing::TestWithParam<const Family*> {
 protected:
  /// out[j][i] of rows [row, row + n_rows), added to `start`.
  std::vector<std::vector<float>> run(const HostWeight& weight, const std::vector<float>& x, int64_t n_x, int64_t row,
                                      int64_t n_rows, bool add, bool high_only, float start) {
    const LinearWeight& layout = weight.layout;
    const int64_t width = layout.in_features;
    Bytes planes(n_x * cpu::plane_row_bytes(width));
    Bytes scratch(cpu::fp4_scratch_bytes(width));
    std::vector<std::vector<float>> out(static_cast<size_t>(n_x),
                                        std::vector<float>(static_cast<size_t>(n_rows) + 1, start));
    std::vector<const uint8_t*> x_rows;
    std::vector<float*> out_rows;
    for (int64_t j = 0; j < n_x; ++j) {
      uint8_t* to = planes.data() + j * cpu::plane_row_bytes(width);
      GetParam()->split(x.data() + j * width, width, to);
      x_rows.push_back(to);
      out_rows.push_back(out[static_cast<size_t>(j)].data());
    }
    const std::byte* blob = weight.blob.data();
    GetParam()->fp4_dot({reinterpret_cast<const uint8_t*>(blob + layout.planes[0].codes.offset),
                         reinterpret_cast<const uint16_t*>(blob + layout.planes[0].scales.offset),
                         layout.planes[0].group_size, width, row, n_rows, x_rows.data(), n_x, out_rows.data(), add,
                         high_only, scratch.data()});
    return out;
  }

  /// Rows [2, 2 + n_rows) of `weight` against the definition.
  void check(const HostWeight& weight, const std::vector<float>& x, int64_t n_x, int64_t n_rows, bool add,
             bool high_only) {
    const int64_t width = weight.layout.in_features;
    const auto out = run(weight, x, n_x, 2, n_rows, add, high_only, 3.0f);
    for (int64_t j = 0; j < n_x; ++j) {
      const std::vector<float>& row = out[static_cast<size_t>(j)];
      for (int64_t i = 0; i < n_rows; ++i) {
        const float expected = definition(weight, 2 + i, x.data() + j * width, high_only, add ? 3.0f : 0.0f);
        ASSERT_EQ(row[static_cast<size_t>(i)], expected)
            << weight.layout.planes[0].group_size << " " << width << " " << n_x << " " << j << " " << i;
      }
      EXPECT_EQ(row[static_cast<size_t>(n_rows)], 3.0f) << "written past the last row";
    }
  }
};

TEST_P(PlanesTest, EqualsTheDefinitionBitForBit) {
  const std::pair<int, int64_t> shapes[] = {{32, 32}, {32, 160}, {64, 192}, {64, 576}, {128, 128}, {128, 1152}};
  for (const auto& [group, width] : shapes) {
    const WeightPtr weight = random_weight({37, width, DType::kBF16, {group}, false, DType::kF32}, 3);
    for (const int64_t n_x : {1, 2, 3, 4, 7, 8, 13, 15, 21, 22, 70}) {
      const std::vector<float> x = Random(4).activations(n_x * width);
      const bool add = n_x % 2 == 0;
      const bool high_only = n_x % 4 < 2;
      for (const int64_t n_rows : {35, 6}) check(*weight, x, n_x, n_rows, add, high_only);
    }
  }
}

// The largest sums there are: every code 6 or -6 and activations at the ends of both planes' ranges. Products that are
// added in 16 bits must not saturate.
TEST_P(PlanesTest, ExtremesDoNotSaturate) {
  for (const int group : {32, 64, 128}) {
    const WeightPtr random = random_weight({37, 256, DType::kBF16, {group}, false, DType::kF32}, 6);
    for (const uint8_t codes : {0x77, 0xff}) {
      HostWeight weight = *random;
      std::fill_n(weight.blob.begin() + static_cast<int64_t>(weight.layout.planes[0].codes.offset), 37 * 128,
                  std::byte{codes});
      // The first value of a block makes the step 1. (hi, lo) of the others: (127, 127), (127, -128), (-127, 127),
      // (-127, -127) and (-126, -128).
      for (const float q : {32639.0f, 32384.0f, -32385.0f, -32639.0f, -32384.0f}) {
        std::vector<float> x(9 * 256, q);
        for (size_t k = 0; k < x.size(); k += 128) x[k] = 32639;
        for (const int64_t n_x : {1, 9}) check(weight, x, n_x, 35, false, false);
      }
    }
  }
}

TEST_P(PlanesTest, ZerosTinyAndNotFiniteValues) {
  const WeightPtr weight = random_weight({5, 256, DType::kBF16, {128}, false, DType::kF32}, 5);
  for (const float value : {0.0f, 1e-40f, -1e-36f}) {
    EXPECT_EQ(run(*weight, std::vector<float>(256, value), 1, 0, 5, false, false, 0)[0][4], 0.0f) << value;
  }
  for (const float value : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> x(256, 1.0f);
    x[200] = value;
    EXPECT_TRUE(std::isnan(run(*weight, x, 1, 0, 5, false, false, 0)[0][4])) << value;
  }
}

std::vector<const Family*> families_with_planes() {
  std::vector<const Family*> families;
  std::ranges::copy_if(cpu::usable_families(), std::back_inserter(families),
                       [](const Family* family) { return family->fp4_dot != nullptr; });
  return families;
}

// A machine without any such family compares nothing here: it computes in FP32 only.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(PlanesTest);
INSTANTIATE_TEST_SUITE_P(Cpu, PlanesTest, testing::ValuesIn(families_with_planes()),
                         [](const testing::TestParamInfo<const Family*>& test) { return test.param->name; });

}  // namespace
}  // namespace marlin::op_test
