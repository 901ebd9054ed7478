// Nothing in it may be reported: what is allowed and looks like something that is not.
#include <metal_stdlib>
using namespace metal;

constant uint kindOf [[function_constant(0)]];
constant bool isWide = kindOf != 0;
constant bool isNarrow = kindOf == 0;
constant constexpr uint kBins = 256;
constant float kTable[3] = {0.5f, 1, 2e3f};

// double, goto and std::vector in a comment; "new" in one
struct Row {
  device const float* values;
  packed_float3 axis;
  float4 wide;
  uint begin, end;
};

struct Pair {
  uint a;
  uint b;
  uint sum() const { return a + b; }
};

enum class Mode : uint { kNone, kAll };

static inline float narrow(float x) {
  return min(x, 65504.0f);
}
/// An overload that calls the other: no recursion.
static inline float4 narrow(float4 x) {
  return float4(narrow(x.x), narrow(x.y), narrow(x.z), narrow(x.w));
}

template <typename T, uint N = 4>
static inline T sum_of(device const T* x, thread T& last) {
  T sum = 0;
  for (uint i = 0; i < N; ++i) sum += x[i];
  last = x[N - 1];
  return sum;
}
static METAL_FUNC half literal_of_half() {
  return 0.5h + half(0.25f);
}
static inline threadgroup float* behind(threadgroup float* p, uint a, uint b) {
  const uint mask = a & b;
  const uint product = a * b;
  return p + (mask * product);
}
static inline float of_local_array(thread const float (&values)[4]) {
  return values[0] + values[3];
}

kernel void plain(device const Row* rows [[buffer(0)]], device float* out [[buffer(30)]],
                  constant Pair& pair [[buffer(1)]], threadgroup float* given [[threadgroup(0)]],
                  const uint2 at [[thread_position_in_grid]], ushort lane [[thread_index_in_simdgroup]],
                  uint index [[thread_index_in_threadgroup]]) {
  threadgroup float tile[kBins][31];
  threadgroup uint counts[kBins];  // together 32 KiB, no byte more
  threadgroup float* row = tile[index];
  device const Row& mine = rows[at.x];
  thread float local[4] = {0, 1, 2, 3};
  thread float* p = local;
  uint a = pair.a, b = pair.b;
  const Pair copy = {a, b};
  const Pair again = copy;
  if (a * b > 3 && (a & b) < 2) p += 1;
  row[0] = mine.values[0];
  counts[index] = again.sum();
  float ignored = 0;
  out[at.x] = sum_of<float>(mine.values, ignored) + narrow(p[0]) + kTable[a % 3] + of_local_array(local);
  out[at.y] = *behind(given, a, b) + float(literal_of_half()) + 0x1p-3f + row[lane] + narrow(float4(1.0f)).x;
  if (isWide && Mode(a) == Mode::kAll) out[0] = float(bfloat(ignored)) + float(counts[0]);
}

// One of two buffers at an index, by a function constant.
kernel void either(device float* out [[buffer(0)]], device const float* x [[buffer(1), function_constant(isWide)]],
                   device const half* y [[buffer(1), function_constant(isNarrow)]]) {
  out[0] = isWide ? x[0] : float(y[0]);
}

template <typename T>
kernel void typed(device T* out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  threadgroup T tile[8192];
  tile[i] = out[i];
  out[i] = tile[i] + T(1);
}
template [[host_name("typed_half")]] kernel void typed<half>(device half* out [[buffer(0)]], uint i);
template [[host_name("typed_int")]] kernel void typed<int>(device int* out [[buffer(0)]], uint i);
