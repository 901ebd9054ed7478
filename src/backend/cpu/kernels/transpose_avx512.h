// For files compiled for AVX-512 alone: each has its own copy (family.h).
#pragma once

#include <immintrin.h>

namespace marlin::cpu {
namespace {

/// 16 vectors of 16 dwords, transposed in place.
inline void transpose(__m512i (&v)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    const __m512i b = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(v[i + 2], v[i + 3]);
    const __m512i d = _mm512_unpackhi_epi32(v[i + 2], v[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, c);
    t[i + 1] = _mm512_unpackhi_epi64(a, c);
    t[i + 2] = _mm512_unpacklo_epi64(b, d);
    t[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  // t[4 r + c] holds in part p column 4 p + c of rows 4 r … 4 r + 3.
  for (int c = 0; c < 4; ++c) {
    const __m512i a = _mm512_shuffle_i32x4(t[c], t[4 + c], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(t[c], t[4 + c], 0xdd);
    const __m512i d = _mm512_shuffle_i32x4(t[8 + c], t[12 + c], 0x88);
    const __m512i e = _mm512_shuffle_i32x4(t[8 + c], t[12 + c], 0xdd);
    v[c] = _mm512_shuffle_i32x4(a, d, 0x88);
    v[4 + c] = _mm512_shuffle_i32x4(b, e, 0x88);
    v[8 + c] = _mm512_shuffle_i32x4(a, d, 0xdd);
    v[12 + c] = _mm512_shuffle_i32x4(b, e, 0xdd);
  }
}

}  // namespace
}  // namespace marlin::cpu
