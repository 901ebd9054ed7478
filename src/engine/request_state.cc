#include "engine/request_state.h"

#include <random>
#include <utility>

namespace marlin {
namespace {

uint64_t random_seed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace

void RequestHandle::State::post(Event event) {
  {
    const std::lock_guard lock(mutex);
    finished = finished || event.finished.has_value();
    events.push_back(std::move(event));
  }
  wake.notify_one();
}

RequestHandle::RequestHandle(std::shared_ptr<State> state) : state_(std::move(state)) {}

RequestHandle::~RequestHandle() {
  cancel();
}

RequestHandle::RequestHandle(RequestHandle&&) noexcept = default;

RequestHandle& RequestHandle::operator=(RequestHandle&& other) noexcept {
  if (this != &other) {
    cancel();
    state_ = std::move(other.state_);
  }
  return *this;
}

RequestHandle::Event RequestHandle::next() {
  if (!state_) return {};
  std::unique_lock lock(state_->mutex);
  state_->wake.wait(lock, [this] { return !state_->events.empty() || state_->finished; });
  if (state_->events.empty()) return {};
  Event event = std::move(state_->events.front());
  state_->events.pop_front();
  return event;
}

void RequestHandle::cancel() {
  if (state_) state_->cancelled.store(true, std::memory_order_relaxed);
}

ActiveRequest::ActiveRequest(Request submitted_request, std::shared_ptr<RequestHandle::State> shared, KvCache& cache)
    : request(std::move(submitted_request)),
      state(std::move(shared)),
      tokens(std::move(request.prompt)),
      prompt_size(static_cast<int>(tokens.size())),
      seed(request.sampling.seed ? *request.sampling.seed : random_seed()),
      sequence(cache),
      output({.stop = std::move(request.stop),
              .parse = request.parse_output,
              .starts_in_reasoning = request.starts_in_reasoning,
              .tools = std::move(request.tools)}),
      reasoning(request.starts_in_reasoning),
      submitted(Clock::now()) {}

}  // namespace marlin
