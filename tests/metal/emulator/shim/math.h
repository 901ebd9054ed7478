// MSL's mathematical, integer, relational and geometric functions. Each has overloads for scalars, and one template
// that applies them to the elements of vectors.
#pragma once

#include "vector.h"

namespace metal {

// ---- functions of elements -----------------------------------------------------------------------------------------

#define MARLIN_EACH_1(name)                                                       \
  template <class A, class V = common_vector_t<A>>                                \
  MARLIN_INLINE V name(const A& a) {                                              \
    V result(a);                                                                  \
    for (int i = 0; i < Elements<V>::count; ++i) result.v[i] = name(result.v[i]); \
    return result;                                                                \
  }
#define MARLIN_EACH_2(name)                                                               \
  template <class A, class B, class V = common_vector_t<A, B>>                            \
  MARLIN_INLINE V name(const A& a, const B& b) {                                          \
    V result(a);                                                                          \
    const V y(b);                                                                         \
    for (int i = 0; i < Elements<V>::count; ++i) result.v[i] = name(result.v[i], y.v[i]); \
    return result;                                                                        \
  }
#define MARLIN_EACH_3(name)                                                                       \
  template <class A, class B, class C, class V = common_vector_t<A, B, C>>                        \
  MARLIN_INLINE V name(const A& a, const B& b, const C& c) {                                      \
    V result(a);                                                                                  \
    const V y(b);                                                                                 \
    const V z(c);                                                                                 \
    for (int i = 0; i < Elements<V>::count; ++i) result.v[i] = name(result.v[i], y.v[i], z.v[i]); \
    return result;                                                                                \
  }
#define MARLIN_EACH_TEST(name)                                                   \
  template <class A, class V = common_vector_t<A>>                               \
  MARLIN_INLINE vec<bool, Elements<V>::count> name(const A& a) {                 \
    const V value(a);                                                            \
    vec<bool, Elements<V>::count> result;                                        \
    for (int i = 0; i < Elements<V>::count; ++i) result.v[i] = name(value.v[i]); \
    return result;                                                               \
  }

// ---- floating point ------------------------------------------------------------------------------------------------

// A function of half or bfloat is that of float, rounded once.
#define MARLIN_FLOAT_1(name, expression) \
  MARLIN_INLINE float name(float x) {    \
    return expression;                   \
  }                                      \
  MARLIN_INLINE half name(half x) {      \
    return half(name(float(x)));         \
  }                                      \
  MARLIN_INLINE bfloat name(bfloat x) {  \
    return bfloat(name(float(x)));       \
  }                                      \
  MARLIN_EACH_1(name)
#define MARLIN_FLOAT_2(name, expression)          \
  MARLIN_INLINE float name(float x, float y) {    \
    return expression;                            \
  }                                               \
  MARLIN_INLINE half name(half x, half y) {       \
    return half(name(float(x), float(y)));        \
  }                                               \
  MARLIN_INLINE bfloat name(bfloat x, bfloat y) { \
    return bfloat(name(float(x), float(y)));      \
  }                                               \
  MARLIN_EACH_2(name)
#define MARLIN_FLOAT_3(name, expression)                    \
  MARLIN_INLINE float name(float x, float y, float z) {     \
    return expression;                                      \
  }                                                         \
  MARLIN_INLINE half name(half x, half y, half z) {         \
    return half(name(float(x), float(y), float(z)));        \
  }                                                         \
  MARLIN_INLINE bfloat name(bfloat x, bfloat y, bfloat z) { \
    return bfloat(name(float(x), float(y), float(z)));      \
  }                                                         \
  MARLIN_EACH_3(name)

#define MARLIN_FLOAT_FUNCTIONS                                                    \
  MARLIN_FLOAT_1(acos, __builtin_acosf(x))                                        \
  MARLIN_FLOAT_1(acosh, __builtin_acoshf(x))                                      \
  MARLIN_FLOAT_1(asin, __builtin_asinf(x))                                        \
  MARLIN_FLOAT_1(asinh, __builtin_asinhf(x))                                      \
  MARLIN_FLOAT_1(atan, __builtin_atanf(x))                                        \
  MARLIN_FLOAT_1(atanh, __builtin_atanhf(x))                                      \
  MARLIN_FLOAT_1(ceil, __builtin_ceilf(x))                                        \
  MARLIN_FLOAT_1(cos, __builtin_cosf(x))                                          \
  MARLIN_FLOAT_1(cosh, __builtin_coshf(x))                                        \
  MARLIN_FLOAT_1(cospi, float(__builtin_cos(3.14159265358979323846 * double(x)))) \
  MARLIN_FLOAT_1(exp, __builtin_expf(x))                                          \
  MARLIN_FLOAT_1(exp2, __builtin_exp2f(x))                                        \
  MARLIN_FLOAT_1(exp10, __builtin_powf(10.0f, x))                                 \
  MARLIN_FLOAT_1(fabs, __builtin_fabsf(x))                                        \
  MARLIN_FLOAT_1(floor, __builtin_floorf(x))                                      \
  MARLIN_FLOAT_1(fract, __builtin_fminf(x - __builtin_floorf(x), 0x1.fffffep-1f)) \
  MARLIN_FLOAT_1(log, __builtin_logf(x))                                          \
  MARLIN_FLOAT_1(log2, __builtin_log2f(x))                                        \
  MARLIN_FLOAT_1(log10, __builtin_log10f(x))                                      \
  MARLIN_FLOAT_1(rint, __builtin_rintf(x))                                        \
  MARLIN_FLOAT_1(round, __builtin_roundf(x))                                      \
  MARLIN_FLOAT_1(rsqrt, 1.0f / __builtin_sqrtf(x))                                \
  MARLIN_FLOAT_1(saturate, __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f))       \
  MARLIN_FLOAT_1(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? x : 0.0f) \
  MARLIN_FLOAT_1(sin, __builtin_sinf(x))                                          \
  MARLIN_FLOAT_1(sinh, __builtin_sinhf(x))                                        \
  MARLIN_FLOAT_1(sinpi, float(__builtin_sin(3.14159265358979323846 * double(x)))) \
  MARLIN_FLOAT_1(sqrt, __builtin_sqrtf(x))                                        \
  MARLIN_FLOAT_1(tan, __builtin_tanf(x))                                          \
  MARLIN_FLOAT_1(tanh, __builtin_tanhf(x))                                        \
  MARLIN_FLOAT_1(trunc, __builtin_truncf(x))                                      \
  MARLIN_FLOAT_2(atan2, __builtin_atan2f(x, y))                                   \
  MARLIN_FLOAT_2(copysign, __builtin_copysignf(x, y))                             \
  MARLIN_FLOAT_2(divide, x / y)                                                   \
  MARLIN_FLOAT_2(fdim, __builtin_fdimf(x, y))                                     \
  MARLIN_FLOAT_2(fmax, __builtin_fmaxf(x, y))                                     \
  MARLIN_FLOAT_2(fmin, __builtin_fminf(x, y))                                     \
  MARLIN_FLOAT_2(fmod, __builtin_fmodf(x, y))                                     \
  MARLIN_FLOAT_2(pow, __builtin_powf(x, y))                                       \
  MARLIN_FLOAT_2(powr, __builtin_powf(x, y))

MARLIN_FLOAT_FUNCTIONS
MARLIN_FLOAT_2(step, y < x ? 0.0f : 1.0f)
MARLIN_FLOAT_3(mix, x + (y - x) * z)

// One rounding: the product of two halves is exact in float, but its sum with a third is not.
MARLIN_INLINE float fma(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
MARLIN_INLINE half fma(half a, half b, half c) {
  return half(__builtin_fma(double(a), double(b), double(c)));
}
MARLIN_INLINE bfloat fma(bfloat a, bfloat b, bfloat c) {
  return bfloat(__builtin_fmaf(float(a), float(b), float(c)));
}
MARLIN_EACH_3(fma)
MARLIN_INLINE float mad(float a, float b, float c) {
  return a * b + c;
}

// What the compiler's mode for mathematical functions chooses between; here they are all precise.
namespace fast {
MARLIN_FLOAT_FUNCTIONS
}
namespace precise {
MARLIN_FLOAT_FUNCTIONS
}

MARLIN_INLINE float ldexp(float x, int exponent) {
  return __builtin_ldexpf(x, exponent);
}
MARLIN_INLINE float frexp(float x, int& exponent) {
  return __builtin_frexpf(x, &exponent);
}
MARLIN_INLINE float modf(float x, float& whole) {
  return __builtin_modff(x, &whole);
}
MARLIN_INLINE float sincos(float x, float& cosine) {
  cosine = __builtin_cosf(x);
  return __builtin_sinf(x);
}
MARLIN_INLINE int ilogb(float x) {
  return __builtin_ilogbf(x);
}
MARLIN_INLINE float smoothstep(float low, float high, float x) {
  const float t = saturate((x - low) / (high - low));
  return t * t * (3.0f - 2.0f * t);
}

// ---- tests ---------------------------------------------------------------------------------------------------------

#define MARLIN_FLOAT_TEST(name, expression) \
  MARLIN_INLINE bool name(float x) {        \
    return expression;                      \
  }                                         \
  MARLIN_INLINE bool name(half x) {         \
    return name(float(x));                  \
  }                                         \
  MARLIN_INLINE bool name(bfloat x) {       \
    return name(float(x));                  \
  }                                         \
  MARLIN_EACH_TEST(name)
MARLIN_FLOAT_TEST(isnan, __builtin_isnan(x))
MARLIN_FLOAT_TEST(isinf, __builtin_isinf(x))
MARLIN_FLOAT_TEST(isfinite, __builtin_isfinite(x))
MARLIN_FLOAT_TEST(signbit, __builtin_signbit(x))
#undef MARLIN_FLOAT_TEST
MARLIN_INLINE bool isnormal(float x) {
  return __builtin_isnormal(x);
}
MARLIN_INLINE bool isnormal(half x) {
  return isfinite(x) && fabs(float(x)) >= 6.103515625e-05f;
}
MARLIN_EACH_TEST(isnormal)

template <class T, class = enable_if_t<is_arithmetic_v<T>>>
MARLIN_INLINE T select(T if_false, T if_true, bool condition) {
  return condition ? if_true : if_false;
}
template <class A, class B, class C, class V = common_vector_t<A, B>,
          class = enable_if_t<is_same_v<common_vector_t<C>, vec<bool, Elements<V>::count>>>>
MARLIN_INLINE V select(const A& if_false, const B& if_true, const C& condition) {
  V result(if_false);
  const V other(if_true);
  const vec<bool, Elements<V>::count> chosen(condition);
  for (int i = 0; i < Elements<V>::count; ++i) result.v[i] = chosen.v[i] ? other.v[i] : result.v[i];
  return result;
}
MARLIN_INLINE bool any(bool x) {
  return x;
}
MARLIN_INLINE bool all(bool x) {
  return x;
}
template <int N>
MARLIN_INLINE bool any(const vec<bool, N>& a) {
  bool result = false;
  for (int i = 0; i < N; ++i) result |= a.v[i];
  return result;
}
template <int N>
MARLIN_INLINE bool all(const vec<bool, N>& a) {
  bool result = true;
  for (int i = 0; i < N; ++i) result &= a.v[i];
  return result;
}

// ---- minima and maxima ---------------------------------------------------------------------------------------------

#define MARLIN_ORDER(type)                           \
  MARLIN_INLINE constexpr type min(type a, type b) { \
    return b < a ? b : a;                            \
  }                                                  \
  MARLIN_INLINE constexpr type max(type a, type b) { \
    return a < b ? b : a;                            \
  }
MARLIN_ORDER(char)
MARLIN_ORDER(uchar)
MARLIN_ORDER(short)
MARLIN_ORDER(ushort)
MARLIN_ORDER(int)
MARLIN_ORDER(uint)
MARLIN_ORDER(long)
MARLIN_ORDER(ulong)
#undef MARLIN_ORDER
// Of a NaN and a number: the number.
#define MARLIN_FLOAT_ORDER(type)           \
  MARLIN_INLINE type min(type a, type b) { \
    return fmin(a, b);                     \
  }                                        \
  MARLIN_INLINE type max(type a, type b) { \
    return fmax(a, b);                     \
  }
MARLIN_FLOAT_ORDER(float)
MARLIN_FLOAT_ORDER(half)
MARLIN_FLOAT_ORDER(bfloat)
#undef MARLIN_FLOAT_ORDER
MARLIN_EACH_2(min)
MARLIN_EACH_2(max)

#define MARLIN_ORDER_3(type)                              \
  MARLIN_INLINE type clamp(type x, type low, type high) { \
    return min(max(x, low), high);                        \
  }                                                       \
  MARLIN_INLINE type min3(type a, type b, type c) {       \
    return min(a, min(b, c));                             \
  }                                                       \
  MARLIN_INLINE type max3(type a, type b, type c) {       \
    return max(a, max(b, c));                             \
  }                                                       \
  MARLIN_INLINE type median3(type a, type b, type c) {    \
    return max(min(a, b), min(max(a, b), c));             \
  }
MARLIN_ORDER_3(char)
MARLIN_ORDER_3(uchar)
MARLIN_ORDER_3(short)
MARLIN_ORDER_3(ushort)
MARLIN_ORDER_3(int)
MARLIN_ORDER_3(uint)
MARLIN_ORDER_3(long)
MARLIN_ORDER_3(ulong)
MARLIN_ORDER_3(float)
MARLIN_ORDER_3(half)
MARLIN_ORDER_3(bfloat)
#undef MARLIN_ORDER_3
MARLIN_EACH_3(clamp)
MARLIN_EACH_3(min3)
MARLIN_EACH_3(max3)
MARLIN_EACH_3(median3)

// ---- integers ------------------------------------------------------------------------------------------------------

template <class T>
constexpr int kBits = 8 * int(sizeof(T));
template <class T>
struct Unsigned {
  using type = T;
};
template <>
struct Unsigned<char> {
  using type = uchar;
};
template <>
struct Unsigned<short> {
  using type = ushort;
};
template <>
struct Unsigned<int> {
  using type = uint;
};
template <>
struct Unsigned<long> {
  using type = ulong;
};
template <class T>
using unsigned_t = typename Unsigned<T>::type;
template <class T>
constexpr bool is_counted_v = is_integral_v<T> && !is_same_v<T, bool>;
#define MARLIN_INTEGER_FUNCTION                            \
  template <class T, class = enable_if_t<is_counted_v<T>>> \
  MARLIN_INLINE

MARLIN_INTEGER_FUNCTION T abs(T x) {
  return x < T(0) ? T(unsigned_t<T>(0) - unsigned_t<T>(x)) : x;
}
MARLIN_INLINE float abs(float x) {
  return fabs(x);
}
MARLIN_INLINE half abs(half x) {
  return fabs(x);
}
MARLIN_INLINE bfloat abs(bfloat x) {
  return fabs(x);
}
MARLIN_EACH_1(abs)

MARLIN_INTEGER_FUNCTION T popcount(T x) {
  return T(__builtin_popcountl(unsigned_t<T>(x)));
}
MARLIN_INTEGER_FUNCTION T clz(T x) {
  return x == T(0) ? T(kBits<T>) : T(__builtin_clzl(unsigned_t<T>(x)) - (64 - kBits<T>));
}
MARLIN_INTEGER_FUNCTION T ctz(T x) {
  return x == T(0) ? T(kBits<T>) : T(__builtin_ctzl(unsigned_t<T>(x)));
}
MARLIN_INTEGER_FUNCTION T reverse_bits(T x) {
  return T(__builtin_bitreverse64(unsigned_t<T>(x)) >> (64 - kBits<T>));
}
MARLIN_EACH_1(popcount)
MARLIN_EACH_1(clz)
MARLIN_EACH_1(ctz)
MARLIN_EACH_1(reverse_bits)

MARLIN_INTEGER_FUNCTION T rotate(T x, T by) {
  const uint left = uint(by) % uint(kBits<T>);
  const auto bits = unsigned_t<T>(x);
  return left == 0 ? x : T(unsigned_t<T>(bits << left) | unsigned_t<T>(bits >> (uint(kBits<T>) - left)));
}
MARLIN_INTEGER_FUNCTION T mulhi(T a, T b) {
  return T((__int128(a) * __int128(b)) >> kBits<T>);
}
MARLIN_INTEGER_FUNCTION T addsat(T a, T b) {
  T sum;
  if (!__builtin_add_overflow(a, b, &sum)) return sum;
  return b < T(0) ? numeric_limits<T>::min() : numeric_limits<T>::max();
}
MARLIN_INTEGER_FUNCTION T subsat(T a, T b) {
  T difference;
  if (!__builtin_sub_overflow(a, b, &difference)) return difference;
  return a < b ? numeric_limits<T>::min() : numeric_limits<T>::max();
}
MARLIN_INTEGER_FUNCTION unsigned_t<T> absdiff(T a, T b) {
  using U = unsigned_t<T>;
  return a < b ? U(U(b) - U(a)) : U(U(a) - U(b));
}
MARLIN_INTEGER_FUNCTION T hadd(T a, T b) {
  return T((__int128(a) + __int128(b)) >> 1);
}
MARLIN_INTEGER_FUNCTION T rhadd(T a, T b) {
  return T((__int128(a) + __int128(b) + 1) >> 1);
}
MARLIN_EACH_2(rotate)
MARLIN_EACH_2(mulhi)
MARLIN_EACH_2(addsat)
MARLIN_EACH_2(subsat)
MARLIN_EACH_2(hadd)
MARLIN_EACH_2(rhadd)

MARLIN_INTEGER_FUNCTION T extract_bits(T x, uint offset, uint bits) {
  if (bits == 0) return T(0);
  const auto left = unsigned_t<T>(unsigned_t<T>(x) << (uint(kBits<T>) - offset - bits));
  return T(T(left) >> (uint(kBits<T>) - bits));
}
MARLIN_INTEGER_FUNCTION T insert_bits(T base, T insert, uint offset, uint bits) {
  using U = unsigned_t<T>;
  const U mask = bits == 0 ? U(0) : U(U(U(~U(0)) >> (uint(kBits<T>) - bits)) << offset);
  return T((U(base) & U(~mask)) | (U(U(insert) << offset) & mask));
}
MARLIN_INLINE int mul24(int a, int b) {
  return int(uint(a) * uint(b));
}
MARLIN_INLINE uint mul24(uint a, uint b) {
  return a * b;
}
MARLIN_INLINE int mad24(int a, int b, int c) {
  return int(uint(a) * uint(b) + uint(c));
}
MARLIN_INLINE uint mad24(uint a, uint b, uint c) {
  return a * b + c;
}
#undef MARLIN_INTEGER_FUNCTION

// ---- geometry ------------------------------------------------------------------------------------------------------

template <class A, class B, class V = common_vector_t<A, B>>
MARLIN_INLINE typename Elements<V>::type dot(const A& left, const B& right) {
  using T = typename Elements<V>::type;
  const V a(left);
  const V b(right);
  T sum = a.v[0] * b.v[0];
  for (int i = 1; i < Elements<V>::count; ++i) sum = T(sum + a.v[i] * b.v[i]);
  return sum;
}
template <class A, class V = common_vector_t<A>>
MARLIN_INLINE typename Elements<V>::type length_squared(const A& a) {
  return dot(a, a);
}
template <class A, class V = common_vector_t<A>>
MARLIN_INLINE typename Elements<V>::type length(const A& a) {
  return sqrt(dot(a, a));
}
template <class A, class B, class V = common_vector_t<A, B>>
MARLIN_INLINE typename Elements<V>::type distance(const A& a, const B& b) {
  return length(a - b);
}
template <class A, class V = common_vector_t<A>>
MARLIN_INLINE V normalize(const A& a) {
  return V(a) * rsqrt(dot(a, a));
}
template <class A, class B, class V = common_vector_t<A, B>>
MARLIN_INLINE V cross(const A& left, const B& right) {
  const V a(left);
  const V b(right);
  return V(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x);
}

#undef MARLIN_FLOAT_FUNCTIONS
#undef MARLIN_FLOAT_1
#undef MARLIN_FLOAT_2
#undef MARLIN_FLOAT_3
#undef MARLIN_EACH_1
#undef MARLIN_EACH_2
#undef MARLIN_EACH_3
#undef MARLIN_EACH_TEST

}  // namespace metal
