#include "engine/scheduler.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace marlin {
namespace {

int blocks_for(int positions) {
  return (positions + kKvBlockTokens - 1) / kKvBlockTokens;
}

RequestList::iterator find(RequestList& list, const ActiveRequest& request) {
  return std::ranges::find_if(list, [&](const ActiveRequest& other) { return &other == &request; });
}

}  // namespace

Scheduler::Scheduler(KvCache& cache, const SchedulerOptions& options)
    : cache_(&cache), options_(options), prefixes_(cache) {
  for (int slot = options.max_parallel - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

bool Scheduler::plan(Ops& ops, StepPlan& plan) {
  plan.step.tokens.clear();
  plan.step.sequences.clear();
  plan.requests.clear();
  admit();
  int budget = options_.prefill_chunk;
  int logit_rows = 0;
  for (auto it = running_.begin(); it != running_.end();) {
    ActiveRequest& request = *it;
    if (request.prefilling()) reuse_prefix(request);
    const bool prefilling = request.prefilling();
    const int tokens = prefilling ? std::min(budget, request.pending()) : 1;
    if (tokens == 0) {
      ++it;
      continue;
    }
    if (!make_room(request, tokens)) break;  // this one has just been suspended; it was the youngest
    ++it;
    const int begin = request.sequence.length();
    MARLIN_CHECK(request.sequence.extend(ops, tokens), "no room for {} tokens at {}", tokens, begin);
    if (prefilling) budget -= tokens;
    const auto slot = static_cast<int32_t>(plan.step.sequences.size());
    plan.step.sequences.push_back(&request.sequence);
    for (int position = begin; position < begin + tokens; ++position) {
      plan.step.tokens.push_back({.id = request.tokens[static_cast<size_t>(position)],
                                  .slot = slot,
                                  .position = position,
                                  .role = position < request.n_prompt() ? Role::kPrompt : Role::kDecode,
                                  .wants_logits = position + 1 == request.n_tokens()});
    }
    const bool samples = request.pending() == 0;
    plan.requests.push_back({&request, begin, begin + tokens, samples ? logit_rows++ : -1});
  }
  MARLIN_CHECK(!plan.requests.empty() || idle(), "{} running and {} waiting requests cannot go on", running_.size(),
               waiting_.size());
  return !plan.requests.empty();
}

void Scheduler::admit() {
  while (!waiting_.empty() && !free_slots_.empty()) {
    ActiveRequest& request = waiting_.front();
    reuse_prefix(request);
    if (!running_.empty() && !has_room(request)) {
      release(request, /*reusable=*/true);
      if (!request.restarted) request.cached_tokens = 0;
      return;
    }
    request.slot = free_slots_.back();
    free_slots_.pop_back();
    request.sampler_ready = false;
    if (!request.admitted) request.admitted = ActiveRequest::Clock::now();
    running_.splice(running_.end(), waiting_, waiting_.begin());
  }
}

// What the running requests have pending and one more block each stay theirs: a newcomer would soon be suspended.
bool Scheduler::has_room(const ActiveRequest& request) const {
  const auto missing = [](const ActiveRequest& r) {
    return std::max(0, blocks_for(r.n_tokens() + 1) - static_cast<int>(r.sequence.blocks().size()));
  };
  int needed = missing(request);
  for (const ActiveRequest& other : running_) needed += missing(other) + 1;
  return needed <= cache_->free_blocks() + prefixes_.unused();
}

// At least the last token is computed: its logits are needed.
void Scheduler::reuse_prefix(ActiveRequest& request) {
  if (!options_.prefix_cache || !request.keeps_blocks) return;
  int block = request.sequence.length() / kKvBlockTokens;
  if (request.sequence.length() % kKvBlockTokens != 0 || block != request.kept_blocks) return;
  for (; (block + 1) * kKvBlockTokens < request.n_tokens(); ++block) {
    const int node = prefixes_.find(request.kept_node, request.block_ids(block));
    if (node < 0) return;
    request.sequence.append_shared(node);
    request.kept_node = node;
    ++request.kept_blocks;
    if (!request.restarted) request.cached_tokens += kKvBlockTokens;
  }
}

void Scheduler::commit(const StepPlan& plan) {
  for (const PlannedRequest& planned : plan.requests) keep_blocks(*planned.request);
}

// A running request keeps only blocks of its own, and stops where somebody else was first with the same ids: a node in
// use must hold all its ancestors in use (prefix_cache.h).
void Scheduler::keep_blocks(ActiveRequest& request) {
  if (!options_.prefix_cache || !request.keeps_blocks) return;
  const int full = request.sequence.length() / kKvBlockTokens;
  for (; request.kept_blocks < full; ++request.kept_blocks) {
    const int own = request.sequence.blocks()[static_cast<size_t>(request.kept_blocks)];
    const int node = prefixes_.insert(request.kept_node, request.block_ids(request.kept_blocks), own);
    if (node != own) {
      request.keeps_blocks = false;
      return;
    }
    request.kept_node = node;
  }
}

// Takes blocks from the prefix cache, then from the youngest. False: `request` was the youngest and is suspended.
bool Scheduler::make_room(ActiveRequest& request, int tokens) {
  const auto needed = [&] {
    return blocks_for(request.sequence.length() + tokens) - static_cast<int>(request.sequence.blocks().size());
  };
  while (!prefixes_.make_room(needed())) {
    const auto youngest = std::prev(running_.end());
    const bool itself = &*youngest == &request;
    MARLIN_CHECK(!itself || running_.size() > 1, "{} blocks are too few for one request", cache_->n_blocks());
    suspend(youngest);
    if (itself) return false;
  }
  return true;
}

void Scheduler::suspend(RequestList::iterator victim) {
  release(*victim, /*reusable=*/true);
  victim->restarted = true;
  ++suspended_;
  free_slots_.push_back(victim->slot);
  victim->slot = -1;
  waiting_.splice(waiting_.begin(), running_, victim);
}

// Whole blocks go to the tree from its root: now that nobody uses them, they may hang below another's node.
void Scheduler::release(ActiveRequest& request, bool reusable) {
  const bool keep = reusable && options_.prefix_cache && !request.forgotten;
  const int full = keep ? request.sequence.length() / kKvBlockTokens : 0;
  int node = PrefixCache::kRoot;
  for (int block = 0; block < full; ++block) {
    node = prefixes_.insert(node, request.block_ids(block), request.sequence.blocks()[static_cast<size_t>(block)]);
    if (node < 0) break;
  }
  request.sequence.clear();
  request.kept_blocks = 0;
  request.kept_node = PrefixCache::kRoot;
  request.keeps_blocks = true;
  request.forgotten = false;
}

void Scheduler::remove(ActiveRequest& request, bool reusable) {
  release(request, reusable);
  if (request.slot < 0) {
    waiting_.erase(find(waiting_, request));
    return;
  }
  free_slots_.push_back(request.slot);
  running_.erase(find(running_, request));
}

void Scheduler::clear_prefix_cache() {
  prefixes_.clear();
  for (ActiveRequest& request : running_) {
    request.keeps_blocks = false;
    request.forgotten = true;
  }
}

}  // namespace marlin
