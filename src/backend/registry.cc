#include <fmt/format.h>

#include "backend/backend.h"
#include "backend/cpu/cpu_device.h"
#include "backend/reference/reference_device.h"
#include "marlin/error.h"
#if defined(MARLIN_METAL_NAME)
#include "backend/metal/device.h"
#endif

namespace marlin {
namespace {

/// "metal (not built in this version), cpu, reference"
std::string describe(const std::vector<DeviceEntry>& entries) {
  std::string text;
  for (const DeviceEntry& entry : entries) {
    text += fmt::format("{}{}", text.empty() ? "" : ", ", entry.name);
    if (!entry.make) text += fmt::format(" ({})", entry.why_not);
  }
  return text;
}

/// The GPU of a Mac; in builds for tests on other systems the same code over an emulator, as metal-emulated.
DeviceEntry metal_entry() {
#if defined(MARLIN_METAL_NAME)
  static const std::string why_not = metal_why_not();
  DeviceEntry entry{MARLIN_METAL_NAME, why_not, nullptr};
  if (why_not.empty()) entry.make = make_metal_device;
  return entry;
#else
  return {"metal", "not built in this version", nullptr};
#endif
}

/// The oracle and the emulator are far too slow to be anybody's default.
bool by_name_only(const DeviceEntry& entry) {
  return entry.name == "reference" || entry.name == "metal-emulated";
}

}  // namespace

std::vector<DeviceEntry> device_registry() {
  return {metal_entry(),
          {"cuda", "not built in this version", nullptr},
          {"cpu", "", make_cpu_device},
          {"reference", "", make_reference_device}};
}

std::unique_ptr<Device> make_device(std::string_view name, const DeviceOptions& options) {
  const std::vector<DeviceEntry> entries = device_registry();
  for (const DeviceEntry& entry : entries) {
    const bool wanted = name == "auto" ? !by_name_only(entry) && entry.make : entry.name == name;
    if (!wanted) continue;
    if (entry.make) return entry.make(options);
    throw Error(ErrorCode::kUnsupported,
                fmt::format("device {}: {}; devices: {}, auto", entry.name, entry.why_not, describe(entries)));
  }
  throw Error(ErrorCode::kUnsupported, fmt::format("no device '{}'; devices: {}, auto", name, describe(entries)));
}

}  // namespace marlin
