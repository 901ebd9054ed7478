// Every line that ends in "bad: RULE" must be reported by that rule, and no other line.
#include <metal_stdlib>
using namespace metal;

struct P {
  uint n;
  float3 v;  // bad: vector3
};

static inline float points_nowhere(float* p) {  // bad: address-space
  return p[0];
}

static inline float again(float x) {  // bad: recursion
  return x < 1.0f ? x : again(x * 0.5f);
}

static inline float variable(uint t) {
  threadgroup float z[4];  // bad: threadgroup
  z[t] = 1.0f;
  return z[0];
}

static inline float ping(float x);
static inline float pong(float x) {  // bad: recursion
  return ping(x);
}
static inline float ping(float x) {  // bad: recursion
  return pong(x);
}

kernel void same_index(device float* x [[buffer(0)]],
                       constant P& p [[buffer(0)]]) {}  // bad: binding

kernel void index_too_large(device float* y [[buffer(31)]]) {}  // bad: binding

kernel void wrong_types(device float* x [[buffer(0)]],
                        int lane [[thread_index_in_simdgroup]],  // bad: binding
                        uint3 index [[thread_index_in_threadgroup]],  // bad: binding
                        uint value [[buffer(1)]],  // bad: binding
                        threadgroup float* shared [[buffer(2)]],  // bad: binding
                        device float* tile [[threadgroup(0)]]) {}  // bad: binding

kernel void no_attribute(device float* x [[buffer(0)]], uint value) {}  // bad: binding

kernel void words(device float* x [[buffer(0)]], uint t [[thread_position_in_grid]]) {
  threadgroup float tile[4] = {0, 1, 2, 3};  // bad: threadgroup
  threadgroup atomic_float total;  // bad: atomic
  double d = 1.0;  // bad: banned
  float a = x[t];
  float* q = &a;  // bad: address-space
  auto f = [](float v) { return v; };  // bad: banned
  x[t] = std::sqrt(a);  // bad: banned
  goto end;  // bad: banned
end:
  x[t] = a;
}

kernel void mixed_positions(device uint* out [[buffer(0)]], uint2 place [[threadgroup_position_in_grid]],
                            uint threads [[threads_per_threadgroup]]) {  // bad: binding
  out[place.x] = threads + place.y;
}
