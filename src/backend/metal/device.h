// Apple GPUs through Metal. Needs Apple7 or newer (M1) and Metal 3.
#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"

namespace marlin {

/// "" where the device can be made, else why not.
std::string metal_why_not();
/// Throws Error{kUnsupported} where metal_why_not() says so.
std::unique_ptr<Device> make_metal_device(const DeviceOptions& options);

}  // namespace marlin
