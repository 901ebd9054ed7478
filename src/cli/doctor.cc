// `doctor`: what this machine and this build can do, and what to do about what they cannot.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <histedit.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/memory.h"
#include "cli/commands.h"
#include "cli/cpu_features.h"
#include "cli/output.h"
#include "cli/table.h"
#include "marlin/devices.h"
#include "marlin/text.h"

namespace marlin::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  metal-marlin doctor
  metal-marlin doctor --json | jq .devices)";

// GLM-4.7-Flash in MMFP4 with a context of some thousand positions.
constexpr uint64_t kMemoryForGlmFlash = uint64_t{17} * 1000 * 1000 * 1000;

std::string system_name() {
  utsname name{};
  if (uname(&name) != 0) return "unknown";
  return fmt::format("{} {} {}", name.sysname, name.release, name.machine);
}

std::vector<std::pair<std::string, std::string>> versions() {
  return {
    {"metal-marlin", MARLIN_VERSION},
#if defined(__clang__)
        {"compiler", "clang " __clang_version__},
#else
        {"compiler", "g++ " __VERSION__},
#endif
        {"CLI11", CLI11_VERSION},
        {"fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100)},
        {"nlohmann-json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR,
                                      NLOHMANN_JSON_VERSION_PATCH)},
    {
      "libedit", fmt::format("{}.{}", LIBEDIT_MAJOR, LIBEDIT_MINOR)
    }
  };
}

std::vector<std::string> advice(const MemoryStatus& memory, const std::vector<std::pair<std::string, bool>>& features) {
  std::vector<std::string> lines;
  if (memory.total != 0 && memory.total < kMemoryForGlmFlash) {
    lines.push_back(
        fmt::format("GLM-4.7-Flash in MMFP4 needs about 17 GB of memory; this machine has {}: use the demo "
                    "model",
                    human_bytes(memory.total)));
  } else if (memory.available != 0 && memory.available < kMemoryForGlmFlash) {
    lines.push_back(
        fmt::format("{} of memory are free, and GLM-4.7-Flash in MMFP4 needs about 17 GB: close other "
                    "programs first",
                    human_bytes(memory.available)));
  }
  if (memory.swap_used > 0) {
    lines.push_back(
        fmt::format("{} of swap are in use: weights that are swapped out make every token slow; close other "
                    "programs",
                    human_bytes(memory.swap_used)));
  }
  for (const auto& [name, present] : features) {
    if (name == "AVX2" && !present) lines.emplace_back("no AVX2: a processor from 2013 or newer would be much faster");
    if (name == "NEON dotprod" && !present) lines.emplace_back("no NEON dotprod: expect slow matrix products");
  }
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  lines.emplace_back("this program was built with a sanitizer, for tests: build the release preset for use");
#elif !defined(__OPTIMIZE__)
  lines.emplace_back("this program was built without optimisation: build the release preset for use");
#endif
  return lines;
}

struct Findings {
  std::string system = system_name();
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  MemoryStatus memory = memory_status();
  std::vector<std::pair<std::string, bool>> features = cpu_features();
  std::vector<DeviceStatus> devices = list_devices();
  std::vector<std::pair<std::string, std::string>> versions = cli::versions();
};

Json to_json(const Findings& f) {
  Json json = {{"system", f.system}, {"logical_cores", f.cores}};
  json["cpu_features"] = Json::object();
  for (const auto& [name, present] : f.features) json["cpu_features"][name] = present;
  json["memory"] = {{"total_bytes", f.memory.total},
                    {"available_bytes", f.memory.available},
                    {"swap_total_bytes", f.memory.swap_total},
                    {"swap_used_bytes", f.memory.swap_used}};
  json["devices"] = Json::array();
  for (const DeviceStatus& device : f.devices) {
    Json entry = {{"name", device.name}, {"usable", device.why_not.empty()}};
    if (device.why_not.empty()) {
      entry["description"] = device.description;
      entry["threads"] = device.threads;
      entry["memory_budget_bytes"] = device.memory_budget;
    } else {
      entry["why_not"] = device.why_not;
    }
    json["devices"].push_back(std::move(entry));
  }
  json["versions"] = Json::object();
  for (const auto& [name, version] : f.versions) json["versions"][name] = version;
  json["advice"] = advice(f.memory, f.features);
  return json;
}

std::string to_text(const Findings& f) {
  std::vector<std::string> present;
  std::vector<std::string> absent;
  for (const auto& [name, has] : f.features) (has ? present : absent).push_back(name);
  std::string out =
      fmt::format("metal-marlin {}\n\nsystem    {}, {} logical cores\n", MARLIN_VERSION, f.system, f.cores);
  out += fmt::format("features  {}{}{}\n", fmt::join(present, ", "),
                     absent.empty() ? "" : "; not: ", fmt::join(absent, ", "));
  out +=
      fmt::format("memory    {} in all, {} available\n", human_bytes(f.memory.total), human_bytes(f.memory.available));
  out += fmt::format("swap      {} in all, {} used\n\ndevices\n", human_bytes(f.memory.swap_total),
                     human_bytes(f.memory.swap_used));
  std::vector<std::vector<std::string>> rows;
  for (const DeviceStatus& device : f.devices) {
    rows.push_back({"  " + device.name, device.why_not.empty() ? device.description : "not usable: " + device.why_not});
  }
  out += table(rows, /*text_last=*/true) + "\nversions\n";
  rows.clear();
  for (const auto& [name, version] : f.versions) rows.push_back({"  " + name, version});
  out += table(rows, /*text_last=*/true);
  const std::vector<std::string> lines = advice(f.memory, f.features);
  if (!lines.empty()) out += "\nadvice\n";
  for (const std::string& line : lines) out += fmt::format("  {}\n", line);
  return out;
}

}  // namespace

void add_doctor(CLI::App& parent, Action& action) {
  CLI::App* app = parent.add_subcommand("doctor", "What this machine and this build can do");
  auto json = std::make_shared<bool>(false);
  app->add_flag("--json", *json, "Print the findings as one JSON object");
  app->footer(kExamples);
  app->callback([json, &action] {
    action = [json] {
      const Findings findings;
      write_stdout(*json ? to_json(findings).dump() + "\n" : to_text(findings));
      return kOk;
    };
  });
}

}  // namespace marlin::cli
