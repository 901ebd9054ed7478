// A fixed set of threads for the CPU kernels. The caller is worker 0; the others spin briefly, then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace marlin {

class ThreadPool {
 public:
  /// More chunks than threads, taken one by one: a thread that the system has put aside (a busy machine) takes none,
  /// and the others need not wait for it.
  static constexpr int64_t kChunksPerThread = 8;

  /// `n_threads` >= 1 counts the calling thread.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return n_threads_; }

  /// Calls body(begin, end, worker) on disjoint ranges that cover [0, n), and returns when all are done. Ranges are
  /// contiguous and depend only on n and size(); which worker takes which does not. `body` must not throw. One caller
  /// at a time.
  template <typename Body>
  void parallel_for(int64_t n, const Body& body) {
    auto task = [](const void* context, int64_t begin, int64_t end, int worker) {
      (*static_cast<const Body*>(context))(begin, end, worker);
    };
    run(n, task, &body);
  }

 private:
  using Task = void (*)(const void* context, int64_t begin, int64_t end, int worker);
  void run(int64_t n, Task task, const void* context);
  void stop();
  void work(int worker);
  void take_chunks(int worker);
  bool has_work() const { return static_cast<uint32_t>(ticket_.load()) != 0; }

  int n_threads_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stopping_{false};

  // High half: number of the run; low half: chunks not yet taken. Whoever takes a chunk may read the fields below: the
  // run cannot end before that chunk has.
  std::atomic<uint64_t> ticket_{0};
  std::atomic<uint32_t> finished_{0};
  uint32_t n_chunks_ = 0;
  int64_t n_ = 0;
  Task task_ = nullptr;
  const void* context_ = nullptr;
};

}  // namespace marlin
