// Vectors of 2, 3 and 4 elements with all swizzles, packed vectors, matrices and as_type.
//
// They are classes, since clang takes no float4(a, b, c, d) for its own vector types. A swizzle is a member of the
// vector's union that knows which elements it means.
#pragma once

#include "types.h"

namespace metal {

template <class T, int N>
struct vec;
template <class T, int N>
struct packed_vec;
template <class T, int N, int... kIndex>
struct Swizzle;

/// Of everything that counts as a vector: its element type and how many there are. Scalars count one.
template <class A>
struct Elements {
  static constexpr int count = is_arithmetic_v<A> ? 1 : 0;
  static constexpr bool vector = false;
  using type = A;
};
template <class T, int N>
struct Elements<vec<T, N>> {
  static constexpr int count = N;
  static constexpr bool vector = true;
  using type = T;
};
template <class T, int N>
struct Elements<packed_vec<T, N>> : Elements<vec<T, N>> {};
template <class T, int N, int... kIndex>
struct Elements<Swizzle<T, N, kIndex...>> : Elements<vec<T, int(sizeof...(kIndex))>> {};

/// The vec that A, B and C, vectors or scalars of which at least one is a vector, are computed as. None if they do not
/// fit together.
template <class A, class B = A, class C = A>
struct CommonVector {
  using First = conditional_t<Elements<A>::vector, A, conditional_t<Elements<B>::vector, B, C>>;
  using Element = typename Elements<First>::type;
  static constexpr int count = Elements<First>::count;
  template <class X>
  static constexpr bool fits =
      Elements<X>::vector ? Elements<X>::count == count&& is_same_v<typename Elements<X>::type, Element>
                          : is_arithmetic_v<X>;
  static constexpr bool value = Elements<First>::vector && fits<A> && fits<B> && fits<C>;
};
template <bool kValid, class Common>
struct CommonVectorType {};
template <class Common>
struct CommonVectorType<true, Common> {
  using type = vec<typename Common::Element, Common::count>;
};
template <class A, class B = A, class C = A>
using common_vector_t = typename CommonVectorType<CommonVector<A, B, C>::value, CommonVector<A, B, C>>::type;

// ---- swizzles ------------------------------------------------------------------------------------------------------

template <class T, int N, int... kIndex>
struct Swizzle {
  using Vector = vec<T, int(sizeof...(kIndex))>;
  T v[N];

  Swizzle() = default;
  Swizzle(const Swizzle&) = default;
  MARLIN_INLINE operator Vector() const { return Vector(v[kIndex]...); }
  MARLIN_INLINE Swizzle& operator=(const Vector& from) {
    int i = 0;
    ((v[kIndex] = from.v[i++]), ...);
    return *this;
  }
  MARLIN_INLINE Swizzle& operator=(const Swizzle& from) { return *this = Vector(from); }
  MARLIN_INLINE T operator[](int i) const { return Vector(*this).v[i]; }
#define MARLIN_COMPOUND(op)                           \
  template <class B>                                  \
  MARLIN_INLINE Swizzle& operator op##=(const B& b) { \
    return *this = Vector(Vector(*this) op b);        \
  }
  MARLIN_COMPOUND(+)
  MARLIN_COMPOUND(-)
  MARLIN_COMPOUND(*)
  MARLIN_COMPOUND(/)
  MARLIN_COMPOUND(&)
  MARLIN_COMPOUND(|)
  MARLIN_COMPOUND(^)
  MARLIN_COMPOUND(<<)
  MARLIN_COMPOUND(>>)
#undef MARLIN_COMPOUND
};

// For each name of an element: m(its letter, its index, whatever else). A macro may not call itself, so each level of
// nesting has its own.
#define MARLIN_EACH_A_2(m, ...) m(x, 0, __VA_ARGS__) m(y, 1, __VA_ARGS__)
#define MARLIN_EACH_A_3(m, ...) MARLIN_EACH_A_2(m, __VA_ARGS__) m(z, 2, __VA_ARGS__)
#define MARLIN_EACH_A_4(m, ...) MARLIN_EACH_A_3(m, __VA_ARGS__) m(w, 3, __VA_ARGS__)
#define MARLIN_EACH_B_2(m, ...) m(x, 0, __VA_ARGS__) m(y, 1, __VA_ARGS__)
#define MARLIN_EACH_B_3(m, ...) MARLIN_EACH_B_2(m, __VA_ARGS__) m(z, 2, __VA_ARGS__)
#define MARLIN_EACH_B_4(m, ...) MARLIN_EACH_B_3(m, __VA_ARGS__) m(w, 3, __VA_ARGS__)
#define MARLIN_EACH_C_2(m, ...) m(x, 0, __VA_ARGS__) m(y, 1, __VA_ARGS__)
#define MARLIN_EACH_C_3(m, ...) MARLIN_EACH_C_2(m, __VA_ARGS__) m(z, 2, __VA_ARGS__)
#define MARLIN_EACH_C_4(m, ...) MARLIN_EACH_C_3(m, __VA_ARGS__) m(w, 3, __VA_ARGS__)
#define MARLIN_EACH_D_2(m, ...) m(x, 0, __VA_ARGS__) m(y, 1, __VA_ARGS__)
#define MARLIN_EACH_D_3(m, ...) MARLIN_EACH_D_2(m, __VA_ARGS__) m(z, 2, __VA_ARGS__)
#define MARLIN_EACH_D_4(m, ...) MARLIN_EACH_D_3(m, __VA_ARGS__) m(w, 3, __VA_ARGS__)

#define MARLIN_SWIZZLE_4(d, l, c, k, b, j, a, i, n) Swizzle<T, n, i, j, k, l> a##b##c##d;
#define MARLIN_SWIZZLE_3(c, k, b, j, a, i, n) \
  Swizzle<T, n, i, j, k> a##b##c;             \
  MARLIN_EACH_D_##n(MARLIN_SWIZZLE_4, c, k, b, j, a, i, n)
#define MARLIN_SWIZZLE_2(b, j, a, i, n) \
  Swizzle<T, n, i, j> a##b;             \
  MARLIN_EACH_C_##n(MARLIN_SWIZZLE_3, b, j, a, i, n)
#define MARLIN_SWIZZLE_1(a, i, n) MARLIN_EACH_B_##n(MARLIN_SWIZZLE_2, a, i, n)
#define MARLIN_SWIZZLES(n) MARLIN_EACH_A_##n(MARLIN_SWIZZLE_1, n)

// ---- vectors -------------------------------------------------------------------------------------------------------

// The compiler may split an access to a vector into ones to its elements, so a checked build asks about alignment here.
#ifdef MARLIN_METAL_CHECKED
#define MARLIN_ALIGNED(pointer)                                                               \
  do {                                                                                        \
    if (__builtin_expect(reinterpret_cast<unsigned long>(pointer) & (alignof(vec) - 1), 0)) { \
      marlin::emulator::abi::misaligned(pointer, alignof(vec));                               \
    }                                                                                         \
  } while (0)
#define MARLIN_VECTOR_COPY(n)                     \
  MARLIN_INLINE vec(const vec& from) {            \
    MARLIN_ALIGNED(&from);                        \
    for (int i = 0; i < n; ++i) v[i] = from.v[i]; \
  }                                               \
  MARLIN_INLINE vec& operator=(const vec& from) { \
    MARLIN_ALIGNED(&from);                        \
    MARLIN_ALIGNED(this);                         \
    for (int i = 0; i < n; ++i) v[i] = from.v[i]; \
    return *this;                                 \
  }
#else
#define MARLIN_VECTOR_COPY(n)                     \
  vec(const vec&) = default;                      \
  MARLIN_INLINE vec& operator=(const vec& from) { \
    for (int i = 0; i < n; ++i) v[i] = from.v[i]; \
    return *this;                                 \
  }
#endif

// Constructors: of one scalar for all elements, of all elements, of a vector with other elements, of parts.
#define MARLIN_VECTOR_MEMBERS(n)                                                                               \
  vec() = default;                                                                                             \
  MARLIN_VECTOR_COPY(n)                                                                                        \
  template <class A, class = enable_if_t<is_arithmetic_v<A>>>                                                  \
  MARLIN_INLINE constexpr vec(A all) : vec(Fill(), T(all)) {}                                                  \
  template <class A, class = void, class = enable_if_t<Elements<A>::vector && Elements<A>::count == n>>        \
  MARLIN_INLINE explicit vec(const A& from) {                                                                  \
    const vec<typename Elements<A>::type, n> other = from;                                                     \
    for (int i = 0; i < n; ++i) v[i] = T(other.v[i]);                                                          \
  }                                                                                                            \
  template <class A, class B, class... Rest,                                                                   \
            class = enable_if_t<Elements<A>::count + Elements<B>::count + (0 + ... + Elements<Rest>::count) == \
                                n&& int(sizeof...(Rest)) + 2 < n>>                                             \
  MARLIN_INLINE vec(const A& a, const B& b, const Rest&... rest) {                                             \
    T* to = v;                                                                                                 \
    append(to, a);                                                                                             \
    append(to, b);                                                                                             \
    (append(to, rest), ...);                                                                                   \
  }                                                                                                            \
  MARLIN_INLINE T& operator[](int i) {                                                                         \
    return v[i];                                                                                               \
  }                                                                                                            \
  MARLIN_INLINE const T& operator[](int i) const {                                                             \
    return v[i];                                                                                               \
  }                                                                                                            \
                                                                                                               \
 private:                                                                                                      \
  struct Fill {};                                                                                              \
  template <class A>                                                                                           \
  static MARLIN_INLINE void append(T*& to, const A& part) {                                                    \
    if constexpr (is_arithmetic_v<A>) {                                                                        \
      *to++ = T(part);                                                                                         \
    } else {                                                                                                   \
      const vec<typename Elements<A>::type, Elements<A>::count> whole = part;                                  \
      for (int i = 0; i < Elements<A>::count; ++i) *to++ = T(whole.v[i]);                                      \
    }                                                                                                          \
  }

template <class T>
struct alignas(2 * sizeof(T)) vec<T, 2> {
  union {
    T v[2];
    struct {
      T x, y;
    };
    struct {
      T r, g;
    };
    MARLIN_SWIZZLES(2)
  };
  template <class A, class B, class = enable_if_t<is_arithmetic_v<A> && is_arithmetic_v<B>>>
  MARLIN_INLINE constexpr vec(A a, B b) : v{T(a), T(b)} {}
  MARLIN_VECTOR_MEMBERS(2)
  MARLIN_INLINE constexpr vec(Fill, T all) : v{all, all} {}
};

template <class T>
struct alignas(4 * sizeof(T)) vec<T, 3> {
  union {
    T v[3];
    struct {
      T x, y, z;
    };
    struct {
      T r, g, b;
    };
    MARLIN_SWIZZLES(3)
  };
  template <class A, class B, class C,
            class = enable_if_t<is_arithmetic_v<A> && is_arithmetic_v<B> && is_arithmetic_v<C>>>
  MARLIN_INLINE constexpr vec(A a, B b, C c) : v{T(a), T(b), T(c)} {}
  MARLIN_VECTOR_MEMBERS(3)
  MARLIN_INLINE constexpr vec(Fill, T all) : v{all, all, all} {}
};

template <class T>
struct alignas(4 * sizeof(T)) vec<T, 4> {
  union {
    T v[4];
    struct {
      T x, y, z, w;
    };
    struct {
      T r, g, b, a;
    };
    Swizzle<T, 4, 0, 1, 2> rgb;
    MARLIN_SWIZZLES(4)
  };
  template <class A, class B, class C, class D,
            class = enable_if_t<is_arithmetic_v<A> && is_arithmetic_v<B> && is_arithmetic_v<C> && is_arithmetic_v<D>>>
  MARLIN_INLINE constexpr vec(A a, B b, C c, D d) : v{T(a), T(b), T(c), T(d)} {}
  MARLIN_VECTOR_MEMBERS(4)
  MARLIN_INLINE constexpr vec(Fill, T all) : v{all, all, all, all} {}
};
#undef MARLIN_VECTOR_MEMBERS
#undef MARLIN_VECTOR_COPY

// ---- operators -----------------------------------------------------------------------------------------------------

#define MARLIN_OPERATOR(op)                                                         \
  template <class A, class B, class V = common_vector_t<A, B>>                      \
  MARLIN_INLINE V operator op(const A& left, const B& right) {                      \
    using T = typename Elements<V>::type;                                           \
    const V a(left);                                                                \
    const V b(right);                                                               \
    V result;                                                                       \
    for (int i = 0; i < Elements<V>::count; ++i) result.v[i] = T(a.v[i] op b.v[i]); \
    return result;                                                                  \
  }                                                                                 \
  template <class T, int N, class B, class V = common_vector_t<vec<T, N>, B>>       \
  MARLIN_INLINE vec<T, N>& operator op##=(vec<T, N>& a, const B& b) {               \
    return a = a op b;                                                              \
  }
MARLIN_OPERATOR(+)
MARLIN_OPERATOR(-)
MARLIN_OPERATOR(*)
MARLIN_OPERATOR(/)
MARLIN_OPERATOR(%)
MARLIN_OPERATOR(&)
MARLIN_OPERATOR(|)
MARLIN_OPERATOR(^)
MARLIN_OPERATOR(<<)
MARLIN_OPERATOR(>>)
#undef MARLIN_OPERATOR

#define MARLIN_COMPARISON(op)                                                              \
  template <class A, class B, class V = common_vector_t<A, B>>                             \
  MARLIN_INLINE vec<bool, Elements<V>::count> operator op(const A& left, const B& right) { \
    const V a(left);                                                                       \
    const V b(right);                                                                      \
    vec<bool, Elements<V>::count> result;                                                  \
    for (int i = 0; i < Elements<V>::count; ++i) result.v[i] = a.v[i] op b.v[i];           \
    return result;                                                                         \
  }
MARLIN_COMPARISON(<)
MARLIN_COMPARISON(>)
MARLIN_COMPARISON(<=)
MARLIN_COMPARISON(>=)
MARLIN_COMPARISON(==)
MARLIN_COMPARISON(!=)
MARLIN_COMPARISON(&&)
MARLIN_COMPARISON(||)
#undef MARLIN_COMPARISON

template <class A, class V = common_vector_t<A>>
MARLIN_INLINE V operator-(const A& a) {
  V result(a);
  for (int i = 0; i < Elements<V>::count; ++i) result.v[i] = -result.v[i];
  return result;
}
template <class A, class V = common_vector_t<A>>
MARLIN_INLINE V operator+(const A& a) {
  return V(a);
}
template <class A, class V = common_vector_t<A>>
MARLIN_INLINE V operator~(const A& a) {
  V result(a);
  for (int i = 0; i < Elements<V>::count; ++i) result.v[i] = ~result.v[i];
  return result;
}
template <class A, class V = common_vector_t<A>>
MARLIN_INLINE vec<bool, Elements<V>::count> operator!(const A& a) {
  const V value(a);
  vec<bool, Elements<V>::count> result;
  for (int i = 0; i < Elements<V>::count; ++i) result.v[i] = !value.v[i];
  return result;
}

// ---- packed vectors ------------------------------------------------------------------------------------------------

template <class T, int N>
struct PackedStorage;
template <class T>
struct PackedStorage<T, 2> {
  T x, y;
};
template <class T>
struct PackedStorage<T, 3> {
  T x, y, z;
};
template <class T>
struct PackedStorage<T, 4> {
  T x, y, z, w;
};

/// As aligned as its elements.
template <class T, int N>
struct packed_vec : PackedStorage<T, N> {
  packed_vec() = default;
  MARLIN_INLINE packed_vec(const vec<T, N>& from) {
    for (int i = 0; i < N; ++i) (*this)[i] = from.v[i];
  }
  template <class A, class... Rest, class = enable_if_t<int(sizeof...(Rest)) + 1 == N>>
  MARLIN_INLINE packed_vec(A a, Rest... rest) : PackedStorage<T, N>{T(a), T(rest)...} {}
  MARLIN_INLINE operator vec<T, N>() const {
    vec<T, N> result;
    for (int i = 0; i < N; ++i) result.v[i] = (*this)[i];
    return result;
  }
  MARLIN_INLINE T& operator[](int i) { return (&this->x)[i]; }
  MARLIN_INLINE const T& operator[](int i) const { return (&this->x)[i]; }
};

// ---- matrices ------------------------------------------------------------------------------------------------------

/// C columns of R rows, as MSL counts: m[column][row].
template <class T, int C, int R>
struct matrix {
  vec<T, R> columns[C];

  matrix() = default;
  MARLIN_INLINE explicit matrix(T diagonal) {
    for (int c = 0; c < C; ++c) {
      for (int r = 0; r < R; ++r) columns[c].v[r] = c == r ? diagonal : T(0);
    }
  }
  template <class... V, class = enable_if_t<sizeof...(V) == C>>
  MARLIN_INLINE matrix(const V&... its_columns) : columns{vec<T, R>(its_columns)...} {}
  template <class U, class = enable_if_t<!is_same_v<U, T>>>
  MARLIN_INLINE explicit matrix(const matrix<U, C, R>& from) {
    for (int c = 0; c < C; ++c) columns[c] = vec<T, R>(from.columns[c]);
  }
  MARLIN_INLINE vec<T, R>& operator[](int c) { return columns[c]; }
  MARLIN_INLINE const vec<T, R>& operator[](int c) const { return columns[c]; }
};

template <class T, int C, int R>
MARLIN_INLINE matrix<T, C, R> operator*(matrix<T, C, R> a, T factor) {
  for (int c = 0; c < C; ++c) a.columns[c] *= factor;
  return a;
}
template <class T, int C, int R>
MARLIN_INLINE matrix<T, C, R> operator*(T factor, const matrix<T, C, R>& a) {
  return a * factor;
}
template <class T, int C, int R>
MARLIN_INLINE vec<T, R> operator*(const matrix<T, C, R>& a, const vec<T, C>& x) {
  vec<T, R> result(T(0));
  for (int c = 0; c < C; ++c) result += a.columns[c] * x.v[c];
  return result;
}
template <class T, int K, int R, int C>
MARLIN_INLINE matrix<T, C, R> operator*(const matrix<T, K, R>& a, const matrix<T, C, K>& b) {
  matrix<T, C, R> result;
  for (int c = 0; c < C; ++c) result.columns[c] = a * b.columns[c];
  return result;
}
template <class T, int C, int R>
MARLIN_INLINE matrix<T, C, R> operator+(matrix<T, C, R> a, const matrix<T, C, R>& b) {
  for (int c = 0; c < C; ++c) a.columns[c] += b.columns[c];
  return a;
}
template <class T, int C, int R>
MARLIN_INLINE matrix<T, C, R> operator-(matrix<T, C, R> a, const matrix<T, C, R>& b) {
  for (int c = 0; c < C; ++c) a.columns[c] -= b.columns[c];
  return a;
}
template <class T, int C, int R>
MARLIN_INLINE matrix<T, R, C> transpose(const matrix<T, C, R>& a) {
  matrix<T, R, C> result;
  for (int c = 0; c < C; ++c) {
    for (int r = 0; r < R; ++r) result.columns[r].v[c] = a.columns[c].v[r];
  }
  return result;
}

// ---- bits ----------------------------------------------------------------------------------------------------------

template <class T, class U>
MARLIN_INLINE T as_type_bits(const U& from) {
  static_assert(sizeof(T) == sizeof(U), "as_type: sizes differ");
  T to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}
template <class T, class U>
MARLIN_INLINE T as_type(const U& from) {
  if constexpr (Elements<U>::vector) {
    return as_type_bits<T>(vec<typename Elements<U>::type, Elements<U>::count>(from));
  } else {
    return as_type_bits<T>(from);
  }
}

}  // namespace metal

// In MSL the vector types are built in: visible without `using namespace metal`.
#define MARLIN_VECTOR_NAMES(type)                      \
  typedef metal::vec<type, 2> type##2;                 \
  typedef metal::vec<type, 3> type##3;                 \
  typedef metal::vec<type, 4> type##4;                 \
  typedef metal::packed_vec<type, 2> packed_##type##2; \
  typedef metal::packed_vec<type, 3> packed_##type##3; \
  typedef metal::packed_vec<type, 4> packed_##type##4; \
  namespace metal {                                    \
  using ::type##2;                                     \
  using ::type##3;                                     \
  using ::type##4;                                     \
  using ::packed_##type##2;                            \
  using ::packed_##type##3;                            \
  using ::packed_##type##4;                            \
  }
MARLIN_VECTOR_NAMES(float)
MARLIN_VECTOR_NAMES(half)
MARLIN_VECTOR_NAMES(bfloat)
MARLIN_VECTOR_NAMES(bool)
MARLIN_VECTOR_NAMES(char)
MARLIN_VECTOR_NAMES(uchar)
MARLIN_VECTOR_NAMES(short)
MARLIN_VECTOR_NAMES(ushort)
MARLIN_VECTOR_NAMES(int)
MARLIN_VECTOR_NAMES(uint)
MARLIN_VECTOR_NAMES(long)
MARLIN_VECTOR_NAMES(ulong)
#undef MARLIN_VECTOR_NAMES

#define MARLIN_MATRIX_NAME(type, c, r)             \
  typedef metal::matrix<type, c, r> type##c##x##r; \
  namespace metal {                                \
  using ::type##c##x##r;                           \
  }
#define MARLIN_MATRIX_NAMES(type) \
  MARLIN_MATRIX_NAME(type, 2, 2)  \
  MARLIN_MATRIX_NAME(type, 2, 3)  \
  MARLIN_MATRIX_NAME(type, 2, 4)  \
  MARLIN_MATRIX_NAME(type, 3, 2)  \
  MARLIN_MATRIX_NAME(type, 3, 3)  \
  MARLIN_MATRIX_NAME(type, 3, 4)  \
  MARLIN_MATRIX_NAME(type, 4, 2)  \
  MARLIN_MATRIX_NAME(type, 4, 3)  \
  MARLIN_MATRIX_NAME(type, 4, 4)
MARLIN_MATRIX_NAMES(float)
MARLIN_MATRIX_NAMES(half)
#undef MARLIN_MATRIX_NAMES
#undef MARLIN_MATRIX_NAME
