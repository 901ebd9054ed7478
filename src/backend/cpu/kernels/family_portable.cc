// The portable family: FP32 rows with the compilers' own vectors (dot.h).
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>

#include "backend/cpu/kernels/dot.h"
#include "backend/cpu/kernels/family.h"
#include "base/float16.h"
#include "format/fp4.h"

namespace marlin::cpu {
namespace {

void dot_rows(const DotArgs& args) {
  int64_t j = 0;
  for (; j + 2 <= args.n_x; j += 2) {
    dot_panel<2>(args.w, args.w_stride, args.n_w, {args.x[j], args.x[j + 1]}, args.n, {args.out[j], args.out[j + 1]});
  }
  if (j < args.n_x) dot_panel<1>(args.w, args.w_stride, args.n_w, {args.x[j]}, args.n, {args.out[j]});
}

void accumulate(const AccumulateArgs& args) {
  for (int64_t j = 0; j < args.n_x; ++j) {
    accumulate_rows(args.a[j], args.n, args.rows, args.stride, args.width, args.keep[j], args.acc[j]);
  }
}

void decode_f16(const uint16_t* in, int64_t count, float* out) {
  // f16_to_f32 with the branch as a mask, because a branch keeps the loop from being vectorised.
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t sign = (in[i] & 0x8000u) << 16;
    const int32_t rest = (in[i] & 0x7fff) << 13;
    const uint32_t special = 0u - static_cast<uint32_t>(rest >= 0x0f800000);
    const uint32_t magnitude = std::bit_cast<uint32_t>(std::bit_cast<float>(rest) * 0x1p112f);
    out[i] =
        std::bit_cast<float>(sign | (magnitude & ~special) | ((static_cast<uint32_t>(rest) | 0x7f800000u) & special));
  }
}

void decode_bf16(const uint16_t* in, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_f32(in[i]);
}

struct Pair {
  float low;
  float high;
};

// Both values of a code byte: 2 KiB that stay in the first-level cache.
constexpr std::array<Pair, 256> kPairs = [] {
  std::array<Pair, 256> pairs{};
  for (size_t byte = 0; byte < 256; ++byte) pairs[byte] = {fp4::kValues[byte & 0xf], fp4::kValues[byte >> 4]};
  return pairs;
}();

template <bool kAdd>
void decode_plane(const uint8_t* codes, const uint16_t* scales, int group_size, int64_t count, float* out) {
  for (int64_t k = 0; k < count; k += group_size) {
    const float scale = f16_to_f32(*scales++);
    for (int64_t i = 0; i < group_size; i += 2) {
      const Pair pair = kPairs[*codes++];
      if constexpr (kAdd) {
        out[k + i] += pair.low * scale;
        out[k + i + 1] += pair.high * scale;
      } else {
        out[k + i] = pair.low * scale;
        out[k + i + 1] = pair.high * scale;
      }
    }
  }
}

void decode_fp4(const uint8_t* codes, const uint16_t* scales, int group_size, int64_t count, bool add, float* out) {
  add ? decode_plane<true>(codes, scales, group_size, count, out)
      : decode_plane<false>(codes, scales, group_size, count, out);
}

}  // namespace

float fold_scores_portable(float* scores, int64_t n, float scale, SoftmaxState* state) {
  float largest = state->largest;
  for (int64_t p = 0; p < n; ++p) {
    scores[p] *= scale;
    largest = std::max(largest, scores[p]);
  }
  const float keep = std::exp(state->largest - largest);
  float sum = state->sum * keep;
  for (int64_t p = 0; p < n; ++p) {
    scores[p] = std::exp(scores[p] - largest);
    sum += scores[p];
  }
  *state = {largest, sum};
  return keep;
}

float sum_exp_portable(const float* x, int64_t n, float largest, float scale) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(std::exp((x[i] - largest) * scale));
  return static_cast<float>(sum);
}

void swiglu_portable(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

const Family kPortableFamily = {"portable",       dot_rows,        accumulate, fold_scores_portable,
                                sum_exp_portable, swiglu_portable, decode_f16, decode_bf16,
                                decode_fp4,       nullptr,         nullptr,    nullptr};

}  // namespace marlin::cpu
