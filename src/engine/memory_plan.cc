#include "engine/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "marlin/error.h"
#include "ops/ops.h"

namespace marlin {
namespace {

constexpr int kDefaultContext = 32768;
constexpr int kSmallestContext = 256;  // below this, refusing is more useful than running
constexpr uint64_t kMiB = uint64_t{1} << 20;

int blocks_for(int positions) {
  return (positions + kKvBlockTokens - 1) / kKvBlockTokens;
}

std::string size(uint64_t bytes) {
  if (bytes < 1024 * kMiB) return fmt::format("{} MiB", (bytes + kMiB - 1) / kMiB);
  return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / static_cast<double>(1024 * kMiB));
}

/// Left to the rest of the machine: refusing is better than swapping.
uint64_t reserve(const MemoryStatus& memory) {
  return std::max<uint64_t>(256 * kMiB, memory.total / 32);
}

/// What weights, workspace and cache may use together; the most there is when the system does not tell.
uint64_t usable(const MemoryRequest& request) {
  uint64_t bytes = std::numeric_limits<uint64_t>::max();
  if (request.memory.available > 0) bytes = request.memory.available;
  if (request.device_budget > 0) bytes = std::min(bytes, request.device_budget);
  if (bytes == std::numeric_limits<uint64_t>::max()) return bytes;
  return bytes - std::min(bytes, reserve(request.memory));
}

[[noreturn]] void refuse(const MemoryRequest& request, int context, int blocks, uint64_t room) {
  const uint64_t cache = static_cast<uint64_t>(blocks) * request.block_bytes;
  const MemoryStatus& memory = request.memory;
  const std::string swap = memory.swap_total == 0
                               ? "no swap"
                               : fmt::format("swap {} of {} used", size(memory.swap_used), size(memory.swap_total));
  const std::string available =
      request.device_budget > 0 && request.device_budget < memory.available
          ? fmt::format("the device has {}", size(request.device_budget))
          : fmt::format("{} of {} are available, {}", size(memory.available), size(memory.total), swap);
  std::string hint = "use a smaller model or close other programs";
  const uint64_t fixed = request.weight_bytes + request.workspace_bytes;
  if (room > fixed && request.block_bytes > 0) {
    const auto contexts = static_cast<uint64_t>(request.contexts);
    const uint64_t fitting = (room - fixed) / request.block_bytes / contexts * kKvBlockTokens;
    if (fitting >= kSmallestContext) hint = fmt::format("a context of {} fits (--ctx)", fitting);
  }
  const std::string each = request.contexts > 1 ? fmt::format(" of {} sequences each", request.contexts) : "";
  throw Error(ErrorCode::kNoMemory,
              fmt::format("{} does not fit: {} weights + {} workspace + {} KV cache for {} positions{} + {} kept "
                          "for the system, but {}; {}",
                          request.model, size(request.weight_bytes), size(request.workspace_bytes), size(cache),
                          context, each, size(reserve(memory)), available, hint));
}

void check_context(const MemoryRequest& request) {
  if (request.context == 0 || (request.context >= 2 && request.context <= request.model_context)) return;
  throw Error(ErrorCode::kUsage, fmt::format("context {}: {} takes 2 to {} positions", request.context, request.model,
                                             request.model_context));
}

/// The pool's size when the caller limits it.
MemoryPlan plan_given_cache(const MemoryRequest& request) {
  const auto most = static_cast<uint64_t>(std::numeric_limits<int>::max() / kKvBlockTokens);
  const auto blocks = static_cast<int>(std::min(most, request.kv_memory / request.block_bytes));
  const int positions = blocks * kKvBlockTokens;
  const int wanted = request.context > 0 ? request.context : std::min(kSmallestContext, request.model_context);
  if (positions < wanted) {
    throw Error(ErrorCode::kUsage, fmt::format("{} of KV memory hold {} positions, fewer than the context of {}; give "
                                               "it at least {}",
                                               size(request.kv_memory), positions, wanted,
                                               size(static_cast<uint64_t>(blocks_for(wanted)) * request.block_bytes)));
  }
  if (request.context > 0) return {request.context, blocks};
  return {std::min({kDefaultContext, request.model_context, positions}), blocks};
}

}  // namespace

MemoryPlan plan_memory(const MemoryRequest& request) {
  check_context(request);
  const uint64_t room = usable(request);
  const uint64_t fixed = request.weight_bytes + request.workspace_bytes;
  const auto fits = [&](int blocks) {
    return fixed <= room && static_cast<uint64_t>(blocks) <= (room - fixed) / request.block_bytes;
  };
  if (request.kv_memory > 0) {
    const MemoryPlan plan = plan_given_cache(request);
    if (!fits(plan.kv_blocks)) refuse(request, plan.context, plan.kv_blocks, room);
    return plan;
  }
  // One block to grow into for each other sequence: they share what the longest leaves.
  const int spare = std::max(1, request.max_parallel - 1);
  const auto blocks = [&](int positions) { return request.contexts * blocks_for(positions) + spare; };
  int context = request.context > 0 ? request.context : std::min(kDefaultContext, request.model_context);
  if (request.context == 0) {
    const int smallest = std::min(kSmallestContext, context);
    while (context > smallest && !fits(blocks(context))) {
      context = std::max(smallest, (blocks_for(context) - 1) * kKvBlockTokens);
    }
  }
  if (!fits(blocks(context))) refuse(request, context, blocks(context), room);
  return {context, blocks(context)};
}

}  // namespace marlin
