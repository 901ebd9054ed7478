#include "base/thread_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "base/check.h"
#include "marlin/error.h"

namespace marlin {
namespace {

// About 20 us of polling: the gap between two ops of a decode step is shorter, waking a sleeper costs more.
constexpr int kSpins = 4000;

void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int n_threads) : n_threads_(n_threads) {
  MARLIN_CHECK(n_threads >= 1, "n_threads = {}", n_threads);
  try {
    for (int worker = 1; worker < n_threads; ++worker) workers_.emplace_back([this, worker] { work(worker); });
  } catch (const std::system_error& error) {
    const size_t started = workers_.size() + 1;
    stop();
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{} threads: the system gives {} and no more ({}); ask for fewer with --threads", n_threads,
                            started, error.what()));
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
  n_ = n;
  task_ = task;
  context_ = context;
  n_chunks_ = static_cast<uint32_t>(std::min<int64_t>(n, n_threads_ * kChunksPerThread));
  finished_.store(0, std::memory_order_relaxed);
  const uint64_t number = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(number << 32 | n_chunks_);  // sequentially consistent with the sleepers' count
  if (sleeping_.load() > 0) {
    const std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  take_chunks(0);
  for (int spins = 0; finished_.load(std::memory_order_acquire) != n_chunks_; ++spins) {
    spins < kSpins ? cpu_relax() : std::this_thread::yield();
  }
}

void ThreadPool::take_chunks(int worker) {
  uint64_t ticket = ticket_.load();
  while (static_cast<uint32_t>(ticket) != 0) {
    if (!ticket_.compare_exchange_weak(ticket, ticket - 1)) continue;
    const int64_t chunk = n_chunks_ - static_cast<uint32_t>(ticket);
    task_(context_, n_ * chunk / n_chunks_, n_ * (chunk + 1) / n_chunks_, worker);
    finished_.fetch_add(1, std::memory_order_release);
    ticket = ticket_.load();
  }
}

void ThreadPool::work(int worker) {
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
