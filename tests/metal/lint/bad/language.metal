// lint: --language 3.0
// Every line that ends in "expect: RULE, RULE" is reported by those rules, and no other line.
#include <metal_stdlib>
using namespace metal;

kernel void old(device const bfloat* x [[buffer(0)]],  // expect: language
                device float* out [[buffer(1)]], uint t [[thread_position_in_grid]]) {
  bfloat4 four = x[t];                    // expect: language
  out[t] = float(four.x) + float(1.5bf);  // expect: language
#ifdef __HAVE_BFLOAT__
  out[t] += float(bfloat(1.0f));
#endif
}
