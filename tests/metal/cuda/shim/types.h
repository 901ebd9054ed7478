// What emulator/shim/types.h is to clang, for nvcc: MSL's scalar types, and clang's builtins by the names of CUDA's
// functions, so that the vectors and functions of the emulator's shim compile as device code.
#pragma once

#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>

#define MARLIN_INLINE __device__ __forceinline__

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

namespace metal {

/// A number of 16 bits that is computed with in float and rounded after every operation: for + - * / of halves and
/// bfloats that is one correct rounding.
template <class Format>
struct Narrow {
  ushort bits;

  Narrow() = default;
  template <class T>
  MARLIN_INLINE Narrow(T x) : bits(Format::narrow(float(x))) {}
  MARLIN_INLINE operator float() const { return Format::widen(bits); }

  MARLIN_INLINE Narrow& operator+=(float x) { return *this = Narrow(float(*this) + x); }
  MARLIN_INLINE Narrow& operator-=(float x) { return *this = Narrow(float(*this) - x); }
  MARLIN_INLINE Narrow& operator*=(float x) { return *this = Narrow(float(*this) * x); }
  MARLIN_INLINE Narrow& operator/=(float x) { return *this = Narrow(float(*this) / x); }
};

#define MARLIN_NARROW_OPERATOR(op)                                                             \
  template <class Format>                                                                      \
  MARLIN_INLINE Narrow<Format> operator op(const Narrow<Format>& a, const Narrow<Format>& b) { \
    return Narrow<Format>(float(a) op float(b));                                               \
  }
MARLIN_NARROW_OPERATOR(+)
MARLIN_NARROW_OPERATOR(-)
MARLIN_NARROW_OPERATOR(*)
MARLIN_NARROW_OPERATOR(/)
#undef MARLIN_NARROW_OPERATOR
template <class Format>
MARLIN_INLINE Narrow<Format> operator-(const Narrow<Format>& a) {
  return Narrow<Format>(-float(a));
}

struct HalfFormat {
  static MARLIN_INLINE ushort narrow(float x) {
    ushort bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
  }
  static MARLIN_INLINE float widen(ushort bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
  }
};
struct BfloatFormat {
  static MARLIN_INLINE ushort narrow(float x) {
    ushort bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
  }
  static MARLIN_INLINE float widen(ushort bits) { return __uint_as_float(uint(bits) << 16); }
};

}  // namespace metal

typedef metal::Narrow<metal::HalfFormat> half;
typedef metal::Narrow<metal::BfloatFormat> bfloat;

// CUDA has vector types of the same names, which are no classes; those of MSL get others.
#define float2 marlin_float2
#define float3 marlin_float3
#define float4 marlin_float4
#define char2 marlin_char2
#define char3 marlin_char3
#define char4 marlin_char4
#define uchar2 marlin_uchar2
#define uchar3 marlin_uchar3
#define uchar4 marlin_uchar4
#define short2 marlin_short2
#define short3 marlin_short3
#define short4 marlin_short4
#define ushort2 marlin_ushort2
#define ushort3 marlin_ushort3
#define ushort4 marlin_ushort4
#define int2 marlin_int2
#define int3 marlin_int3
#define int4 marlin_int4
#define uint2 marlin_uint2
#define uint3 marlin_uint3
#define uint4 marlin_uint4
#define long2 marlin_long2
#define long3 marlin_long3
#define long4 marlin_long4
#define ulong2 marlin_ulong2
#define ulong3 marlin_ulong3
#define ulong4 marlin_ulong4

#define __builtin_acosf ::acosf
#define __builtin_acoshf ::acoshf
#define __builtin_asinf ::asinf
#define __builtin_asinhf ::asinhf
#define __builtin_atanf ::atanf
#define __builtin_atanhf ::atanhf
#define __builtin_atan2f ::atan2f
#define __builtin_ceilf ::ceilf
#define __builtin_copysignf ::copysignf
#define __builtin_cosf ::cosf
#define __builtin_coshf ::coshf
#define __builtin_expf ::expf
#define __builtin_exp2f ::exp2f
#define __builtin_fabsf ::fabsf
#define __builtin_fdimf ::fdimf
#define __builtin_floorf ::floorf
#define __builtin_fmaf ::fmaf
#define __builtin_fmaxf ::fmaxf
#define __builtin_fminf ::fminf
#define __builtin_fmodf ::fmodf
#define __builtin_frexpf ::frexpf
#define __builtin_ilogbf ::ilogbf
#define __builtin_ldexpf ::ldexpf
#define __builtin_logf ::logf
#define __builtin_log2f ::log2f
#define __builtin_log10f ::log10f
#define __builtin_modff ::modff
#define __builtin_powf ::powf
#define __builtin_rintf ::rintf
#define __builtin_roundf ::roundf
#define __builtin_sinf ::sinf
#define __builtin_sinhf ::sinhf
#define __builtin_sqrtf ::sqrtf
#define __builtin_tanf ::tanf
#define __builtin_tanhf ::tanhf
#define __builtin_truncf ::truncf
#define __builtin_cos ::cos
#define __builtin_sin ::sin
#define __builtin_fma ::fma
#define __builtin_isnan(x) ((x) != (x))
#define __builtin_isinf(x) (::fabsf(x) == INFINITY)
#define __builtin_isfinite(x) (::fabsf(x) < INFINITY)
#define __builtin_isnormal(x) (::fabsf(x) < INFINITY && ::fabsf(x) >= FLT_MIN)
#define __builtin_signbit(x) (__float_as_uint(x) >> 31 != 0)
#define __builtin_popcountl(x) __popcll(x)
#define __builtin_clzl(x) __clzll(x)
#define __builtin_ctzl(x) (__ffsll(x) - 1)
#define __builtin_bitreverse64(x) __brevll(x)

#include "../../emulator/shim/traits.h"
