#include "metal/emulator/fiber.h"

#include <cstdint>
#include <cstring>

// Only what a called function must preserve is saved: the compiler takes a switch for a call. The floating-point
// control registers are left alone, since nobody changes them.
#if defined(__x86_64__)
asm(R"(.text
.globl marlin_switch_stack
.type marlin_switch_stack, @function
marlin_switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size marlin_switch_stack, . - marlin_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(.text
.globl marlin_switch_stack
.type marlin_switch_stack, @function
marlin_switch_stack:
  sub sp, sp, #176
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #176
  ret
.size marlin_switch_stack, . - marlin_switch_stack
)");
#else
#error "the Metal emulator knows how to switch stacks on x86-64 and on AArch64 only"
#endif

namespace marlin::emulator {

void* start_of_stack(std::byte* top, void (*entry)()) {
  auto* aligned = reinterpret_cast<std::byte*>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15});
#if defined(__x86_64__)
  // From the top: a return address that is never used, the one that `ret` takes, and six registers.
  constexpr size_t kWords = 8, kEntryWord = 6;
#else
  constexpr size_t kWords = 22, kEntryWord = 11;
#endif
  auto** frame = reinterpret_cast<void**>(aligned) - kWords;
  std::memset(static_cast<void*>(frame), 0, kWords * sizeof(void*));
  std::memcpy(static_cast<void*>(frame + kEntryWord), &entry, sizeof entry);
  return frame;
}

}  // namespace marlin::emulator
