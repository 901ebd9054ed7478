// What this build and this machine can compute on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace marlin {

/// Most CPU threads that a device takes.
inline constexpr int kMostThreads = 1024;

struct DeviceStatus {
  std::string name;            // as --device takes it
  std::string why_not;         // empty: usable
  std::string description;     // of a usable one: processor, chosen kernels
  uint64_t memory_budget = 0;  // bytes it may use in all; 0 = unknown
  int threads = 0;             // of a CPU device
};

/// Names of all known devices, best first.
std::vector<std::string> device_names();
/// All known devices, each tried: a driver that fails is a finding, not a failure.
std::vector<DeviceStatus> list_devices();

}  // namespace marlin
