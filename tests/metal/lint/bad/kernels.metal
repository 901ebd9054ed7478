// Every line that ends in "expect: RULE, RULE" is reported by those rules, and no other line.
#include <metal_stdlib>
using namespace metal;

struct Tile {
  float values[64][64];
};
struct Row {
  uint begin;
  uint end;
};
constant constexpr uint kRows = 65;

kernel void too_large(device float* out [[buffer(0)]],  // expect: threadgroup-size
                      uint t [[thread_index_in_threadgroup]]) {
  threadgroup float4 tile[kRows * 32];
  out[t] = tile[t].x;
}

// Each is small enough, together they are not.
kernel void too_large_together(device float* out [[buffer(0)]],  // expect: threadgroup-size
                               uint t [[thread_index_in_threadgroup]]) {
  threadgroup Tile a, b;
  a.values[t][0] = 1.0f;
  b.values[t][0] = 2.0f;
  {
    threadgroup uchar last;
    last = uchar(t);
    out[t] = a.values[t][0] + b.values[t][0] + float(last);
  }
}

template <typename T>
kernel void by_type(device T* out [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {  // expect: threadgroup-size
  threadgroup T tile[8192];
  threadgroup T more[64];
  out[t] = tile[t] + more[0];
}
template [[host_name("by_type_half")]] kernel void by_type<half>(device half*, uint);
template [[host_name("by_type_float")]] kernel void by_type<float>(device float*, uint);

kernel void attributes(device float* out [[bufer(0)]],  // expect: binding
                       device const float* x,           // expect: binding
                       constant uint& n [[buffer(2)]],
                       device float* more [[buffer(2)]],  // expect: buffer-index
                       threadgroup float* a [[threadgroup(0)]],
                       threadgroup float* b [[threadgroup(0)]],   // expect: buffer-index
                       float lane [[thread_index_in_simdgroup]],  // expect: binding
                       uint i [[thread_position_in_the_grid]]) {  // expect: binding
  out[i] = x[n] + more[0] + a[0] + b[0] + lane;
}

kernel float returns(device float* out [[buffer(0)]]) {  // expect: binding
  return out[0];
}

kernel void copies(device Row* rows [[buffer(0)]], constant Row* given [[buffer(1)]], device uint* out [[buffer(2)]],
                   uint t [[thread_position_in_grid]]) {
  threadgroup Row shared[4];
  Row row = rows[t];           // expect: struct-copy
  const Row other = given[t];  // expect: struct-copy
  Row third(rows[t]);          // expect: struct-copy
  row = given[0];              // expect: struct-copy
  row = shared[0];             // expect: struct-copy
  shared[1] = row;             // expect: struct-copy
  const Row fine = other;
  out[t] = row.begin + other.end + third.begin + fine.end + shared[1].end;
}

kernel void writes(device const uint* in [[buffer(0)]], constant uint* given [[buffer(1)]],
                   constant Row& row [[buffer(2)]], uint t [[thread_position_in_grid]]) {
  in[t] += 1;    // expect: type
  given[t] = 0;  // expect: type
  ++row.end;     // expect: type
  const uint n = 0;
  n = 1;                                                       // expect: type
  thread const uint* p = &given[0];                            // expect: type
  thread uint* q = reinterpret_cast<thread uint*>(&given[1]);  // expect: type
  device uint* r = (device uint*)(&given[2]);                  // expect: cast
}
