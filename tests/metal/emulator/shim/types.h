// MSL's scalar types and constants, and the type traits that the rest is written with.
#pragma once

#ifdef __CUDACC__
#include "../../cuda/shim/types.h"
#else

#define MARLIN_INLINE inline __attribute__((always_inline))

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;
typedef __bf16 bfloat;

typedef signed char int8_t;
typedef uchar uint8_t;
typedef short int16_t;
typedef ushort uint16_t;
typedef int int32_t;
typedef uint uint32_t;
typedef long int64_t;
typedef ulong uint64_t;
typedef decltype(sizeof(0)) size_t;
typedef long ptrdiff_t;

#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f
#define MAXFLOAT FLT_MAX
#define HALF_MAX (half(65504.0f))
#define HALF_MIN (half(6.103515625e-05f))
#define HALF_EPSILON (half(9.765625e-04f))
#define MAXHALF HALF_MAX
#define INFINITY (__builtin_inff())
#define HUGE_VALF (__builtin_inff())
#define NAN (__builtin_nanf(""))
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.434294481903251827651f
#define M_LN2_F 0.693147180559945309417f
#define M_LN10_F 2.30258509299404568402f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_PI_4_F 0.785398163397448309616f
#define M_1_PI_F 0.318309886183790671538f
#define M_2_PI_F 0.636619772367581343076f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.707106781186547524401f
#define M_PI_H (half(M_PI_F))
#define CHAR_BIT 8
#define SCHAR_MAX 127
#define SCHAR_MIN (-128)
#define UCHAR_MAX 255
#define SHRT_MAX 32767
#define SHRT_MIN (-32768)
#define USHRT_MAX 65535
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define LONG_MAX 9223372036854775807l
#define LONG_MIN (-9223372036854775807l - 1)
#define ULONG_MAX 18446744073709551615ul

MARLIN_INLINE constexpr half operator""h(long double x) {
  return half(x);
}
MARLIN_INLINE constexpr half operator""h(unsigned long long x) {
  return half(x);
}
MARLIN_INLINE constexpr bfloat operator"" bf(long double x) {
  return bfloat(float(x));
}

// What clang calls to round a float to bfloat; libgcc has it from version 13 on. To nearest, ties to even.
extern "C" inline __attribute__((weak, used, no_sanitize("thread"))) __bf16 __truncsfbf2(float x) {
  uint bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  const ushort rounded = is_nan ? ushort((bits >> 16) | 64u) : ushort((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
  __bf16 result;
  __builtin_memcpy(&result, &rounded, sizeof result);
  return result;
}

namespace metal {

using ::int16_t;
using ::int32_t;
using ::int64_t;
using ::int8_t;
using ::ptrdiff_t;
using ::size_t;
using ::uint16_t;
using ::uint32_t;
using ::uint64_t;
using ::uint8_t;

}  // namespace metal

#include "traits.h"

namespace metal {

#define MARLIN_LIMITS(type, lowest_value, max_value)                       \
  template <>                                                              \
  struct numeric_limits<type> {                                            \
    static constexpr type lowest() { return type(lowest_value); }          \
    static constexpr type max() { return type(max_value); }                \
    static constexpr type infinity() { return type(__builtin_inff()); }    \
    static constexpr type quiet_NaN() { return type(__builtin_nanf("")); } \
  };
#define MARLIN_INTEGER_LIMITS(type, min_value, max_value) \
  template <>                                             \
  struct numeric_limits<type> {                           \
    static constexpr type lowest() { return min_value; }  \
    static constexpr type min() { return min_value; }     \
    static constexpr type max() { return max_value; }     \
  };
MARLIN_LIMITS(float, -FLT_MAX, FLT_MAX)
MARLIN_LIMITS(half, -65504.0f, 65504.0f)
MARLIN_LIMITS(bfloat, -3.3895313892515355e38f, 3.3895313892515355e38f)
MARLIN_INTEGER_LIMITS(char, SCHAR_MIN, SCHAR_MAX)
MARLIN_INTEGER_LIMITS(uchar, 0, UCHAR_MAX)
MARLIN_INTEGER_LIMITS(short, SHRT_MIN, SHRT_MAX)
MARLIN_INTEGER_LIMITS(ushort, 0, USHRT_MAX)
MARLIN_INTEGER_LIMITS(int, INT_MIN, INT_MAX)
MARLIN_INTEGER_LIMITS(uint, 0, UINT_MAX)
MARLIN_INTEGER_LIMITS(long, LONG_MIN, LONG_MAX)
MARLIN_INTEGER_LIMITS(ulong, 0, ULONG_MAX)
#undef MARLIN_LIMITS
#undef MARLIN_INTEGER_LIMITS

}  // namespace metal

#endif  // __CUDACC__
