#include "base/thread_pool.h"

#include "base/check.h"

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

ThreadPool::ThreadPool(int n_threads) {
  MARLIN_CHECK(n_threads >= 1, "n_threads = {}", n_threads);
  workers_.reserve(static_cast<size_t>(n_threads) - 1);
  for (int worker = 1; worker < n_threads; ++worker) workers_.emplace_back([this, worker] { work(worker); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_.store(true);
    generation_.fetch_add(1);
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
  pending_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  {
    const std::lock_guard lock(mutex_);
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  run_share(0);
  for (int spins = 0; pending_.load(std::memory_order_acquire) != 0; ++spins) {
    spins < kSpins ? cpu_relax() : std::this_thread::yield();
  }
}

void ThreadPool::run_share(int worker) const {
  const int64_t begin = n_ * worker / size();
  const int64_t end = n_ * (worker + 1) / size();
  if (begin < end) task_(context_, begin, end, worker);
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  while (true) {
    for (int spins = 0; spins < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spins) cpu_relax();
    if (generation_.load(std::memory_order_acquire) == seen) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stopping_.load()) return;
    run_share(worker);
    pending_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace marlin
