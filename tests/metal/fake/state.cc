#include "metal/fake/state.h"

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "metal/fake/objc_runtime.h"

namespace marlin::fake_metal {
namespace {

/// Never destroyed: threads of the fake may outlive main.
struct State {
  std::mutex mutex;
  std::condition_variable changed;
  Options options;
  std::vector<std::string> reports, notes;
  std::map<std::string, KernelCount> counts;
  bool held = false;
  int work = 0;
};

State& state() {
  static auto& only = *new State;
  return only;
}

}  // namespace

void set_options(const Options& options) {
  std::lock_guard lock(state().mutex);
  state().options = options;
}

Options options() {
  std::lock_guard lock(state().mutex);
  return state().options;
}

// ---- reports --------------------------------------------------------------------------------------------------------

void report(const std::string& text) {
  std::lock_guard lock(state().mutex);
  state().reports.push_back(text);
}

void note(const std::string& text) {
  std::lock_guard lock(state().mutex);
  state().notes.push_back(text);
}

std::vector<std::string> take_notes() {
  std::lock_guard lock(state().mutex);
  return std::exchange(state().notes, {});
}

void die(const std::string& text) {
  std::fprintf(stderr, "fake Metal: %s\n", text.c_str());
  std::abort();
}

std::vector<std::string> take_reports() {
  std::lock_guard lock(state().mutex);
  return std::exchange(state().reports, {});
}

void hide_selector(const std::string& class_name, const std::string& selector) {
  define_classes();
  Class* found = Class::find(class_name);
  if (!found) die("hide_selector: there is no class " + class_name);
  found->hide(intern(selector));
}

void show_all_selectors() {
  for (Class* each : Class::all()) each->show_all();
}

// ---- work -----------------------------------------------------------------------------------------------------------

void hold() {
  std::lock_guard lock(state().mutex);
  state().held = true;
}

void release() {
  std::lock_guard lock(state().mutex);
  state().held = false;
  state().changed.notify_all();
}

bool is_held() {
  std::lock_guard lock(state().mutex);
  return state().held;
}

void wait_while_held() {
  std::unique_lock lock(state().mutex);
  state().changed.wait(lock, [] { return !state().held; });
}

void work_begins() {
  std::lock_guard lock(state().mutex);
  ++state().work;
}

void work_is_gone() {
  std::lock_guard lock(state().mutex);
  --state().work;
  state().changed.notify_all();
}

void wait_for_all_work() {
  std::unique_lock lock(state().mutex);
  state().changed.wait(lock, [] { return state().work == 0 || state().held; });
}

std::map<std::string, int> live_objects() {
  wait_for_all_work();
  return Heap::count_by_class();
}

void count_dispatch(const std::string& kernel, const emulator::Outcome& outcome) {
  std::lock_guard lock(state().mutex);
  KernelCount& count = state().counts[kernel];
  ++count.dispatches;
  count.bytes_read += outcome.bytes_read;
  count.bytes_written += outcome.bytes_written;
  count.threadgroup_bytes = std::max(count.threadgroup_bytes, outcome.threadgroup_bytes);
  count.milliseconds += outcome.milliseconds;
}

std::map<std::string, KernelCount> take_counts() {
  std::lock_guard lock(state().mutex);
  return std::exchange(state().counts, {});
}

}  // namespace marlin::fake_metal
