// A small checkpoint in the spelling of every MMFP4 writer, made without the code under test.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "base/float16.h"
#include "files.h"
#include "format/checkpoint.h"
#include "format/fp4.h"

namespace marlin::testing_files {

/// One quantized matrix: a code for every element and a scale for every group, in reading order.
struct Matrix {
  int64_t out = 0;
  int64_t in = 0;
  int64_t group = 0;
  std::vector<uint32_t> codes;
  std::vector<uint16_t> scales;

  std::vector<float> values() const {
    std::vector<float> out_values;
    for (int64_t i = 0; i < out * in; ++i) {
      out_values.push_back(fp4::kValues[codes[static_cast<size_t>(i)]] *
                           f16_to_f32(scales[static_cast<size_t>(i / group)]));
    }
    return out_values;
  }
  std::vector<uint32_t> words() const {
    std::vector<uint32_t> packed(codes.size() / 8, 0);
    for (size_t i = 0; i < codes.size(); ++i) packed[i / 8] |= codes[i] << (4 * (i % 8));
    return packed;
  }
};

inline Matrix random_matrix(int64_t out, int64_t in, int64_t group, uint32_t seed) {
  Matrix m{out, in, group, {}, {}};
  std::mt19937 random(seed);
  for (int64_t i = 0; i < out * in; ++i) m.codes.push_back(random() % 16);
  for (int64_t i = 0; i < out * in / group; ++i) {
    m.scales.push_back(f32_to_f16(0.001f * static_cast<float>(1 + random() % 1000)));
  }
  return m;
}

template <typename T>
std::vector<T> transposed(const std::vector<T>& values, int64_t rows) {
  const auto n_rows = static_cast<size_t>(rows);
  const size_t cols = values.size() / n_rows;
  std::vector<T> out(values.size());
  for (size_t r = 0; r < n_rows; ++r) {
    for (size_t c = 0; c < cols; ++c) out[c * n_rows + r] = values[r * cols + c];
  }
  return out;
}

/// How a writer spells a quantized linear.
struct Style {
  std::string weight = ".weight";
  std::string scales = ".scales";
  std::string group_size = {};  // suffix of the I32[1] claim, or none
  DType container = DType::kU32;
  bool layout_k = false;
};

inline void add_linear(std::vector<Raw>& tensors, const std::string& base, const Matrix& m, const Style& style = {}) {
  std::vector<uint32_t> words = m.words();
  std::vector<uint16_t> scales = m.scales;
  std::vector<int64_t> weight_shape = {m.out, m.in / 8};
  std::vector<int64_t> scales_shape = {m.out, m.in / m.group};
  if (style.layout_k) {
    words = transposed(words, m.out);
    scales = transposed(scales, m.out);
    std::swap(weight_shape[0], weight_shape[1]);
    std::swap(scales_shape[0], scales_shape[1]);
  }
  if (style.container == DType::kI64) {
    // Half of the words sign-extended, half zero-extended: both are in use.
    std::vector<int64_t> wide;
    wide.reserve(words.size());
    for (const uint32_t word : words) {
      wide.push_back(wide.size() % 2 == 0 ? static_cast<int64_t>(word) : static_cast<int32_t>(word));
    }
    tensors.push_back(raw(base + style.weight, style.container, weight_shape, wide));
  } else {
    tensors.push_back(raw(base + style.weight, style.container, weight_shape, words));
  }
  tensors.push_back(raw(base + style.scales, DType::kF16, scales_shape, scales));
  if (!style.group_size.empty()) {
    tensors.push_back(
        raw(base + style.group_size, DType::kI32, {1}, std::vector<int32_t>{static_cast<int32_t>(m.group)}));
  }
}

/// A checkpoint of one file in `directory`.
inline void write_single(const std::filesystem::path& directory, const std::vector<Raw>& tensors,
                         const std::string& config = "{}", size_t shift = 0) {
  write(directory / "config.json", config);
  write(directory / "model.safetensors", safetensors_bytes(tensors, shift));
}

/// The numbers of an F32 tensor.
inline std::vector<float> floats_of(const TensorView& view) {
  EXPECT_EQ(view.dtype, DType::kF32);
  std::vector<float> out(view.data.size() / sizeof(float));
  std::memcpy(out.data(), view.data.data(), view.data.size());
  return out;
}

/// The values of a linear as the kernels see them; checks layout, types and alignment on the way.
inline std::vector<float> values_of(const LinearTensors& linear) {
  std::vector<float> sum(static_cast<size_t>(linear.out_features * linear.in_features), 0.0f);
  for (const Fp4Plane& plane : linear.planes) {
    EXPECT_EQ(plane.weight.dtype, DType::kU32);
    EXPECT_EQ(plane.scales.dtype, DType::kF16);
    EXPECT_EQ(plane.weight.shape, (std::vector<int64_t>{linear.out_features, linear.in_features / 8}));
    const int64_t groups = linear.in_features / plane.group_size;
    EXPECT_EQ(plane.scales.shape, (std::vector<int64_t>{linear.out_features, groups}));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(plane.weight.data.data()) % 4, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(plane.scales.data.data()) % 2, 0u);
    const auto* codes = reinterpret_cast<const uint8_t*>(plane.weight.data.data());
    const auto* scales = reinterpret_cast<const uint16_t*>(plane.scales.data.data());
    for (int64_t i = 0; i < linear.out_features * linear.in_features; ++i) {
      sum[static_cast<size_t>(i)] += fp4::kValues[fp4::code_at(codes, i)] * f16_to_f32(scales[i / plane.group_size]);
    }
  }
  return sum;
}

}  // namespace marlin::testing_files
