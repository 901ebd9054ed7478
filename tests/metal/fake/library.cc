#include "metal/fake/library.h"

#include <algorithm>

#include "metal/fake/device.h"
#include "metal/fake/state.h"

namespace marlin::fake_metal {

// ---- compile options ------------------------------------------------------------------------------------------------

Class& CompileOptions::objc_class() {
  static Class& c = Class::define("MTLCompileOptions")
                        .allocates<CompileOptions>()
                        .method<&CompileOptions::set_language_version>("setLanguageVersion:")
                        .method<&CompileOptions::set_fast_math_enabled>("setFastMathEnabled:")
                        .method<&CompileOptions::set_math_mode>("setMathMode:")
                        .method<&CompileOptions::set_math_functions>("setMathFloatingPointFunctions:");
  return c;
}

void CompileOptions::set_language_version(unsigned long version) {
  const unsigned long major = version >> 16, minor = version & 0xFFFF;
  const bool known = (major == 1 && minor <= 2) || (major == 2 && minor <= 4) || (major == 3 && minor <= 2) ||
                     (major == 4 && minor == 0);
  if (!known) report("setLanguageVersion: there is no version " + std::to_string(version));
}

void CompileOptions::set_math_mode(long mode) {
  if (mode < 0 || mode > 2) report("setMathMode: there is no mode " + std::to_string(mode));
}

void CompileOptions::set_math_functions(long functions) {
  if (functions < 0 || functions > 1) report("setMathFloatingPointFunctions: there is no " + std::to_string(functions));
}

// ---- function constants ---------------------------------------------------------------------------------------------

namespace {

struct ScalarType {
  unsigned long data_type;  // MTLDataType
  const char* name;
  size_t size;
};
constexpr ScalarType kScalarTypes[] = {
    {3, "float", 4},   {16, "half", 2}, {29, "int", 4},   {33, "uint", 4}, {37, "short", 2},
    {41, "ushort", 2}, {45, "char", 1}, {49, "uchar", 1}, {53, "bool", 1}, {121, "bfloat", 2},
};

/// MSL has several names for some types.
std::string plain_name(const std::string& type) {
  static const std::map<std::string, std::string> kPlain = {
      {"int32_t", "int"},   {"uint32_t", "uint"}, {"unsigned int", "uint"},   {"unsigned", "uint"},
      {"int16_t", "short"}, {"int8_t", "char"},   {"uint16_t", "ushort"},     {"unsigned short", "ushort"},
      {"uint8_t", "uchar"}, {"float32", "float"}, {"unsigned char", "uchar"},
  };
  auto it = kPlain.find(type);
  return it == kPlain.end() ? type : it->second;
}

/// "" or why these values do not fit the kernel.
std::string constants_fault(const emulator::Kernel& kernel, const FunctionConstants& given) {
  for (const auto& [index, value] : given.values) {
    auto declared = std::find_if(kernel.constants.begin(), kernel.constants.end(),
                                 [i = index](const emulator::FunctionConstant& each) { return each.index == i; });
    const std::string which = "function constant " + std::to_string(index);
    if (declared == kernel.constants.end()) return which + " is not declared in " + kernel.file;
    if (plain_name(declared->type) != value.type) {
      return which + " ('" + declared->name + "') is a " + declared->type + ", and got a " + value.type;
    }
  }
  return "";
}

}  // namespace

Class& FunctionConstants::objc_class() {
  static Class& c = Class::define("MTLFunctionConstantValues")
                        .allocates<FunctionConstants>()
                        .method<&FunctionConstants::set_constant>("setConstantValue:type:atIndex:");
  return c;
}

void FunctionConstants::set_constant(const void* value, unsigned long type, unsigned long index) {
  auto scalar = std::find_if(std::begin(kScalarTypes), std::end(kScalarTypes),
                             [type](const ScalarType& each) { return each.data_type == type; });
  if (scalar == std::end(kScalarTypes)) {
    report("setConstantValue: the fake knows no MTLDataType " + std::to_string(type));
    return;
  }
  if (!value || index > 65535) {
    report("setConstantValue: " + (value ? "index " + std::to_string(index) + " is over 65535" : "no value"));
    return;
  }
  const auto* bytes = static_cast<const std::byte*>(value);
  values[static_cast<int>(index)] = {scalar->name, {bytes, bytes + scalar->size}};
}

// ---- library, function, pipeline ------------------------------------------------------------------------------------

Class& Library::objc_class() {
  static Class& c = Class::define("MTLLibrary", Class::kProtocol)
                        .method<&Library::new_function>("newFunctionWithName:constantValues:error:");
  return c;
}

Ref<Function> Library::new_function(String* name, FunctionConstants* constants, ErrorOut error) {
  if (!name) die("newFunctionWithName: got nil");
  const emulator::Kernel* kernel = emulator::find_kernel(name->text);
  if (!kernel) return fail(error, "the library has no function named '" + name->text + "'");
  std::map<int, std::vector<std::byte>> values;
  if (constants) {
    if (std::string fault = constants_fault(*kernel, *constants); !fault.empty()) {
      fault = "kernel '" + name->text + "': " + fault;
      report(fault);
      return fail(error, fault);
    }
    for (const auto& [index, value] : constants->values) values[index] = value.bytes;
  }
  return make<Function>(kernel, std::move(values));
}

Class& Function::objc_class() {
  static Class& c = Class::define("MTLFunction", Class::kProtocol);
  return c;
}

Class& Pipeline::objc_class() {
  static Class& c = Class::define("MTLComputePipelineState", Class::kProtocol)
                        .method<&Pipeline::max_total_threads>("maxTotalThreadsPerThreadgroup")
                        .method<&Pipeline::thread_execution_width>("threadExecutionWidth")
                        .method<&Pipeline::static_threadgroup_memory>("staticThreadgroupMemoryLength");
  return c;
}

unsigned long Pipeline::max_total_threads() {
  return kMostThreadsPerThreadgroup;
}

}  // namespace marlin::fake_metal
