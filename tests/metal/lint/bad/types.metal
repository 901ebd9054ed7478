// Every line that ends in "expect: RULE, RULE" is reported by those rules, and no other line.
#include <metal_stdlib>
using namespace metal;

struct P {
  uint n;
  float s;
};

constant bool kFlag [[function_constant(0)]];
constant float kTable[2] = {1, 2};

static inline float of_thread(thread float* p) {
  return p[0];
}
static inline float of_device(device const float* p) {
  return p[0];
}
template <typename T>
static inline T first(threadgroup const T* p) {
  return p[0];
}

template <typename T>
static inline T any_type(thread const T* p) {  // expect: type
  return p[0];
}

kernel void types(device const float* x [[buffer(0)]], device float* y [[buffer(1)]], constant P& p [[buffer(2)]],
                  threadgroup float* shared [[threadgroup(0)]], uint t [[thread_position_in_grid]]) {
  threadgroup float tile[32];
  float local[4] = {0, 1, 2, 3};
  y[t] = of_thread(local);
  y[t] = of_thread(y);  // expect: type
  y[t] = of_device(tile);  // expect: type
  y[t] = of_device(x) + first(tile) + first(shared);
  y[t] = first(x);  // expect: type
  y[t] = any_type(local) + any_type(y);
  float sized[t];  // expect: type
  sized[0] = 0;
  device float* q = tile;  // expect: type
  x[t] = 1.0;  // expect: double, type
  p.n = 3;  // expect: type
  kTable[0] = 1;  // expect: type
  kFlag = true;  // expect: type
  threadgroup float* r = &shared[0];
  device const float4* v = (device const float4*)(x);
  device float* writable = (device float*)(x);
  thread float* cast = (thread float*)shared;  // expect: cast
  device float* other = (device float*)tile;  // expect: cast
  y[t] = r[0] + v[0].x + writable[0] + cast[0] + other[0] + q[0];
  float2 two = float4(1, 2, 3, 4);  // expect: type
  y[t] = two.x;
  simdgroup_float8x8 m;
  simdgroup_load(m, local, 8);  // expect: type
  simdgroup_half8x8 h;
  simdgroup_load(h, tile, 8);  // expect: type
  if constexpr (sizeof(P) == 8) y[t] = 0;  // expect: type
}
