// Watches the loads and stores of checked kernels. They are compiled with clang's -fsanitize=thread, which puts a call
// before each access; the functions that are called are here, and the library that clang has for them is not linked.
#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_set>
#include <vector>

#include "metal/emulator/executor_internal.h"
#include "metal/emulator/shadow.h"
#include "metal/emulator/symbols.h"

// The linker's: the program's own memory, constant tables and function constants included.
extern "C" const char __executable_start;
extern "C" const char _end;

namespace marlin::emulator {
namespace {

constexpr size_t kMostRaces = 20;
constexpr uintptr_t kNearNull = 1 << 20;
constexpr uintptr_t kNear = size_t{1} << 30;

enum class AccessKind { kRead, kWrite, kAtomicLoad, kAtomicChange };

struct Access {
  std::byte* address;
  size_t bytes;
  AccessKind kind;
  CodeOffset place;

  bool writes() const { return kind == AccessKind::kWrite || kind == AccessKind::kAtomicChange; }
  bool atomic() const { return kind == AccessKind::kAtomicLoad || kind == AccessKind::kAtomicChange; }
};

/// Memory that belongs to one name, and its cells.
struct Target {
  std::byte* begin = nullptr;
  std::byte* end = nullptr;
  Shadow* cells = nullptr;
  size_t first_cell = 0;           // of begin
  RegionShadow* region = nullptr;  // null for threadgroup memory
  uint64_t first_run = 0;          // older accesses are of no interest

  bool has(const Access& access) const {
    return access.address >= begin && access.address < end && access.bytes <= static_cast<size_t>(end - access.address);
  }
};

/// Two writes raced. It is known after the second one whether they stored the same.
struct PendingRace {
  const std::byte* address;
  std::vector<std::byte> before;
  std::string message;
};

class Checker {
 public:
  void begcounts(Worker& worker);
  void begin_threadgroup();
  void end_dispatch(Outcome& outcome);

  void access(const Access& access) {
    if (!worker_ || access.bytes == 0) return;
    if (race_pending_) settle_race();
    if (worker_->in_stacks(access.address)) return;
    if (!target_->has(access) && !find_recent(access) && !find_target(access)) return;
    if (target_->region && target_->region->read_only()) {
      access_read_only(access);
    } else {
      access_cells(access);
    }
  }
  void misaligned(const void* address, unsigned long alignment, CodeOffset place);

 private:
  bool find_recent(const Access& access);
  bool find_target(const Access& access);
  void set_target(const Target& target);
  void forget_targets();
  bool find_variable(const Access& access);
  void report_outside(const Access& access);
  std::string name_place(const std::byte* address) const;
  std::string unbound_buffers() const;

  void access_read_only(const Access& access);
  void access_cells(const Access& access);
  void read_cells(const Access& access, size_t first, size_t count, Stamp now);
  void write_cells(const Access& access, size_t first, size_t count, Stamp now);
  void change_cells(const Access& access, size_t first, size_t count, Stamp now);
  void require_written(const Access& access, size_t cell);
  Stamp now() const;
  /// Of this dispatch, or of this threadgroup if it is about threadgroup memory.
  bool counts(Stamp stamp) const { return stamp.run() >= target_->first_run; }
  /// Whether there is an earlier access that may happen at the same time.
  bool races(Stamp old, Stamp now) const { return counts(old) && !ordered(old, now); }

  std::string describe(const Access& access, size_t cell) const;
  std::string describe_other(Stamp other, const char* verb, CodeOffset place, Stamp now) const;
  void report_race(const Access& access, size_t cell, Stamp other, bool other_writes, Stamp now);
  void settle_race();

  Worker* worker_ = nullptr;      // null between dispatches
  std::array<Target, 4> recent_;  // where kernels went lately
  size_t next_recent_ = 0;
  Target* target_ = recent_.data();  // of this access
  Shadow* threadgroup_cells_ = nullptr;
  uint64_t run_ = 0;                    // counts threadgroups
  uint64_t first_run_ = 1;              // of this dispatch
  std::vector<uint64_t> threadgroups_;  // which one each run of this dispatch is
  uint64_t bytes_read_ = 0;
  uint64_t bytes_written_ = 0;
  bool race_pending_ = false;
  PendingRace pending_;
  std::unordered_set<uint64_t> reported_races_;
  std::vector<std::string> late_errors_;
  std::vector<std::string> notes_;
};

Checker the_checker;

uint64_t key_of(CodeOffset place, CodeOffset other, unsigned kind) {
  return ((uint64_t{place} << 32 | other) * 31 + kind) | 1;
}

std::string bytes_text(size_t bytes) {
  return std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes");
}

// ---- dispatches ----------------------------------------------------------------------------------------------------

void Checker::begcounts(Worker& worker) {
  for (const ReachableRegion& reachable : worker.state().regions) shadow_of(*reachable.region);
  // Workers stay for good, and only the first one runs checked kernels.
  if (!threadgroup_cells_) threadgroup_cells_ = new Shadow(worker.threadgroup_memory_bytes());
  worker_ = &worker;
  first_run_ = run_ + 1;
  threadgroups_.clear();
  bytes_read_ = 0;
  bytes_written_ = 0;
}

void Checker::begin_threadgroup() {
  if (race_pending_) settle_race();
  ++run_;
  threadgroups_.push_back(worker_->threadgroup_index());
  forget_targets();
}

void Checker::end_dispatch(Outcome& outcome) {
  if (race_pending_) settle_race();
  worker_ = nullptr;
  forget_targets();
  outcome.bytes_read += bytes_read_;
  outcome.bytes_written += bytes_written_;
  outcome.errors.insert(outcome.errors.end(), late_errors_.begin(), late_errors_.end());
  outcome.notes.insert(outcome.notes.end(), notes_.begin(), notes_.end());
  late_errors_.clear();
  notes_.clear();
  reported_races_.clear();
  name_lines(outcome.errors);
  name_lines(outcome.notes);
}

Stamp Checker::now() const {
  const ThreadStamp stamp = worker_->thread_stamp();
  if (target_->region) return Stamp(run_, stamp.thread, stamp.threadgroup_epochs.device, stamp.simdgroup_epochs.device);
  return Stamp(run_, stamp.thread, stamp.threadgroup_epochs.threadgroup, stamp.simdgroup_epochs.threadgroup);
}

// ---- where an access goes ------------------------------------------------------------------------------------------

bool Checker::find_recent(const Access& access) {
  for (Target& target : recent_) {
    if (!target.has(access)) continue;
    target_ = &target;
    return true;
  }
  return false;
}

void Checker::set_target(const Target& target) {
  next_recent_ = (next_recent_ + 1) % recent_.size();
  target_ = &recent_[next_recent_];
  *target_ = target;
}

void Checker::forget_targets() {
  recent_.fill({});
}

/// False if there is nothing to check, or an error was found.
bool Checker::find_target(const Access& access) {
  if (worker_->in_threadgroup_memory(access.address)) return find_variable(access);
  const auto* in_program = reinterpret_cast<const char*>(access.address);
  if (in_program >= &__executable_start && in_program < &_end) return false;
  const ReachableRegion* reachable = worker_->find_region(access.address);
  if (reachable && access.bytes <= static_cast<size_t>(reachable->end - access.address)) {
    RegionShadow& shadow = shadow_of(*reachable->region);
    set_target({reachable->begin, reachable->end, shadow.cells.get(), 0, &shadow, first_run_});
    return true;
  }
  if (worker_->in_own_objects(access.address)) return false;
  report_outside(access);
  return false;
}

bool Checker::find_variable(const Access& access) {
  for (const ThreadgroupVariable& variable : worker_->variables()) {
    Target target{variable.data, variable.data + variable.bytes, threadgroup_cells_, 0, nullptr, run_};
    if (!target.has(access)) continue;
    target.first_cell = static_cast<size_t>(variable.data - worker_->threadgroup_memory());
    set_target(target);
    return true;
  }
  report_outside(access);
  return false;
}

std::string binding_name(const ReachableRegion& reachable) {
  const std::string region = reachable.region->description();
  return reachable.index < 0 ? "a resident " + region : "buffer(" + std::to_string(reachable.index) + "), " + region;
}

/// "12 bytes past the end of buffer(1), …": relative to what the kernel may use, as far as that is near.
std::string Checker::name_place(const std::byte* address) const {
  for (const ThreadgroupVariable& variable : worker_->variables()) {
    const std::byte* end = variable.data + variable.bytes;
    const std::string name = "threadgroup '" + variable.name + "' (" + bytes_text(variable.bytes) + ")";
    if (address >= variable.data && address < end)
      return "byte " + std::to_string(address - variable.data) + " of " + name;
    if (address >= end && address - end < 64)
      return bytes_text(static_cast<size_t>(address - end)) + " past the end of " + name;
  }
  if (worker_->in_threadgroup_memory(address)) return "threadgroup memory of no variable";
  const ReachableRegion* nearest = nullptr;
  size_t distance = kNear;
  bool after = false;
  for (const ReachableRegion& region : worker_->state().regions) {
    const auto offset = static_cast<size_t>(address - region.begin);
    if (address >= region.begin && address < region.end)
      return "byte " + std::to_string(offset) + " of " + binding_name(region);
    const bool is_after = address >= region.end;
    const auto gap = static_cast<size_t>(is_after ? address - region.end : region.begin - address);
    if (gap >= distance) continue;
    nearest = &region;
    distance = gap;
    after = is_after;
  }
  if (!nearest) return "an address far from every buffer";
  return bytes_text(distance) + (after ? " past the end of " : " before ") + binding_name(*nearest);
}

std::string Checker::unbound_buffers() const {
  std::string list;
  for (int index : worker_->state().dispatch->kernel->buffers) {
    if (!worker_->state().arguments.buffers[index]) list += (list.empty() ? "" : ", ") + std::to_string(index);
  }
  return list.empty() ? "" : " (unbound: buffer " + list + ")";
}

/// The kernel cannot go on after that: it might change anybody's memory.
void Checker::report_outside(const Access& access) {
  const std::string what = std::string(access.writes() ? "write of " : "read of ") + bytes_text(access.bytes) + " at " +
                           line_mark(access.place) + ", ";
  const auto number = reinterpret_cast<uintptr_t>(access.address);
  if (number < kNearNull) {
    worker_->fail("access through a null pointer: " + what + "offset " + std::to_string(number) + unbound_buffers());
  }
  const ReachableRegion* reachable = worker_->find_region(access.address);
  if (!reachable) {
    if (const MemoryRegion* region = region_at(access.address)) {
      worker_->fail("access to memory that is neither bound nor resident: " + what + "byte " +
                    std::to_string(access.address - region->data()) + " of " + region->description());
    }
    worker_->fail("access out of bounds: " + what + name_place(access.address));
  }
  worker_->fail("access out of bounds: " + what + name_place(access.address) + ", which ends " +
                bytes_text(static_cast<size_t>(reachable->end - access.address)) + " later");
}

// ---- what an access does -------------------------------------------------------------------------------------------

void Checker::access_read_only(const Access& access) {
  if (access.writes()) {
    worker_->fail("store to read-only memory: " +
                  describe(access, static_cast<size_t>(access.address - target_->begin)));
  }
  const auto offset = static_cast<size_t>(access.address - target_->begin);
  // A dispatch is known by its first threadgroup.
  bytes_read_ += target_->region->marks->mark(offset, access.bytes, static_cast<uint32_t>(first_run_));
}

/// Bytes with the same past are looked at together: mostly it is all of them.
void Checker::access_cells(const Access& access) {
  const Stamp stamp = now();
  const size_t begin = target_->first_cell + static_cast<size_t>(access.address - target_->begin);
  const size_t end = begin + access.bytes;
  const Stamp* writers = target_->cells->writers;
  const Stamp* readers = target_->cells->readers;
  for (size_t first = begin; first < end;) {
    size_t next = first + 1;
    while (next < end && writers[next] == writers[first] && readers[next] == readers[first]) ++next;
    if (access.kind == AccessKind::kWrite) {
      write_cells(access, first, next - first, stamp);
    } else if (access.atomic()) {
      change_cells(access, first, next - first, stamp);
    } else {
      read_cells(access, first, next - first, stamp);
    }
    first = next;
  }
}

void Checker::read_cells(const Access& access, size_t first, size_t count, Stamp now) {
  Shadow& cells = *target_->cells;
  const Stamp writer = cells.writers[first];
  const Stamp reader = cells.readers[first];
  if (races(writer, now)) report_race(access, first, writer, true, now);
  if (!counts(reader)) {
    require_written(access, first);
    if (target_->region) bytes_read_ += count;
  }
  const Stamp after = counts(reader) ? combined(reader, now) : now;
  if (after == reader) return;
  std::fill_n(cells.readers + first, count, after);
  std::fill_n(cells.read_places + first, count, access.place);
}

void Checker::write_cells(const Access& access, size_t first, size_t count, Stamp now) {
  Shadow& cells = *target_->cells;
  const Stamp writer = cells.writers[first];
  const Stamp reader = cells.readers[first];
  if (races(writer, now)) report_race(access, first, writer, true, now);
  if (races(reader, now)) report_race(access, first, reader, false, now);
  if (target_->region && !counts(writer)) bytes_written_ += count;
  std::fill_n(cells.writers + first, count, now);
  std::fill_n(cells.write_places + first, count, access.place);
}

/// Atomic accesses conflict with plain ones only. A load is not remembered, so a plain write after it is not found.
void Checker::change_cells(const Access& access, size_t first, size_t count, Stamp now) {
  Shadow& cells = *target_->cells;
  const Stamp writer = cells.writers[first];
  const Stamp reader = cells.readers[first];
  if (!writer.atomic() && races(writer, now)) report_race(access, first, writer, true, now);
  if (access.kind == AccessKind::kAtomicLoad) {
    require_written(access, first);
    return;
  }
  if (races(reader, now)) report_race(access, first, reader, false, now);
  if (target_->region && !counts(writer)) bytes_written_ += count;
  const bool continues = writer.atomic() && counts(writer);
  std::fill_n(cells.writers + first, count, (continues ? combined(writer, now) : now).as_atomic());
  std::fill_n(cells.write_places + first, count, access.place);
}

void Checker::require_written(const Access& access, size_t cell) {
  const Stamp writer = target_->cells->writers[cell];
  if (target_->region) {
    if (!writer.is_nobody() || target_->region->host_wrote(cell, 1)) return;
    worker_->report("read of device memory that nobody has written: " + describe(access, cell),
                    key_of(access.place, 0, 1));
  } else if (writer.run() != run_) {
    worker_->report("read of threadgroup memory that this threadgroup has not written: " + describe(access, cell),
                    key_of(access.place, 0, 2));
  }
}

// ---- messages ------------------------------------------------------------------------------------------------------

std::string Checker::describe(const Access& access, size_t cell) const {
  const std::string what = access.atomic() ? "atomic access" : access.writes() ? "write" : "read";
  return what + " of " + bytes_text(access.bytes) + " at " + line_mark(access.place) + ", " +
         name_place(target_->begin + (cell - target_->first_cell));
}

std::string Checker::describe_other(Stamp other, const char* verb, CodeOffset place, Stamp now) const {
  std::string who = "thread " + std::to_string(other.thread());
  if (other.spread() != Spread::kThread) who = "several threads, " + who + " among them,";
  if (other.run() != now.run()) who += " of threadgroup " + std::to_string(threadgroups_[other.run() - first_run_]);
  return "conflicts with the " + std::string(verb) + " by " + who + " at " + line_mark(place);
}

void Checker::report_race(const Access& access, size_t cell, Stamp other, bool other_writes, Stamp now) {
  const CodeOffset place = other_writes ? target_->cells->write_places[cell] : target_->cells->read_places[cell];
  const char* verb = !other_writes ? "read" : other.atomic() ? "atomic access" : "write";
  const uint64_t key = key_of(access.place, place, other_writes ? 3 : 4);
  const std::string text = "data race: " + describe(access, cell) + "; " + describe_other(other, verb, place, now);
  if (!other_writes || access.kind != AccessKind::kWrite) {
    worker_->report(text, key);
    return;
  }
  // Bytes with different pasts may race in one access: the first of them is as good as all.
  if (race_pending_ || !reported_races_.insert(key).second) return;
  pending_ = {access.address, {access.address, access.address + access.bytes}, worker_->running_thread() + text};
  race_pending_ = true;
}

void Checker::settle_race() {
  race_pending_ = false;
  const bool same = std::memcmp(pending_.address, pending_.before.data(), pending_.before.size()) == 0;
  std::vector<std::string>& list = same ? notes_ : late_errors_;
  if (list.size() < kMostRaces) list.push_back(pending_.message + (same ? "; both wrote the same" : ""));
}

void Checker::misaligned(const void* address, unsigned long alignment, CodeOffset place) {
  if (!worker_) return;
  worker_->report("misaligned access: a vector that needs an alignment of " + std::to_string(alignment) + " at " +
                      line_mark(place) + ", " + name_place(static_cast<const std::byte*>(address)),
                  key_of(place, 0, 5));
}

// ---- hooks ---------------------------------------------------------------------------------------------------------

const CheckerHooks kHooks = {
    .dispatch_begins = [](Worker& worker) { the_checker.begcounts(worker); },
    .threadgroup_begins = [](Worker&) { the_checker.begin_threadgroup(); },
    .dispatch_ended = [](Worker&, Outcome& outcome) { the_checker.end_dispatch(outcome); },
    .host_wrote = [](MemoryRegion& region, size_t offset,
                     size_t bytes) { shadow_of(region).add_host_range(offset, bytes); },
};

[[maybe_unused]] const bool installed = (install_checker(&kHooks), true);

/// One of the calls below.
inline void on_access(const volatile void* address, size_t bytes, AccessKind kind, const void* return_address) {
  auto* at = static_cast<std::byte*>(const_cast<void*>(address));
  the_checker.access({at, bytes, kind, code_offset(return_address)});
}

}  // namespace

namespace abi {

void misaligned(const void* address, unsigned long alignment) {
  the_checker.misaligned(address, alignment, code_offset(__builtin_return_address(0)));
}

}  // namespace abi
}  // namespace marlin::emulator

// ---- what instrumented code calls ----------------------------------------------------------------------------------

using marlin::emulator::AccessKind;
using marlin::emulator::on_access;

// The caller's place in its code: these functions must not be inlined.
#define MARLIN_CALLER __builtin_return_address(0)

#define MARLIN_PLAIN_ACCESSES(prefix, bytes)                          \
  extern "C" void __tsan_##prefix##read##bytes(void* address) {       \
    on_access(address, bytes, AccessKind::kRead, MARLIN_CALLER);      \
  }                                                                   \
  extern "C" void __tsan_##prefix##write##bytes(void* address) {      \
    on_access(address, bytes, AccessKind::kWrite, MARLIN_CALLER);     \
  }                                                                   \
  extern "C" void __tsan_##prefix##read_write##bytes(void* address) { \
    on_access(address, bytes, AccessKind::kRead, MARLIN_CALLER);      \
    on_access(address, bytes, AccessKind::kWrite, MARLIN_CALLER);     \
  }
MARLIN_PLAIN_ACCESSES(, 1)
MARLIN_PLAIN_ACCESSES(, 2)
MARLIN_PLAIN_ACCESSES(, 4)
MARLIN_PLAIN_ACCESSES(, 8)
MARLIN_PLAIN_ACCESSES(, 16)
MARLIN_PLAIN_ACCESSES(unaligned_, 2)
MARLIN_PLAIN_ACCESSES(unaligned_, 4)
MARLIN_PLAIN_ACCESSES(unaligned_, 8)
MARLIN_PLAIN_ACCESSES(unaligned_, 16)

extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}

extern "C" void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  on_access(from, bytes, AccessKind::kRead, MARLIN_CALLER);
  on_access(to, bytes, AccessKind::kWrite, MARLIN_CALLER);
  return std::memcpy(to, from, bytes);
}
extern "C" void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  on_access(from, bytes, AccessKind::kRead, MARLIN_CALLER);
  on_access(to, bytes, AccessKind::kWrite, MARLIN_CALLER);
  return std::memmove(to, from, bytes);
}
extern "C" void* __tsan_memset(void* to, int value, size_t bytes) {
  on_access(to, bytes, AccessKind::kWrite, MARLIN_CALLER);
  return std::memset(to, value, bytes);
}

// The shim's atomics, all relaxed: load, store, exchange and compare-exchange.
#define MARLIN_ATOMIC_ACCESSES(bits)                                                                                 \
  extern "C" uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* at, int) {                     \
    on_access(at, sizeof *at, AccessKind::kAtomicLoad, MARLIN_CALLER);                                               \
    return __atomic_load_n(at, __ATOMIC_RELAXED);                                                                    \
  }                                                                                                                  \
  extern "C" void __tsan_atomic##bits##_store(volatile uint##bits##_t* at, uint##bits##_t value, int) {              \
    on_access(at, sizeof *at, AccessKind::kAtomicChange, MARLIN_CALLER);                                             \
    __atomic_store_n(at, value, __ATOMIC_RELAXED);                                                                   \
  }                                                                                                                  \
  extern "C" uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t* at, uint##bits##_t value, int) { \
    on_access(at, sizeof *at, AccessKind::kAtomicChange, MARLIN_CALLER);                                             \
    return __atomic_exchange_n(at, value, __ATOMIC_RELAXED);                                                         \
  }                                                                                                                  \
  extern "C" uint##bits##_t __tsan_atomic##bits##_compare_exchange_val(                                              \
      volatile uint##bits##_t* at, uint##bits##_t expected, uint##bits##_t value, int, int) {                        \
    on_access(at, sizeof *at, AccessKind::kAtomicChange, MARLIN_CALLER);                                             \
    __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);                    \
    return expected;                                                                                                 \
  }
MARLIN_ATOMIC_ACCESSES(8)
MARLIN_ATOMIC_ACCESSES(16)
MARLIN_ATOMIC_ACCESSES(32)
MARLIN_ATOMIC_ACCESSES(64)
