#include "backend/cpu/kernels/families.h"

#include <fmt/format.h>

#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include "marlin/error.h"

namespace marlin::cpu {
namespace {

#if defined(__x86_64__)

/// Clang 14's __builtin_cpu_supports does not know it. What the system must save for it, AVX2 needs too.
bool has_avx_vnni() {
  constexpr unsigned kAvxVnni = 1U << 4;
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & kAvxVnni) != 0;
}

#elif defined(__aarch64__)

struct ArmFeatures {
  bool dotprod = false;
  bool i8mm = false;
};

#if defined(__APPLE__)

ArmFeatures arm_features() {
  const auto has = [](const char* name) {
    int value = 0;
    size_t length = sizeof(value);
    return sysctlbyname(name, &value, &length, nullptr, 0) == 0 && value != 0;
  };
  return {has("hw.optional.arm.FEAT_DotProd"), has("hw.optional.arm.FEAT_I8MM")};
}

#elif defined(__linux__)

ArmFeatures arm_features() {
  constexpr unsigned long kDotprod = 1UL << 20;  // HWCAP_ASIMDDP
  constexpr unsigned long kI8mm = 1UL << 13;     // HWCAP2_I8MM
  return {(getauxval(AT_HWCAP) & kDotprod) != 0, (getauxval(AT_HWCAP2) & kI8mm) != 0};
}

#else

ArmFeatures arm_features() {
  return {};
}

#endif
#endif

std::vector<const Family*> find_families() {
  std::vector<const Family*> families;
#if defined(__x86_64__)
  // These ask whether the system saves the wide registers, too.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool vnni = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512vnni");
  const bool avx512 = vnni && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vbmi");
  if (avx512) families.push_back(&kAvx512Family);
  if (vnni) families.push_back(&kAvx512Vnni256Family);
  if (avx2 && has_avx_vnni()) families.push_back(&kAvxVnniFamily);
  if (avx2) families.push_back(&kAvx2Family);
#elif defined(__aarch64__)
  const ArmFeatures features = arm_features();
  if (features.dotprod && features.i8mm) families.push_back(&kI8mmFamily);
  if (features.dotprod) families.push_back(&kDotprodFamily);
  families.push_back(&kNeonFamily);
#endif
  families.push_back(&kPortableFamily);
  return families;
}

}  // namespace

std::span<const Family* const> usable_families() {
  static const std::vector<const Family*> families = find_families();
  return families;
}

const Family& choose_family(std::string_view name) {
  std::string names;
  for (const Family* family : usable_families()) {
    if (name.empty() || name == family->name) return *family;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", family->name);
  }
  throw Error(ErrorCode::kUsage, fmt::format("kernels '{}': this processor has {}", name, names));
}

}  // namespace marlin::cpu
