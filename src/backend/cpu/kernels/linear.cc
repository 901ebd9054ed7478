#include <algorithm>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/rows.h"

namespace marlin::cpu {
namespace {

// Columns of one work item of mla_absorb: a multiple of every group size, and 192 such rows fit the second-level cache.
constexpr int64_t kAbsorbColumns = 128;
// The same without decoding first: the sums of so many columns stay in registers.
constexpr int64_t kDirectColumns = 256;

struct AbsorbWork {
  const MlaAbsorbArgs& args;
  const Family& family;
  Weight weight;
  const float* q;
  float* out;
  PerWorker<float> rows;  // [nope, kAbsorbColumns]

  AbsorbWork(Context& ctx, const MlaAbsorbArgs& a)
      : args(a),
        family(ctx.family),
        weight(resolve(ctx, *a.kv_b)),
        q(ctx.in<float>(a.q, extent(a.rows, a.q_row_stride, (a.shape.heads - 1) * a.q_head_stride + a.shape.nope))),
        out(ctx.out<float>(a.out, int64_t{a.rows} * a.shape.heads * a.shape.latent)),
        rows(ctx.per_worker<float>(Scratch::kWeights, a.shape.nope * kAbsorbColumns)) {}

  int64_t first_row(int64_t h) const { return h * (args.shape.nope + args.shape.value); }
  const float* query(int64_t t, int64_t h) const { return q + t * args.q_row_stride + h * args.q_head_stride; }
  float* result(int64_t t, int64_t h, int64_t k) const {
    return out + (t * args.shape.heads + h) * args.shape.latent + k;
  }

  // Columns [k, k + n) of head h for all tokens, straight from the codes.
  void direct(int64_t h, int64_t k, int64_t n) const {
    const Fp4Plane& plane = weight.planes[0];
    for (int64_t t = 0; t < args.rows; ++t) {
      family.fp4_accumulate({plane.codes, plane.scales, plane.group_size, weight.in_features, first_row(h),
                             args.shape.nope, k, n, query(t, h), result(t, h, k)});
    }
  }

  // The same from decoded rows.
  void decoded(int64_t h, int64_t k, int64_t n, int worker) const {
    for (int64_t i = 0; i < args.shape.nope; ++i) decode_row(weight, first_row(h) + i, k, n, rows[worker] + i * n);
    accumulate_rows(
        family, rows[worker], n, args.shape.nope, n, args.rows, [&](int64_t t) { return query(t, h); },
        [&](int64_t t) {
          std::fill_n(result(t, h, k), n, 0.0f);
          return 1.0f;
        },
        [&](int64_t t) { return result(t, h, k); });
  }
};

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
  const AbsorbWork work(ctx, args);
  // Decoding W_UK pays when several tokens use it.
  constexpr int kDecodeTokens = 8;
  const bool direct = ctx.family.fp4_accumulate != nullptr && work.weight.n_planes == 1 && args.rows < kDecodeTokens;
  const int64_t columns = direct ? kDirectColumns : kAbsorbColumns;
  const int64_t n_chunks = (args.shape.latent + columns - 1) / columns;
  ctx.pool.parallel_for(args.shape.heads * n_chunks, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t k = item % n_chunks * columns;
      const int64_t n = std::min<int64_t>(columns, args.shape.latent - k);
      direct ? work.direct(item / n_chunks, k, n) : work.decoded(item / n_chunks, k, n, worker);
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
