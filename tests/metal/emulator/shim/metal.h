// The first include of every generated file: all of metal_stdlib, and MSL's own words as macros. end.h takes those
// back.
#pragma once

#include "atomic.h"
#include "launch.h"
#include "math.h"
#include "matrix.h"
#include "simd.h"
#include "types.h"
#include "vector.h"

// ---- what the generator writes -------------------------------------------------------------------------------------

#define MARLIN_UNPARENTHESIZED(...) __VA_ARGS__

#define MARLIN_THREADGROUP_VARIABLE(type, name, ...)           \
  using name##_type = MARLIN_UNPARENTHESIZED type __VA_ARGS__; \
  static const char name##_key = 0;                            \
  name##_type& name = *static_cast<name##_type*>(              \
      marlin::emulator::abi::threadgroup_variable(&name##_key, sizeof(name##_type), alignof(name##_type), #name))

#define MARLIN_FUNCTION_CONSTANT(type, name, index)                                                 \
  static type name;                                                                                 \
  static bool name##_is_defined;                                                                    \
  static marlin::emulator::abi::FunctionConstantRegistration name##_registration(                   \
      index, #name, #type, MARLIN_METAL_FILE, marlin::emulator::abi::kChecked, &name, sizeof(name), \
      &name##_is_defined)
#define is_function_constant_defined(name) (name##_is_defined)

#define MARLIN_KERNEL(number, host_name, function, sources, indices)                                          \
  using Launch##number =                                                                                      \
      marlin::emulator::abi::Launch<function, marlin::emulator::abi::Sources<MARLIN_UNPARENTHESIZED sources>, \
                                    marlin::emulator::abi::Indices<MARLIN_UNPARENTHESIZED indices>>;          \
  static marlin::emulator::abi::KernelRegistration kernel_registration_##number(                              \
      host_name, MARLIN_METAL_FILE, marlin::emulator::abi::kChecked, &Launch##number::call,                   \
      Launch##number::kParameters, Launch##number::kCount);

// ---- MSL's words, after every header -------------------------------------------------------------------------------

#define METAL_FUNC inline __attribute__((always_inline))
#define METAL_CONST __attribute__((const))
#define device
#define threadgroup
#define thread
#define constant const
#define kernel
