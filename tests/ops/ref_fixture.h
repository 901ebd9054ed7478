// The reference device with short ways to put host values on it and to read them back.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace marlin {

class RefTest : public testing::Test {
 protected:
  /// A buffer with these elements.
  template <typename T>
  View put(const std::vector<T>& values) {
    const View view = make(values.size() * sizeof(T));
    stream().upload(view, std::as_bytes(std::span(values)));
    return view;
  }
  View make(size_t bytes) {
    buffers_.push_back(device_->allocate(bytes));
    return {buffers_.back().get(), 0};
  }
  View make_acts(size_t n) { return make(n * sizeof(double)); }

  template <typename T>
  std::vector<T> get(View view, size_t n) {
    std::vector<T> values(n);
    stream().read(stream().wait(stream().submit()), view, std::as_writable_bytes(std::span(values)));
    return values;
  }
  std::vector<double> get_acts(View view, size_t n) { return get<double>(view, n); }

  LinearWeight f32_linear(int64_t out, int64_t in, const std::vector<float>& values) {
    EXPECT_EQ(values.size(), static_cast<size_t>(out * in));
    LinearWeight weight;
    weight.out_features = out;
    weight.in_features = in;
    weight.plain = put(values);
    weight.plain_type = DType::kF32;
    return weight;
  }
  VectorWeight f32_vector(const std::vector<float>& values) {
    return {put(values), DType::kF32, static_cast<int64_t>(values.size())};
  }

  /// Uniform in [-1, 1), exact in FP32.
  template <typename T>
  std::vector<T> random(size_t n) {
    std::vector<T> values;
    for (size_t i = 0; i < n; ++i) {
      values.push_back(static_cast<T>(static_cast<double>(engine_()) * 0x1p-31 - 1.0));
    }
    return values;
  }

  Device& device() { return *device_; }
  Stream& stream() { return *stream_; }

 private:
  std::unique_ptr<Device> device_ = make_device("reference", {});
  std::unique_ptr<Stream> stream_ = device_->make_stream();
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::mt19937 engine_{20240607};
};

inline void expect_near(const std::vector<double>& got, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], tolerance) << "element " << i;
}

}  // namespace marlin
