// A Metal that runs on Linux: enough of the Objective-C runtime, Foundation and Metal for src/backend/metal to work as
// it is, over the kernel emulator. It checks what Apple's validation layer checks, runs command buffers on a thread of
// its own after random delays, and knows every object that is still alive. Tests steer it by this header.
//
// What it cannot show: it runs dispatches one after the other, so a barrier that is missing between them is not found;
// it sees no loads and stores of the host (a buffer whose contents were asked for counts as written, all of it); it
// compiles nothing, so every pipeline takes 1024 threads; and it has only the selectors that the backend uses.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "metal/emulator/emulator.h"

namespace marlin::fake_metal {

struct Options {
  emulator::Options execution = {};
  uint64_t working_set_bytes = uint64_t{16} << 30;  // recommendedMaxWorkingSetSize
  uint64_t max_buffer_bytes = uint64_t{9} << 30;    // maxBufferLength
  int most_delay_us = 200;                          // a command buffer starts after a random delay up to this
  std::string fail_kernel = {};                     // a dispatch of it fails as a GPU fault would, without a report
};

/// For the device made next and all work from now on. Call it while no command buffer runs.
void set_options(const Options& options);

/// Command buffers wait, committed, until release(): for tests of reads that come too early. What waits for one
/// meanwhile waits for release().
void hold();
void release();

/// A class that does not have this method: an older system. `class_name` as Apple's documentation names it, protocols
/// too. show_all_selectors() undoes it.
void hide_selector(const std::string& class_name, const std::string& selector);
void show_all_selectors();

/// The host is about to read or write here: a report if committed work that has not completed uses a buffer there. The
/// fake sees no loads and stores of the host; buffer contents asked for count as such an access of the whole buffer.
void expect_idle(const void* address, size_t bytes);

/// What was wrong so far, in order: faults of the API's use and of kernels (these also become the command buffer's
/// error). Empties the list.
std::vector<std::string> take_reports();
/// What was legal but odd in kernels: races of equal values.
std::vector<std::string> take_notes();

/// Objects alive, by class: leaks when the device is gone. Waits for committed work unless it is held.
std::map<std::string, int> live_objects();

struct KernelCount {
  uint64_t dispatches = 0;
  uint64_t bytes_read = 0;  // of device memory; checked runs only
  uint64_t bytes_written = 0;
  size_t threadgroup_bytes = 0;  // most of any dispatch
  double milliseconds = 0;
};
/// Of completed dispatches, by kernel, since the last call.
std::map<std::string, KernelCount> take_counts();

}  // namespace marlin::fake_metal
