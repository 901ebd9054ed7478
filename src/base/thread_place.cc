#include "base/thread_place.h"

#if defined(__APPLE__)
#include <pthread/qos.h>
#elif defined(__linux__)
#include <sched.h>
#endif

namespace marlin {

void take_place([[maybe_unused]] const ThreadPlace& place) {
#if defined(__APPLE__)
  pthread_set_qos_class_self_np(QOS_CLASS_USER_INTERACTIVE, 0);
#elif defined(__linux__)
  if (place.cpus.empty()) return;
  cpu_set_t mask;
  CPU_ZERO(&mask);
  for (const int cpu : place.cpus) CPU_SET(cpu, &mask);
  sched_setaffinity(0, sizeof(mask), &mask);  // of this thread
#endif
}

}  // namespace marlin
