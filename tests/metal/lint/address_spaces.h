// metal_stdlib as declarations only, with real address spaces and clang's own vectors: a .metal file that metal_lint.py
// has rewritten is type-checked against it and never run.
#pragma once

#define MARLIN_DEVICE __attribute__((address_space(1)))
#define MARLIN_CONSTANT __attribute__((address_space(2)))
#define MARLIN_THREADGROUP_SPACE __attribute__((address_space(3)))

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

#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f
#define INFINITY (__builtin_inff())
#define NAN (__builtin_nanf(""))
#define MAXFLOAT FLT_MAX
#define HALF_MAX (half(65504.0f))
#define MAXHALF HALF_MAX
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define M_PI_F 3.14159265358979323846f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LN2_F 0.693147180559945309417f
#define M_SQRT2_F 1.41421356237309504880f
half operator""h(long double);
half operator"" H(long double);
half operator""h(unsigned long long);

#define MARLIN_TYPES(T)                                        \
  typedef T T##2 __attribute__((ext_vector_type(2)));          \
  typedef T T##3 __attribute__((ext_vector_type(3)));          \
  typedef T T##4 __attribute__((ext_vector_type(4)));          \
  typedef T packed_##T##2 __attribute__((ext_vector_type(2))); \
  typedef T packed_##T##3 __attribute__((ext_vector_type(3))); \
  typedef T packed_##T##4 __attribute__((ext_vector_type(4)));
MARLIN_TYPES(float)
MARLIN_TYPES(half)
MARLIN_TYPES(bfloat)
MARLIN_TYPES(bool)
MARLIN_TYPES(char)
MARLIN_TYPES(uchar)
MARLIN_TYPES(short)
MARLIN_TYPES(ushort)
MARLIN_TYPES(int)
MARLIN_TYPES(uint)
MARLIN_TYPES(long)
MARLIN_TYPES(ulong);
#undef MARLIN_TYPES

namespace metal {

template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));
template <bool B, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> {
  using type = T;
};
template <bool B, class T = void>
using enable_if_t = typename enable_if<B, T>::type;
template <class A, class B>
constexpr bool is_same_v = false;
template <class A>
constexpr bool is_same_v<A, A> = true;
template <class A, class B>
struct is_same {
  static constexpr bool value = is_same_v<A, B>;
};
template <bool B, class T, class F>
struct conditional {
  using type = T;
};
template <class T, class F>
struct conditional<false, T, F> {
  using type = F;
};
template <bool B, class T, class F>
using conditional_t = typename conditional<B, T, F>::type;
template <class T>
struct numeric_limits {
  static constexpr T min() { return T(); }
  static constexpr T max() { return T(); }
  static constexpr T lowest() { return T(); }
  static constexpr T infinity() { return T(); }
};

// float4(a, b, c, d) is rewritten to marlin_make<float4>(a, b, c, d).
template <class V, class... A>
V marlin_make(A...);
template <class T, class U>
T as_type(U);

#define MARLIN_SCALAR_UNARY(f) \
  float f(float);              \
  half f(half);                \
  bfloat f(bfloat);            \
  template <class T, int N>    \
  vec<T, N> f(vec<T, N>);
#define MARLIN_SCALAR_BINARY(f) \
  template <class A>            \
  A f(A, A);
#define MARLIN_MATH           \
  MARLIN_SCALAR_UNARY(exp)    \
  MARLIN_SCALAR_UNARY(exp2)   \
  MARLIN_SCALAR_UNARY(exp10)  \
  MARLIN_SCALAR_UNARY(log)    \
  MARLIN_SCALAR_UNARY(log2)   \
  MARLIN_SCALAR_UNARY(log10)  \
  MARLIN_SCALAR_UNARY(sqrt)   \
  MARLIN_SCALAR_UNARY(rsqrt)  \
  MARLIN_SCALAR_UNARY(sin)    \
  MARLIN_SCALAR_UNARY(cos)    \
  MARLIN_SCALAR_UNARY(tan)    \
  MARLIN_SCALAR_UNARY(asin)   \
  MARLIN_SCALAR_UNARY(acos)   \
  MARLIN_SCALAR_UNARY(atan)   \
  MARLIN_SCALAR_UNARY(acosh)  \
  MARLIN_SCALAR_UNARY(asinh)  \
  MARLIN_SCALAR_UNARY(atanh)  \
  MARLIN_SCALAR_UNARY(sinh)   \
  MARLIN_SCALAR_UNARY(cosh)   \
  MARLIN_SCALAR_UNARY(tanh)   \
  MARLIN_SCALAR_UNARY(fabs)   \
  MARLIN_SCALAR_UNARY(floor)  \
  MARLIN_SCALAR_UNARY(ceil)   \
  MARLIN_SCALAR_UNARY(fract)  \
  MARLIN_SCALAR_UNARY(rint)   \
  MARLIN_SCALAR_UNARY(round)  \
  MARLIN_SCALAR_UNARY(trunc)  \
  MARLIN_SCALAR_BINARY(pow)   \
  MARLIN_SCALAR_BINARY(powr)  \
  MARLIN_SCALAR_BINARY(fmod)  \
  MARLIN_SCALAR_BINARY(fmin)  \
  MARLIN_SCALAR_BINARY(fmax)  \
  MARLIN_SCALAR_BINARY(atan2) \
  MARLIN_SCALAR_BINARY(fdim)  \
  MARLIN_SCALAR_BINARY(copysign)
MARLIN_MATH
namespace precise {
MARLIN_MATH
}
namespace fast {
MARLIN_MATH
}

#define MARLIN_MINMAX(T) \
  T min(T, T);           \
  T max(T, T);           \
  T clamp(T, T, T);
#define MARLIN_MINMAX_TYPES(T) MARLIN_MINMAX(T) MARLIN_MINMAX(T##2) MARLIN_MINMAX(T##3) MARLIN_MINMAX(T##4)
MARLIN_MINMAX_TYPES(float)
MARLIN_MINMAX_TYPES(half)
MARLIN_MINMAX_TYPES(bfloat)
MARLIN_MINMAX_TYPES(char)
MARLIN_MINMAX_TYPES(uchar)
MARLIN_MINMAX_TYPES(short)
MARLIN_MINMAX_TYPES(ushort)
MARLIN_MINMAX_TYPES(int)
MARLIN_MINMAX_TYPES(uint)
MARLIN_MINMAX_TYPES(long)
MARLIN_MINMAX_TYPES(ulong)
template <class T, int N>
vec<T, N> max(vec<T, N>, T);
template <class T, int N>
vec<T, N> min(vec<T, N>, T);
template <class T, int N>
vec<T, N> clamp(vec<T, N>, T, T);

template <class T>
T abs(T);
template <class T>
T sign(T);
template <class T>
T saturate(T);
template <class T>
T fma(T, T, T);
template <class T, class A>
T mix(T, T, A);
template <class T, class A>
T step(A, T);
template <class T, class A>
T smoothstep(A, A, T);
template <class T>
T min3(T, T, T);
template <class T>
T max3(T, T, T);
template <class T>
T median3(T, T, T);
template <class T, class C>
T select(T, T, C);
template <class T>
bool isnan(T);
template <class T>
bool isinf(T);
template <class T>
bool isfinite(T);
template <class T>
bool signbit(T);
template <class T>
bool any(T);
template <class T>
bool all(T);
template <class T, int N>
T dot(vec<T, N>, vec<T, N>);
template <class T, int N>
T length(vec<T, N>);
template <class T, int N>
T distance(vec<T, N>, vec<T, N>);
template <class T, int N>
vec<T, N> normalize(vec<T, N>);
template <class T>
vec<T, 3> cross(vec<T, 3>, vec<T, 3>);
float ldexp(float, int);
float frexp(float, int&);
template <class T>
T popcount(T);
template <class T>
T clz(T);
template <class T>
T ctz(T);
template <class T>
T rotate(T, T);
template <class T>
T reverse_bits(T);
template <class T>
T extract_bits(T, uint, uint);
template <class T>
T insert_bits(T, T, uint, uint);
template <class T>
T mulhi(T, T);
template <class T>
T absdiff(T, T);
template <class T>
T addsat(T, T);
template <class T>
T subsat(T, T);
template <class T>
T hadd(T, T);
template <class T>
T rhadd(T, T);

template <class T, int Columns, int Rows>
struct matrix {
  matrix() = default;
  template <class... A>
  explicit matrix(A...);
  vec<T, Rows>& operator[](int);
  const vec<T, Rows>& operator[](int) const;
  vec<T, Rows> columns[Columns];
};
#define MARLIN_MATRICES(T)        \
  typedef matrix<T, 2, 2> T##2x2; \
  typedef matrix<T, 2, 3> T##2x3; \
  typedef matrix<T, 2, 4> T##2x4; \
  typedef matrix<T, 3, 2> T##3x2; \
  typedef matrix<T, 3, 3> T##3x3; \
  typedef matrix<T, 3, 4> T##3x4; \
  typedef matrix<T, 4, 2> T##4x2; \
  typedef matrix<T, 4, 3> T##4x3; \
  typedef matrix<T, 4, 4> T##4x4;
MARLIN_MATRICES(float)
MARLIN_MATRICES(half)
#undef MARLIN_MATRICES
template <class T, int Columns, int Rows>
vec<T, Rows> operator*(matrix<T, Columns, Rows>, vec<T, Columns>);
template <class T, int Columns, int Rows>
matrix<T, Columns, Rows> operator*(matrix<T, Columns, Rows>, T);
template <class T, int Inner, int Columns, int Rows>
matrix<T, Columns, Rows> operator*(matrix<T, Inner, Rows>, matrix<T, Columns, Inner>);
template <class T, int Columns, int Rows>
matrix<T, Rows, Columns> transpose(matrix<T, Columns, Rows>);

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return mem_flags(uint(a) | uint(b));
}
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);

#define MARLIN_LANES(f) \
  template <class T>    \
  T f(T);
MARLIN_LANES(simd_sum)
MARLIN_LANES(simd_product)
MARLIN_LANES(simd_max)
MARLIN_LANES(simd_min)
MARLIN_LANES(simd_and)
MARLIN_LANES(simd_or)
MARLIN_LANES(simd_xor)
MARLIN_LANES(simd_broadcast_first)
MARLIN_LANES(simd_prefix_inclusive_sum)
MARLIN_LANES(simd_prefix_exclusive_sum)
MARLIN_LANES(quad_sum)
MARLIN_LANES(quad_max)
MARLIN_LANES(quad_min)
#undef MARLIN_LANES
#define MARLIN_LANES(f) \
  template <class T>    \
  T f(T, ushort);
MARLIN_LANES(simd_shuffle)
MARLIN_LANES(simd_broadcast)
MARLIN_LANES(simd_shuffle_xor)
MARLIN_LANES(simd_shuffle_up)
MARLIN_LANES(simd_shuffle_down)
MARLIN_LANES(simd_shuffle_rotate_up)
MARLIN_LANES(simd_shuffle_rotate_down)
MARLIN_LANES(quad_broadcast)
MARLIN_LANES(quad_shuffle)
MARLIN_LANES(quad_shuffle_xor)
#undef MARLIN_LANES
struct simd_vote {
  using vote_t = ulong;
  explicit simd_vote(vote_t = 0);
  explicit operator vote_t() const;
  bool all() const;
  bool any() const;
};
simd_vote simd_ballot(bool);
simd_vote simd_active_threads_mask();
bool simd_all(bool);
bool simd_any(bool);
bool simd_is_first();

template <class T, int Rows, int Columns = Rows>
struct simdgroup_matrix {
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T);
  vec<T, 2>& thread_elements();
  vec<T, 2> elements;
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
template <class T, int Rows, int Columns = Rows>
simdgroup_matrix<T, Rows, Columns> make_filled_simdgroup_matrix(T);
template <class T, int Rows, int Columns = Rows>
simdgroup_matrix<T, Rows, Columns> make_diagonal_simdgroup_matrix(T);
#define MARLIN_MATRIX_MEMORY(SPACE)                                                                     \
  template <class T>                                                                                    \
  void simdgroup_load(simdgroup_matrix<T, 8, 8>&, const SPACE T*, ulong = 8, ulong2 = 0, bool = false); \
  template <class T>                                                                                    \
  void simdgroup_store(simdgroup_matrix<T, 8, 8>, SPACE T*, ulong = 8, ulong2 = 0, bool = false);
MARLIN_MATRIX_MEMORY(MARLIN_DEVICE)
MARLIN_MATRIX_MEMORY(MARLIN_THREADGROUP_SPACE)
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>&, const simdgroup_matrix<A, 8, 8>&,
                                   const simdgroup_matrix<B, 8, 8>&, const simdgroup_matrix<C, 8, 8>&);
template <class D, class A, class B>
void simdgroup_multiply(simdgroup_matrix<D, 8, 8>&, const simdgroup_matrix<A, 8, 8>&, const simdgroup_matrix<B, 8, 8>&);

enum memory_order { memory_order_relaxed };
template <class T>
struct atomic {
  T value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;
typedef atomic<ulong> atomic_ulong;
#define MARLIN_ATOMIC(SPACE, f) \
  template <class T, class U>   \
  T f(SPACE atomic<T>*, U, memory_order);
#define MARLIN_ATOMICS(SPACE)                                                                      \
  template <class T>                                                                               \
  T atomic_load_explicit(const SPACE atomic<T>*, memory_order);                                    \
  template <class T, class U>                                                                      \
  void atomic_store_explicit(SPACE atomic<T>*, U, memory_order);                                   \
  template <class T, class U>                                                                      \
  bool atomic_compare_exchange_weak_explicit(SPACE atomic<T>*, T*, U, memory_order, memory_order); \
  MARLIN_ATOMIC(SPACE, atomic_exchange_explicit)                                                   \
  MARLIN_ATOMIC(SPACE, atomic_fetch_add_explicit)                                                  \
  MARLIN_ATOMIC(SPACE, atomic_fetch_sub_explicit)                                                  \
  MARLIN_ATOMIC(SPACE, atomic_fetch_and_explicit)                                                  \
  MARLIN_ATOMIC(SPACE, atomic_fetch_or_explicit)                                                   \
  MARLIN_ATOMIC(SPACE, atomic_fetch_xor_explicit)                                                  \
  MARLIN_ATOMIC(SPACE, atomic_fetch_min_explicit) MARLIN_ATOMIC(SPACE, atomic_fetch_max_explicit)
MARLIN_ATOMICS(MARLIN_DEVICE)
MARLIN_ATOMICS(MARLIN_THREADGROUP_SPACE)

}  // namespace metal

#define is_function_constant_defined(name) true
