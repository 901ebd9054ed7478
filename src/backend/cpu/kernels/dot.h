// The two inner loops of the portable family, over FP32 rows.
//
// Row invariance: the order of each sum is part of these functions. A dot product keeps kLanes partial sums (element k
// goes to lane k % kLanes), adds the tail to the lanes it belongs to, then adds the lanes by a fixed tree. A tile of
// several dot products does the same for each of them, so how rows are grouped into tiles never shows in a result.
//
// The four-float vector is the compilers' own type (GCC and clang lower it to SSE, NEON or scalars): unlike loops left
// to the vectoriser it keeps the accumulators in registers with every compiler.
#pragma once

#include <cstdint>
#include <cstring>

namespace marlin::cpu {

using Vec4 = float __attribute__((vector_size(16)));

inline Vec4 load4(const float* p) {
  Vec4 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline void store4(float* p, Vec4 v) {
  std::memcpy(p, &v, sizeof(v));
}
inline Vec4 broadcast4(float x) {
  return Vec4{x, x, x, x};
}

inline constexpr int kLanes = 8;

inline float sum_lanes(const float* s) {
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/// out[j][i] = w[i] . x[j], for kW weight rows and kX token rows of n elements.
template <int kW, int kX>
inline void dot_tile(const float* const (&w)[kW], const float* const (&x)[kX], int64_t n, float (&out)[kX][kW]) {
  Vec4 acc[kW][kX][2] = {};
  const int64_t whole = n - n % kLanes;
  for (int64_t k = 0; k < whole; k += kLanes) {
    for (int half = 0; half < 2; ++half) {
      Vec4 wv[kW];
      for (int i = 0; i < kW; ++i) wv[i] = load4(w[i] + k + 4 * half);
      for (int j = 0; j < kX; ++j) {
        const Vec4 xv = load4(x[j] + k + 4 * half);
        for (int i = 0; i < kW; ++i) acc[i][j][half] += wv[i] * xv;
      }
    }
  }
  for (int i = 0; i < kW; ++i) {
    for (int j = 0; j < kX; ++j) {
      float lanes[kLanes];
      store4(lanes, acc[i][j][0]);
      store4(lanes + 4, acc[i][j][1]);
      for (int64_t k = whole; k < n; ++k) lanes[k - whole] += w[i][k] * x[j][k];
      out[j][i] = sum_lanes(lanes);
    }
  }
}

inline float dot(const float* a, const float* b, int64_t n) {
  float out[1][1];
  dot_tile<1, 1>({a}, {b}, n, out);
  return out[0][0];
}

/// One or two token rows against all `n_w` weight rows, stride `w_stride`: out[j][i] for i < n_w.
template <int kX>
inline void dot_panel(const float* w, int64_t w_stride, int64_t n_w, const float* const (&x)[kX], int64_t n,
                      float* const (&out)[kX]) {
  int64_t i = 0;
  for (; i + 2 <= n_w; i += 2) {
    float tile[kX][2];
    dot_tile<2, kX>({w + i * w_stride, w + (i + 1) * w_stride}, x, n, tile);
    for (int j = 0; j < kX; ++j) {
      out[j][i] = tile[j][0];
      out[j][i + 1] = tile[j][1];
    }
  }
  if (i < n_w) {
    float tile[kX][1];
    dot_tile<1, kX>({w + i * w_stride}, x, n, tile);
    for (int j = 0; j < kX; ++j) out[j][i] = tile[j][0];
  }
}

/// acc[k] = acc[k] * keep + sum over p of a[p] * rows[p * stride + k], added one p after the other.
inline void accumulate_rows(const float* a, int64_t n, const float* rows, int64_t stride, int64_t width, float keep,
                            float* acc) {
  constexpr int kVectors = 8;
  int64_t k = 0;
  for (; k + 4 * kVectors <= width; k += 4 * kVectors) {
    Vec4 sum[kVectors];
    for (int v = 0; v < kVectors; ++v) sum[v] = load4(acc + k + 4 * v) * broadcast4(keep);
    for (int64_t p = 0; p < n; ++p) {
      const Vec4 factor = broadcast4(a[p]);
      const float* row = rows + p * stride + k;
      for (int v = 0; v < kVectors; ++v) sum[v] += factor * load4(row + 4 * v);
    }
    for (int v = 0; v < kVectors; ++v) store4(acc + k + 4 * v, sum[v]);
  }
  for (; k < width; ++k) {
    float sum = acc[k] * keep;
    for (int64_t p = 0; p < n; ++p) sum += a[p] * rows[p * stride + k];
    acc[k] = sum;
  }
}

}  // namespace marlin::cpu
