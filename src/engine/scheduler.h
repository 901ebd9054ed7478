// Who runs, and which tokens a step computes.
//
// Rules. Requests are admitted first come, first served, when a row is free and the pool has room for their pending
// tokens and some growth. A step holds the newest token of every decoding request and up to `prefill_chunk` tokens of
// prompts, older requests first. KV blocks are taken as they are needed: when none is left even after giving up the
// prefix cache, the youngest request loses its blocks and waits, to be computed again (with the same roles, so with the
// same results). The oldest is never the victim unless it is alone, and alone it fits: there is no deadlock.
#pragma once

#include <memory>

#include "engine/prefix_cache.h"
#include "engine/request_state.h"
#include "model/kv_cache.h"
#include "model/model.h"

namespace marlin {

struct SchedulerOptions {
  int max_parallel = 1;
  int prefill_chunk = 512;
  bool prefix_cache = true;
};

/// A step's tokens of one request.
struct PlannedRequest {
  ActiveRequest* request = nullptr;
  int begin = 0;       // first position
  int end = 0;         // one past the last
  int logit_row = -1;  // the row that samples the next token; -1: the prompt goes on
};

struct StepPlan {
  Step step;
  std::vector<PlannedRequest> requests;
};

class Scheduler {
 public:
  Scheduler(KvCache& cache, const SchedulerOptions& options);

  void enqueue(RequestList&& arrived) { waiting_.splice(waiting_.end(), arrived); }
  /// Admits what may run and fills `plan`, extending the sequences; `ops` gets the copies this may need. False when
  /// there is nothing to do.
  bool plan(Ops& ops, StepPlan& plan);
  /// The planned positions were computed: their full blocks become available to others.
  void commit(const StepPlan& plan);
  /// The planned positions were not computed, or wrongly: takes them back.
  static void roll_back(const PlannedRequest& planned) { planned.request->sequence.truncate(planned.begin); }
  /// Takes a request out, running or waiting, for good; its blocks are kept for others if they are `reusable`.
  void remove(ActiveRequest& request, bool reusable);
  /// Forgets all kept blocks.
  void clear_prefix_cache();

  RequestList& running() { return running_; }
  RequestList& waiting() { return waiting_; }
  bool idle() const { return running_.empty() && waiting_.empty(); }
  int unused_blocks() const { return prefixes_.unused(); }
  uint64_t suspended() const { return suspended_; }

 private:
  void admit();
  bool has_room(const ActiveRequest& request) const;
  void reuse_prefix(ActiveRequest& request);
  void keep_blocks(ActiveRequest& request);
  bool make_room(ActiveRequest& request, int tokens);
  void suspend(RequestList::iterator victim);
  void release(ActiveRequest& request, bool reusable);

  KvCache* cache_;
  SchedulerOptions options_;
  PrefixCache prefixes_;
  RequestList waiting_, running_;
  std::vector<int> free_slots_;
  uint64_t suspended_ = 0;
};

}  // namespace marlin
