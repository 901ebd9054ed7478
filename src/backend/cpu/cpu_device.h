// The portable CPU backend: F32 activations, ops executed when they are enqueued, weights used in place.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace marlin {

/// Throws Error{kUsage} for a negative thread count.
std::unique_ptr<Device> make_cpu_device(const DeviceOptions& options);

}  // namespace marlin
