// simdgroup_matrix: 8 x 8 elements, two a lane, where Apple's GPUs have them. Products are made of shuffles, in float
// and in the order of k: tensor cores have another layout and another rounding.
#pragma once

#include "simd.h"

namespace metal {
namespace warp {

/// Of the first of a lane's two elements; the second is in the next column.
MARLIN_INLINE uint matrix_row(uint lane) {
  return ((lane >> 4) & 1u) * 4 + ((lane >> 1) & 3u);
}
MARLIN_INLINE uint matrix_column(uint lane) {
  return ((lane >> 3) & 1u) * 4 + (lane & 1u) * 2;
}
MARLIN_INLINE uint matrix_lane(uint row, uint column) {
  return ((row >> 2) << 4) | ((column >> 2) << 3) | ((row & 3u) << 1) | ((column >> 1) & 1u);
}
MARLIN_INLINE size_t matrix_offset(uint element, ulong stride, vec<ulong, 2> origin, bool transposed) {
  const ulong row = matrix_row(lane());
  const ulong column = matrix_column(lane()) + element;
  return transposed ? (origin.x + column) * stride + origin.y + row : (origin.y + row) * stride + origin.x + column;
}

}  // namespace warp

template <class T, int kColumns, int kRows>
struct simdgroup_matrix {
  static_assert(kColumns == 8 && kRows == 8, "Metal has 8 x 8 only");
  using storage_type = vec<T, 2>;
  storage_type elements;

  simdgroup_matrix() = default;
  MARLIN_INLINE explicit simdgroup_matrix(T diagonal) {
    const uint row = warp::matrix_row(warp::lane());
    const uint column = warp::matrix_column(warp::lane());
    elements = storage_type(row == column ? diagonal : T(0), row == column + 1 ? diagonal : T(0));
  }
  MARLIN_INLINE storage_type& thread_elements() { return elements; }
  MARLIN_INLINE const storage_type& thread_elements() const { return elements; }
};

typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <class T, int kColumns, int kRows = kColumns, class U>
MARLIN_INLINE simdgroup_matrix<T, kColumns, kRows> make_filled_simdgroup_matrix(U value) {
  simdgroup_matrix<T, kColumns, kRows> result;
  result.elements = vec<T, 2>(T(value), T(value));
  return result;
}

template <class T>
MARLIN_INLINE void simdgroup_load(simdgroup_matrix<T, 8, 8>& to, const T* from, ulong stride = 8,
                                  vec<ulong, 2> origin = vec<ulong, 2>(0), bool transposed = false) {
  for (uint i = 0; i < 2; ++i) to.elements.v[i] = from[warp::matrix_offset(i, stride, origin, transposed)];
}
template <class T>
MARLIN_INLINE void simdgroup_store(const simdgroup_matrix<T, 8, 8>& from, T* to, ulong stride = 8,
                                   vec<ulong, 2> origin = vec<ulong, 2>(0), bool transposed = false) {
  for (uint i = 0; i < 2; ++i) to[warp::matrix_offset(i, stride, origin, transposed)] = from.elements.v[i];
}

/// d = a b + c. The types of elements may differ.
template <class D, class A, class B, class C>
MARLIN_INLINE void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                                 const simdgroup_matrix<B, 8, 8>& b,
                                                 const simdgroup_matrix<C, 8, 8>& c) {
  const uint row = warp::matrix_row(warp::lane());
  const uint column = warp::matrix_column(warp::lane());
  float first = float(c.elements.v[0]);
  float second = float(c.elements.v[1]);
#pragma unroll
  for (uint k = 0; k < 8; ++k) {
    const vec<A, 2> left = warp::gather(a.elements, warp::matrix_lane(row, k));
    const vec<B, 2> right = warp::gather(b.elements, warp::matrix_lane(k, column));
    const float factor = float(left.v[k % 2]);
    first = ::fmaf(factor, float(right.v[0]), first);
    second = ::fmaf(factor, float(right.v[1]), second);
  }
  d.elements = vec<D, 2>(D(first), D(second));
}
template <class D, class A, class B>
MARLIN_INLINE void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                      const simdgroup_matrix<B, 8, 8>& b) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<float, 8, 8>(0.0f));
}

}  // namespace metal
