// Stored weights as pointers, and their decoding to FP32.
#pragma once

#include <cstdint>

#include "backend/cpu/context.h"
#include "format/dtype.h"
#include "ops/ops.h"

namespace marlin::cpu {

struct Fp4Plane {
  const uint8_t* codes = nullptr;
  const uint16_t* scales = nullptr;
  int group_size = 0;
};

/// A LinearWeight whose views have been checked and turned into pointers.
struct Weight {
  const Family* family = nullptr;  // decodes and multiplies its rows
  int64_t out_features = 0;
  int64_t in_features = 0;
  const std::byte* plain = nullptr;
  DType plain_type = DType::kBF16;
  Fp4Plane planes[2];
  int n_planes = 0;
  const std::byte* bias = nullptr;
  DType bias_type = DType::kF32;
};

Weight resolve(const Context& ctx, const LinearWeight& weight);

/// out[i] = element begin + i of a plain array (BF16, F16 or F32).
void decode_plain(const Family& family, const std::byte* data, DType type, int64_t begin, int64_t count, float* out);

/// Columns [begin, begin + count) of a row; `begin` and, below the row's end, `count` are multiples of every group
/// size.
void decode_row(const Weight& weight, int64_t row, int64_t begin, int64_t count, float* out);

/// bias[row], or 0 without one.
float bias_at(const Weight& weight, int64_t row);

/// `n_rows` whole rows from `first`, in FP32, at most kRowBlock. In place where the file holds FP32, else in `scratch`
/// (kRowBlock * in_features floats). The stride is in_features.
inline constexpr int64_t kRowBlock = 16;
const float* decode_rows(const Weight& weight, int64_t first, int64_t n_rows, float* scratch);

/// Calls body(first, n, rows) for blocks of decoded rows that cover [begin, end).
template <typename Body>
inline void for_row_blocks(const Weight& weight, int64_t begin, int64_t end, float* scratch, const Body& body) {
  for (int64_t first = begin; first < end; first += kRowBlock) {
    const int64_t n = end - first < kRowBlock ? end - first : kRowBlock;
    body(first, n, decode_rows(weight, first, n, scratch));
  }
}

}  // namespace marlin::cpu
