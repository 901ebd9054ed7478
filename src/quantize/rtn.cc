#include "quantize/rtn.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/float16.h"
#include "format/fp4.h"
#include "marlin/error.h"

namespace marlin {
namespace {

[[noreturn]] void fail_at(const TensorView& tensor, int64_t index) {
  std::vector<int64_t> place;
  int64_t rest = index;
  for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) {
    place.insert(place.begin(), rest % *size);
    rest /= *size;
  }
  throw Error(ErrorCode::kBadFile,
              fmt::format("{}: element [{}] is {}; expected a finite weight, download the checkpoint again",
                          tensor.name, fmt::join(place, ", "), element_at(tensor, index)));
}

}  // namespace

float element_at(const TensorView& tensor, int64_t index) {
  const std::byte* at = tensor.data.data() + static_cast<size_t>(index) * dtype_size(tensor.dtype);
  if (tensor.dtype == DType::kF32) {
    float value = 0;
    std::memcpy(&value, at, sizeof(value));
    return value;
  }
  uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof(bits));
  MARLIN_CHECK(tensor.dtype == DType::kBF16 || tensor.dtype == DType::kF16, "{} is {}", tensor.name,
               dtype_name(tensor.dtype));
  return tensor.dtype == DType::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

void require_finite(const TensorView& tensor) {
  for (int64_t i = 0; i < tensor.elements(); ++i) {
    if (!std::isfinite(element_at(tensor, i))) fail_at(tensor, i);
  }
}

RtnQuantizer::RtnQuantizer(const TensorView& source, int group_size)
    : source_(source), group_size_(group_size), rows_(source.shape.at(0)), columns_(source.shape.at(1)) {}

RtnQuantizer::RowResult RtnQuantizer::quantize_row(int64_t row, std::vector<float>& values, uint8_t* codes,
                                                   uint16_t* scales) const {
  RowResult result;
  std::vector<float> decoded(static_cast<size_t>(group_size_));
  for (int64_t k = 0; k < columns_; k += group_size_) {
    for (int64_t i = 0; i < group_size_; ++i) {
      values[static_cast<size_t>(i)] = element_at(source_, row * columns_ + k + i);
    }
    uint8_t* group_codes = codes + k / 2;
    uint16_t& scale = scales[k / group_size_];
    const fp4::GroupError error = fp4::quantize_group(values, group_codes, scale);
    if (error != fp4::GroupError::kNone) {
      const auto bad = std::ranges::find_if(values, [](float v) { return !std::isfinite(v); });
      result.overflow = error == fp4::GroupError::kScaleOverflow;
      result.bad_index = row * columns_ + k + (bad == values.end() ? 0 : bad - values.begin());
      return result;
    }
    fp4::dequantize_group(group_codes, scale, decoded.data(), group_size_);
    for (size_t i = 0; i < values.size(); ++i) {
      const double difference = static_cast<double>(values[i]) - decoded[i];
      result.signal += static_cast<double>(values[i]) * values[i];
      result.noise += difference * difference;
      result.max_abs = std::max(result.max_abs, std::abs(difference));
    }
  }
  return result;
}

void RtnQuantizer::quantize(ThreadPool& pool, int64_t begin, int64_t end, uint8_t* codes, uint16_t* scales) {
  std::vector<RowResult> results(static_cast<size_t>(end - begin));
  pool.parallel_for(end - begin, [&](int64_t first, int64_t last, int /*worker*/) {
    std::vector<float> values(static_cast<size_t>(group_size_));
    for (int64_t i = first; i < last; ++i) {
      results[static_cast<size_t>(i)] =
          quantize_row(begin + i, values, codes + i * columns_ / 2, scales + i * (columns_ / group_size_));
    }
  });
  for (const RowResult& result : results) {  // in row order, so that the report does not depend on the threads
    if (result.bad_index >= 0) fail(result);
    signal_ += result.signal;
    noise_ += result.noise;
    max_abs_ = std::max(max_abs_, result.max_abs);
  }
}

void RtnQuantizer::fail(const RowResult& result) const {
  const int64_t row = result.bad_index / columns_;
  const int64_t column = result.bad_index % columns_;
  if (result.overflow) {
    throw Error(ErrorCode::kBadFile,
                fmt::format("{}: the group at [{}, {}] has a weight beyond 6 x 65504; no FP16 scale can hold it",
                            source_.name, row, column));
  }
  fail_at(source_, result.bad_index);
}

TensorError RtnQuantizer::error() const {
  TensorError error;
  error.name = source_.name;
  error.rows = rows_;
  error.columns = columns_;
  error.relative_rmse = signal_ > 0 ? std::sqrt(noise_ / signal_) : 0;
  error.max_abs = max_abs_;
  error.sqnr_db = noise_ > 0 ? 10 * std::log10(signal_ / noise_) : INFINITY;
  return error;
}

}  // namespace marlin
