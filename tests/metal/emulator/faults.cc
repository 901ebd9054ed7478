// A kernel's SIGSEGV or SIGBUS becomes an error of its dispatch. Faults of anybody else go where they went before.
#include <csignal>
#include <mutex>

#include "metal/emulator/executor_internal.h"

namespace marlin::emulator {
namespace {

constexpr size_t kSignalStackBytes = 64 << 10;
constexpr uintptr_t kNearNull = 1 << 20;

struct sigaction previous_segv;
struct sigaction previous_bus;

void handle(int signal, siginfo_t* info, void*) {
  Worker* worker = running_worker();
  if (!worker || !worker->running()) {
    // The instruction runs again and meets the previous handler.
    sigaction(signal, signal == SIGSEGV ? &previous_segv : &previous_bus, nullptr);
    return;
  }
  worker->fault(info->si_addr);
}

void install_handlers() {
  struct sigaction action {};
  action.sa_sigaction = handle;
  // The handler is left by switching stacks, so the signal must not stay blocked.
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, &previous_segv);
  sigaction(SIGBUS, &action, &previous_bus);
}

/// A fault may come from a stack that is full.
class SignalStack {
 public:
  SignalStack() : memory_(new std::byte[kSignalStackBytes]) {
    stack_t stack{};
    stack.ss_sp = memory_.get();
    stack.ss_size = kSignalStackBytes;
    sigaltstack(&stack, &previous_);
  }
  ~SignalStack() { sigaltstack(&previous_, nullptr); }
  SignalStack(const SignalStack&) = delete;
  SignalStack& operator=(const SignalStack&) = delete;

 private:
  std::unique_ptr<std::byte[]> memory_;
  stack_t previous_{};
};

std::string unbound_buffers(const DispatchState& state) {
  std::string list;
  for (int index : state.dispatch->kernel->buffers) {
    if (!state.arguments.buffers[index]) list += (list.empty() ? "" : ", ") + std::to_string(index);
  }
  return list.empty() ? "" : " (unbound: buffer " + list + ")";
}

}  // namespace

void catch_faults_on_this_thread() {
  static std::once_flag once;
  std::call_once(once, install_handlers);
  static thread_local SignalStack stack;
}

void Worker::fault(const void* address) {
  const auto* at = static_cast<const std::byte*>(address);
  const auto number = reinterpret_cast<uintptr_t>(address);
  if (number < kNearNull) {
    fail("access through a null pointer, offset " + std::to_string(number) + unbound_buffers(*state_));
  }
  if (in_threadgroup_memory(at)) {
    fail("access outside of threadgroup memory, offset " + std::to_string(at - threadgroup_memory_));
  }
  if (in_stacks(at)) fail("a thread's stack is full, or is accessed through a wrong pointer");
  const ReachableRegion* reachable = find_region(at);
  if (reachable) fail("store to read-only memory: " + describe_address(address));
  const std::string place = describe_address(address);
  fail("access out of bounds: " + (place.empty() ? "an address in no buffer" : place));
}

}  // namespace marlin::emulator
