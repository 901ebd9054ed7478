// Functions of metal_stdlib, one result each, for the test to compare with C++.
#include <metal_stdlib>
using namespace metal;

#define NEXT out[n++ * 64 + i]

/// x and y: any floats; p: positive ones; u: in (-1, 1).
kernel void float_functions(device const float4* in [[buffer(0)]], device float* out [[buffer(1)]],
                            uint i [[thread_position_in_grid]]) {
  const float x = in[i].x, y = in[i].y, p = in[i].z, u = in[i].w;
  uint n = 0;
  NEXT = acos(u);
  NEXT = asin(u);
  NEXT = atan(x);
  NEXT = atan2(x, y);
  NEXT = cos(x);
  NEXT = sin(x);
  NEXT = tan(x);
  NEXT = cosh(x);
  NEXT = sinh(x);
  NEXT = tanh(x);
  NEXT = acosh(p + 1);
  NEXT = asinh(x);
  NEXT = atanh(u);
  NEXT = exp(x);
  NEXT = exp2(x);
  NEXT = precise::exp(x);
  NEXT = fast::exp(x);
  NEXT = log(p);
  NEXT = log2(p);
  NEXT = log10(p);
  NEXT = sqrt(p);
  NEXT = rsqrt(p);
  NEXT = pow(p, y);
  NEXT = powr(p, y);
  NEXT = floor(x);
  NEXT = ceil(x);
  NEXT = trunc(x);
  NEXT = rint(x);
  NEXT = round(x);
  NEXT = fract(x);
  NEXT = fabs(x);
  NEXT = abs(x);
  NEXT = sign(x);
  NEXT = fmod(x, p);
  NEXT = copysign(x, y);
  NEXT = fdim(x, y);
  NEXT = fma(x, y, p);
  NEXT = min(x, y);
  NEXT = max(x, y);
  NEXT = fmin(x, NAN);
  NEXT = fmax(NAN, y);
  NEXT = clamp(x, -1.0f, 1.0f);
  NEXT = saturate(x);
  NEXT = mix(x, y, 0.25f);
  NEXT = step(x, y);
  NEXT = smoothstep(-4.0f, 4.0f, x);
  NEXT = min3(x, y, p);
  NEXT = max3(x, y, p);
  NEXT = median3(x, y, p);
  NEXT = select(x, y, p > 1);
  NEXT = isnan(x) + 2 * isinf(x) + 4 * isfinite(x) + 8 * signbit(x) + 16 * isnan(NAN) + 32 * isinf(INFINITY);
  NEXT = ldexp(x, 3);
  NEXT = float(half(x));
  NEXT = float(bfloat(x));
  NEXT = float(half(x) * half(y) + half(p));
  NEXT = float(fma(half(x), half(y), half(p)));
  NEXT = float(1.5h * half(x));
  NEXT = x * 0.1;  // a literal is a float
  NEXT = as_type<float>(as_type<uint>(x) ^ 0x80000000u);
}

kernel void int_functions(device const int2* in [[buffer(0)]], device int* out [[buffer(1)]],
                          uint i [[thread_position_in_grid]]) {
  const int x = in[i].x, y = in[i].y;
  const uint ux = uint(x), uy = uint(y);
  uint n = 0;
  NEXT = abs(x);
  NEXT = min(x, y);
  NEXT = max(ux, uy);
  NEXT = clamp(x, -100, 100);
  NEXT = popcount(ux);
  NEXT = clz(ux);
  NEXT = ctz(ux);
  NEXT = clz(ushort(ux));
  NEXT = reverse_bits(ux);
  NEXT = rotate(ux, uy);
  NEXT = mulhi(x, y);
  NEXT = mulhi(ux, uy);
  NEXT = addsat(x, y);
  NEXT = subsat(ux, uy);
  NEXT = absdiff(x, y);
  NEXT = hadd(x, y);
  NEXT = rhadd(x, y);
  NEXT = extract_bits(x, 5, 7);
  NEXT = extract_bits(ux, 5, 7);
  NEXT = insert_bits(ux, uy, 9, 6);
  NEXT = as_type<short2>(x).y;
  NEXT = uchar4(as_type<uchar4>(x)).z;
  NEXT = any(int2(x, y) > 0) + 2 * all(int2(x, y) > 0);
  NEXT = numeric_limits<int>::max() - INT_MAX;
}

kernel void vector_functions(device const float4* in [[buffer(0)]], device float* out [[buffer(1)]],
                             device packed_float3* packed [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  const float4 a = in[i];
  float4 b = a.wzyx;
  uint n = 0;
  NEXT = dot(a, b);
  NEXT = dot(a.xyz, b.zzz);
  NEXT = length(a.xy);
  NEXT = distance(a, b);
  NEXT = normalize(a.xyz).y;
  NEXT = cross(a.xyz, b.xyz).z;
  b.xz = a.yw;
  b.yw += 1;
  NEXT = b.x;
  NEXT = b.y;
  NEXT = b.z;
  NEXT = b.w;
  const float4 c = float4(a.xy, 2, 3) * float4(1, b.xyz) - 0.5f;
  NEXT = c.x + 10 * c.w;
  NEXT = select(a, b, a < b).y;
  NEXT = max(a, 0.0f).x + min(a, b).y;
  NEXT = exp(a.xyxy).w;
  NEXT = float(half4(a).z) + float(ushort4(4, 3, 2, 1).y);
  NEXT = (uint4(7) >> uint4(0, 1, 2, 3)).y;
  packed[i] = packed_float3(a.xyz);
  NEXT = packed[i].y + float3(packed[i]).z + (packed[i] * 2.0f).x;
  const float2x2 m = float2x2(a.xy, a.zw);
  const float2 product = m * float2(2, 3);
  NEXT = product.x;
  NEXT = product.y;
  NEXT = transpose(m)[0][1];
  NEXT = as_type<float2>(as_type<ulong>(a.zw)).y;
  NEXT = a[2];
}
