// What a decode step may not do: allocate, and call the system.
//
// A step here is what the engine's worker does between two events of one request: the sequence grows by a position, the
// model's ops run on the CPU device, the next id is sampled with every feature that needs no answer of the user, and is
// read back. Planning and the delivery of the event (text, queues) are not counted. The first steps, in which scratch
// memory and the rows of penalties appear, are not counted either, nor is the end of a prompt.
//
// Allocations are counted by operator new. System calls are counted by a tracer (ptrace), in all threads of a process
// that does nothing but step; a lock that sleeps is a system call, too. A pool of several threads yields and sleeps
// when the machine takes a core away, so with two threads these calls are allowed, and some steps must do without.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <thread>

#include "../model/demo_model.h"
#include "base/check.h"
#include "engine/request_state.h"
#include "engine/sampler_inputs.h"

namespace {

std::atomic<uint64_t> allocations{0};

void* allocate(size_t size, size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, size) != 0) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(size_t size) {
  return allocate(size, alignof(std::max_align_t));
}
void* operator new(size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t /*size*/) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t /*alignment*/) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t /*size*/, std::align_val_t /*alignment*/) noexcept {
  std::free(memory);
}

namespace marlin::testing {
namespace {

constexpr int kPositions = 1200;  // several times what attention takes as one piece
constexpr int kWarmUp = 600;      // more than one such piece: from then on nothing is new

/// One sequence that decodes.
class Decoder {
 public:
  explicit Decoder(int threads)
      : demo_({.directory = mmfp4_demo(),
               .threads = threads,
               .model = {.max_tokens = 16, .max_logit_rows = 1, .max_slots = 1, .max_positions = kPositions}}),
        sampler_(demo_.device(), 1, demo_.vocab(), demo_.vocab()),
        request_(request(), std::make_shared<RequestHandle::State>(), demo_.cache()) {
    demo_.device().adopt_thread();
    request_.slot = 0;
    request_.tokens.reserve(kPositions);
    step_.sequences = {&request_.sequence};
    step_.tokens.resize(1);
    for (int i = 0; i < kWarmUp; ++i) step();
  }

  bool at_end() const { return request_.n_tokens() == kPositions; }

  void step() {
    const int position = request_.sequence.length();
    MARLIN_CHECK(request_.sequence.extend(demo_.stream(), 1), "no room at {}", position);
    step_.tokens[0] = {request_.tokens[static_cast<size_t>(position)], 0, position, Role::kDecode, true};
    const Model::Outputs out = demo_.model().forward(demo_.stream(), step_, demo_.cache());
    sampler_.begin();
    sampler_.add(demo_.stream(), request_, -1);
    sampler_.enqueue(demo_.stream(), out.logits, out.hidden, 1, demo_.hidden());
    sampler_.read(demo_.stream());
    request_.tokens.push_back(sampler_.row(0).id);
  }

 private:
  static Request request() {
    Request request;
    request.prompt = {1};
    request.sampling.seed = 7;
    request.sampling.temperature = 0.9f;
    request.sampling.top_p = 0.9f;
    request.sampling.top_k = 200;
    request.sampling.min_p = 0.01f;
    request.sampling.repetition_penalty = 1.1f;
    request.sampling.top_logprobs = 5;
    request.sampling.logit_bias = {{3, -1.0f}, {5, 1.0f}};
    return request;
  }

  DemoModel demo_;
  SamplerInputs sampler_;
  ActiveRequest request_;
  Step step_;
};

// ---- allocations -------------------------------------------------------------------------------------------------

class DecodeStep : public ::testing::TestWithParam<int> {};

TEST_P(DecodeStep, AllocatesNothing) {
  std::vector<int> allocating;
  // In a thread of its own, which the device may move.
  std::thread([&] {
    Decoder decoder(GetParam());
    std::vector<int> found;
    found.reserve(kPositions);
    for (int i = kWarmUp; !decoder.at_end(); ++i) {
      const uint64_t before = allocations.load();
      decoder.step();
      if (allocations.load() != before) found.push_back(i);
    }
    allocating = found;
  }).join();
  EXPECT_EQ(allocating, std::vector<int>());
}

// ---- system calls ------------------------------------------------------------------------------------------------

constexpr size_t kCallNumbers = 1024;

/// What the stepping process and its tracer share.
struct Tally {
  std::atomic<uint32_t> calls{0};  // system calls of the stepping process so far
  std::atomic<uint32_t> by_number[kCallNumbers]{};
  std::atomic<int> steps{0};
  std::atomic<int> steps_without{0};
  std::atomic<bool> counting{false};
};

constexpr int kRefused = 77;  // exit status: the system allows no tracing

[[noreturn]] void step_and_exit(int threads, Tally& tally) {
  if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(kRefused);
  raise(SIGSTOP);
  Decoder decoder(threads);
  tally.counting.store(true);
  while (!decoder.at_end()) {
    const uint32_t before = tally.calls.load();
    decoder.step();
    tally.steps.fetch_add(1);
    if (tally.calls.load() == before) tally.steps_without.fetch_add(1);
  }
  tally.counting.store(false);
  _exit(0);
}

void count_call(pid_t thread, Tally& tally) {
  __ptrace_syscall_info info{};
  if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof(info), &info) <= 0 || info.op != PTRACE_SYSCALL_INFO_ENTRY) return;
  tally.by_number[std::min<uint64_t>(info.entry.nr, kCallNumbers - 1)].fetch_add(1);
  tally.calls.fetch_add(1);
}

/// Lets the process and all threads that it starts run until it ends; its exit status, or -1.
int trace(pid_t process, Tally& tally) {
  for (bool first = true;;) {
    int status = 0;
    const pid_t thread = waitpid(-1, &status, __WALL);
    if (thread < 0) return -1;
    if (!WIFSTOPPED(status)) {
      if (thread != process) continue;
      return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    if (first) {
      ptrace(PTRACE_SETOPTIONS, thread, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL);
      first = false;
    }
    const int signal = WSTOPSIG(status);
    const bool call = signal == (SIGTRAP | 0x80);
    if (call && tally.counting.load()) count_call(thread, tally);
    // A stop of the tracing itself is no signal for the thread.
    const bool deliver = !call && signal != SIGTRAP && signal != SIGSTOP;
    ptrace(PTRACE_SYSCALL, thread, nullptr, deliver ? signal : 0);
  }
}

TEST_P(DecodeStep, CallsTheSystemOnlyToWait) {
  void* shared = mmap(nullptr, sizeof(Tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  Tally& tally = *new (shared) Tally;
  const pid_t process = fork();
  ASSERT_GE(process, 0);
  if (process == 0) step_and_exit(GetParam(), tally);
  const int status = trace(process, tally);
  if (status == kRefused) GTEST_SKIP() << "needs ptrace, which this system refuses";
  ASSERT_EQ(status, 0);
  EXPECT_EQ(tally.steps.load(), kPositions - kWarmUp - 1);
  std::map<size_t, uint32_t> calls;
  for (size_t number = 0; number < kCallNumbers; ++number) {
    if (tally.by_number[number] > 0) calls[number] = tally.by_number[number];
  }
  RecordProperty("steps_without_calls", tally.steps_without.load());
  if (GetParam() > 1) {
    calls.erase(SYS_futex);
    calls.erase(SYS_sched_yield);
    EXPECT_GT(tally.steps_without.load(), 0);
  }
  EXPECT_EQ(calls, (std::map<size_t, uint32_t>()));
  munmap(shared, sizeof(Tally));
}

INSTANTIATE_TEST_SUITE_P(Threads, DecodeStep, ::testing::Values(1, 2));

}  // namespace
}  // namespace marlin::testing
