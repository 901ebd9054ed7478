#include "marlin/devices.h"

#include "backend/backend.h"
#include "marlin/error.h"

namespace marlin {

std::vector<std::string> device_names() {
  std::vector<std::string> names;
  for (const DeviceEntry& entry : device_registry()) names.push_back(entry.name);
  return names;
}

std::vector<DeviceStatus> list_devices() {
  std::vector<DeviceStatus> devices;
  for (const DeviceEntry& entry : device_registry()) {
    DeviceStatus status{entry.name, entry.why_not, {}};
    if (entry.make) {
      try {
        const DeviceInfo info = entry.make({})->info();
        status.description = info.description;
        status.memory_budget = info.memory_budget;
        status.threads = info.threads;
      } catch (const Error& error) {
        status.why_not = error.what();
      }
    }
    devices.push_back(std::move(status));
  }
  return devices;
}

}  // namespace marlin
