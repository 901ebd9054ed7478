#include "base/thread_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "base/check.h"
#include "marlin/error.h"

namespace marlin {
namespace {

// 100 us of polling on a Zen 4: the gap between two ops of a decode step is shorter, waking a sleeper costs more.
constexpr int kSpins = 4000;

void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

size_t count_nodes(const std::vector<ThreadPlace>& places) {
  int nodes = 1;
  for (const ThreadPlace& place : places) nodes = std::max(nodes, place.node + 1);
  return static_cast<size_t>(nodes);
}

}  // namespace

ThreadPool::ThreadPool(int n_threads)
    : ThreadPool(std::vector<ThreadPlace>(static_cast<size_t>(std::max(n_threads, 0)))) {}

ThreadPool::ThreadPool(const std::vector<ThreadPlace>& places)
    : n_threads_(static_cast<int>(places.size())), places_(places), shares_(count_nodes(places)) {
  MARLIN_CHECK(n_threads_ >= 1, "n_threads = {}", n_threads_);
  for (const ThreadPlace& place : places) ++shares_[static_cast<size_t>(place.node)].n_threads;
  try {
    for (int worker = 1; worker < n_threads_; ++worker) workers_.emplace_back([this, worker] { work(worker); });
  } catch (const std::system_error& error) {
    const size_t started = workers_.size() + 1;
    stop();
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{} threads: the system gives {} and no more ({}); ask for fewer with --threads",
                            n_threads_, started, error.what()));
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_.store(true);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t n, Task task, const void* context) {
  if (workers_.empty() || n <= 1) {
    if (n > 0) task(context, 0, n, 0);
    return;
  }
  const Run run = {task, context, n, static_cast<uint32_t>(std::min<int64_t>(n, n_threads_ * kChunksPerThread))};
  ++run_number_;
  uint32_t threads = 0;
  uint32_t begin = 0;
  for (Share& share : shares_) {
    threads += static_cast<uint32_t>(share.n_threads);
    share.run = run;
    share.end = run.n_chunks * threads / static_cast<uint32_t>(n_threads_);
    share.n_chunks = share.end - begin;
    share.finished.store(0, std::memory_order_relaxed);
    share.ticket.store(run_number_ << 32 | share.n_chunks);  // sequentially consistent with the sleepers' count
    begin = share.end;
  }
  if (sleeping_.load() > 0) {
    const std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  take_chunks(0);
  for (int spins = 0; !std::ranges::all_of(shares_, &Share::is_done); ++spins) {
    spins < kSpins ? cpu_relax() : std::this_thread::yield();
  }
}

bool ThreadPool::Share::take_chunk(int worker) {
  uint64_t taken = ticket.load();
  while (static_cast<uint32_t>(taken) != 0) {
    if (!ticket.compare_exchange_weak(taken, taken - 1)) continue;
    const int64_t chunk = end - static_cast<uint32_t>(taken);
    run.task(run.context, run.n * chunk / run.n_chunks, run.n * (chunk + 1) / run.n_chunks, worker);
    finished.fetch_add(1, std::memory_order_release);
    return true;
  }
  return false;
}

void ThreadPool::take_chunks(int worker) {
  const size_t n_shares = shares_.size();
  const auto own = static_cast<size_t>(places_[static_cast<size_t>(worker)].node);
  // After each chunk from the own share again: a new run may have begun.
  for (size_t i = 0; i < n_shares;) i = shares_[(own + i) % n_shares].take_chunk(worker) ? 0 : i + 1;
}

void ThreadPool::work(int worker) {
  take_place(places_[static_cast<size_t>(worker)]);
  while (!stopping_.load()) {
    for (int spins = 0; spins < kSpins && !has_work(); ++spins) cpu_relax();
    if (!has_work()) {
      std::unique_lock lock(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, [&] { return has_work() || stopping_.load(); });
      sleeping_.fetch_sub(1);
    }
    take_chunks(worker);
  }
}

}  // namespace marlin
