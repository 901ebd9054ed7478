#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "metal/emulator/executor_internal.h"

namespace marlin::emulator {
namespace {

/// Filled by constructors of static objects, in any order.
struct Registrations {
  std::vector<const abi::KernelRegistration*> kernels;
  std::vector<const abi::FunctionConstantRegistration*> constants;

  static Registrations& instance() {
    static auto* registrations = new Registrations;
    return *registrations;
  }
};

std::vector<FunctionConstant> constants_of(const abi::KernelRegistration& kernel) {
  std::vector<FunctionConstant> result;
  for (const auto* constant : Registrations::instance().constants) {
    if (constant->checked != kernel.checked || std::string_view(constant->file) != kernel.file) continue;
    result.push_back({constant->index, constant->name, constant->type, constant->size});
  }
  return result;
}

Kernel described(const abi::KernelRegistration& registration) {
  Kernel kernel;
  kernel.name = registration.name;
  kernel.file = registration.file;
  for (int i = 0; i < registration.n_parameters; ++i) {
    const abi::Parameter& parameter = registration.parameters[i];
    if (parameter.source == abi::Source::kBuffer) kernel.buffers.push_back(parameter.index);
    if (parameter.source == abi::Source::kThreadgroupBuffer) kernel.threadgroup_buffers.push_back(parameter.index);
  }
  kernel.constants = constants_of(registration);
  return kernel;
}

struct CompiledKernel {
  Kernel kernel;
  const abi::KernelRegistration* fast = nullptr;
  const abi::KernelRegistration* checked = nullptr;
};
using KernelTable = std::map<std::string, CompiledKernel, std::less<>>;

const KernelTable& table() {
  static const KernelTable* const kTable = [] {
    auto* result = new KernelTable;
    for (const auto* registration : Registrations::instance().kernels) {
      CompiledKernel& compiled = (*result)[registration->name];
      const auto*& slot = registration->checked ? compiled.checked : compiled.fast;
      if (slot) {
        std::fprintf(stderr, "kernel '%s' is in %s and in %s\n", registration->name, slot->file, registration->file);
        std::abort();
      }
      slot = registration;
      compiled.kernel = described(*registration);
    }
    return result;
  }();
  return *kTable;
}

}  // namespace

namespace abi {

KernelRegistration::KernelRegistration(const char* its_name, const char* its_file, bool is_checked, Entry its_entry,
                                       const Parameter* its_parameters, int count)
    : name(its_name),
      file(its_file),
      checked(is_checked),
      entry(its_entry),
      parameters(its_parameters),
      n_parameters(count) {
  Registrations::instance().kernels.push_back(this);
}

FunctionConstantRegistration::FunctionConstantRegistration(int its_index, const char* its_name, const char* its_type,
                                                           const char* its_file, bool is_checked, void* its_value,
                                                           unsigned its_size, bool* is_defined)
    : index(its_index),
      name(its_name),
      type(its_type),
      file(its_file),
      checked(is_checked),
      value(its_value),
      size(its_size),
      defined(is_defined) {
  Registrations::instance().constants.push_back(this);
}

}  // namespace abi

const Kernel* find_kernel(std::string_view name) {
  auto found = table().find(name);
  return found == table().end() ? nullptr : &found->second.kernel;
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const auto& [name, compiled] : table()) names.push_back(name);
  return names;
}

const abi::KernelRegistration* compiled_kernel(const std::string& name, bool checked) {
  auto found = table().find(name);
  if (found == table().end()) return nullptr;
  return checked ? found->second.checked : found->second.fast;
}

std::string set_function_constants(const abi::KernelRegistration& kernel,
                                   const std::map<int, std::vector<std::byte>>& values) {
  size_t used = 0;
  for (const auto* constant : Registrations::instance().constants) {
    if (constant->checked != kernel.checked || std::strcmp(constant->file, kernel.file) != 0) continue;
    auto given = values.find(constant->index);
    *constant->defined = given != values.end();
    if (!*constant->defined) {
      std::memset(constant->value, 0, constant->size);
      continue;
    }
    if (given->second.size() != constant->size) {
      return "function constant " + std::to_string(constant->index) + " ('" + constant->name + "') has " +
             std::to_string(constant->size) + " bytes and got " + std::to_string(given->second.size());
    }
    std::memcpy(constant->value, given->second.data(), constant->size);
    ++used;
  }
  if (used < values.size()) return std::string("a function constant is not declared in ") + kernel.file;
  return "";
}

}  // namespace marlin::emulator
