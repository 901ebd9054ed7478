// Weight rows times token rows through the device's kernel family: what linear, the experts and attention share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/context.h"
#include "backend/cpu/kernels/planes.h"
#include "backend/cpu/kernels/weights.h"

namespace marlin::cpu {

/// Token rows handed to a family in one call.
inline constexpr int64_t kCallRows = 64;

/// out_row(j)[i] = w[i * w_stride ..] . x_row(j) for i < n_w, j < n_x. The functors give the pointers of token row j.
template <typename XRow, typename OutRow>
inline void dot_matrix(const Family& family, const float* w, int64_t w_stride, int64_t n_w, int64_t n_x, int64_t n,
                       const XRow& x_row, const OutRow& out_row) {
  const float* x[kCallRows];
  float* out[kCallRows];
  for (int64_t first = 0; first < n_x; first += kCallRows) {
    const int64_t count = std::min(kCallRows, n_x - first);
    for (int64_t j = 0; j < count; ++j) {
      x[j] = x_row(first + j);
      out[j] = out_row(first + j);
    }
    family.dot({w, w_stride, n_w, x, count, n, out});
  }
}

/// acc_row(j)[k] = acc_row(j)[k] * keep(j) + sum over p < n of a_row(j)[p] * rows[p * stride + k] for k < width, j <
/// n_x. keep(j) is called once, before a_row(j) is read.
template <typename ARow, typename Keep, typename AccRow>
inline void accumulate_rows(const Family& family, const float* rows, int64_t stride, int64_t n, int64_t width,
                            int64_t n_x, const ARow& a_row, const Keep& keep_of, const AccRow& acc_row) {
  const float* a[kCallRows];
  float keep[kCallRows];
  float* acc[kCallRows];
  for (int64_t first = 0; first < n_x; first += kCallRows) {
    const int64_t count = std::min(kCallRows, n_x - first);
    for (int64_t j = 0; j < count; ++j) {
      keep[j] = keep_of(first + j);
      a[j] = a_row(first + j);
      acc[j] = acc_row(first + j);
    }
    family.accumulate({a, n, rows, stride, width, keep, acc, count});
  }
}

/// A token row as kernels read it: in FP32, and as int8 planes where the family multiplies those; of a prompt's token
/// the high plane alone, unless the device is deterministic.
struct TokenRow {
  const float* x = nullptr;
  const uint8_t* planes = nullptr;
  bool high_only = false;
};

inline bool uses_planes(const Family& family, const LinearWeight& weight) {
  return weight.n_planes > 0 && family.fp4_dot != nullptr;
}

/// Token rows of `width` values in both forms.
class TokenRows {
 public:
  TokenRows(const float* x, const uint8_t* planes, int64_t width, const uint8_t* roles)
      : x_(x), planes_(planes), plane_bytes_(plane_row_bytes(width)), roles_(roles) {}
  /// The row that starts at x[offset], was the `index`-th to be split and belongs to this token.
  TokenRow row(int64_t offset, int64_t index, int64_t token) const {
    if (planes_ == nullptr) return {x_ + offset, nullptr, false};
    const bool prompt = roles_ != nullptr && roles_[token] == static_cast<uint8_t>(Role::kPrompt);
    return {x_ + offset, planes_ + index * plane_bytes_, prompt};
  }

 private:
  const float* x_;
  const uint8_t* planes_;
  int64_t plane_bytes_;
  const uint8_t* roles_;  // of the tokens; null: all compute alike
};

/// The roles that choose between one and two planes; null when they choose nothing.
inline const uint8_t* plane_roles(const Context& ctx, View roles, int64_t tokens) {
  return roles && !ctx.deterministic ? ctx.in<uint8_t>(roles, tokens) : nullptr;
}

/// Rows x[offset(i) ..] for i < n, split into planes if `wanted`. Call outside a parallel region.
template <typename Offset>
inline TokenRows split_rows(Context& ctx, Scratch name, bool wanted, const float* x, int64_t n, int64_t width,
                            const uint8_t* roles, const Offset& offset) {
  if (!wanted) return {x, nullptr, width, nullptr};
  const int64_t bytes = plane_row_bytes(width);
  uint8_t* planes = ctx.shared<uint8_t>(name, n * bytes);
  const auto split = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) ctx.family.split(x + offset(i), width, planes + i * bytes);
  };
  // Splitting a few rows takes less time than waking the threads for it.
  constexpr int64_t kSerialValues = 1 << 14;
  if (n * width <= kSerialValues) {
    split(0, n, 0);
  } else {
    ctx.pool.parallel_for(n, split);
  }
  return {x, planes, width, roles};
}

/// Bytes of the scratch that linear_rows needs.
inline int64_t linear_scratch(int64_t in_features) {
  return std::max<int64_t>(kRowBlock * in_features * static_cast<int64_t>(sizeof(float)),
                           fp4_scratch_bytes(in_features));
}

/// Rows of a weight that will be read soon, where its codes are read in place.
struct NextRows {
  const uint8_t* codes = nullptr;
  const uint16_t* scales = nullptr;

  NextRows() = default;
  NextRows(const Weight& weight, int64_t row) {
    if (weight.n_planes == 0) return;
    const Fp4Plane& plane = weight.planes[0];
    codes = plane.codes + row * (weight.in_features / 2);
    scales = plane.scales + row * (weight.in_features / plane.group_size);
  }
};

/// linear_rows by planes, of the token rows whose `high_only` is as given.
template <typename XRow, typename OutRow>
inline void plane_rows(const Weight& weight, int64_t begin, int64_t end, int64_t n, bool high_only, uint8_t* scratch,
                       const XRow& x_row, const OutRow& out_row, const NextRows& next) {
  const uint8_t* x[kCallRows];
  float* out[kCallRows];
  for (int64_t j = 0; j < n;) {
    int64_t count = 0;
    for (; j < n && count < kCallRows; ++j) {
      const TokenRow row = x_row(j);
      if (row.high_only != high_only) continue;
      x[count] = row.planes;
      out[count++] = out_row(j);
    }
    for (int p = 0; p < weight.n_planes && count > 0; ++p) {
      const Fp4Plane& plane = weight.planes[p];
      weight.family->fp4_dot({plane.codes, plane.scales, plane.group_size, weight.in_features, begin, end - begin, x,
                              count, out, p > 0, high_only, scratch, next.codes, next.scales});
    }
  }
}

/// out_row(j)[0 .. end - begin) = rows [begin, end) of W x_row(j) + bias, for j < n. `next`: what is read after them.
template <typename XRow, typename OutRow>
inline void linear_rows(const Weight& weight, int64_t begin, int64_t end, int64_t n, uint8_t* scratch,
                        const XRow& x_row, const OutRow& out_row, const NextRows& next = {}) {
  if (weight.n_planes > 0 && weight.family->fp4_dot != nullptr) {
    plane_rows(weight, begin, end, n, false, scratch, x_row, out_row, next);
    plane_rows(weight, begin, end, n, true, scratch, x_row, out_row, next);
  } else {
    auto* decoded = reinterpret_cast<float*>(scratch);
    for_row_blocks(weight, begin, end, decoded, [&](int64_t first, int64_t count, const float* rows) {
      dot_matrix(
          *weight.family, rows, weight.in_features, count, n, weight.in_features, [&](int64_t j) { return x_row(j).x; },
          [&](int64_t j) { return out_row(j) + first - begin; });
    });
  }
  if (weight.bias == nullptr) return;
  for (int64_t i = begin; i < end; ++i) {
    const float bias = bias_at(weight, i);
    for (int64_t j = 0; j < n; ++j) out_row(j)[i - begin] += bias;
  }
}

}  // namespace marlin::cpu
