#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "marlin/error.h"

namespace marlin {
namespace {

using Range = std::pair<int64_t, int64_t>;  // begin, end

// Sorted: which worker takes which range, and when, is open.
std::vector<Range> ranges_of(ThreadPool& pool, int64_t n) {
  std::vector<Range> ranges;
  std::mutex mutex;
  pool.parallel_for(n, [&](int64_t begin, int64_t end, int) {
    const std::lock_guard lock(mutex);
    ranges.emplace_back(begin, end);
  });
  std::sort(ranges.begin(), ranges.end());
  return ranges;
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which need more address space than the limit
TEST(ThreadPoolDeathTest, TooManyThreadsAreAnError) {
  const auto start_too_many = [] {
    rlimit limit{};
    limit.rlim_cur = limit.rlim_max = rlim_t{1} << 30;  // of address space: room for some stacks
    setrlimit(RLIMIT_AS, &limit);
    try {
      const ThreadPool pool(1024);
    } catch (const Error& error) {
      std::fputs(error.what(), stderr);
      std::_Exit(3);
    }
    std::_Exit(4);
  };
  EXPECT_EXIT(start_too_many(), testing::ExitedWithCode(3), "1024 threads: the system gives .* --threads");
}
#endif

TEST(ThreadPool, EveryElementOnceInContiguousRanges) {
  for (int threads = 1; threads <= 5; ++threads) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int64_t n = 0; n <= 23; ++n) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
      pool.parallel_for(n, [&](int64_t begin, int64_t end, int worker) {
        EXPECT_LT(begin, end);
        EXPECT_GE(worker, 0);
        EXPECT_LT(worker, threads);
        for (int64_t i = begin; i < end; ++i) seen[static_cast<size_t>(i)].fetch_add(1);
      });
      for (const std::atomic<int>& count : seen) ASSERT_EQ(count.load(), 1) << threads << " threads, n = " << n;
    }
  }
}

TEST(ThreadPool, RangesDependOnlyOnSizeAndThreads) {
  ThreadPool a(4);
  ThreadPool b(4);
  for (const int64_t n : {2, 3, 4, 7, 1000}) {
    const std::vector<Range> first = ranges_of(a, n);
    for (int repeat = 0; repeat < 20; ++repeat) {
      EXPECT_EQ(ranges_of(a, n), first);
      EXPECT_EQ(ranges_of(b, n), first);
    }
  }
}

TEST(ThreadPool, WritesAreVisibleWhenItReturns) {
  ThreadPool pool(4);
  std::vector<int64_t> values(997);
  for (int64_t round = 1; round <= 2000; ++round) {
    pool.parallel_for(static_cast<int64_t>(values.size()), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] += i;
    });
    ASSERT_EQ(std::accumulate(values.begin(), values.end(), int64_t{0}), round * 996 * 997 / 2);
  }
}

TEST(ThreadPool, WakesWorkersThatWentToSleep) {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int64_t> sum{0};
    pool.parallel_for(300, [&](int64_t begin, int64_t end, int) { sum += end - begin; });
    EXPECT_EQ(sum.load(), 300);
  }
}

/// Places on `nodes` nodes for as many threads as the list has entries, bound nowhere.
std::vector<ThreadPlace> on_nodes(const std::vector<int>& nodes) {
  std::vector<ThreadPlace> places;
  places.reserve(nodes.size());
  for (const int node : nodes) places.push_back({.node = node, .cpus = {}});
  return places;
}

TEST(ThreadPool, NodesDoNotChangeTheRanges) {
  ThreadPool plain(4);
  for (const std::vector<int>& nodes : {std::vector{0, 0, 1, 1}, {0, 1, 2, 3}, {1, 0, 1, 1}, {0, 2, 2, 0}}) {
    ThreadPool pool(on_nodes(nodes));
    for (const int64_t n : {1, 2, 3, 7, 31, 32, 33, 1000}) EXPECT_EQ(ranges_of(pool, n), ranges_of(plain, n));
  }
}

// The caller alone, the other node's thread being held up inside its first range.
TEST(ThreadPool, NodesBeginWithTheirOwnShareAndThenHelp) {
  ThreadPool pool(on_nodes({0, 1}));
  constexpr int64_t kItems = 2 * ThreadPool::kChunksPerThread;  // one a chunk
  std::atomic<bool> other_began{false};
  std::atomic<bool> caller_done{false};
  std::vector<int64_t> by_caller;
  std::vector<int64_t> by_other;
  pool.parallel_for(kItems, [&](int64_t begin, int64_t, int worker) {
    if (worker == 1) {
      by_other.push_back(begin);
      other_began.store(true);
      while (!caller_done.load()) std::this_thread::yield();
      return;
    }
    while (!other_began.load()) std::this_thread::yield();
    by_caller.push_back(begin);
    caller_done.store(by_caller.size() + 1 == kItems);
  });
  std::vector<int64_t> expected(kItems - 1);
  std::iota(expected.begin(), expected.begin() + kItems / 2, 0);
  std::iota(expected.begin() + kItems / 2, expected.end(), kItems / 2 + 1);
  EXPECT_EQ(by_caller, expected);
  EXPECT_EQ(by_other, std::vector<int64_t>{kItems / 2});
}

TEST(ThreadPool, WritesAreVisibleAcrossNodes) {
  ThreadPool pool(on_nodes({0, 1, 1, 2}));
  std::vector<int64_t> values(331);
  for (int64_t round = 1; round <= 2000; ++round) {
    pool.parallel_for(static_cast<int64_t>(values.size()), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] += i;
    });
    ASSERT_EQ(std::accumulate(values.begin(), values.end(), int64_t{0}), round * 330 * 331 / 2);
  }
}

#if defined(__linux__)
TEST(ThreadPool, ThreadsTakeTheirPlacesAndTheCallerStays) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &before)) ++cpu;
  ThreadPool pool({{.node = 0, .cpus = {}}, {.node = 0, .cpus = {cpu}}});
  std::atomic<bool> placed{false};
  pool.parallel_for(2, [&](int64_t, int64_t, int worker) {
    cpu_set_t mask;
    EXPECT_EQ(sched_getaffinity(0, sizeof(mask), &mask), 0);
    if (worker == 1) {
      EXPECT_EQ(CPU_COUNT(&mask), 1);
      EXPECT_TRUE(CPU_ISSET(cpu, &mask));
      placed.store(true);
      return;
    }
    EXPECT_TRUE(CPU_EQUAL(&mask, &before));
    while (!placed.load()) std::this_thread::yield();
  });
}
#endif

TEST(ThreadPool, StartsAndStopsWithoutWork) {
  for (int round = 0; round < 50; ++round) ThreadPool pool(1 + round % 4);
}

}  // namespace
}  // namespace marlin
