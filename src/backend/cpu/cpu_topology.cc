#include "backend/cpu/cpu_topology.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <map>
#include <set>
#include <string_view>
#include <system_error>
#include <thread>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__linux__)
#include <sched.h>

#include <cstdint>
#endif

namespace marlin::cpu {
namespace {

constexpr const char* kArchitecture =
#if defined(__x86_64__)
    "x86-64";
#elif defined(__aarch64__)
    "arm64";
#else
    "unknown processor";
#endif

std::string first_line(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// "0-3,8" as the kernel writes sets of CPUs. What cannot be read ends it.
std::vector<int> parse_cpu_list(std::string_view list) {
  std::vector<int> cpus;
  const char* at = list.data();
  const char* end = at + list.size();
  while (at < end) {
    int first = 0;
    const auto [after, error] = std::from_chars(at, end, first);
    if (error != std::errc()) break;
    int last = first;
    at = after;
    if (at < end && *at == '-') at = std::from_chars(at + 1, end, last).ptr;
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    if (at < end) ++at;  // the comma
  }
  return cpus;
}

/// The node's number in the system of each CPU. A node may have memory only.
std::map<int, int> nodes_of_cpus(const std::filesystem::path& sys) {
  std::map<int, int> nodes;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(sys / "devices/system/node", none)) {
    const std::string name = entry.path().filename().string();
    int node = 0;
    if (!name.starts_with("node") ||
        std::from_chars(name.data() + 4, name.data() + name.size(), node).ec != std::errc()) {
      continue;
    }
    for (const int cpu : parse_cpu_list(first_line(entry.path() / "cpulist"))) nodes[cpu] = node;
  }
  return nodes;
}

#if defined(__APPLE__)

int sysctl_int(const char* name) {
  int value = 0;
  size_t length = sizeof(value);
  return sysctlbyname(name, &value, &length, nullptr, 0) == 0 ? value : 0;
}

int system_cores() {
  const int performance = sysctl_int("hw.perflevel0.physicalcpu");
  return performance > 0 ? performance : sysctl_int("hw.physicalcpu");
}

std::string system_processor_name() {
  char name[128] = {};
  size_t length = sizeof(name) - 1;
  return sysctlbyname("machdep.cpu.brand_string", name, &length, nullptr, 0) == 0 ? name : "";
}

#elif defined(__linux__)

// Rounded up: half a core of quota still needs a thread. 0 = no limit known.
int cgroup_quota() {
  int64_t quota = -1;
  int64_t period = 0;
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  if (v2 >> quota >> period && quota > 0 && period > 0) return static_cast<int>((quota + period - 1) / period);
  std::ifstream v1_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  if (v1_quota >> quota && v1_period >> period && quota > 0 && period > 0) {
    return static_cast<int>((quota + period - 1) / period);
  }
  return 0;
}

int system_cores() {
  const auto cores = static_cast<int>(affinity_cores().size());
  const int quota = cgroup_quota();
  return quota > 0 ? std::min(cores, quota) : cores;
}

std::string system_processor_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "";
}

#else

int system_cores() {
  return 0;
}
std::string system_processor_name() {
  return "";
}

#endif

}  // namespace

// Siblings share a core and its vector units, so a second thread on one gains nothing: each set of them counts once.
std::vector<Core> read_cores(const std::filesystem::path& sys, const std::vector<int>& mask) {
  const std::filesystem::path system = sys / "devices/system/cpu";
  const std::vector<int> online = parse_cpu_list(first_line(system / "online"));
  const std::map<int, int> nodes = nodes_of_cpus(sys);
  std::vector<Core> cores;
  std::set<std::string> seen;
  std::set<int> used_nodes;
  for (const int cpu : mask) {
    if (!online.empty() && std::ranges::find(online, cpu) == online.end()) continue;
    const std::string name = "cpu" + std::to_string(cpu);
    const std::string siblings = first_line(system / name / "topology/thread_siblings_list");
    if (!seen.insert(siblings.empty() ? name : siblings).second) continue;
    const auto node = nodes.find(cpu);
    cores.push_back({cpu, node == nodes.end() ? 0 : node->second});
    used_nodes.insert(cores.back().node);
  }
  for (Core& core : cores) {
    core.node = static_cast<int>(std::distance(used_nodes.begin(), used_nodes.find(core.node)));
  }
  std::ranges::sort(cores, {}, [](const Core& core) { return std::pair(core.node, core.cpu); });
  return cores;
}

std::vector<Core> affinity_cores() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return {};
  std::vector<int> mask;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) mask.push_back(cpu);
  }
  return read_cores("/sys", mask);
#else
  return {};
#endif
}

std::vector<ThreadPlace> place_threads(int n_threads, const std::vector<Core>& cores) {
  std::vector<ThreadPlace> places(static_cast<size_t>(n_threads));
  if (cores.empty() || n_threads == 1) return places;
  const bool own_core = places.size() == cores.size();
  const bool one_node = cores.back().node == 0;
  for (size_t i = 0; i < places.size(); ++i) {
    const Core& core = cores[i * cores.size() / places.size()];
    places[i].node = core.node;
    if (own_core) {
      places[i].cpus = {core.cpu};
    } else if (!one_node) {
      for (const Core& other : cores) {
        if (other.node == core.node) places[i].cpus.push_back(other.cpu);
      }
    }
  }
  return places;
}

int usable_cores() {
  const int cores = system_cores();
  return std::max(1, cores > 0 ? cores : static_cast<int>(std::thread::hardware_concurrency()));
}

std::string processor_name() {
  const std::string name = system_processor_name();
  return name.empty() ? kArchitecture : name;
}

}  // namespace marlin::cpu
