// Round-to-nearest over rows of one linear.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "format/safetensors.h"
#include "quantize/quantize.h"

namespace marlin {

/// One element of a BF16, F16 or F32 tensor as float.
float element_at(const TensorView& tensor, int64_t index);

/// Throws Error{kBadFile} naming tensor and place when an element of a BF16, F16 or F32 tensor is NaN or infinite.
void require_finite(const TensorView& tensor);

/// Quantizes rows of a plain [rows, columns] tensor and keeps the sums of the error report.
class RtnQuantizer {
 public:
  RtnQuantizer(const TensorView& source, int group_size);

  int64_t rows() const { return rows_; }
  /// Codes of rows [begin, end) to `codes` ((end - begin) * columns / 2 bytes), scales to `scales`
  /// ((end - begin) * columns / group_size). Throws Error{kBadFile} naming tensor and index for a non-finite weight or
  /// a scale beyond FP16.
  void quantize(ThreadPool& pool, int64_t begin, int64_t end, uint8_t* codes, uint16_t* scales);
  /// Of all rows quantized so far.
  TensorError error() const;

 private:
  /// What one row adds to the report, or the first bad group of it.
  struct RowResult {
    double signal = 0;
    double noise = 0;
    double max_abs = 0;
    int64_t bad_index = -1;
    bool overflow = false;
  };
  RowResult quantize_row(int64_t row, std::vector<float>& values, uint8_t* codes, uint16_t* scales) const;
  [[noreturn]] void fail(const RowResult& result) const;

  const TensorView& source_;
  int group_size_;
  int64_t rows_;
  int64_t columns_;
  double signal_ = 0;
  double noise_ = 0;
  double max_abs_ = 0;
};

}  // namespace marlin
