// Type traits that the vectors and functions are written with. Included once all scalar types are known.
#pragma once

namespace metal {

template <class T, T kValue>
struct integral_constant {
  static constexpr T value = kValue;
};
using true_type = integral_constant<bool, true>;
using false_type = integral_constant<bool, false>;

template <class A, class B>
struct is_same : false_type {};
template <class A>
struct is_same<A, A> : true_type {};
template <class A, class B>
constexpr bool is_same_v = is_same<A, B>::value;

template <bool kCondition, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> {
  using type = T;
};
template <bool kCondition, class T = void>
using enable_if_t = typename enable_if<kCondition, T>::type;

template <bool kCondition, class T, class F>
struct conditional {
  using type = T;
};
template <class T, class F>
struct conditional<false, T, F> {
  using type = F;
};
template <bool kCondition, class T, class F>
using conditional_t = typename conditional<kCondition, T, F>::type;

template <class T>
struct remove_cv {
  using type = T;
};
template <class T>
struct remove_cv<const T> {
  using type = T;
};
template <class T>
struct remove_cv<volatile T> {
  using type = T;
};
template <class T>
struct remove_cv<const volatile T> {
  using type = T;
};
template <class T>
using remove_cv_t = typename remove_cv<T>::type;

template <class T>
struct remove_reference {
  using type = T;
};
template <class T>
struct remove_reference<T&> {
  using type = T;
};
template <class T>
struct remove_reference<T&&> {
  using type = T;
};
template <class T>
using remove_reference_t = typename remove_reference<T>::type;

template <class T>
struct is_floating_point : false_type {};
template <class T>
struct is_integral : false_type {};
#define MARLIN_FLOATING(type) \
  template <>                 \
  struct is_floating_point<type> : true_type {};
#define MARLIN_INTEGRAL(type) \
  template <>                 \
  struct is_integral<type> : true_type {};
MARLIN_FLOATING(float)
MARLIN_FLOATING(half)
MARLIN_FLOATING(bfloat)
MARLIN_INTEGRAL(bool)
MARLIN_INTEGRAL(char)
MARLIN_INTEGRAL(signed char)
MARLIN_INTEGRAL(uchar)
MARLIN_INTEGRAL(short)
MARLIN_INTEGRAL(ushort)
MARLIN_INTEGRAL(int)
MARLIN_INTEGRAL(uint)
MARLIN_INTEGRAL(long)
MARLIN_INTEGRAL(ulong)
MARLIN_INTEGRAL(long long)
MARLIN_INTEGRAL(unsigned long long)
#undef MARLIN_FLOATING
#undef MARLIN_INTEGRAL

template <class T>
constexpr bool is_floating_point_v = is_floating_point<T>::value;
template <class T>
constexpr bool is_integral_v = is_integral<T>::value;
template <class T>
constexpr bool is_arithmetic_v = is_floating_point_v<T> || is_integral_v<T>;

template <class T>
struct numeric_limits;

}  // namespace metal
