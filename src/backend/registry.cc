#include <fmt/format.h>

#include "backend/backend.h"
#include "backend/cpu/cpu_device.h"
#include "backend/reference/reference_device.h"
#include "marlin/error.h"

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

}  // namespace

std::vector<DeviceEntry> device_registry() {
  return {{"metal", "not built in this version", nullptr},
          {"cuda", "not built in this version", nullptr},
          {"cpu", "", make_cpu_device},
          {"reference", "", make_reference_device}};
}

std::unique_ptr<Device> make_device(std::string_view name, const DeviceOptions& options) {
  const std::vector<DeviceEntry> entries = device_registry();
  for (const DeviceEntry& entry : entries) {
    // The oracle is far too slow to be anybody's default.
    const bool wanted = name == "auto" ? entry.name != "reference" && entry.make : entry.name == name;
    if (!wanted) continue;
    if (entry.make) return entry.make(options);
    throw Error(ErrorCode::kUnsupported,
                fmt::format("device {}: {}; devices: {}, auto", entry.name, entry.why_not, describe(entries)));
  }
  throw Error(ErrorCode::kUnsupported, fmt::format("no device '{}'; devices: {}, auto", name, describe(entries)));
}

}  // namespace marlin
