// The ops of the forward in the shape the forward has them: rows in, weights, rows out.
#pragma once

#include "model/model.h"

namespace marlin {

inline void embed(Ops& ops, const TokenBatch& batch, const LinearWeight& table, Matrix out) {
  ops.embed({.rows = batch.n_tokens, .ids = batch.ids, .table = &table, .out = out.data, .out_stride = out.stride});
}

inline void rms_norm(Ops& ops, int rows, Matrix x, const VectorWeight& gain, double eps, Matrix out) {
  ops.rms_norm({.rows = rows,
                .x = x.data,
                .x_stride = x.stride,
                .gain = &gain,
                .eps = eps,
                .out = out.data,
                .out_stride = out.stride});
}

/// `roles` none = decode.
inline void linear(Ops& ops, int rows, RoleView roles, Matrix x, const LinearWeight& weight, Matrix out) {
  ops.linear({.rows = rows,
              .x = x.data,
              .x_stride = x.stride,
              .weight = &weight,
              .roles = roles,
              .out = out.data,
              .out_stride = out.stride});
}

inline void linear(Ops& ops, const TokenBatch& batch, Matrix x, const LinearWeight& weight, Matrix out) {
  linear(ops, batch.n_tokens, batch.roles, x, weight, out);
}

/// out += W x.
inline void linear_add(Ops& ops, const TokenBatch& batch, Matrix x, const LinearWeight& weight, Matrix out) {
  ops.linear_add({.rows = batch.n_tokens,
                  .x = x.data,
                  .x_stride = x.stride,
                  .weight = &weight,
                  .roles = batch.roles,
                  .out = out.data,
                  .out_stride = out.stride});
}

inline void add(Ops& ops, const TokenBatch& batch, int64_t width, Matrix x, Matrix y) {
  ops.add(
      {.rows = batch.n_tokens, .width = width, .x = x.data, .x_stride = x.stride, .y = y.data, .y_stride = y.stride});
}

}  // namespace marlin
