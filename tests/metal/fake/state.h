// What the fake's objects share: options, reports, the switch that holds work back, and how much work is under way.
#pragma once

#include <string>

#include "metal/fake/fake_metal.h"

namespace marlin::fake_metal {

/// Something was wrong; see take_reports().
void report(const std::string& text);
/// Legal but odd; see take_notes().
void note(const std::string& text);
/// Where the real system would crash.
[[noreturn]] void die(const std::string& text);

Options options();

bool is_held();
void wait_while_held();

/// Committed command buffers, until the last trace of them is gone.
void work_begins();
void work_is_gone();
/// Returns at once while work is held.
void wait_for_all_work();

void count_dispatch(const std::string& kernel, const emulator::Outcome& outcome);

}  // namespace marlin::fake_metal
