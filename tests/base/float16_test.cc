// Both 16-bit types against a slow implementation written from their definitions.
#include "base/float16.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

namespace marlin {
namespace {

struct Type {
  int mantissa_bits;
  int bias;
  int max_exponent;  // the biased exponent of Inf and NaN
};
constexpr Type kHalf{10, 15, 31};
constexpr Type kBrain{7, 127, 255};

double value_of(uint16_t bits, const Type& type) {
  const int exponent = (bits & 0x7fff) >> type.mantissa_bits;
  const int mantissa = bits & ((1 << type.mantissa_bits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == type.max_exponent) {
    return mantissa == 0 ? sign * std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - type.bias - type.mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << type.mantissa_bits), exponent - type.bias - type.mantissa_bits);
}

// Round to nearest even: a double holds every float and every half-way point exactly.
uint16_t rounded(float f, const Type& type) {
  const uint16_t sign = std::signbit(f) ? 0x8000 : 0;
  const double magnitude = std::fabs(static_cast<double>(f));
  if (magnitude == 0.0) return sign;
  const auto infinity = static_cast<uint16_t>(type.max_exponent << type.mantissa_bits);
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  const int unit = std::max(exponent - 1 - type.mantissa_bits, 1 - type.bias - type.mantissa_bits);
  const double steps = std::nearbyint(std::ldexp(magnitude, -unit));
  if (std::isinf(magnitude) || std::ldexp(steps, unit) > value_of(static_cast<uint16_t>(infinity - 1), type)) {
    return static_cast<uint16_t>(sign | infinity);
  }
  // Consecutive numbers have consecutive bits, so counting steps above the binade's start gives the bits.
  const int binade = unit - (1 - type.bias - type.mantissa_bits);
  return static_cast<uint16_t>(sign | (static_cast<int>(steps) + (binade << type.mantissa_bits)));
}

TEST(Float16, EveryHalfDecodes) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const double expected = value_of(half, kHalf);
    const float found = f16_to_f32(half);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found)) << bits;
    } else {
      ASSERT_EQ(found, expected) << bits;
    }
    ASSERT_EQ(std::signbit(found), (bits & 0x8000) != 0) << bits;
  }
}

TEST(Float16, EveryBrainDecodes) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto brain = static_cast<uint16_t>(bits);
    const double expected = value_of(brain, kBrain);
    const float found = bf16_to_f32(brain);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found)) << bits;
    } else {
      ASSERT_EQ(found, expected) << bits;
    }
  }
}

TEST(Float16, RoundTripKeepsEveryBitPattern) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto b = static_cast<uint16_t>(bits);
    if (std::isnan(f16_to_f32(b))) {
      ASSERT_TRUE(std::isnan(f16_to_f32(f32_to_f16(f16_to_f32(b))))) << bits;
    } else {
      ASSERT_EQ(f32_to_f16(f16_to_f32(b)), b);
    }
    if (std::isnan(bf16_to_f32(b))) {
      ASSERT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(bf16_to_f32(b))))) << bits;
    } else {
      ASSERT_EQ(f32_to_bf16(bf16_to_f32(b)), b);
    }
  }
}

// Rounding is a step function: it is right when it is right on both sides of every step and on it.
TEST(Float16, EveryRoundingBoundary) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const double low = value_of(static_cast<uint16_t>(bits), kHalf);
    const double high = bits + 1 == 0x7c00 ? 65536.0 : value_of(static_cast<uint16_t>(bits + 1), kHalf);
    const auto middle = static_cast<float>((low + high) / 2);
    const uint32_t even = (bits & 1) == 0 ? bits : bits + 1;
    ASSERT_EQ(f32_to_f16(middle), even) << bits;
    ASSERT_EQ(f32_to_f16(std::nextafter(middle, 0.0f)), bits);
    ASSERT_EQ(f32_to_f16(std::nextafter(middle, 1e30f)), bits + 1);
    ASSERT_EQ(f32_to_f16(-middle), even | 0x8000) << bits;
  }
}

TEST(Float16, EncodesLikeTheDefinition) {
  constexpr std::array<uint32_t, 17> kLow = {0,      1,      0x0fff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x2fff, 0x3000,
                                             0x3001, 0x7fff, 0x8000, 0x8001, 0xefff, 0xf000, 0xf001, 0xffff};
  for (uint32_t top = 0; top <= 0xffff; ++top) {
    for (const uint32_t low : kLow) {
      const auto f = std::bit_cast<float>(top << 16 | low);
      if (std::isnan(f)) {
        ASSERT_TRUE(std::isnan(f16_to_f32(f32_to_f16(f))));
        ASSERT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(f))));
      } else {
        ASSERT_EQ(f32_to_f16(f), rounded(f, kHalf)) << f;
        ASSERT_EQ(f32_to_bf16(f), rounded(f, kBrain)) << f;
      }
    }
  }
}

}  // namespace
}  // namespace marlin
