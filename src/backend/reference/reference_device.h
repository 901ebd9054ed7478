// The oracle as a device: every op at once, in double precision, one thread, every argument checked. For tests and for
// diagnosis; "auto" never chooses it.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace marlin {

std::unique_ptr<Device> make_reference_device(const DeviceOptions& options);

}  // namespace marlin
