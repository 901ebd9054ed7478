#include "backend/cpu/cpu_topology.h"

#include <algorithm>
#include <thread>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__linux__)
#include <sched.h>

#include <cstdint>
#include <fstream>
#include <set>
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

// Siblings share a core and a core's vector units, so a second thread on one gains nothing: count each list once.
int cores_in_mask() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof(mask), &mask) != 0) return 0;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask)) continue;
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    std::string siblings;
    if (!std::getline(file, siblings)) siblings = std::to_string(cpu);
    cores.insert(siblings);
  }
  return static_cast<int>(cores.size());
}

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
  const int cores = cores_in_mask();
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

int usable_cores() {
  const int cores = system_cores();
  return std::max(1, cores > 0 ? cores : static_cast<int>(std::thread::hardware_concurrency()));
}

std::string processor_name() {
  const std::string name = system_processor_name();
  return name.empty() ? kArchitecture : name;
}

}  // namespace marlin::cpu
