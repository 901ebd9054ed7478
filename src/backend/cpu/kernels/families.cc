#include "backend/cpu/kernels/families.h"

#include <fmt/format.h>

#include <vector>

#include "marlin/error.h"

namespace marlin::cpu {
namespace {

std::vector<const Family*> find_families() {
  std::vector<const Family*> families;
#if defined(__x86_64__)
  // These ask whether the system saves the wide registers, too.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
  if (avx512) families.push_back(&kAvx512Family);
  if (avx2) families.push_back(&kAvx2Family);
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
