#include <algorithm>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/rows.h"

namespace marlin::cpu {
namespace {

// Columns of one work item of mla_absorb: a multiple of every group size, and 192 such rows fit the second-level cache.
constexpr int64_t kAbsorbColumns = 128;

}  // namespace

void linear(Context& ctx, const LinearArgs& args) {
  const Weight weight = resolve(ctx, *args.weight);
  const int64_t width = weight.in_features;
  const float* x = ctx.in<float>(args.x, extent(args.rows, args.x_stride, width));
  float* out = ctx.out<float>(args.out, extent(args.rows, args.out_stride, weight.out_features));
  const TokenRows tokens =
      split_rows(ctx, Scratch::kPlanes, uses_planes(ctx.family, *args.weight), x, args.rows, width,
                 plane_roles(ctx, args.roles, args.rows), [&](int64_t t) { return t * args.x_stride; });
  const PerWorker<uint8_t> scratch = ctx.per_worker<uint8_t>(Scratch::kWeights, linear_scratch(width));
  ctx.pool.parallel_for(weight.out_features, [&](int64_t begin, int64_t end, int worker) {
    linear_rows(
        weight, begin, end, args.rows, scratch[worker], [&](int64_t t) { return tokens.row(t * args.x_stride, t, t); },
        [&](int64_t t) { return out + t * args.out_stride + begin; });
  });
}

void mla_absorb(Context& ctx, const MlaAbsorbArgs& args) {
  const MlaShape& s = args.shape;
  const Weight weight = resolve(ctx, *args.kv_b);
  const int64_t q_width = (s.heads - 1) * args.q_head_stride + s.nope;
  const float* q = ctx.in<float>(args.q, extent(args.rows, args.q_row_stride, q_width));
  float* out = ctx.out<float>(args.out, static_cast<int64_t>(args.rows) * s.heads * s.latent);
  const PerWorker<float> scratch = ctx.per_worker<float>(Scratch::kWeights, s.nope * kAbsorbColumns);
  const int64_t n_chunks = (s.latent + kAbsorbColumns - 1) / kAbsorbColumns;
  ctx.pool.parallel_for(s.heads * n_chunks, [&](int64_t begin, int64_t end, int worker) {
    float* rows = scratch[worker];
    for (int64_t item = begin; item < end; ++item) {
      const int64_t h = item / n_chunks;
      const int64_t k = item % n_chunks * kAbsorbColumns;
      const int64_t n = std::min<int64_t>(kAbsorbColumns, s.latent - k);
      for (int64_t i = 0; i < s.nope; ++i) decode_row(weight, h * (s.nope + s.value) + i, k, n, rows + i * n);
      accumulate_rows(
          ctx.family, rows, n, s.nope, n, args.rows,
          [&](int64_t t) { return q + t * args.q_row_stride + h * args.q_head_stride; },
          [&](int64_t t) {
            std::fill_n(out + (t * s.heads + h) * s.latent + k, n, 0.0f);
            return 1.0f;
          },
          [&](int64_t t) { return out + (t * s.heads + h) * s.latent + k; });
    }
  });
}

void mla_unabsorb(Context& ctx, const MlaUnabsorbArgs& args) {
  const MlaShape& s = args.shape;
  const Weight weight = resolve(ctx, *args.kv_b);
  const float* latent = ctx.in<float>(args.o_latent, static_cast<int64_t>(args.rows) * s.heads * s.latent);
  float* out = ctx.out<float>(args.out, static_cast<int64_t>(args.rows) * s.heads * s.value);
  const int64_t n_rows = static_cast<int64_t>(args.rows) * s.heads;
  const TokenRows tokens =
      split_rows(ctx, Scratch::kPlanes, uses_planes(ctx.family, *args.kv_b), latent, n_rows, s.latent,
                 plane_roles(ctx, args.roles, args.rows), [&](int64_t i) { return i * s.latent; });
  const PerWorker<uint8_t> scratch = ctx.per_worker<uint8_t>(Scratch::kWeights, linear_scratch(s.latent));
  ctx.pool.parallel_for(static_cast<int64_t>(s.heads) * s.value, [&](int64_t begin, int64_t end, int worker) {
    while (begin < end) {
      const int64_t h = begin / s.value;
      const int64_t v = begin % s.value;
      const int64_t n_values = std::min<int64_t>(end - begin, s.value - v);
      const int64_t first = h * (s.nope + s.value) + s.nope + v;
      linear_rows(
          weight, first, first + n_values, args.rows, scratch[worker],
          [&](int64_t t) { return tokens.row((t * s.heads + h) * s.latent, t * s.heads + h, t); },
          [&](int64_t t) { return out + (t * s.heads + h) * s.value + v; });
      begin += n_values;
    }
  });
}

}  // namespace marlin::cpu
