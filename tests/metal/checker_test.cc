// Kernels with one defect each: the checker finds it and names the line. And legal ones: it is silent.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <numeric>

#include "metal/emulator/emulator.h"

namespace marlin::emulator {
namespace {

std::shared_ptr<Region> written(std::shared_ptr<Region> region, const std::vector<uint32_t>& words) {
  std::memcpy(region->data(), words.data(), std::min(region->size(), words.size() * 4));
  region->written_by_host(0, region->size());
  return region;
}

/// 1 KiB of zeros, or of the numbers from 0.
std::shared_ptr<Region> zeros(size_t bytes = 1024) {
  return written(Region::allocate(bytes), std::vector<uint32_t>(bytes / 4));
}
std::shared_ptr<Region> numbers(size_t bytes = 1024) {
  std::vector<uint32_t> words(bytes / 4);
  std::iota(words.begin(), words.end(), 0);
  return written(Region::allocate(bytes), words);
}

Dispatch dispatch_of(const std::string& kernel, std::vector<std::shared_ptr<Region>> buffers = {}) {
  Dispatch dispatch;
  dispatch.kernel = find_kernel(kernel);
  EXPECT_NE(dispatch.kernel, nullptr) << kernel;
  for (size_t i = 0; i < buffers.size(); ++i) dispatch.buffers[i].region = buffers[i];
  dispatch.threads_per_threadgroup = {64, 1, 1};
  return dispatch;
}

Outcome run_checked(const Dispatch& dispatch, Schedule schedule = Schedule::kForward) {
  return run(dispatch, {schedule, 1, true, 1});
}

/// "tests/metal/defects/races.metal:12" of the line that has this comment.
std::string line_of(const Kernel& kernel, const std::string& comment) {
  std::ifstream file(std::string(MARLIN_SOURCE_DIR) + "/" + kernel.file);
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    const size_t place = line.find("// " + kernel.name + ": ");
    if (place != std::string::npos && line.find(comment, place) != std::string::npos) {
      return kernel.file + ":" + std::to_string(number);
    }
  }
  ADD_FAILURE() << "no line of " << kernel.name << " is marked '" << comment << "'";
  return "?";
}

constexpr Schedule kSchedules[] = {Schedule::kForward, Schedule::kReverse, Schedule::kRandom};

/// In every schedule: an error that begins as `what` says, at the marked line.
void expect_defect(const Dispatch& dispatch, const std::string& what, bool has_line = true) {
  for (const Schedule schedule : kSchedules) {
    const Outcome outcome = run_checked(dispatch, schedule);
    ASSERT_FALSE(outcome.errors.empty()) << dispatch.kernel->name << ": nothing found";
    EXPECT_LE(outcome.errors.size(), 22u);
    const std::string line = has_line ? line_of(*dispatch.kernel, "line") : "";
    const auto found = std::count_if(outcome.errors.begin(), outcome.errors.end(), [&](const std::string& error) {
      return error.find(what) != std::string::npos && error.find(line) != std::string::npos;
    });
    EXPECT_GT(found, 0) << "expected '" << what << "' at " << line << ", got " << outcome.errors[0];
  }
}

/// A race whose two accesses are at the marked lines.
void expect_race(const Dispatch& dispatch) {
  expect_defect(dispatch, "data race: ");
  const std::string other = line_of(*dispatch.kernel, "other");
  const Outcome outcome = run_checked(dispatch);
  EXPECT_TRUE(std::any_of(outcome.errors.begin(), outcome.errors.end(),
                          [&](const std::string& error) {
                            return error.find("conflicts with the ") != std::string::npos &&
                                   error.find(other) != std::string::npos;
                          }))
      << "expected a conflict with " << other << ", got " << outcome.errors[0];
}

void expect_silence(const Dispatch& dispatch) {
  for (const Schedule schedule : kSchedules) {
    for (const uint64_t seed : {1, 2, 3}) {
      const Outcome outcome = run(dispatch, {schedule, seed, true, 1});
      for (const std::string& error : outcome.errors) ADD_FAILURE() << error;
      for (const std::string& note : outcome.notes) ADD_FAILURE() << note;
    }
  }
}

Dispatch on_grid(Dispatch dispatch, uint32_t threadgroups) {
  dispatch.threadgroups = {threadgroups, 1, 1};
  return dispatch;
}

// ---- races ---------------------------------------------------------------------------------------------------------

TEST(RaceTest, MissingBarrier) {
  expect_race(dispatch_of("race_missing_barrier", {zeros()}));
}
TEST(RaceTest, WriteAfterRead) {
  expect_race(dispatch_of("race_write_after_read", {zeros()}));
}
TEST(RaceTest, BarrierForThreadgroupMemoryOrdersNoDeviceMemory) {
  expect_race(dispatch_of("race_device_wrong_flags", {zeros(), zeros()}));
}
TEST(RaceTest, BarrierForDeviceMemoryOrdersNoThreadgroupMemory) {
  expect_race(dispatch_of("race_threadgroup_wrong_flags", {zeros()}));
}
TEST(RaceTest, WritesOfTwoThreadgroups) {
  expect_race(on_grid(dispatch_of("race_across_threadgroups", {zeros()}), 4));
}
TEST(RaceTest, ReadOfWhatAnotherThreadgroupWrites) {
  expect_race(on_grid(dispatch_of("race_read_across_threadgroups", {zeros(), zeros()}), 4));
}
TEST(RaceTest, InSimdgroup) {
  expect_race(dispatch_of("race_in_simdgroup", {zeros()}));
}
TEST(RaceTest, SimdOperationOrdersNothing) {
  expect_race(dispatch_of("race_after_simd_operation", {zeros()}));
}
TEST(RaceTest, SimdgroupBarrierOrdersItsSimdgroupOnly) {
  expect_race(dispatch_of("race_across_simdgroups", {zeros()}));
}
TEST(RaceTest, PlainAccessBesidesAtomicOnes) {
  expect_race(dispatch_of("race_with_atomic", {zeros(), zeros()}));
}
TEST(RaceTest, WriteWhatManyMayBeReading) {
  expect_race(dispatch_of("race_many_readers", {zeros()}));
}
TEST(RaceTest, EqualValuesAreANote) {
  const Dispatch dispatch = dispatch_of("note_equal_values", {zeros()});
  const Outcome outcome = run_checked(dispatch);
  EXPECT_TRUE(outcome.errors.empty()) << outcome.errors[0];
  ASSERT_EQ(outcome.notes.size(), 1u);
  EXPECT_NE(outcome.notes[0].find(line_of(*dispatch.kernel, "line")), std::string::npos) << outcome.notes[0];
}
TEST(RaceTest, MessageNamesBothThreads) {
  const Outcome outcome = run_checked(on_grid(dispatch_of("race_across_threadgroups", {zeros()}), 2));
  ASSERT_EQ(outcome.errors.size(), 1u);
  const std::string line = "tests/metal/defects/races.metal:" + std::to_string(36);
  EXPECT_EQ(outcome.errors[0],
            "kernel 'race_across_threadgroups', threadgroup (1,0,0), thread 0 (simdgroup 0, lane 0): data race: write "
            "of 4 bytes at " +
                line +
                ", byte 0 of buffer(0), a buffer of 1024 bytes; conflicts with the write by thread 0 of "
                "threadgroup 0 at " +
                line);
}

// ---- memory --------------------------------------------------------------------------------------------------------

TEST(MemoryTest, ThreadgroupMemoryNeverWritten) {
  const std::string what = "read of threadgroup memory that this threadgroup has not written";
  expect_defect(dispatch_of("unwritten_threadgroup", {zeros()}), what);
  expect_defect(on_grid(dispatch_of("unwritten_threadgroup", {zeros()}), 3), what);
}
TEST(MemoryTest, DeviceMemoryNeverWritten) {
  const std::string what = "read of device memory that nobody has written";
  expect_defect(dispatch_of("unwritten_device", {Region::allocate(1024), zeros()}), what);
  auto half = Region::allocate(256);
  half->written_by_host(0, 128);
  const Dispatch dispatch = dispatch_of("unwritten_device", {half, zeros()});
  const Outcome outcome = run_checked(dispatch);
  ASSERT_EQ(outcome.errors.size(), 2u);  // and the count of those left out
  EXPECT_NE(outcome.errors[0].find("byte 128 of buffer(0)"), std::string::npos) << outcome.errors[0];
  half->written_by_host(128, 128);
  EXPECT_TRUE(run_checked(dispatch).errors.empty());
}
TEST(MemoryTest, WhatAKernelWroteIsWritten) {
  auto x = Region::allocate(256);
  EXPECT_TRUE(run_checked(dispatch_of("legal_own_writes", {x})).errors.empty());
  EXPECT_TRUE(run_checked(dispatch_of("unwritten_device", {x, zeros()})).errors.empty());
}
TEST(MemoryTest, AdoptedMemoryIsWritten) {
  std::vector<float> values(64);
  for (const bool read_only : {false, true}) {
    auto x = Region::adopt(values.data(), 256, read_only);
    EXPECT_TRUE(run_checked(dispatch_of("unwritten_device", {x, zeros()})).errors.empty());
  }
}
TEST(MemoryTest, ReadOutOfBounds) {
  expect_defect(dispatch_of("read_out_of_bounds", {zeros(256), zeros()}), "0 bytes past the end of buffer(0)");
  std::vector<float> values(65);
  auto x = Region::adopt(values.data(), 256);
  expect_defect(dispatch_of("read_out_of_bounds", {x, zeros()}), "0 bytes past the end of buffer(0)");
}
TEST(MemoryTest, ReadPartlyOutOfBounds) {
  expect_defect(dispatch_of("read_out_of_bounds", {zeros(258), zeros()}), "byte 256 of buffer(0)");
}
TEST(MemoryTest, WriteOutOfBounds) {
  expect_defect(dispatch_of("write_out_of_bounds", {nullptr, zeros(256)}), "past the end of buffer(1)");
}
TEST(MemoryTest, AtomicOutOfBounds) {
  expect_defect(dispatch_of("atomic_out_of_bounds", {zeros(252)}), "0 bytes past the end of buffer(0)");
}
TEST(MemoryTest, ThreadgroupArgumentOutOfBounds) {
  Dispatch dispatch = dispatch_of("threadgroup_out_of_bounds", {zeros()});
  dispatch.threadgroup_bytes[0] = 240;
  expect_defect(dispatch, "past the end of threadgroup 'threadgroup(0)' (240 bytes)");
}
TEST(MemoryTest, UnboundBuffer) {
  expect_defect(dispatch_of("unbound_buffer", {nullptr, zeros()}), "(unbound: buffer 0)");
}
TEST(MemoryTest, NotResident) {
  auto x = zeros();
  auto addresses = Region::allocate(8);
  const std::byte* address = x->data();
  std::memcpy(addresses->data(), &address, 8);
  addresses->written_by_host(0, 8);
  Dispatch dispatch = dispatch_of("not_resident", {addresses, zeros()});
  expect_defect(dispatch, "neither bound nor resident");
  dispatch.resident = {x};
  expect_silence(dispatch);
}
TEST(MemoryTest, StoreToReadOnly) {
  std::vector<float> values(64);
  expect_defect(dispatch_of("read_only_store", {Region::adopt(values.data(), 256, true)}), "store to read-only memory");
}
TEST(MemoryTest, MisalignedVector) {
  expect_defect(dispatch_of("misaligned_vector", {zeros(), zeros()}), "misaligned");
}
TEST(MemoryTest, ArrayOverflows) {
  for (const char* kernel : {"stack_overflow", "table_overflow", "vector_overflow"}) {
    expect_defect(dispatch_of(kernel, {numbers(), zeros()}), "array index out of bounds");
  }
  expect_defect(dispatch_of("row_overflow", {zeros()}), "array index out of bounds");
}
TEST(MemoryTest, CountsEachByteOnce) {
  std::vector<float> values(64);
  const Outcome own = run_checked(dispatch_of("legal_own_element", {zeros()}));
  EXPECT_EQ(own.bytes_read, 256u);
  EXPECT_EQ(own.bytes_written, 256u);
  for (const bool read_only : {false, true}) {
    const Dispatch dispatch = dispatch_of("legal_broadcast", {Region::adopt(values.data(), 256, read_only), zeros()});
    for (int round = 0; round < 2; ++round) {
      const Outcome outcome = run_checked(on_grid(dispatch, 2));
      EXPECT_EQ(outcome.bytes_read, 16u);
      EXPECT_EQ(outcome.bytes_written, 512u);
    }
  }
}

// ---- execution -----------------------------------------------------------------------------------------------------

TEST(ExecutionTest, LargeShift) {
  expect_defect(dispatch_of("large_shift", {numbers(), zeros()}), "undefined behaviour: shift");
}
TEST(ExecutionTest, ZeroDivision) {
  expect_defect(dispatch_of("zero_division", {numbers(), zeros()}), "undefined behaviour: division by zero");
}
TEST(ExecutionTest, FloatToInteger) {
  expect_defect(dispatch_of("float_to_int", {numbers(), zeros()}), "undefined behaviour: conversion");
}
TEST(ExecutionTest, DivergentBarrier) {
  expect_defect(dispatch_of("divergent_barrier", {zeros()}), "divergent barrier");
}
TEST(ExecutionTest, DivergentSimdOperation) {
  expect_defect(dispatch_of("divergent_simd", {zeros()}), "divergent control flow");
}
TEST(ExecutionTest, TooMuchThreadgroupMemory) {
  expect_defect(dispatch_of("large_threadgroup_memory", {zeros()}), "threadgroup memory of 32800 bytes", false);
}
TEST(ExecutionTest, TooManyThreads) {
  Dispatch dispatch = dispatch_of("harmless", {zeros(), zeros()});
  dispatch.threads_per_threadgroup = {1025, 1, 1};
  expect_defect(dispatch, "1025 threads per threadgroup", false);
}
TEST(ExecutionTest, TooLongSetBytes) {
  Dispatch dispatch = dispatch_of("harmless", {nullptr, zeros()});
  dispatch.buffers[0].bytes.resize(4097);
  expect_defect(dispatch, "setBytes of 4097 bytes", false);
}

// ---- what is legal -------------------------------------------------------------------------------------------------

TEST(LegalTest, Atomics) {
  expect_silence(on_grid(dispatch_of("legal_atomics", {zeros(), zeros()}), 4));
  expect_silence(on_grid(dispatch_of("legal_threadgroup_atomics", {zeros()}), 4));
}
TEST(LegalTest, SimdgroupExchange) {
  expect_silence(on_grid(dispatch_of("legal_simdgroup_exchange", {zeros()}), 4));
}
TEST(LegalTest, AdjacentStores) {
  expect_silence(on_grid(dispatch_of("legal_adjacent_halves", {zeros()}), 4));
  expect_silence(on_grid(dispatch_of("legal_adjacent_bytes", {zeros()}), 4));
}
TEST(LegalTest, DeviceExchange) {
  expect_silence(on_grid(dispatch_of("legal_device_exchange", {zeros(), zeros()}), 4));
}
TEST(LegalTest, ThreadgroupArgument) {
  Dispatch dispatch = on_grid(dispatch_of("legal_threadgroup_argument", {zeros()}), 4);
  dispatch.threadgroup_bytes[0] = 256;
  expect_silence(dispatch);
}
TEST(LegalTest, DisjointWrites) {
  expect_silence(dispatch_of("legal_disjoint_writes", {zeros()}));
  expect_silence(on_grid(dispatch_of("legal_disjoint_writes", {zeros(4096)}), 4));
}
TEST(LegalTest, OwnElements) {
  expect_silence(on_grid(dispatch_of("legal_own_element", {zeros()}), 4));
  expect_silence(on_grid(dispatch_of("legal_own_writes", {Region::allocate(1024)}), 4));
}
TEST(LegalTest, Broadcast) {
  expect_silence(on_grid(dispatch_of("legal_broadcast", {numbers(), zeros()}), 4));
}
TEST(LegalTest, Matrices) {
  expect_silence(on_grid(dispatch_of("legal_matrices", {zeros(), zeros(4096)}), 4));
}
TEST(LegalTest, InlineBytes) {
  Dispatch dispatch = dispatch_of("harmless", {nullptr, zeros()});
  dispatch.buffers[0].bytes.resize(256);
  expect_silence(dispatch);
}

}  // namespace
}  // namespace marlin::emulator
