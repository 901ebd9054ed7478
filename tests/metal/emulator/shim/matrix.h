// simdgroup_matrix: 8 x 8 elements, two a lane, where Apple's GPUs have them.
#pragma once

#include "simd.h"

namespace metal {

template <class T, int kColumns, int kRows>
struct simdgroup_matrix;

namespace emulation {

constexpr int kMatrixSide = 8;

/// Of the first of a lane's two elements; the second is in the next column.
MARLIN_INLINE uint matrix_row(uint lane) {
  return ((lane >> 4) & 1u) * 4 + ((lane >> 1) & 3u);
}
MARLIN_INLINE uint matrix_column(uint lane) {
  return ((lane >> 3) & 1u) * 4 + (lane & 1u) * 2;
}
MARLIN_INLINE size_t matrix_offset(uint element, ulong stride, vec<ulong, 2> origin, bool transposed) {
  const ulong row = matrix_row(lane());
  const ulong column = matrix_column(lane()) + element;
  return transposed ? (origin.x + column) * stride + origin.y + row : (origin.y + row) * stride + origin.x + column;
}

/// What a lane contributes to a product.
struct MatrixInput {
  float a[2];
  float b[2];
  float c[2];
};

/// result = a b + c in float, summed over k in order.
MARLIN_INLINE void multiply(const Arrival& arrival, float (*result)[kMatrixSide]) {
  float a[kMatrixSide][kMatrixSide];
  float b[kMatrixSide][kMatrixSide];
  for (uint i = 0; i < kWidth; ++i) {
    const auto input = posted<MatrixInput>(arrival, i);
    const uint row = matrix_row(i);
    const uint column = matrix_column(i);
    for (uint element = 0; element < 2; ++element) {
      a[row][column + element] = input.a[element];
      b[row][column + element] = input.b[element];
      result[row][column + element] = input.c[element];
    }
  }
  for (int row = 0; row < kMatrixSide; ++row) {
    for (int k = 0; k < kMatrixSide; ++k) {
      for (int column = 0; column < kMatrixSide; ++column) {
        result[row][column] = __builtin_fmaf(a[row][k], b[k][column], result[row][column]);
      }
    }
  }
}

}  // namespace emulation

template <class T, int kColumns, int kRows>
struct simdgroup_matrix {
  static_assert(kColumns == emulation::kMatrixSide && kRows == emulation::kMatrixSide, "Metal has 8 x 8 only");
  using storage_type = vec<T, 2>;
  storage_type elements;

  simdgroup_matrix() = default;
  MARLIN_INLINE explicit simdgroup_matrix(T diagonal) {
    const uint row = emulation::matrix_row(emulation::lane());
    const uint column = emulation::matrix_column(emulation::lane());
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
template <class T, int kColumns, int kRows = kColumns, class U>
MARLIN_INLINE simdgroup_matrix<T, kColumns, kRows> make_diagonal_simdgroup_matrix(U value) {
  return simdgroup_matrix<T, kColumns, kRows>(T(value));
}

template <class T>
MARLIN_INLINE void simdgroup_load(simdgroup_matrix<T, 8, 8>& to, const T* from, ulong stride = 8,
                                  vec<ulong, 2> origin = vec<ulong, 2>(0), bool transposed = false) {
  for (uint i = 0; i < 2; ++i) to.elements.v[i] = from[emulation::matrix_offset(i, stride, origin, transposed)];
}
template <class T>
MARLIN_INLINE void simdgroup_store(const simdgroup_matrix<T, 8, 8>& from, T* to, ulong stride = 8,
                                   vec<ulong, 2> origin = vec<ulong, 2>(0), bool transposed = false) {
  for (uint i = 0; i < 2; ++i) to[emulation::matrix_offset(i, stride, origin, transposed)] = from.elements.v[i];
}

/// d = a b + c. The types of elements may differ.
template <class D, class A, class B, class C>
MARLIN_TOGETHER void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                                   const simdgroup_matrix<B, 8, 8>& b,
                                                   const simdgroup_matrix<C, 8, 8>& c, MARLIN_SITE) {
  using namespace emulation;
  MatrixInput input;
  for (int i = 0; i < 2; ++i) {
    input.a[i] = float(a.elements.v[i]);
    input.b[i] = float(b.elements.v[i]);
    input.c[i] = float(c.elements.v[i]);
  }
  const Arrival arrival = arrive(input, SimdOperation::kMatrixMultiply, site_file, site_line);
  auto result = reinterpret_cast<float(*)[kMatrixSide]>(arrival.exchange->results[arrival.set]);
  if (arrival.last) {
    multiply(arrival, result);
    marlin::emulator::abi::simd_release();
  }
  const uint column = matrix_column(lane());
  const float* row = result[matrix_row(lane())];
  d.elements = vec<D, 2>(D(row[column]), D(row[column + 1]));
}
template <class D, class A, class B>
MARLIN_TOGETHER void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                        const simdgroup_matrix<B, 8, 8>& b, MARLIN_SITE) {
  const auto zero = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  simdgroup_multiply_accumulate(d, a, b, zero, site_file, site_line);
}
template <class A, class B>
MARLIN_TOGETHER simdgroup_matrix<A, 8, 8> operator*(const simdgroup_matrix<A, 8, 8>& a,
                                                    const simdgroup_matrix<B, 8, 8>& b) {
  simdgroup_matrix<A, 8, 8> result;
  simdgroup_multiply(result, a, b);
  return result;
}

}  // namespace metal
