#include "ops/ref/attention.h"

#include <algorithm>

#include "ops/ref/math.h"

namespace marlin::ref {
namespace {

/// Row of kv_b where head h starts: nope rows of W_UK, then value rows of W_UV.
int64_t head_row(const MlaShape& shape, int64_t head) {
  return head * (shape.nope + shape.value);
}

}  // namespace

void mla_absorb(const WeightReader& kv_b, const MlaShape& shape, int64_t rows, const double* q, int64_t q_row_stride,
                int64_t q_head_stride, double* out) {
  std::fill(out, out + rows * shape.heads * shape.latent, 0.0);
  for (int64_t h = 0; h < shape.heads; ++h) {
    for (int64_t n = 0; n < shape.nope; ++n) {
      const std::vector<double> w_uk = kv_b.row(head_row(shape, h) + n);
      for (int64_t t = 0; t < rows; ++t) {
        const double q_n = q[t * q_row_stride + h * q_head_stride + n];
        double* q_latent = out + (t * shape.heads + h) * shape.latent;
        for (int k = 0; k < shape.latent; ++k) q_latent[k] += q_n * w_uk[static_cast<size_t>(k)];
      }
    }
  }
}

void mla_attend(const MlaShape& shape, double scale, const double* q_latent, const double* q_rope, const KvRows& rows,
                double* out) {
  std::vector<double> weights;
  for (const double* row : rows) {
    weights.push_back(scale * (dot(q_latent, row, shape.latent) + dot(q_rope, row + shape.latent, shape.rope)));
  }
  softmax(weights);
  std::fill(out, out + shape.latent, 0.0);
  for (size_t p = 0; p < rows.size(); ++p) {
    for (int k = 0; k < shape.latent; ++k) out[k] += weights[p] * rows[p][k];
  }
}

void mla_unabsorb(const WeightReader& kv_b, const MlaShape& shape, int64_t rows, const double* o_latent, double* out) {
  for (int64_t h = 0; h < shape.heads; ++h) {
    for (int64_t v = 0; v < shape.value; ++v) {
      const std::vector<double> w_uv = kv_b.row(head_row(shape, h) + shape.nope + v);
      for (int64_t t = 0; t < rows; ++t) {
        const int64_t row = t * shape.heads + h;
        out[row * shape.value + v] = dot(w_uv.data(), o_latent + row * shape.latent, shape.latent);
      }
    }
  }
}

ExpandedHead expand_head(const WeightReader& kv_b, const MlaShape& shape, int head, const KvRows& rows) {
  const int64_t width = shape.nope + shape.rope;
  const auto n_positions = static_cast<int64_t>(rows.size());
  ExpandedHead expanded;
  expanded.keys.resize(static_cast<size_t>(n_positions * width));
  expanded.values.resize(static_cast<size_t>(n_positions * shape.value));
  for (int64_t i = 0; i < shape.nope + shape.value; ++i) {
    const std::vector<double> w = kv_b.row(head_row(shape, head) + i);
    for (int64_t p = 0; p < n_positions; ++p) {
      const double product = dot(w.data(), rows[static_cast<size_t>(p)], shape.latent);
      if (i < shape.nope) {
        expanded.keys[static_cast<size_t>(p * width + i)] = product;
      } else {
        expanded.values[static_cast<size_t>(p * shape.value + i - shape.nope)] = product;
      }
    }
  }
  for (int64_t p = 0; p < n_positions; ++p) {
    const double* rope = rows[static_cast<size_t>(p)] + shape.latent;
    std::copy(rope, rope + shape.rope, expanded.keys.begin() + p * width + shape.nope);
  }
  return expanded;
}

void attend_expanded(const MlaShape& shape, double scale, const double* q, const ExpandedHead& head,
                     int64_t n_positions, double* out) {
  const int64_t width = shape.nope + shape.rope;
  std::vector<double> weights;
  for (int64_t p = 0; p < n_positions; ++p) weights.push_back(scale * dot(q, head.keys.data() + p * width, width));
  softmax(weights);
  std::fill(out, out + shape.value, 0.0);
  for (int64_t p = 0; p < n_positions; ++p) {
    for (int v = 0; v < shape.value; ++v) {
      out[v] += weights[static_cast<size_t>(p)] * head.values[static_cast<size_t>(p * shape.value + v)];
    }
  }
}

}  // namespace marlin::ref
