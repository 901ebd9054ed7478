#include "cli/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace marlin::cli {

#if defined(__x86_64__)

std::vector<std::pair<std::string, bool>> cpu_features() {
  __builtin_cpu_init();
  // Clang 14's __builtin_cpu_supports does not know AVX-VNNI.
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  const bool avx_vnni = __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1U << 4)) != 0;
  return {{"AVX2", __builtin_cpu_supports("avx2") != 0},
          {"FMA", __builtin_cpu_supports("fma") != 0},
          {"AVX-VNNI", avx_vnni},
          {"AVX-512 F", __builtin_cpu_supports("avx512f") != 0},
          {"AVX-512 BW", __builtin_cpu_supports("avx512bw") != 0},
          {"AVX-512 VL", __builtin_cpu_supports("avx512vl") != 0},
          {"AVX-512 VNNI", __builtin_cpu_supports("avx512vnni") != 0},
          {"AVX-512 VBMI", __builtin_cpu_supports("avx512vbmi") != 0}};
}

#elif defined(__aarch64__) && defined(__linux__)

std::vector<std::pair<std::string, bool>> cpu_features() {
  const unsigned long hwcap = getauxval(AT_HWCAP);
  const unsigned long hwcap2 = getauxval(AT_HWCAP2);
  return {{"NEON", (hwcap & HWCAP_ASIMD) != 0},
          {"NEON FP16", (hwcap & HWCAP_ASIMDHP) != 0},
          {"NEON dotprod", (hwcap & HWCAP_ASIMDDP) != 0},
          {"NEON i8mm", (hwcap2 & HWCAP2_I8MM) != 0}};
}

#elif defined(__aarch64__) && defined(__APPLE__)

std::vector<std::pair<std::string, bool>> cpu_features() {
  const auto has = [](const char* name) {
    int value = 0;
    size_t size = sizeof(value);
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  return {{"NEON", true},
          {"NEON FP16", has("hw.optional.arm.FEAT_FP16")},
          {"NEON dotprod", has("hw.optional.arm.FEAT_DotProd")},
          {"NEON i8mm", has("hw.optional.arm.FEAT_I8MM")}};
}

#else

std::vector<std::pair<std::string, bool>> cpu_features() {
  return {};
}

#endif

}  // namespace marlin::cli
