#include <fmt/format.h>

#include "backend/backend.h"
#include "backend/reference/reference_device.h"
#include "marlin/error.h"
#ifdef MARLIN_HAVE_CPU
#include "backend/cpu/cpu_device.h"
#endif

namespace marlin {
namespace {

DeviceEntry cpu_entry() {
#ifdef MARLIN_HAVE_CPU
  return {"cpu", "", make_cpu_device};
#else
  return {"cpu", "not built in this version", nullptr};
#endif
}

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
          cpu_entry(),
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
  if (name == "auto") {
    throw Error(ErrorCode::kUnsupported, fmt::format("no device for auto; devices: {}", describe(entries)));
  }
  throw Error(ErrorCode::kUnsupported,
              fmt::format("device '{}' is unknown; devices: {}, auto", name, describe(entries)));
}

}  // namespace marlin
