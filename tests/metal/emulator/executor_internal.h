// What the files of the executor share, and what a checker gets to see.
//
// A checker is a file that defines the functions which clang calls from instrumented code (__tsan_read4, …). In them it
// asks running_worker() who accesses memory; thread_stamp() says when, relative to barriers; Worker::find_region and
// Worker::variables say where. It installs a CheckerHooks before main to be told of dispatches and of what the host
// wrote.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <unordered_set>
#include <vector>

#include "metal/emulator/abi.h"
#include "metal/emulator/emulator.h"

namespace marlin::emulator {

inline constexpr size_t kPageBytes = 4096;
inline constexpr unsigned kMostThreads = 1024;
inline constexpr size_t kMostThreadgroupBytes = 32768;
inline constexpr size_t kMostInlineBytes = 4096;
inline constexpr size_t kStackBytes = 64 << 10;
inline constexpr size_t kStacksBytes = kStackBytes * kMostThreads;

// ---- memory (memory.cc) --------------------------------------------------------------------------------------------

/// Every Region is one.
class MemoryRegion : public Region {
 public:
  /// Takes care of the memory by itself when `mapping_bytes` is not 0.
  MemoryRegion(std::byte* data, size_t bytes, bool read_only, std::byte* mapping, size_t mapping_bytes);
  ~MemoryRegion() override;
  MemoryRegion(const MemoryRegion&) = delete;
  MemoryRegion& operator=(const MemoryRegion&) = delete;

  void written_by_host(size_t offset, size_t bytes) override;
  /// False: adopted, and counts as written.
  bool allocated() const { return mapping_bytes_ > 0; }
  /// "buffer 'logits'", or its size if it has no label.
  std::string description() const;

  /// The checker's own: what it knows of each byte.
  std::shared_ptr<void> checker_state;

 private:
  std::byte* mapping_;
  size_t mapping_bytes_;
};

/// The region that has this address, bound or not; null if there is none.
const MemoryRegion* region_at(const void* address);
/// Where an address lies, for messages: "12 bytes past the end of buffer 'logits' (256 bytes)". Empty if it is far from
/// every region.
std::string describe_address(const void* address);

// ---- kernels (registry.cc) -----------------------------------------------------------------------------------------

/// Null if it was not compiled that way.
const abi::KernelRegistration* compiled_kernel(const std::string& name, bool checked);
/// Sets the variables of the kernel's file for one dispatch. "" or what is wrong with the values.
std::string set_function_constants(const abi::KernelRegistration& kernel,
                                   const std::map<int, std::vector<std::byte>>& values);

// ---- a dispatch ----------------------------------------------------------------------------------------------------

/// A region that the kernel may touch in this dispatch.
struct ReachableRegion {
  std::byte* begin;
  std::byte* end;
  MemoryRegion* region;
  int index;  // of its first binding, -1 if it is only resident
};

/// What all workers of a dispatch share.
struct DispatchState {
  const Dispatch* dispatch;
  Options options;
  uint64_t number;  // counts all dispatches from 1
  const abi::KernelRegistration* kernel;
  abi::Arguments arguments{};
  std::vector<ReachableRegion> regions;  // by address
};

// ---- threads (worker.cc) -------------------------------------------------------------------------------------------

/// A place in the .metal file where a thread waits.
struct Site {
  const char* file;
  int line;
  int operation;  // abi::SimdOperation or kThreadgroupBarrier
  bool operator==(const Site& other) const {
    return file == other.file && line == other.line && operation == other.operation;
  }
};

enum class FiberState : uint8_t { kRunnable, kAwaitsSimdgroup, kAwaitsThreadgroup, kDone };

/// One thread of the GPU.
struct Fiber {
  void* stack_pointer;
  Fiber* next_in_simdgroup;  // a ring, in the schedule's order
  FiberState state;
  Site site;
  abi::ThreadContext context;
};

/// How many barriers that order this kind of memory have passed.
struct Epochs {
  unsigned device = 0;
  unsigned threadgroup = 0;
  void pass(unsigned flags) {
    device += (flags & abi::kOrderDevice) != 0;
    threadgroup += (flags & abi::kOrderThreadgroup) != 0;
  }
};

struct Simdgroup {
  abi::Exchange exchange;
  Fiber* lanes[abi::kSimdWidth];
  unsigned order[abi::kSimdWidth];  // in which lanes start
  unsigned count;
  unsigned live;
  unsigned runnable;
  unsigned arrived;
  unsigned set;            // of the exchange, for the next operation
  unsigned active[2];      // lanes that took part in the operation of each set
  const Fiber* made_last;  // has waited, and shall compute the result since the other lanes have returned
  Epochs epochs;           // of simdgroup_barrier
};

struct ThreadgroupVariable {
  const void* key;
  std::byte* data;
  size_t bytes;
  std::string name;
};

/// Who accesses memory, and when. Two accesses of one dispatch are ordered if they are the same thread's, or if a
/// barrier of the right kind lies between them: of the threadgroup, or of the simdgroup if both are in it.
struct ThreadStamp {
  uint64_t dispatch;
  uint64_t threadgroup;
  unsigned thread;
  Epochs threadgroup_epochs;
  Epochs simdgroup_epochs;
};

/// Runs threadgroups, one after the other, on the thread that calls it.
class Worker {
 public:
  Worker();
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void begin_dispatch(const DispatchState& state, unsigned worker_index);
  /// False if the threadgroup was abandoned for an error.
  bool run_threadgroup(abi::Triple position, uint64_t linear_index);
  void end_dispatch();

  // ---- for the checker ----
  const DispatchState& state() const { return *state_; }
  const abi::ThreadContext& thread() const { return fiber_->context; }
  ThreadStamp thread_stamp() const {
    const abi::ThreadContext& context = fiber_->context;
    return {state_->number, threadgroup_, context.index_in_threadgroup, epochs_, simdgroups_[context.simdgroup].epochs};
  }
  uint64_t threadgroup_index() const { return threadgroup_; }
  /// "kernel 'k', threadgroup (0,0,0), thread 7 (simdgroup 0, lane 7): ", as reports begin.
  std::string running_thread() const;
  /// The region of this dispatch that has this address; null if there is none.
  const ReachableRegion* find_region(const std::byte* address) const;
  /// Whether the address is in the memory in which threadgroup variables are, or in the guards around it.
  bool in_threadgroup_memory(const std::byte* address) const;
  std::byte* threadgroup_memory() const { return threadgroup_memory_; }
  size_t threadgroup_memory_bytes() const;
  const std::vector<ThreadgroupVariable>& variables() const { return variables_; }
  /// The fibers' stacks: private to a thread, unless a pointer escapes.
  bool in_stacks(const std::byte* address) const { return address >= stacks_ && address < stacks_ + kStacksBytes; }
  /// Objects of the executor that kernels read: arguments, what a thread knows of itself, values of simd operations.
  bool in_own_objects(const std::byte* address) const;
  /// Adds an error that names the running thread. Says each thing once: `key` is what makes it the same; 0: always new.
  void report(const std::string& message, uint64_t key = 0);
  /// The same, and the dispatch ends here: does not return.
  [[noreturn]] void fail(const std::string& message);

  // ---- for kernels, by way of abi.h ----
  abi::Arrival simd_arrive(const void* value, unsigned bytes, Site site);
  void simd_release();
  void simdgroup_barrier(unsigned flags, Site site);
  void threadgroup_barrier(unsigned flags, Site site);
  void* threadgroup_variable(const void* key, size_t bytes, size_t alignment, const char* name);

  // ---- for the executor ----
  bool running() const { return running_; }
  const std::vector<std::string>& errors() const { return errors_; }
  uint64_t errors_left_out() const { return errors_left_out_; }
  size_t most_threadgroup_bytes() const { return most_threadgroup_bytes_; }
  [[noreturn]] void fault(const void* address);

 private:
  static void fiber_main();
  void map_memory();
  void begin_threadgroup(abi::Triple position, uint64_t linear_index);
  void order_simdgroups();
  void begin_simdgroup(unsigned index);
  void begin_fibers(abi::Triple position);
  Fiber* first_fiber();
  void enter(Fiber* fiber);
  void switch_to(Fiber* fiber);
  void run_others();
  [[noreturn]] void abandon();
  Fiber* resolve_wait();
  Fiber* complete_simd_operation(Simdgroup& simdgroup);
  void report_divergent_barrier();
  void record(std::string message);
  Simdgroup& own_simdgroup() { return simdgroups_[fiber_->context.simdgroup]; }

  const DispatchState* state_ = nullptr;
  bool running_ = false;
  bool abandoned_ = false;
  std::mt19937_64 random_;

  std::byte* stacks_ = nullptr;
  std::byte* threadgroup_memory_ = nullptr;
  std::vector<Fiber> fibers_;
  std::vector<Simdgroup> simdgroups_;
  std::vector<unsigned> simdgroup_order_;
  std::vector<unsigned> simdgroup_place_;  // in that order
  Fiber* fiber_ = nullptr;                 // that runs
  void* own_stack_pointer_ = nullptr;      // of the thread itself, while a fiber runs

  uint64_t threadgroup_ = 0;
  unsigned n_threads_ = 0;
  unsigned n_simdgroups_ = 0;
  unsigned live_ = 0;
  unsigned at_barrier_ = 0;
  Epochs epochs_;
  abi::Arguments arguments_{};

  std::vector<ThreadgroupVariable> variables_;
  size_t threadgroup_used_ = 0;   // with gaps
  size_t threadgroup_bytes_ = 0;  // without
  size_t most_threadgroup_bytes_ = 0;

  std::vector<std::string> errors_;
  uint64_t errors_left_out_ = 0;
  std::unordered_set<uint64_t> reported_;
};

/// The worker whose kernel this thread runs; null outside of kernels.
Worker* running_worker();
void set_running_worker(Worker* worker);

// ---- faults (faults.cc) --------------------------------------------------------------------------------------------

/// Faults of kernels on this thread become errors from now on.
void catch_faults_on_this_thread();

// ---- checker -------------------------------------------------------------------------------------------------------

struct CheckerHooks {
  /// Calls come with the executor's lock held, so that no kernel runs; host_wrote is called without it. dispatch_ended
  /// may change the messages of the outcome.
  void (*dispatch_begins)(Worker& worker);
  void (*threadgroup_begins)(Worker& worker);
  void (*dispatch_ended)(Worker& worker, Outcome& outcome);
  void (*host_wrote)(MemoryRegion& region, size_t offset, size_t bytes);
};

/// Null unless the program has a checker.
const CheckerHooks* checker_hooks();
void install_checker(const CheckerHooks* hooks);

}  // namespace marlin::emulator
