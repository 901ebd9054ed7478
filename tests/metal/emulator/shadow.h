// What the checker knows of each byte of memory: who wrote it last and who has read it since, and when, relative to
// barriers. Two accesses conflict if they are of different threads, one of them writes, and nothing orders them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "metal/emulator/executor_internal.h"

namespace marlin::emulator {

/// Whose accesses a Stamp stands for.
enum class Spread : unsigned { kThread, kSimdgroup, kThreadgroup, kGrid };

/// Who accessed a byte, and when. Threadgroups are numbered across all dispatches from 1, so 0 means nobody. The counts
/// of barriers wrap around: accesses are then taken for unordered that are exactly 2048 barriers apart.
class Stamp {
 public:
  Stamp() = default;
  Stamp(uint64_t run, unsigned thread, unsigned threadgroup_epoch, unsigned simdgroup_epoch)
      : bits_(run << 34 | uint64_t{thread} << 24 | uint64_t{threadgroup_epoch & 0x7FF} << 13 |
              uint64_t{simdgroup_epoch & 0x3FF} << 3) {}

  uint64_t run() const { return bits_ >> 34; }  // of a threadgroup
  unsigned thread() const { return static_cast<unsigned>(bits_ >> 24) & 0x3FF; }
  unsigned simdgroup() const { return thread() / abi::kSimdWidth; }
  unsigned threadgroup_epoch() const { return static_cast<unsigned>(bits_ >> 13) & 0x7FF; }
  unsigned simdgroup_epoch() const { return static_cast<unsigned>(bits_ >> 3) & 0x3FF; }
  bool atomic() const { return (bits_ & 4) != 0; }
  Spread spread() const { return static_cast<Spread>(bits_ & 3); }

  Stamp with(Spread spread) const { return Stamp((bits_ & ~uint64_t{3}) | static_cast<unsigned>(spread)); }
  Stamp as_atomic() const { return Stamp(bits_ | 4); }
  bool is_nobody() const { return bits_ == 0; }
  bool operator==(Stamp other) const { return bits_ == other.bits_; }

 private:
  explicit Stamp(uint64_t bits) : bits_(bits) {}
  uint64_t bits_ = 0;
};

/// Whether all accesses of `old`, which are of the same dispatch, happen before `now`.
inline bool ordered(Stamp old, Stamp now) {
  if (old.run() != now.run() || old.spread() == Spread::kGrid) return false;
  if (old.threadgroup_epoch() != now.threadgroup_epoch()) return true;
  if (old.spread() == Spread::kThreadgroup || old.simdgroup() != now.simdgroup()) return false;
  if (old.simdgroup_epoch() != now.simdgroup_epoch()) return true;
  return old.spread() == Spread::kThread && old.thread() == now.thread();
}

/// A stamp for the accesses of `old`, which are of the same dispatch, and `now`, without those that nobody after `now`
/// can conflict with unless they conflict with `now` too.
inline Stamp combined(Stamp old, Stamp now) {
  if (old.run() != now.run() || old.spread() == Spread::kGrid) return now.with(Spread::kGrid);
  if (old.threadgroup_epoch() != now.threadgroup_epoch()) return now;
  if (old.spread() == Spread::kThreadgroup) return old;
  if (old.simdgroup() != now.simdgroup()) return old.with(Spread::kThreadgroup);
  if (old.simdgroup_epoch() != now.simdgroup_epoch()) return now;
  return old.thread() == now.thread() ? old : old.with(Spread::kSimdgroup);
}

/// The place of an access: its return address, relative to the program's start.
using CodeOffset = uint32_t;

/// Arrays with an element for each byte of some memory. Pages come into being when they are used.
class Shadow {
 public:
  explicit Shadow(size_t bytes);
  ~Shadow();
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;

  Stamp* writers;  // the last plain write, or all atomic ones since
  Stamp* readers;  // since the last barrier or so: see combined()
  CodeOffset* write_places;
  CodeOffset* read_places;

 private:
  void* mapping_;
  size_t mapping_bytes_;
};

/// Memory that nobody writes has no races: it is only counted which bytes a dispatch reads.
class ReadMarks {
 public:
  static constexpr size_t kBytes = 32;
  struct Block {
    uint32_t dispatch;
    uint32_t mask;
  };
  explicit ReadMarks(size_t bytes);
  ~ReadMarks();
  ReadMarks(const ReadMarks&) = delete;
  ReadMarks& operator=(const ReadMarks&) = delete;

  /// How many of these bytes were not marked yet in this dispatch.
  unsigned mark(size_t offset, size_t bytes, uint32_t dispatch);

 private:
  Block* blocks_;
  size_t mapping_bytes_;
};

/// What the checker keeps with a region.
class RegionShadow {
 public:
  explicit RegionShadow(const MemoryRegion& region);

  bool read_only() const { return marks != nullptr; }
  /// The host writes.
  void add_host_range(size_t offset, size_t bytes);
  bool host_wrote(size_t offset, size_t bytes) const;

  std::unique_ptr<Shadow> cells;     // null if it is read-only
  std::unique_ptr<ReadMarks> marks;  // null unless it is

 private:
  mutable std::mutex mutex_;
  std::map<size_t, size_t> host_ranges_;  // end of each by its begin; disjoint
};

/// Made when it is first asked for.
RegionShadow& shadow_of(MemoryRegion& region);

}  // namespace marlin::emulator
