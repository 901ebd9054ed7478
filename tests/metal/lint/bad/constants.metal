// Every line that ends in "expect: RULE, RULE" is reported by those rules, and no other line.
#include <metal_stdlib>
using namespace metal;

#define FC_SECOND 1

constant uint first [[function_constant(0)]];
constant bool second [[function_constant(FC_SECOND)]];
constant uint second_again [[function_constant(1)]];  // expect: function-constant
constant int third [[function_constant(2)]];
constant uint both = first + 1;

kernel void use(device uint* out [[buffer(0)]]) {
  out[0] = first + (second ? second_again : 0) + uint(third) + both;
}
