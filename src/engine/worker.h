// The thread that owns model, stream and cache: plans a step, computes it, and turns its results into events.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "backend/backend.h"
#include "engine/request_state.h"
#include "engine/sampler_inputs.h"
#include "engine/scheduler.h"
#include "model/kv_cache.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace marlin {

struct WorkerOptions {
  SchedulerOptions scheduler;
  int context = 0;
  int kv_blocks = 0;
  int n_valid = 0;  // ids from here on are never sampled
  bool check_numerics = false;
  std::vector<int32_t> eos_ids;
};

class Worker {
 public:
  /// Allocates the cache and starts the thread. `model` and `tokenizer` outlive it.
  Worker(Model& model, const Tokenizer& tokenizer, const WorkerOptions& options);
  /// Cancels everything and waits for the thread.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// Thread-safe. `request` has been validated.
  std::shared_ptr<RequestHandle::State> submit(Request request);
  EngineStats stats() const;

 private:
  void run();
  bool take_arrivals();
  void end_cancelled();
  void step();
  void compute(Stream& stream);
  int32_t forced_id(const ActiveRequest& request) const;
  void deliver(const PlannedRequest& planned);
  void advance_reasoning(ActiveRequest& request, int32_t id) const;
  std::optional<FinishReason> ending(ActiveRequest& request, int32_t id) const;
  bool end_bad_requests(bool computed);
  std::optional<Error> diagnose(const PlannedRequest& planned);
  void fail(const PlannedRequest& planned, const Error& error);
  void fail_all(const Error& error);
  void finish(ActiveRequest& request, FinishReason reason, const Error* error = nullptr);
  Stream& checked();
  void publish_stats();
  bool hidden_from_text(int32_t id) const { return hidden_[static_cast<size_t>(id)]; }
  bool is_eos(int32_t id) const;

  Model* model_;
  const Tokenizer* tokenizer_;
  WorkerOptions options_;
  std::unique_ptr<Stream> stream_, checked_;
  KvCache cache_;
  Scheduler scheduler_;
  SamplerInputs sampler_;
  StepPlan plan_;
  std::vector<bool> hidden_;  // by id: special tokens and those that end the turn
  int32_t think_end_ = -1;
  int32_t tool_call_ = -1;
  EngineStats counters_;  // the worker's own; published after each step

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  RequestList arrivals_;   // guarded by mutex_
  EngineStats published_;  // guarded by mutex_
  bool stopping_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace marlin
