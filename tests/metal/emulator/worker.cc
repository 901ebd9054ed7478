// One threadgroup at a time: its threads are fibers that take turns on one thread of the host. A fiber runs until it
// waits for others or returns; then the next runnable one of its simdgroup goes on, or one of the next simdgroup. When
// nobody can run, either all have returned or the kernel has diverged.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "metal/emulator/executor_internal.h"
#include "metal/emulator/fiber.h"

namespace marlin::emulator {

namespace abi {
__thread ThreadContext* current = nullptr;
}

namespace {

/// More than Metal has, so that the message about too much can say how much.
constexpr size_t kThreadgroupArenaBytes = 256 << 10;
/// Between variables in checked runs: what lies there belongs to none.
constexpr size_t kVariableGap = 64;
constexpr size_t kArgumentAlignment = 16;
constexpr size_t kMostErrors = 20;
constexpr int kThreadgroupBarrier = -1;

thread_local Worker* the_running_worker = nullptr;

std::byte* map_pages(size_t bytes, int protection) {
  void* mapped = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  return static_cast<std::byte*>(mapped);
}

std::string to_string(const Site& site) {
  return std::string(site.file) + ":" + std::to_string(site.line);
}

std::string to_string(abi::Triple triple) {
  std::string text = std::to_string(triple.x);
  text += ',';
  text += std::to_string(triple.y);
  text += ',';
  text += std::to_string(triple.z);
  return text;
}

std::string to_hex(unsigned mask) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "0x";
  for (int shift = 28; shift >= 0; shift -= 4) text += kDigits[(mask >> shift) & 15];
  return text;
}

abi::Triple triple_of(Size size) {
  return {size.x, size.y, size.z};
}

}  // namespace

Worker* running_worker() {
  return the_running_worker;
}
void set_running_worker(Worker* worker) {
  the_running_worker = worker;
}

// ---- life ----------------------------------------------------------------------------------------------------------

Worker::Worker() : fibers_(kMostThreads), simdgroups_(kMostThreads / abi::kSimdWidth) {
  map_memory();
}

Worker::~Worker() {
  munmap(stacks_, kStacksBytes);
  munmap(threadgroup_memory_ - kPageBytes, kThreadgroupArenaBytes + 2 * kPageBytes);
}

void Worker::map_memory() {
  stacks_ = map_pages(kStacksBytes, PROT_READ | PROT_WRITE);
  for (unsigned i = 0; i < kMostThreads; ++i) mprotect(stacks_ + i * kStackBytes, kPageBytes, PROT_NONE);
  threadgroup_memory_ = map_pages(kThreadgroupArenaBytes + 2 * kPageBytes, PROT_NONE) + kPageBytes;
  mprotect(threadgroup_memory_, kThreadgroupArenaBytes, PROT_READ | PROT_WRITE);
}

void Worker::begin_dispatch(const DispatchState& state, unsigned worker_index) {
  state_ = &state;
  random_.seed(state.options.seed + worker_index);
  most_threadgroup_bytes_ = 0;
  errors_.clear();
  errors_left_out_ = 0;
  reported_.clear();
  set_running_worker(this);
  if (state.options.checked) checker_hooks()->dispatch_begins(*this);
}

void Worker::end_dispatch() {
  set_running_worker(nullptr);
  state_ = nullptr;
}

// ---- a threadgroup -------------------------------------------------------------------------------------------------

bool Worker::run_threadgroup(abi::Triple position, uint64_t linear_index) {
  begin_threadgroup(position, linear_index);
  running_ = true;
  Fiber* fiber = first_fiber();
  while (fiber) {
    enter(fiber);
    fiber = abandoned_ ? nullptr : resolve_wait();
  }
  running_ = false;
  fiber_ = nullptr;
  abi::current = nullptr;
  most_threadgroup_bytes_ = std::max(most_threadgroup_bytes_, threadgroup_bytes_);
  return !abandoned_;
}

void Worker::begin_threadgroup(abi::Triple position, uint64_t linear_index) {
  n_threads_ = static_cast<unsigned>(state_->dispatch->threads_per_threadgroup.count());
  n_simdgroups_ = (n_threads_ + abi::kSimdWidth - 1) / abi::kSimdWidth;
  threadgroup_ = linear_index;
  live_ = n_threads_;
  at_barrier_ = 0;
  epochs_ = {};
  abandoned_ = false;
  fiber_ = nullptr;

  // What the last threadgroup left must not be found.
  const size_t dirty = std::min(threadgroup_used_ + kPageBytes, kThreadgroupArenaBytes);
  std::memset(threadgroup_memory_, 0xFF, dirty);
  threadgroup_used_ = 0;
  threadgroup_bytes_ = 0;
  variables_.clear();
  arguments_ = state_->arguments;
  const auto& lengths = state_->dispatch->threadgroup_bytes;
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] == 0) continue;
    const std::string name = "threadgroup(" + std::to_string(i) + ")";
    arguments_.threadgroup_buffers[i] = threadgroup_variable(&lengths[i], lengths[i], kArgumentAlignment, name.c_str());
  }

  order_simdgroups();
  for (unsigned i = 0; i < n_simdgroups_; ++i) begin_simdgroup(i);
  begin_fibers(position);
  if (state_->options.checked) checker_hooks()->threadgroup_begins(*this);
}

void Worker::order_simdgroups() {
  simdgroup_order_.resize(n_simdgroups_);
  simdgroup_place_.resize(n_simdgroups_);
  const Schedule schedule = state_->options.schedule;
  for (unsigned i = 0; i < n_simdgroups_; ++i) {
    simdgroup_order_[i] = schedule == Schedule::kReverse ? n_simdgroups_ - 1 - i : i;
  }
  if (schedule == Schedule::kRandom) std::shuffle(simdgroup_order_.begin(), simdgroup_order_.end(), random_);
  for (unsigned i = 0; i < n_simdgroups_; ++i) simdgroup_place_[simdgroup_order_[i]] = i;
}

void Worker::begin_simdgroup(unsigned index) {
  Simdgroup& simdgroup = simdgroups_[index];
  const unsigned count = std::min(abi::kSimdWidth, n_threads_ - index * abi::kSimdWidth);
  simdgroup.count = count;
  simdgroup.live = count;
  simdgroup.runnable = count;
  simdgroup.arrived = 0;
  simdgroup.set = 0;
  simdgroup.made_last = nullptr;
  simdgroup.epochs = {};
  const Schedule schedule = state_->options.schedule;
  for (unsigned i = 0; i < count; ++i) {
    simdgroup.lanes[i] = &fibers_[index * abi::kSimdWidth + i];
    simdgroup.order[i] = schedule == Schedule::kReverse ? count - 1 - i : i;
  }
  if (schedule == Schedule::kRandom) std::shuffle(simdgroup.order, simdgroup.order + count, random_);
  for (unsigned i = 0; i < count; ++i) {
    simdgroup.lanes[simdgroup.order[i]]->next_in_simdgroup = simdgroup.lanes[simdgroup.order[(i + 1) % count]];
  }
}

void Worker::begin_fibers(abi::Triple position) {
  const abi::Triple threads = triple_of(state_->dispatch->threads_per_threadgroup);
  const abi::Triple groups = triple_of(state_->dispatch->threadgroups);
  for (unsigned i = 0; i < n_threads_; ++i) {
    Fiber& fiber = fibers_[i];
    const abi::Triple thread = {i % threads.x, i / threads.x % threads.y, i / threads.x / threads.y};
    fiber.state = FiberState::kRunnable;
    abi::ThreadContext& context = fiber.context;
    context.thread_in_threadgroup = thread;
    context.thread_in_grid = {position.x * threads.x + thread.x, position.y * threads.y + thread.y,
                              position.z * threads.z + thread.z};
    context.threadgroup_in_grid = position;
    context.threads_per_threadgroup = threads;
    context.threadgroups_per_grid = groups;
    context.threads_per_grid = {groups.x * threads.x, groups.y * threads.y, groups.z * threads.z};
    context.index_in_threadgroup = i;
    context.lane = i % abi::kSimdWidth;
    context.simdgroup = i / abi::kSimdWidth;
    context.simdgroups = n_simdgroups_;
    // Tops at different places in a page, or the lanes' hot frames would all compete for the same sets of the cache.
    std::byte* top = stacks_ + (i + 1) * kStackBytes - 64 - context.lane * 320;
    fiber.stack_pointer = start_of_stack(top, &Worker::fiber_main);
  }
}

// ---- taking turns --------------------------------------------------------------------------------------------------

void Worker::fiber_main() {
  Worker* worker = running_worker();
  worker->state_->kernel->entry(worker->arguments_, worker->fiber_->context);
  worker->fiber_->state = FiberState::kDone;
  Simdgroup& simdgroup = worker->own_simdgroup();
  --simdgroup.live;
  --simdgroup.runnable;
  --worker->live_;
  worker->run_others();
  std::abort();  // nobody switches to a fiber that is done
}

Fiber* Worker::first_fiber() {
  const Simdgroup& simdgroup = simdgroups_[simdgroup_order_[0]];
  return simdgroup.lanes[simdgroup.order[0]];
}

/// From the thread's own stack to a fiber, until a fiber comes back.
void Worker::enter(Fiber* fiber) {
  fiber_ = fiber;
  abi::current = &fiber->context;
  marlin_switch_stack(&own_stack_pointer_, fiber->stack_pointer);
}

void Worker::switch_to(Fiber* fiber) {
  if (fiber == fiber_) return;
  Fiber* from = fiber_;
  fiber_ = fiber;
  abi::current = &fiber->context;
  marlin_switch_stack(&from->stack_pointer, fiber->stack_pointer);
}

/// Called by a fiber that cannot go on; returns when somebody switches to it.
void Worker::run_others() {
  if (own_simdgroup().runnable > 0) {
    Fiber* fiber = fiber_->next_in_simdgroup;
    while (fiber->state != FiberState::kRunnable) fiber = fiber->next_in_simdgroup;
    switch_to(fiber);
    return;
  }
  const unsigned place = simdgroup_place_[fiber_->context.simdgroup];
  for (unsigned step = 1; step < n_simdgroups_; ++step) {
    const Simdgroup& simdgroup = simdgroups_[simdgroup_order_[(place + step) % n_simdgroups_]];
    if (simdgroup.runnable == 0) continue;
    for (unsigned i = 0; i < simdgroup.count; ++i) {
      Fiber* fiber = simdgroup.lanes[simdgroup.order[i]];
      if (fiber->state != FiberState::kRunnable) continue;
      switch_to(fiber);
      return;
    }
  }
  marlin_switch_stack(&fiber_->stack_pointer, own_stack_pointer_);
}

/// Leaves the fiber for good. This also leaves a signal handler, as longjmp would.
void Worker::abandon() {
  abandoned_ = true;
  void* forgotten = nullptr;
  marlin_switch_stack(&forgotten, own_stack_pointer_);
  std::abort();
}

/// Nobody can run. The fiber that may go on; null if all have returned, or after an error.
Fiber* Worker::resolve_wait() {
  if (live_ == 0) return nullptr;
  fiber_ = nullptr;
  abi::current = nullptr;
  for (unsigned i = 0; i < n_simdgroups_; ++i) {
    if (simdgroups_[i].arrived > 0) return complete_simd_operation(simdgroups_[i]);
  }
  report_divergent_barrier();
  abandoned_ = true;
  return nullptr;
}

/// Lanes wait in a simd operation and the others do not come. That is legal if the others have returned.
Fiber* Worker::complete_simd_operation(Simdgroup& simdgroup) {
  Fiber* first = nullptr;
  unsigned mask = 0;
  bool diverged = false;
  for (unsigned i = 0; i < simdgroup.count; ++i) {
    Fiber* fiber = simdgroup.lanes[i];
    diverged |= fiber->state == FiberState::kAwaitsThreadgroup;
    if (fiber->state != FiberState::kAwaitsSimdgroup) continue;
    mask |= 1u << fiber->context.lane;
    if (!first) first = fiber;
    diverged |= !(fiber->site == first->site);
  }
  if (diverged) {
    record("simd operation in divergent control flow: lanes " + to_hex(mask) + " of simdgroup " +
           std::to_string(first->context.simdgroup) + " wait at " + to_string(first->site) +
           ", the other live lanes are elsewhere");
    abandoned_ = true;
    return nullptr;
  }
  first->state = FiberState::kRunnable;
  ++simdgroup.runnable;
  simdgroup.made_last = first;
  simdgroup.active[simdgroup.set] = mask;
  return first;
}

void Worker::report_divergent_barrier() {
  const Fiber* first = nullptr;
  const Fiber* other = nullptr;
  unsigned waiting = 0;
  for (unsigned i = 0; i < n_threads_; ++i) {
    if (fibers_[i].state != FiberState::kAwaitsThreadgroup) continue;
    ++waiting;
    if (!first) first = &fibers_[i];
    if (!(fibers_[i].site == first->site)) other = &fibers_[i];
  }
  std::string message = "divergent barrier: ";
  if (other) {
    message += "thread " + std::to_string(first->context.index_in_threadgroup) + " waits at " + to_string(first->site) +
               ", thread " + std::to_string(other->context.index_in_threadgroup) + " at " + to_string(other->site);
  } else {
    message += std::to_string(waiting) + " of " + std::to_string(n_threads_) + " threads wait at " +
               to_string(first->site) + ", the others have returned";
  }
  record(message);
}

// ---- operations of kernels -----------------------------------------------------------------------------------------

abi::Arrival Worker::simd_arrive(const void* value, unsigned bytes, Site site) {
  Fiber* fiber = fiber_;
  Simdgroup& simdgroup = own_simdgroup();
  const unsigned set = simdgroup.set;
  if (bytes > 0) std::memcpy(simdgroup.exchange.slots[set][fiber->context.lane], value, bytes);
  fiber->site = site;
  ++simdgroup.arrived;
  if (simdgroup.arrived < simdgroup.live) {
    fiber->state = FiberState::kAwaitsSimdgroup;
    --simdgroup.runnable;
    run_others();
    const bool last = simdgroup.made_last == fiber;
    if (last) simdgroup.made_last = nullptr;
    return {&simdgroup.exchange, set, simdgroup.active[set], last};
  }
  unsigned mask = 0;
  for (unsigned i = 0; i < simdgroup.count; ++i) {
    const Fiber* lane = simdgroup.lanes[i];
    if (lane->state == FiberState::kDone) continue;
    mask |= 1u << i;
    if (lane != fiber && !(lane->site == site)) {
      fail("simd operation in divergent control flow: lane " + std::to_string(fiber->context.lane) + " is at " +
           to_string(site) + ", lane " + std::to_string(i) + " at " + to_string(lane->site));
    }
  }
  simdgroup.active[set] = mask;
  return {&simdgroup.exchange, set, mask, true};
}

void Worker::simd_release() {
  Simdgroup& simdgroup = own_simdgroup();
  for (unsigned i = 0; i < simdgroup.count; ++i) {
    Fiber* lane = simdgroup.lanes[i];
    if (lane->state != FiberState::kAwaitsSimdgroup) continue;
    lane->state = FiberState::kRunnable;
    ++simdgroup.runnable;
  }
  simdgroup.arrived = 0;
  simdgroup.set ^= 1;
}

void Worker::simdgroup_barrier(unsigned flags, Site site) {
  if (!simd_arrive(nullptr, 0, site).last) return;
  own_simdgroup().epochs.pass(flags);
  simd_release();
}

void Worker::threadgroup_barrier(unsigned flags, Site site) {
  Fiber* fiber = fiber_;
  fiber->site = site;
  ++at_barrier_;
  if (at_barrier_ < n_threads_) {
    fiber->state = FiberState::kAwaitsThreadgroup;
    --own_simdgroup().runnable;
    run_others();
    return;
  }
  for (unsigned i = 0; i < n_threads_; ++i) {
    Fiber& other = fibers_[i];
    if (!(other.site == site)) {
      fail("divergent barrier: thread " + std::to_string(fiber->context.index_in_threadgroup) + " is at " +
           to_string(site) + ", thread " + std::to_string(i) + " at " + to_string(other.site));
    }
    if (other.state != FiberState::kAwaitsThreadgroup) continue;
    other.state = FiberState::kRunnable;
    ++simdgroups_[other.context.simdgroup].runnable;
  }
  at_barrier_ = 0;
  epochs_.pass(flags);
}

void* Worker::threadgroup_variable(const void* key, size_t bytes, size_t alignment, const char* name) {
  for (const ThreadgroupVariable& variable : variables_) {
    if (variable.key == key) return variable.data;
  }
  const bool checked = state_->options.checked;
  size_t offset = (threadgroup_used_ + alignment - 1) / alignment * alignment;
  // A checked kernel never gets memory that is more aligned than its type asks for.
  if (checked && (offset & alignment) == 0) offset += alignment;
  const size_t gap = checked ? kVariableGap : 0;
  if (offset + bytes + gap > kThreadgroupArenaBytes) {
    fail(std::string("threadgroup memory '") + name + "' of " + std::to_string(bytes) + " bytes is over 32 KiB");
  }
  threadgroup_used_ = offset + bytes + gap;
  threadgroup_bytes_ += bytes;
  variables_.push_back({key, threadgroup_memory_ + offset, bytes, name});
  return variables_.back().data;
}

namespace abi {

Arrival simd_arrive(const void* value, unsigned bytes, SimdOperation operation, const char* file, int line) {
  return the_running_worker->simd_arrive(value, bytes, {file, line, static_cast<int>(operation)});
}
void simd_release() {
  the_running_worker->simd_release();
}
void simdgroup_barrier(unsigned flags, const char* file, int line) {
  the_running_worker->simdgroup_barrier(flags, {file, line, static_cast<int>(SimdOperation::kBarrier)});
}
void threadgroup_barrier(unsigned flags, const char* file, int line) {
  the_running_worker->threadgroup_barrier(flags, {file, line, kThreadgroupBarrier});
}
void* threadgroup_variable(const void* key, unsigned long bytes, unsigned long alignment, const char* name) {
  return the_running_worker->threadgroup_variable(key, bytes, alignment, name);
}

}  // namespace abi

// ---- errors --------------------------------------------------------------------------------------------------------

void Worker::record(std::string message) {
  if (errors_.size() >= kMostErrors) {
    ++errors_left_out_;
    return;
  }
  errors_.push_back(running_thread() + std::move(message));
}

std::string Worker::running_thread() const {
  std::string where = "kernel '" + std::string(state_->kernel->name) + "'";
  if (fiber_) {
    const abi::ThreadContext& context = fiber_->context;
    where += ", threadgroup (" + to_string(context.threadgroup_in_grid) + "), thread " +
             std::to_string(context.index_in_threadgroup) + " (simdgroup " + std::to_string(context.simdgroup) +
             ", lane " + std::to_string(context.lane) + ")";
  }
  return where + ": ";
}

void Worker::report(const std::string& message, uint64_t key) {
  if (key != 0 && !reported_.insert(key).second) {
    ++errors_left_out_;
    return;
  }
  record(message);
}

void Worker::fail(const std::string& message) {
  record(message);
  abandon();
}

// ---- what the checker asks -----------------------------------------------------------------------------------------

const ReachableRegion* Worker::find_region(const std::byte* address) const {
  const std::vector<ReachableRegion>& regions = state_->regions;
  auto after = std::upper_bound(regions.begin(), regions.end(), address,
                                [](const std::byte* a, const ReachableRegion& region) { return a < region.begin; });
  if (after == regions.begin()) return nullptr;
  const ReachableRegion& region = *std::prev(after);
  return address < region.end ? &region : nullptr;
}

bool Worker::in_threadgroup_memory(const std::byte* address) const {
  return address >= threadgroup_memory_ - kPageBytes &&
         address < threadgroup_memory_ + kThreadgroupArenaBytes + kPageBytes;
}

size_t Worker::threadgroup_memory_bytes() const {
  return kThreadgroupArenaBytes;
}

bool Worker::in_own_objects(const std::byte* address) const {
  const auto within = [address](const void* begin, size_t bytes) {
    return address >= begin && address < static_cast<const std::byte*>(begin) + bytes;
  };
  return within(this, sizeof *this) || within(fibers_.data(), fibers_.size() * sizeof(Fiber)) ||
         within(simdgroups_.data(), simdgroups_.size() * sizeof(Simdgroup)) ||
         within(&abi::current, sizeof abi::current);
}

}  // namespace marlin::emulator
