// Every line that ends in "expect: RULE, RULE" is reported by those rules, and no other line.
#include <metal_stdlib>
using namespace metal;

float table[2] = {1, 2};                   // expect: address-space
static constexpr uint kWidth = 32;         // expect: address-space
threadgroup float shared_by_all[4];        // expect: threadgroup
constant float kHalfPi = 1.5707963267949;  // expect: double

struct Node {
  device const uint* values;
  float* nowhere;  // expect: address-space
  packed_float3 small;
  half3 wide;     // expect: vector3
  uint3 pair[2];  // expect: vector3
};

struct Base {
  virtual float value() const;  // expect: banned
};

float not_static(float x) {  // expect: static-inline
  return x;
}
inline float not_static_either(float x) {  // expect: static-inline
  return x;
}
static float not_inline(float x) {  // expect: static-inline
  return x;
}

static inline float* returned(thread float* p) {  // expect: address-space
  return p;
}
static inline float of_array(float values[4], uint i) {  // expect: address-space
  return values[i];
}
static inline float of_reference(const Node& node) {  // expect: address-space
  return node.small.x;
}
static inline float declared_only(float* x);  // expect: address-space

template <typename T>
static inline T unwound(T x, uint n) {  // expect: recursion
  return n == 0 ? x : unwound(x, n - 1);
}

// Two of one name: only the second calls itself.
static inline float overloaded(float x) {
  return x;
}
static inline float overloaded(float x, uint n) {  // expect: recursion
  return n == 0 ? overloaded(x) : overloaded(x, n - 1);
}

struct Counter {
  uint n;
  uint down() {  // expect: recursion
    return n-- == 0 ? 0 : down();
  }
};

static inline float locals(device const float* x, uint n) {
  thread float kept[2] = {1, 2};
  for (float* p = kept; p != kept + 2; ++p) n += 1;  // expect: address-space
  const float* const first = kept;                   // expect: address-space
  float* a = kept;                                   // expect: address-space
  float& r = kept[0];                                // expect: address-space
  auto f = [&](float v) { return v + r; };           // expect: banned
  uint* heap = new uint[4];                          // expect: address-space, banned
  delete[] heap;                                     // expect: banned
  try {                                              // expect: banned
    if (n == 0) throw 1;                             // expect: banned
  } catch (...) {                                    // expect: banned
  }
  return x[0] + first[0] + a[0] + f(1.0L);  // expect: double
}
