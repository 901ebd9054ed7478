#include "engine/worker.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <utility>

namespace marlin {
namespace {

using Clock = ActiveRequest::Clock;

double milliseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

double rate(int tokens, double ms) {
  return ms > 0 ? tokens * 1000.0 / ms : 0;
}

Timings timings_of(const ActiveRequest& request) {
  Timings t;
  if (!request.admitted) return t;
  t.queue_ms = milliseconds(*request.admitted - request.submitted);
  if (!request.first_token) return t;
  t.prompt_ms = milliseconds(*request.first_token - *request.admitted);
  t.ttft_ms = milliseconds(*request.first_token - request.submitted);
  t.decode_ms = milliseconds(*request.last_token - *request.first_token);
  t.prompt_tps = rate(request.n_prompt() - request.cached_tokens, t.prompt_ms);
  t.decode_tps = rate(request.n_generated() - 1, t.decode_ms);
  return t;
}

/// What the running exception is to a request.
Error current_error() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return {ErrorCode::kNoMemory, "the engine ran out of memory in a step"};
  } catch (const std::exception& error) {
    return {ErrorCode::kUnsupported, fmt::format("the engine failed in a step: {}", error.what())};
  }
}

}  // namespace

Worker::Worker(Model& model, const Tokenizer& tokenizer, const WorkerOptions& options)
    : model_(&model),
      tokenizer_(&tokenizer),
      options_(options),
      stream_(model.device().make_stream()),
      cache_(model.device(), model.kv_layout(), options.kv_blocks),
      scheduler_(cache_, options.scheduler),
      sampler_(model.device(), options.scheduler.max_parallel, model.config().vocab_size, options.n_valid),
      hidden_(static_cast<size_t>(model.config().vocab_size), false),
      think_end_(tokenizer.id_of("</think>").value_or(-1)),
      tool_call_(tokenizer.id_of("<tool_call>").value_or(-1)) {
  for (const AddedToken& token : tokenizer.added_tokens()) {
    if (token.special && token.id < model.config().vocab_size) hidden_[static_cast<size_t>(token.id)] = true;
  }
  for (const int32_t id : options_.eos_ids) hidden_[static_cast<size_t>(id)] = true;
  publish_stats();
  thread_ = std::thread([this] { run(); });
}

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

std::shared_ptr<RequestHandle::State> Worker::submit(Request request) {
  auto state = std::make_shared<RequestHandle::State>();
  RequestList arrival;
  arrival.emplace_back(std::move(request), state, cache_);
  {
    const std::lock_guard lock(mutex_);
    arrivals_.splice(arrivals_.end(), arrival);
  }
  wake_.notify_all();
  return state;
}

EngineStats Worker::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats stats = published_;
  stats.waiting += static_cast<int>(arrivals_.size());
  return stats;
}

void Worker::run() {
  model_->device().adopt_thread();
  while (take_arrivals()) {
    try {
      end_cancelled();
      if (scheduler_.plan(*stream_, plan_)) step();
    } catch (...) {
      fail_all(current_error());
    }
    publish_stats();
  }
  for (RequestList* list : {&scheduler_.running(), &scheduler_.waiting()}) {
    while (!list->empty()) finish(list->front(), FinishReason::kCancelled);
  }
}

// Sleeps while there is nothing to do. False: the engine goes.
bool Worker::take_arrivals() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [this] { return stopping_ || !arrivals_.empty() || !scheduler_.idle(); });
  scheduler_.enqueue(std::move(arrivals_));
  return !stopping_;
}

void Worker::end_cancelled() {
  for (RequestList* list : {&scheduler_.running(), &scheduler_.waiting()}) {
    for (auto it = list->begin(); it != list->end();) {
      ActiveRequest& request = *it++;
      if (request.state->cancelled.load(std::memory_order_relaxed)) finish(request, FinishReason::kCancelled);
    }
  }
}

void Worker::step() {
  try {
    compute(options_.check_numerics ? checked() : *stream_);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNumeric || !end_bad_requests(/*computed=*/false)) throw;
    return;
  }
  ++counters_.steps;
  const auto not_finite = [this](const PlannedRequest& planned) {
    return planned.logit_row >= 0 && sampler_.row(planned.logit_row).status == SampleStatus::kNotFinite;
  };
  if (!sampler_.hidden_finite() || std::ranges::any_of(plan_.requests, not_finite)) end_bad_requests(/*computed=*/true);
  scheduler_.commit(plan_);
  for (const PlannedRequest& planned : plan_.requests) {
    const int prompt_end = std::min(planned.end, planned.request->n_prompt());
    if (!planned.request->restarted)
      counters_.prompt_tokens += static_cast<uint64_t>(std::max(0, prompt_end - planned.begin));
    if (planned.logit_row >= 0) deliver(planned);
  }
}

void Worker::compute(Stream& stream) {
  const Model::Outputs out = model_->forward(stream, plan_.step, cache_);
  sampler_.begin();
  for (const PlannedRequest& planned : plan_.requests) {
    if (planned.logit_row >= 0) sampler_.add(stream, *planned.request, forced_id(*planned.request));
  }
  sampler_.enqueue(stream, out.logits, out.hidden, out.batch.n_tokens, model_->config().hidden_size);
  sampler_.read(stream);
}

// The thinking budget: when it is spent, </think> is the only id that may come next.
int32_t Worker::forced_id(const ActiveRequest& request) const {
  const int budget = request.request.max_thinking_tokens;
  return request.reasoning && budget >= 0 && request.reasoning_tokens >= budget ? think_end_ : -1;
}

void Worker::deliver(const PlannedRequest& planned) {
  ActiveRequest& request = *planned.request;
  const SampledRow& row = sampler_.row(planned.logit_row);
  if (row.status == SampleStatus::kNothingAllowed) {
    const Error error(ErrorCode::kUsage, "the constraint of this request allows no next token");
    finish(request, FinishReason::kError, &error);
    return;
  }
  request.tokens.push_back(row.id);
  request.last_token = Clock::now();
  if (!request.first_token) {
    request.first_token = request.last_token;
    counters_.cached_tokens += static_cast<uint64_t>(request.cached_tokens);
  }
  ++counters_.generated_tokens;

  TokenEvent event;
  event.id = row.id;
  event.logprob = row.logprob;
  event.ms = milliseconds(*request.last_token - request.submitted);
  if (request.request.sampling.top_logprobs > 0) {
    event.top_logprobs = sampler_.top(planned.logit_row, request.request.sampling.top_logprobs);
  }
  if (!hidden_from_text(row.id)) event.delta = request.output.push(tokenizer_->token_bytes(row.id));
  advance_reasoning(request, row.id);
  request.state->post({.token = std::move(event), .finished = std::nullopt});
  if (const auto reason = ending(request, row.id)) finish(request, *reason);
}

void Worker::advance_reasoning(ActiveRequest& request, int32_t id) const {
  if (!request.reasoning) return;
  const bool tag = id == think_end_ || id == tool_call_;
  request.reasoning = !tag && (!request.request.parse_output || request.output.in_reasoning());
  if (request.reasoning) ++request.reasoning_tokens;
}

std::optional<FinishReason> Worker::ending(ActiveRequest& request, int32_t id) const {
  if (!request.request.ignore_eos && is_eos(id)) return FinishReason::kStop;
  if (request.output.stopped()) return FinishReason::kStop;
  const bool loop = request.guard.push(request.generated());
  if (loop && request.request.repetition_guard) return FinishReason::kRepetition;
  const int limit = request.request.max_tokens;
  if (limit > 0 && request.n_generated() >= limit) return FinishReason::kLength;
  if (request.n_tokens() >= options_.context) return FinishReason::kLength;
  return std::nullopt;
}

bool Worker::is_eos(int32_t id) const {
  return std::ranges::find(options_.eos_ids, id) != options_.eos_ids.end();
}

// Runs each request of the step alone and checked. Those that are at fault end; with `computed` the others' results
// stand (rows do not influence each other), otherwise they are planned again. False: nobody is at fault.
bool Worker::end_bad_requests(bool computed) {
  bool found = false;
  std::vector<PlannedRequest> good;
  for (const PlannedRequest& planned : plan_.requests) {
    std::optional<Error> error = diagnose(planned);
    const bool bad_row =
        computed && planned.logit_row >= 0 && sampler_.row(planned.logit_row).status == SampleStatus::kNotFinite;
    if (!error && bad_row) {
      error.emplace(ErrorCode::kNumeric, fmt::format("NaN or Inf in the logits of position {}; a checked second run of "
                                                     "the step was finite: the hardware may be at fault",
                                                     planned.end - 1));
    }
    if (error) {
      fail(planned, *error);
      found = true;
    } else {
      if (!computed) Scheduler::roll_back(planned);
      good.push_back(planned);
    }
  }
  plan_.requests = std::move(good);
  return found;
}

std::optional<Error> Worker::diagnose(const PlannedRequest& planned) {
  Step alone;
  alone.sequences = {&planned.request->sequence};
  for (const StepToken& token : plan_.step.tokens) {
    const KvSequence* sequence = plan_.step.sequences[static_cast<size_t>(token.slot)];
    if (sequence != alone.sequences.front()) continue;
    alone.tokens.push_back(token);
    alone.tokens.back().slot = 0;
  }
  try {
    model_->forward(checked(), alone, cache_);
    stream_->wait(stream_->submit());
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNumeric) throw;
    return Error(ErrorCode::kNumeric,
                 fmt::format("positions {} to {}: {}", planned.begin, planned.end - 1, error.what()));
  }
  return std::nullopt;
}

void Worker::fail(const PlannedRequest& planned, const Error& error) {
  Scheduler::roll_back(planned);
  scheduler_.clear_prefix_cache();  // bad values may have been computed before they showed
  finish(*planned.request, FinishReason::kError, &error);
}

void Worker::fail_all(const Error& error) {
  scheduler_.clear_prefix_cache();
  for (RequestList* list : {&scheduler_.running(), &scheduler_.waiting()}) {
    while (!list->empty()) finish(list->front(), FinishReason::kError, &error);
  }
}

void Worker::finish(ActiveRequest& request, FinishReason reason, const Error* error) {
  Finished finished;
  finished.reason = reason;
  finished.delta = request.output.finish();
  finished.matched_stop = request.output.matched_stop();
  finished.output = request.output.output();
  finished.text = request.output.text();
  finished.ids.assign(request.generated().begin(), request.generated().end());
  finished.prompt_tokens = request.n_prompt();
  finished.cached_tokens = request.cached_tokens;
  finished.seed = request.seed;
  finished.timings = timings_of(request);
  if (error) finished.error = *error;
  const std::shared_ptr<RequestHandle::State> state = request.state;
  scheduler_.remove(request, /*reusable=*/reason != FinishReason::kError);
  publish_stats();  // before the event: whoever sees the end sees figures that include it
  state->post({.token = std::nullopt, .finished = std::move(finished)});
}

Stream& Worker::checked() {
  if (!checked_) checked_ = make_checked_stream(model_->device(), *stream_);
  return *checked_;
}

void Worker::publish_stats() {
  EngineStats stats = counters_;
  stats.running = static_cast<int>(scheduler_.running().size());
  stats.waiting = static_cast<int>(scheduler_.waiting().size());
  stats.kv_blocks = cache_.n_blocks();
  stats.kv_blocks_cached = scheduler_.unused_blocks();
  stats.kv_blocks_used = cache_.n_blocks() - cache_.free_blocks() - stats.kv_blocks_cached;
  stats.suspended = scheduler_.suspended();
  const std::lock_guard lock(mutex_);
  published_ = stats;
}

}  // namespace marlin
