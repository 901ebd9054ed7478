// The device metal-on-cuda, for tests: the Metal backend's shaders and launch code on an NVIDIA GPU.
#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"

namespace marlin::metal_on_cuda {

inline constexpr const char* kName = "metal-on-cuda";

/// "" where the device can be made, else why not.
std::string why_not();
std::unique_ptr<Device> make_cuda_device(const DeviceOptions& options);

}  // namespace marlin::metal_on_cuda
