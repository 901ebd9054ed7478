// MTLLibrary and what leads from a kernel's name to a pipeline.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "metal/emulator/emulator.h"
#include "metal/fake/foundation.h"
#include "metal/fake/objc_runtime.h"

namespace marlin::fake_metal {

/// The kernels were compiled long ago: only the values' validity matters.
class CompileOptions : public Instance {
 public:
  static Class& objc_class();
  void set_language_version(unsigned long version);
  void set_fast_math_enabled(bool) {}
  void set_math_mode(long mode);
  void set_math_functions(long functions);
};

class FunctionConstants : public Instance {
 public:
  static Class& objc_class();
  void set_constant(const void* value, unsigned long type, unsigned long index);

  struct Value {
    std::string type;  // "uint"
    std::vector<std::byte> bytes;
  };
  std::map<int, Value> values;
};

class Function : public Instance {
 public:
  Function(const emulator::Kernel* its_kernel, std::map<int, std::vector<std::byte>> values)
      : kernel(its_kernel), constants(std::move(values)) {}
  static Class& objc_class();

  const emulator::Kernel* const kernel;
  const std::map<int, std::vector<std::byte>> constants;
};

/// Has every kernel that is compiled into the program.
class Library : public Instance {
 public:
  static Class& objc_class();
  Ref<Function> new_function(String* name, FunctionConstants* constants, ErrorOut error);
};

class Pipeline : public Instance {
 public:
  explicit Pipeline(Ref<Function> its_function) : function(std::move(its_function)) {}
  static Class& objc_class();
  unsigned long max_total_threads();
  unsigned long thread_execution_width() { return 32; }
  unsigned long static_threadgroup_memory() { return 0; }

  const Ref<Function> function;
};

}  // namespace marlin::fake_metal
