// Every line that ends in "expect: RULE, RULE" is reported by those rules, and no other line.
#include <metal_stdlib>
using namespace metal;

struct P {
  uint n;
  float3 v;  // expect: vector3
};

static inline float points_nowhere(float* p) {  // expect: address-space
  return p[0];
}

static inline float again(float x) {  // expect: recursion
  return x < 1.0f ? x : again(x * 0.5f);
}

static inline float variable(uint t) {
  threadgroup float z[4];  // expect: threadgroup
  z[t] = 1.0f;
  return z[0];
}

static inline float ping(float x);
static inline float pong(float x) {  // expect: recursion
  return ping(x);
}
static inline float ping(float x) {  // expect: recursion
  return pong(x);
}

kernel void same_index(device float* x [[buffer(0)]],
                       constant P& p [[buffer(0)]]) {}  // expect: buffer-index

kernel void index_too_large(device float* y [[buffer(31)]]) {}  // expect: buffer-index

kernel void wrong_types(device float* x [[buffer(0)]],
                        int lane [[thread_index_in_simdgroup]],  // expect: binding
                        uint3 index [[thread_index_in_threadgroup]],  // expect: binding
                        uint value [[buffer(1)]],  // expect: binding
                        threadgroup float* shared [[buffer(2)]],  // expect: binding
                        device float* tile [[threadgroup(0)]]) {}  // expect: binding

kernel void no_attribute(device float* x [[buffer(0)]], uint value) {}  // expect: binding

kernel void words(device float* x [[buffer(0)]], uint t [[thread_position_in_grid]]) {
  threadgroup float tile[4] = {0, 1, 2, 3};  // expect: threadgroup
  threadgroup atomic_float total;  // expect: atomic
  double d = 1.0;  // expect: double, double
  float a = x[t];
  float* q = &a;  // expect: address-space
  auto f = [](float v) { return v; };  // expect: banned
  x[t] = std::sqrt(a);  // expect: banned, type
  goto end;  // expect: banned
end:
  x[t] = a;
}

kernel void mixed_positions(device uint* out [[buffer(0)]], uint2 place [[threadgroup_position_in_grid]],
                            uint threads [[threads_per_threadgroup]]) {  // expect: binding
  out[place.x] = threads + place.y;
}
