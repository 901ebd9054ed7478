#include "base/memory.h"

#include <sys/resource.h>

#include <fstream>
#include <string>

#if defined(__APPLE__)
#include <mach/mach.h>
#include <sys/sysctl.h>
#endif

namespace marlin {

#if defined(__APPLE__)

MemoryStatus memory_status() {
  MemoryStatus status;
  size_t length = sizeof(status.total);
  sysctlbyname("hw.memsize", &status.total, &length, nullptr, 0);
  vm_statistics64_data_t vm{};
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  if (host_statistics64(mach_host_self(), HOST_VM_INFO64, reinterpret_cast<host_info64_t>(&vm), &count) ==
      KERN_SUCCESS) {
    status.available = (static_cast<uint64_t>(vm.free_count) + vm.inactive_count + vm.purgeable_count) * vm_page_size;
  }
  xsw_usage swap{};
  length = sizeof(swap);
  if (sysctlbyname("vm.swapusage", &swap, &length, nullptr, 0) == 0) {
    status.swap_total = swap.xsu_total;
    status.swap_used = swap.xsu_used;
  }
  return status;
}

#else

MemoryStatus memory_status() {
  MemoryStatus status;
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  uint64_t kib = 0;
  uint64_t swap_free = 0;
  std::string unit;
  while (meminfo >> key >> kib && std::getline(meminfo, unit)) {
    if (key == "MemTotal:") status.total = kib * 1024;
    if (key == "MemAvailable:") status.available = kib * 1024;
    if (key == "SwapTotal:") status.swap_total = kib * 1024;
    if (key == "SwapFree:") swap_free = kib * 1024;
  }
  status.swap_used = status.swap_total - swap_free;
  return status;
}

#endif

uint64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
#if defined(__APPLE__)
  return static_cast<uint64_t>(usage.ru_maxrss);
#else
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
#endif
}

bool reset_peak_resident_bytes() {
#if defined(__linux__)
  std::ofstream file("/proc/self/clear_refs");  // proc(5)
  file << 5 << std::flush;
  return file.good();
#else
  return false;
#endif
}

}  // namespace marlin
