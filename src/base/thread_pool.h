// A fixed set of threads for the CPU kernels. The caller is worker 0; the others spin briefly, then sleep. Where memory
// has nodes, each node's threads have a share of the work that is the same in every run.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "base/thread_place.h"

namespace marlin {

class ThreadPool {
 public:
  /// More chunks than threads, taken one by one: a thread that the system has put aside (a busy machine) takes none,
  /// and the others need not wait for it.
  static constexpr int64_t kChunksPerThread = 8;

  /// `n_threads` >= 1 counts the calling thread.
  explicit ThreadPool(int n_threads);
  /// A thread for each place. The calling thread is the first, and is not moved: that is for whoever owns it.
  explicit ThreadPool(const std::vector<ThreadPlace>& places);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return n_threads_; }

  /// Calls body(begin, end, worker) on disjoint ranges that cover [0, n), and returns when all are done. Ranges are
  /// contiguous and depend only on n and size(); which worker takes which does not. A worker takes ranges of its node's
  /// share first, which lies in proportion at the same place of [0, n) every time, so that what it reads and writes can
  /// be near; then it helps the others. `body` must not throw. One caller at a time.
  template <typename Body>
  void parallel_for(int64_t n, const Body& body) {
    auto task = [](const void* context, int64_t begin, int64_t end, int worker) {
      (*static_cast<const Body*>(context))(begin, end, worker);
    };
    run(n, task, &body);
  }

 private:
  using Task = void (*)(const void* context, int64_t begin, int64_t end, int worker);

  struct Run {
    Task task = nullptr;
    const void* context = nullptr;
    int64_t n = 0;
    uint32_t n_chunks = 0;
  };

  /// The chunks of one node's threads and all that taking one needs, on one cache line.
  struct alignas(64) Share {
    // High half: number of the run; low half: chunks not yet taken. Whoever takes a chunk may read what the run wrote:
    // the run cannot end before that chunk has.
    std::atomic<uint64_t> ticket{0};
    std::atomic<uint32_t> finished{0};
    uint32_t end = 0;  // one past the last chunk
    uint32_t n_chunks = 0;
    int n_threads = 0;
    Run run;

    bool has_work() const { return static_cast<uint32_t>(ticket.load()) != 0; }
    bool is_done() const { return finished.load(std::memory_order_acquire) == n_chunks; }
    bool take_chunk(int worker);
  };

  void run(int64_t n, Task task, const void* context);
  void stop();
  void work(int worker);
  void take_chunks(int worker);
  bool has_work() const { return std::ranges::any_of(shares_, &Share::has_work); }

  int n_threads_;
  std::vector<ThreadPlace> places_;
  std::vector<Share> shares_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stopping_{false};
  uint64_t run_number_ = 0;
};

}  // namespace marlin
