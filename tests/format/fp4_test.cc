#include "format/fp4.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/float16.h"
#include "format/dtype.h"

namespace marlin::fp4 {
namespace {

// The value of a code from the bit fields: s, two exponent bits with bias 1, one mantissa bit.
double value_of(int code) {
  const int exponent = (code >> 1) & 3;
  const int mantissa = code & 1;
  const double magnitude = exponent == 0 ? 0.5 * mantissa : std::ldexp(1.0 + 0.5 * mantissa, exponent - 1);
  return (code & 8) != 0 ? -magnitude : magnitude;
}

// Nearest by trying all codes, the smaller magnitude on a tie.
int nearest_code(double x) {
  int best = 0;
  for (int magnitude = 0; magnitude < 8; ++magnitude) {
    const int code = x < 0 && magnitude != 0 ? magnitude | 8 : magnitude;
    if (std::fabs(x - value_of(code)) < std::fabs(x - value_of(best))) best = code;
  }
  return best;
}

TEST(Fp4, AllSixteenCodes) {
  for (int code = 0; code < 16; ++code) {
    EXPECT_EQ(kValues[static_cast<size_t>(code)], value_of(code)) << code;
    EXPECT_EQ(std::signbit(kValues[static_cast<size_t>(code)]), code >= 8) << code;
    if (code != 8) {
      EXPECT_EQ(encode(kValues[static_cast<size_t>(code)]), code);
    }
  }
}

TEST(Fp4, NegativeZeroIsNeverWritten) {
  EXPECT_EQ(encode(-0.0f), 0);
  EXPECT_EQ(encode(-0.25f), 0);
  EXPECT_EQ(encode(-std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(encode(std::nextafter(-0.25f, -1.0f)), 9);
}

TEST(Fp4, TiesGoToTheSmallerMagnitude) {
  for (int code = 0; code < 7; ++code) {
    const auto middle = static_cast<float>((value_of(code) + value_of(code + 1)) / 2);
    EXPECT_EQ(encode(middle), code);
    EXPECT_EQ(encode(std::nextafter(middle, 10.0f)), code + 1);
    EXPECT_EQ(encode(-middle), code == 0 ? 0 : code | 8);
  }
}

TEST(Fp4, ClampsBeyondSix) {
  EXPECT_EQ(encode(7.0f), 7);
  EXPECT_EQ(encode(-1e30f), 15);
  EXPECT_EQ(encode(std::numeric_limits<float>::infinity()), 7);
}

TEST(Fp4, EncodesLikeASearchOverAllCodes) {
  for (int i = -70000; i <= 70000; ++i) {
    const auto x = static_cast<float>(i) / 10000.0f;
    ASSERT_EQ(encode(x), nearest_code(x)) << x;
  }
}

TEST(Fp4, EveryScaleDecodesEveryCode) {
  const std::vector<uint8_t> codes = {0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe};
  std::vector<float> out(16);
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto scale = static_cast<uint16_t>(bits);
    dequantize_group(codes.data(), scale, out.data(), 16);
    for (int k = 0; k < 16; ++k) {
      ASSERT_EQ(code_at(codes.data(), k), k);
      const float expected = static_cast<float>(value_of(k)) * f16_to_f32(scale);
      const float found = out[static_cast<size_t>(k)];
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(found)) << bits;
      } else {
        ASSERT_EQ(found, expected) << bits;
        ASSERT_EQ(std::signbit(found), std::signbit(expected)) << bits;
      }
    }
  }
}

struct Quantized {
  GroupError error = GroupError::kNone;
  uint16_t scale = 0xdead;
  std::vector<uint8_t> codes;
};

Quantized quantize(const std::vector<float>& values) {
  Quantized out;
  out.codes.assign(values.size() / 2, 0xee);
  out.error = quantize_group(values, out.codes.data(), out.scale);
  return out;
}

TEST(Fp4Group, ScaleIsTheRoundedSixthOfTheMaximum) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  for (int round = 0; round < 200; ++round) {
    std::vector<float> values(128);
    float absmax = 0.0f;
    for (float& value : values) {
      value = normal(random);
      absmax = std::max(absmax, std::fabs(value));
    }
    const Quantized q = quantize(values);
    ASSERT_EQ(q.error, GroupError::kNone);
    ASSERT_EQ(q.scale, f32_to_f16(absmax / 6.0f));
    for (int k = 0; k < 128; ++k) {
      const double x = static_cast<double>(values[static_cast<size_t>(k)]) / f16_to_f32(q.scale);
      ASSERT_EQ(code_at(q.codes.data(), k), nearest_code(x)) << x;
    }
  }
}

TEST(Fp4Group, GridValuesComeBackExactly) {
  std::vector<float> values(kValues.begin(), kValues.end());
  for (float& value : values) value *= 0.375f;
  values[8] = 0.0f;
  const Quantized q = quantize(values);
  std::vector<float> back(16);
  dequantize_group(q.codes.data(), q.scale, back.data(), 16);
  EXPECT_EQ(back, values);
  EXPECT_EQ(code_at(q.codes.data(), 8), 0);
}

TEST(Fp4Group, ZeroGroup) {
  const Quantized q = quantize(std::vector<float>(32, -0.0f));
  EXPECT_EQ(q.error, GroupError::kNone);
  EXPECT_EQ(q.scale, 0);
  EXPECT_EQ(q.codes, std::vector<uint8_t>(16, 0));
}

TEST(Fp4Group, SubnormalScalesAreUsed) {
  std::vector<float> values(32, 0.0f);
  values[3] = 6.0f * 0x1p-24f;
  values[4] = -3.0f * 0x1p-24f;
  const Quantized q = quantize(values);
  EXPECT_EQ(q.scale, 1);
  EXPECT_EQ(code_at(q.codes.data(), 3), 7);
  EXPECT_EQ(code_at(q.codes.data(), 4), 13);
}

TEST(Fp4Group, ScaleThatRoundsToZeroGivesZeroCodes) {
  std::vector<float> values(32, 0.0f);
  values[0] = 6.0f * 0x1p-25f;  // the scale is half the smallest subnormal: ties to even, to zero
  const Quantized q = quantize(values);
  EXPECT_EQ(q.error, GroupError::kNone);
  EXPECT_EQ(q.scale, 0);
  EXPECT_EQ(q.codes, std::vector<uint8_t>(16, 0));
}

TEST(Fp4Group, LargestScaleAndOverflow) {
  std::vector<float> values(32, 0.0f);
  values[31] = -6.0f * 65504.0f;
  EXPECT_EQ(quantize(values).error, GroupError::kNone);
  EXPECT_EQ(quantize(values).scale, 0x7bff);
  values[31] = 6.0f * 65505.0f;
  const Quantized q = quantize(values);
  EXPECT_EQ(q.error, GroupError::kScaleOverflow);
  EXPECT_EQ(q.scale, 0xdead);
  EXPECT_EQ(q.codes, std::vector<uint8_t>(16, 0xee));
}

TEST(Fp4Group, NonFiniteWeightsAreRefused) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    std::vector<float> values(32, 1.0f);
    values[17] = bad;
    const Quantized q = quantize(values);
    EXPECT_EQ(q.error, GroupError::kNotFinite);
    EXPECT_EQ(q.scale, 0xdead);
    EXPECT_EQ(q.codes, std::vector<uint8_t>(16, 0xee));
  }
}

TEST(DTypes, NamesAndSizes) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i) {
    const auto type = static_cast<DType>(i);
    DType parsed = DType::kF64;
    ASSERT_TRUE(parse_dtype(dtype_name(type), parsed));
    EXPECT_EQ(parsed, type);
    EXPECT_GT(dtype_size(type), 0u);
  }
  EXPECT_EQ(dtype_size(DType::kBF16), 2u);
  EXPECT_EQ(dtype_size(DType::kI64), 8u);
  DType parsed = DType::kF64;
  EXPECT_FALSE(parse_dtype("F8_E4M3", parsed));
  EXPECT_FALSE(parse_dtype("", parsed));
}

}  // namespace
}  // namespace marlin::fp4
