// run(): checks a dispatch as Metal's validation does, then has workers run its threadgroups.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <numeric>
#include <thread>

#include "metal/emulator/executor_internal.h"

namespace marlin::emulator {
namespace {

const CheckerHooks* the_checker_hooks = nullptr;

/// Kernels' variables and workers are the program's, so dispatches come one at a time.
std::mutex& executor_lock() {
  static auto* lock = new std::mutex;
  return *lock;
}

// ---- workers -------------------------------------------------------------------------------------------------------

/// Runs a function on several workers at once. Worker 0 is the calling thread's, the others have threads that stay.
class WorkerPool {
 public:
  using Task = std::function<void(Worker&, unsigned index)>;

  static WorkerPool& instance() {
    static WorkerPool pool;
    return pool;
  }
  ~WorkerPool() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void run(unsigned count, const Task& task) {
    while (workers_.size() < count) workers_.push_back(std::make_unique<Worker>());
    while (threads_.size() + 1 < count) start_thread();
    {
      std::lock_guard lock(mutex_);
      task_ = &task;
      count_ = count;
      unfinished_ = count - 1;
      ++round_;
    }
    changed_.notify_all();
    catch_faults_on_this_thread();
    task(*workers_[0], 0);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return unfinished_ == 0; });
  }

 private:
  void start_thread() {
    const auto index = static_cast<unsigned>(threads_.size() + 1);
    threads_.emplace_back([this, index, seen = round_] { serve(index, seen); });
  }

  void serve(unsigned index, uint64_t seen) {
    catch_faults_on_this_thread();
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return stopping_ || round_ != seen; });
      if (stopping_) return;
      seen = round_;
      if (index >= count_) continue;
      Worker& worker = *workers_[index];
      const Task& task = *task_;
      lock.unlock();
      task(worker, index);
      lock.lock();
      if (--unfinished_ == 0) changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::thread> threads_;
  const Task* task_ = nullptr;
  unsigned count_ = 0;
  unsigned unfinished_ = 0;
  uint64_t round_ = 0;
  bool stopping_ = false;
};

// ---- arguments -----------------------------------------------------------------------------------------------------

/// Regions for setBytes, so that a read past their end is found. They are used again, by size.
class InlineRegions {
 public:
  std::shared_ptr<Region> take(const std::vector<std::byte>& bytes) {
    std::vector<std::shared_ptr<Region>>& free = free_[bytes.size()];
    if (free.empty()) free.push_back(Region::allocate(bytes.size()));
    taken_.push_back(free.back());
    free.pop_back();
    std::memcpy(taken_.back()->data(), bytes.data(), bytes.size());
    taken_.back()->label = "setBytes";
    taken_.back()->written_by_host(0, bytes.size());
    return taken_.back();
  }
  void give_back_all() {
    for (auto& region : taken_) free_[region->size()].push_back(region);
    taken_.clear();
  }

 private:
  std::map<size_t, std::vector<std::shared_ptr<Region>>> free_;
  std::vector<std::shared_ptr<Region>> taken_;
};

InlineRegions& inline_regions() {
  static auto* regions = new InlineRegions;
  return *regions;
}

class Validation {
 public:
  Validation(const Dispatch& dispatch, std::vector<std::string>& errors) : dispatch_(dispatch), errors_(errors) {}

  void check() {
    const uint64_t threads = dispatch_.threads_per_threadgroup.count();
    if (threads == 0 || threads > kMostThreads) {
      error(std::to_string(threads) + " threads per threadgroup, not 1 to 1024");
    }
    if (dispatch_.threadgroups.count() == 0) error("a dispatch of no threadgroups");
    for (int index : dispatch_.kernel->buffers) check_buffer(index);
    for (int index : dispatch_.kernel->threadgroup_buffers) check_threadgroup_buffer(index);
  }
  void error(const std::string& message) { errors_.push_back("kernel '" + dispatch_.kernel->name + "': " + message); }

 private:
  bool check_index(int index) {
    const bool valid = index >= 0 && static_cast<size_t>(index) < kBufferIndices;
    if (!valid) error("index " + std::to_string(index) + " of a parameter is over 30");
    return valid;
  }
  void check_buffer(int index) {
    if (!check_index(index)) return;
    const Binding& binding = dispatch_.buffers[static_cast<size_t>(index)];
    const std::string name = "buffer(" + std::to_string(index) + ")";
    if (binding.region && binding.offset >= binding.region->size()) {
      error(name + ": offset " + std::to_string(binding.offset) + " is past the end at " +
            std::to_string(binding.region->size()));
    }
    if (!binding.region && binding.bytes.size() > kMostInlineBytes) {
      error(name + ": setBytes of " + std::to_string(binding.bytes.size()) + " bytes, over 4096");
    }
  }
  void check_threadgroup_buffer(int index) {
    if (!check_index(index)) return;
    const size_t bytes = dispatch_.threadgroup_bytes[static_cast<size_t>(index)];
    const std::string name = "threadgroup(" + std::to_string(index) + ")";
    if (bytes == 0) error(name + " has no length");
    if (bytes % 16 != 0) error(name + ": length " + std::to_string(bytes) + " is no multiple of 16");
  }

  const Dispatch& dispatch_;
  std::vector<std::string>& errors_;
};

void add_region(DispatchState& state, const std::shared_ptr<Region>& region, int index) {
  state.regions.push_back(
      {region->data(), region->data() + region->size(), static_cast<MemoryRegion*>(region.get()), index});
}

/// Buffers that the kernel does not declare are left out. Unbound ones stay null: legal as long as nobody touches them.
void bind_arguments(DispatchState& state) {
  for (int index : state.dispatch->kernel->buffers) {
    const Binding& binding = state.dispatch->buffers[static_cast<size_t>(index)];
    std::shared_ptr<Region> region = binding.region;
    if (!region && !binding.bytes.empty()) region = inline_regions().take(binding.bytes);
    if (!region) continue;
    state.arguments.buffers[index] = region->data() + (binding.region ? binding.offset : 0);
    add_region(state, region, index);
  }
  for (const auto& region : state.dispatch->resident) {
    if (region) add_region(state, region, -1);
  }
  // A region may be bound at several indices: the first one names it.
  std::stable_sort(state.regions.begin(), state.regions.end(),
                   [](const ReachableRegion& a, const ReachableRegion& b) { return a.begin < b.begin; });
  auto end = std::unique(state.regions.begin(), state.regions.end(),
                         [](const ReachableRegion& a, const ReachableRegion& b) { return a.region == b.region; });
  state.regions.erase(end, state.regions.end());
}

// ---- threadgroups --------------------------------------------------------------------------------------------------

/// The order in which threadgroups start.
class ThreadgroupOrder {
 public:
  ThreadgroupOrder(const Options& options, Size grid) : grid_(grid), total_(grid.count()) {
    if (options.schedule == Schedule::kReverse) {
      start_ = total_ - 1;
      step_ = total_ - 1;
    } else if (options.schedule == Schedule::kRandom) {
      std::mt19937_64 random(options.seed);
      start_ = random() % total_;
      do {
        step_ = 1 + random() % total_;
      } while (std::gcd(step_, total_) != 1);
    }
  }
  uint64_t total() const { return total_; }
  uint64_t linear(uint64_t i) const { return static_cast<uint64_t>((__int128{1} * i * step_ + start_) % total_); }
  abi::Triple position(uint64_t linear_index) const {
    return {static_cast<unsigned>(linear_index % grid_.x), static_cast<unsigned>(linear_index / grid_.x % grid_.y),
            static_cast<unsigned>(linear_index / grid_.x / grid_.y)};
  }

 private:
  Size grid_;
  uint64_t total_;
  uint64_t start_ = 0;
  uint64_t step_ = 1;
};

/// What a worker leaves behind.
void collect(const Worker& worker, Outcome& outcome) {
  outcome.errors.insert(outcome.errors.end(), worker.errors().begin(), worker.errors().end());
  if (worker.errors_left_out() > 0) {
    outcome.errors.push_back("and " + std::to_string(worker.errors_left_out()) + " more");
  }
  outcome.threadgroup_bytes = std::max(outcome.threadgroup_bytes, worker.most_threadgroup_bytes());
}

void run_threadgroups(const DispatchState& state, Outcome& outcome) {
  const ThreadgroupOrder order(state.options, state.dispatch->threadgroups);
  std::atomic<uint64_t> next{0};
  std::mutex outcome_lock;
  auto work = [&](Worker& worker, unsigned index) {
    worker.begin_dispatch(state, index);
    for (uint64_t i = next++; i < order.total(); i = next++) {
      const uint64_t linear = order.linear(i);
      if (!worker.run_threadgroup(order.position(linear), linear)) next = order.total();
    }
    std::lock_guard lock(outcome_lock);
    collect(worker, outcome);
    if (state.options.checked) checker_hooks()->dispatch_ended(worker, outcome);
    worker.end_dispatch();
  };
  // The checker knows one worker only.
  const int wanted = state.options.checked ? 1 : std::max(1, state.options.workers);
  const auto count = static_cast<unsigned>(std::min<uint64_t>(static_cast<uint64_t>(wanted), order.total()));
  WorkerPool::instance().run(count, work);
}

std::string why_not_compiled(bool checked) {
  if (!checked) return "was compiled to be checked only";
  return checker_hooks() ? "was not compiled to be checked" : "cannot be checked: this program has no checker";
}

}  // namespace

const CheckerHooks* checker_hooks() {
  return the_checker_hooks;
}
void install_checker(const CheckerHooks* hooks) {
  the_checker_hooks = hooks;
}

Outcome run(const Dispatch& dispatch, const Options& options) {
  Outcome outcome;
  if (!dispatch.kernel) {
    outcome.errors.emplace_back("a dispatch without a kernel");
    return outcome;
  }
  std::lock_guard lock(executor_lock());
  Validation validation(dispatch, outcome.errors);
  validation.check();
  DispatchState state{&dispatch, options, 0, compiled_kernel(dispatch.kernel->name, options.checked), {}, {}};
  if (!state.kernel || (options.checked && !checker_hooks())) validation.error(why_not_compiled(options.checked));
  if (!outcome.errors.empty()) return outcome;
  const std::string fault = set_function_constants(*state.kernel, dispatch.constants);
  if (!fault.empty()) {
    validation.error(fault);
    return outcome;
  }

  static uint64_t dispatches = 0;
  state.number = ++dispatches;
  bind_arguments(state);
  const auto start = std::chrono::steady_clock::now();
  run_threadgroups(state, outcome);
  outcome.milliseconds = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  inline_regions().give_back_all();
  if (outcome.threadgroup_bytes > kMostThreadgroupBytes) {
    validation.error("threadgroup memory of " + std::to_string(outcome.threadgroup_bytes) + " bytes, over 32768");
  }
  return outcome;
}

}  // namespace marlin::emulator
