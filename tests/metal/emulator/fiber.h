// Stacks that a thread switches between by itself.
#pragma once

#include <cstddef>

namespace marlin::emulator {

/// Leaves the running stack, whose pointer is saved in *from, and goes on with the one whose pointer is `to`.
extern "C" void marlin_switch_stack(void** from, void* to);

/// A stack pointer with which marlin_switch_stack starts `entry`, which must never return. `top` is the end of the
/// stack's memory.
void* start_of_stack(std::byte* top, void (*entry)());

}  // namespace marlin::emulator
