// Dispatches of the emulator's tests.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "metal/emulator/emulator.h"

namespace marlin::emulator {

template <class T>
std::shared_ptr<Region> region_of(const std::vector<T>& values) {
  auto region = Region::allocate(values.size() * sizeof(T));
  std::memcpy(region->data(), values.data(), values.size() * sizeof(T));
  region->written_by_host(0, values.size() * sizeof(T));
  return region;
}
template <class T>
std::shared_ptr<Region> region_for(size_t count) {
  return Region::allocate(count * sizeof(T));
}
template <class T>
std::vector<T> values_of(const Region& region) {
  std::vector<T> values(region.size() / sizeof(T));
  std::memcpy(values.data(), region.data(), values.size() * sizeof(T));
  return values;
}
template <class T>
std::vector<std::byte> bytes_of(T value) {
  std::vector<std::byte> bytes(sizeof(T));
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

inline Dispatch dispatch_of(const std::string& kernel, const std::vector<std::shared_ptr<Region>>& buffers,
                            Size threadgroups, Size threads) {
  Dispatch dispatch;
  dispatch.kernel = find_kernel(kernel);
  EXPECT_TRUE(dispatch.kernel) << kernel;
  for (size_t i = 0; i < buffers.size(); ++i) dispatch.buffers[i].region = buffers[i];
  dispatch.threadgroups = threadgroups;
  dispatch.threads_per_threadgroup = threads;
  return dispatch;
}

inline std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + '\n';
  return text;
}

/// Runs a dispatch that must be correct.
inline void run_cleanly(const Dispatch& dispatch, const Options& options = {}) {
  const Outcome outcome = run(dispatch, options);
  EXPECT_TRUE(outcome.errors.empty()) << joined(outcome.errors);
}

}  // namespace marlin::emulator
