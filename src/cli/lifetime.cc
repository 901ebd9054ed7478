#include "cli/lifetime.h"

#include <unistd.h>

#include <csignal>
#include <cstdlib>

#if defined(__linux__)
#include <sys/prctl.h>
#else
#include <chrono>
#include <thread>
#endif

#include "cli/commands.h"

namespace marlin::cli {

void end_with_parent() {
  const pid_t parent = getppid();
#if defined(__linux__)
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) std::_Exit(kFailed);  // it went before the kernel knew
#else
  std::thread([parent] {
    while (getppid() == parent) std::this_thread::sleep_for(std::chrono::milliseconds(200));
    std::_Exit(kFailed);
  }).detach();
#endif
}

}  // namespace marlin::cli
