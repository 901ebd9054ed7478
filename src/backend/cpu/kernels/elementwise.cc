#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/kernels/dot.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/weights.h"

namespace marlin::cpu {

void embed(Context& ctx, const EmbedArgs& args) {
  const Weight table = resolve(ctx, *args.table);
  const int64_t width = table.in_features;
  const int32_t* ids = ctx.in<int32_t>(args.ids, args.rows);
  float* out = ctx.out<float>(args.out, extent(args.rows, args.out_stride, width));
  ctx.pool.parallel_for(args.rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* to = out + t * args.out_stride;
      // A step may already be enqueued for an id whose sampling failed (-1): NaN, so that this row alone fails again.
      if (ids[t] < 0 || ids[t] >= table.out_features) {
        std::fill_n(to, width, std::numeric_limits<float>::quiet_NaN());
      } else {
        decode_row(table, ids[t], 0, width, to);
      }
    }
  });
}

void rms_norm(Context& ctx, const RmsNormArgs& args) {
  const int64_t width = args.gain->size;
  const float* x = ctx.in<float>(args.x, extent(args.rows, args.x_stride, width));
  float* out = ctx.out<float>(args.out, extent(args.rows, args.out_stride, width));
  float* gain = ctx.shared<float>(Scratch::kGain, width);
  decode_plain(ctx.family,
               ctx.in<std::byte>(args.gain->data, width * static_cast<int64_t>(dtype_size(args.gain->type))),
               args.gain->type, 0, width, gain);
  const float eps = static_cast<float>(args.eps);
  ctx.pool.parallel_for(args.rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* from = x + t * args.x_stride;
      float* to = out + t * args.out_stride;
      const float mean = dot(from, from, width) / static_cast<float>(width);
      const float factor = 1.0f / std::sqrt(mean + eps);
      for (int64_t i = 0; i < width; ++i) to[i] = from[i] * factor * gain[i];
    }
  });
}

void add(Context& ctx, const AddArgs& args) {
  float* x = ctx.out<float>(args.x, extent(args.rows, args.x_stride, args.width));
  const float* y = ctx.in<float>(args.y, extent(args.rows, args.y_stride, args.width));
  ctx.pool.parallel_for(args.rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* to = x + t * args.x_stride;
      const float* from = y + t * args.y_stride;
      for (int64_t i = 0; i < args.width; ++i) to[i] += from[i];
    }
  });
}

void rope(Context& ctx, const RopeArgs& args) {
  const int64_t row_width = (args.heads - 1) * args.head_stride + args.dims;
  float* x = ctx.out<float>(args.x, extent(args.rows, args.row_stride, row_width));
  const int32_t* positions = ctx.in<int32_t>(args.positions, args.rows);
  const float* table = ctx.in<float>(args.table, 0);
  const auto table_rows =
      static_cast<int64_t>((args.table.buffer->size() - args.table.offset) / sizeof(float)) / args.dims;
  ctx.pool.parallel_for(args.rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      MARLIN_CHECK(positions[t] >= 0 && positions[t] < table_rows, "position {} of {}", positions[t], table_rows);
      const float* angles = table + static_cast<int64_t>(positions[t]) * args.dims;
      for (int64_t h = 0; h < args.heads; ++h) {
        float* row = x + t * args.row_stride + h * args.head_stride;
        for (int64_t i = 0; i < args.dims; i += 2) {
          const float a = row[i];
          const float b = row[i + 1];
          row[i] = a * angles[i] - b * angles[i + 1];
          row[i + 1] = a * angles[i + 1] + b * angles[i];
        }
      }
    }
  });
}

void swiglu(Context& ctx, const SwigluArgs& args) {
  const int64_t count = args.rows * args.width;
  const float* gate = ctx.in<float>(args.gate, count);
  const float* up = ctx.in<float>(args.up, count);
  float* out = ctx.out<float>(args.out, count);
  ctx.pool.parallel_for(count, [&](int64_t begin, int64_t end, int) {
    ctx.family.swiglu(gate + begin, up + begin, end - begin, out + begin);
  });
}

void gather_rows(Context& ctx, const GatherRowsArgs& args) {
  const int32_t* index = ctx.in<int32_t>(args.index, args.rows);
  float* out = ctx.out<float>(args.out, args.rows * args.width);
  for (int64_t i = 0; i < args.rows; ++i) {
    MARLIN_CHECK(index[i] >= 0, "row {}", index[i]);
    const float* from = ctx.in<float>(args.x, index[i] * args.x_stride + args.width) + index[i] * args.x_stride;
    std::memcpy(out + i * args.width, from, static_cast<size_t>(args.width) * sizeof(float));
  }
}

void copy(Context& ctx, const CopyArgs& args) {
  const auto count = static_cast<int64_t>(args.bytes);
  std::memcpy(ctx.out<std::byte>(args.to, count), ctx.in<std::byte>(args.from, count), args.bytes);
}

void check_finite(Context& ctx, const CheckFiniteArgs& args) {
  const float* x = ctx.in<float>(args.x, extent(args.rows, args.x_stride, args.width));
  int32_t* out = ctx.out<int32_t>(args.out, 1);
  int32_t bad = 0;
  for (int64_t t = 0; t < args.rows; ++t) {
    const float* row = x + t * args.x_stride;
    for (int64_t i = 0; i < args.width; ++i) bad |= std::fabs(row[i]) <= std::numeric_limits<float>::max() ? 0 : 1;
  }
  *out = bad;
}

}  // namespace marlin::cpu
