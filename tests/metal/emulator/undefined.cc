// The functions that checked kernels call where clang's -fsanitize=undefined finds something; its own library is not
// linked. What a kernel cannot survive ends the dispatch.
#include <string>

#include "metal/emulator/executor_internal.h"
#include "metal/emulator/symbols.h"

namespace marlin::emulator {
namespace {

/// What the data of all these functions begin with.
struct SourceLocation {
  const char* file;
  uint32_t line;
  uint32_t column;
};

enum class Then { kGoOn, kEnd };

void report(const std::string& what, const void* data, const void* return_address, Then then) {
  Worker* worker = running_worker();
  if (!worker || !worker->running()) return;
  const auto* location = static_cast<const SourceLocation*>(data);
  const std::string file = location->file ? location->file : "";
  // In the shim it says nothing; what counts is who called.
  const bool in_kernel = !file.empty() && file.find("metal/emulator/shim/") == std::string::npos;
  const std::string place =
      in_kernel ? file + ":" + std::to_string(location->line) : line_mark(code_offset(return_address));
  const std::string message = "undefined behaviour: " + what + " at " + place;
  if (then == Then::kEnd) worker->fail(message);
  worker->report(message, std::hash<std::string>{}(message) | 1);
}

}  // namespace
}  // namespace marlin::emulator

using marlin::emulator::report;
using marlin::emulator::Then;

#define MARLIN_CALLER __builtin_return_address(0)

extern "C" void __ubsan_handle_type_mismatch_v1(void* data, void*) {
  report("misaligned or null pointer", data, MARLIN_CALLER, Then::kGoOn);
}
extern "C" void __ubsan_handle_alignment_assumption(void* data, void*, void*, void*) {
  report("misaligned pointer", data, MARLIN_CALLER, Then::kGoOn);
}
extern "C" void __ubsan_handle_shift_out_of_bounds(void* data, void*, void*) {
  report("shift by more than the type has bits, or of a negative number", data, MARLIN_CALLER, Then::kGoOn);
}
extern "C" void __ubsan_handle_float_cast_overflow(void* data, void*) {
  report("conversion to an integer that cannot have the value", data, MARLIN_CALLER, Then::kGoOn);
}
extern "C" void __ubsan_handle_out_of_bounds(void* data, void*) {
  report("array index out of bounds", data, MARLIN_CALLER, Then::kEnd);
}
// The processor would stop the program.
extern "C" void __ubsan_handle_divrem_overflow(void* data, void*, void*) {
  report("division by zero, or its result is too large", data, MARLIN_CALLER, Then::kEnd);
}
extern "C" void __ubsan_handle_builtin_unreachable(void* data) {
  report("a place that is never reached was reached", data, MARLIN_CALLER, Then::kEnd);
}
extern "C" void __ubsan_handle_missing_return(void* data) {
  report("the end of a function that returns a value", data, MARLIN_CALLER, Then::kEnd);
}
