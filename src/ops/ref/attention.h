// Multi-head latent attention in both of its forms. A cache row is a pointer to [latent | rope] of one position; the
// rows given are those the token may see, in ascending position.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/ops.h"
#include "ops/ref/weight_reader.h"

namespace marlin::ref {

using KvRows = std::vector<const double*>;

/// q_latent[t, h, k] = sum_n q[t, h, n] * W_UK[h, n, k]; out is [rows, heads, latent].
void mla_absorb(const WeightReader& kv_b, const MlaShape& shape, int64_t rows, const double* q, int64_t q_row_stride,
                int64_t q_head_stride, double* out);

/// One head of one token over the latents: out[latent] = sum_p softmax_p(scale * (q . row_p)) * c_p.
void mla_attend(const MlaShape& shape, double scale, const double* q_latent, const double* q_rope, const KvRows& rows,
                double* out);

/// out[t, h, :] = W_UV[h] o_latent[t, h, :].
void mla_unabsorb(const WeightReader& kv_b, const MlaShape& shape, int64_t rows, const double* o_latent, double* out);

/// Keys and values of one head for the positions of `rows`.
struct ExpandedHead {
  std::vector<double> keys;    // [positions, nope + rope]
  std::vector<double> values;  // [positions, value]
};
ExpandedHead expand_head(const WeightReader& kv_b, const MlaShape& shape, int head, const KvRows& rows);

/// One head of one token over the first `n_positions` expanded ones: q is [nope | rope], out is [value].
void attend_expanded(const MlaShape& shape, double scale, const double* q, const ExpandedHead& head,
                     int64_t n_positions, double* out);

}  // namespace marlin::ref
