// A request on both sides of the queue: the state its handle shares with the worker, and what only the worker knows.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/output_stream.h"
#include "engine/prefix_cache.h"
#include "engine/repetition_guard.h"
#include "marlin/engine.h"
#include "model/kv_cache.h"

namespace marlin {

/// Shared by handle and worker.
struct RequestHandle::State {
  std::atomic<bool> cancelled{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<Event> events;  // guarded by mutex
  bool finished = false;     // guarded by mutex: the last event has been queued

  void post(Event event);
};

/// A request as the worker runs it. `tokens` is the timeline, prompt first; the sequence holds the part of it that has
/// been computed, and the rest is pending: a chunk of prompt, or the one id that was sampled last.
struct ActiveRequest {
  using Clock = std::chrono::steady_clock;

  ActiveRequest(Request submitted, std::shared_ptr<RequestHandle::State> shared, KvCache& cache);

  int n_tokens() const { return static_cast<int>(tokens.size()); }
  int n_prompt() const { return prompt_size; }
  int n_generated() const { return n_tokens() - prompt_size; }
  int pending() const { return n_tokens() - sequence.length(); }
  /// More than the last sampled id is to be computed: the prompt, or all of it again after losing the blocks.
  bool prefilling() const { return pending() > 1 || sequence.length() < prompt_size; }
  std::span<const int32_t> generated() const { return std::span(tokens).subspan(static_cast<size_t>(prompt_size)); }
  std::span<const int32_t> block_ids(int block) const {
    return std::span(tokens).subspan(static_cast<size_t>(block) * kKvBlockTokens, kKvBlockTokens);
  }
  bool uses_penalties() const {
    const SamplingParams& s = request.sampling;
    return s.repetition_penalty != 1.0f || s.presence_penalty != 0.0f || s.frequency_penalty != 0.0f;
  }

  Request request;  // its prompt has moved to `tokens`
  std::shared_ptr<RequestHandle::State> state;
  std::vector<int32_t> tokens;
  int prompt_size = 0;
  uint64_t seed = 0;
  KvSequence sequence;
  int slot = -1;  // while it runs: its row of the sampler's buffers
  bool sampler_ready = false;

  // Prefix cache: the blocks of the sequence that are nodes of the tree, as long as all before them are.
  int kept_blocks = 0;
  int kept_node = PrefixCache::kRoot;
  bool keeps_blocks = true;
  bool forgotten = false;  // the tree was cleared meanwhile: others may still use its blocks without being in the tree
  int cached_tokens = 0;
  bool restarted = false;  // lost its blocks to an older request and is computed again

  OutputStream output;
  RepetitionGuard guard;
  bool reasoning = false;
  int reasoning_tokens = 0;

  Clock::time_point submitted;
  std::optional<Clock::time_point> admitted, first_token, last_token;
};

/// In the order of admission (running) or arrival (waiting).
using RequestList = std::list<ActiveRequest>;

}  // namespace marlin
