#include "metal/fake/command_queue.h"

#include <chrono>
#include <deque>
#include <random>
#include <thread>

#include "metal/fake/compute_encoder.h"
#include "metal/fake/state.h"

namespace marlin::fake_metal {

Class& CommandBufferDescriptor::objc_class() {
  static Class& c = Class::define("MTLCommandBufferDescriptor")
                        .allocates<CommandBufferDescriptor>()
                        .method<&CommandBufferDescriptor::set_error_options>("setErrorOptions:");
  return c;
}

// ---- the thread of a queue ------------------------------------------------------------------------------------------

/// Runs command buffers one after the other. It may outlive its queue by a moment, when the last reference to the queue
/// was that of a command buffer which this thread let go.
class QueueThread {
 public:
  static std::shared_ptr<QueueThread> start() {
    auto self = std::make_shared<QueueThread>();
    self->thread_ = std::thread([self] { self->loop(); });
    return self;
  }

  void push(Ref<CommandBuffer> command_buffer) {
    std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(command_buffer));
    changed_.notify_one();
  }

  void stop() {
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
      changed_.notify_one();
    }
    if (thread_.get_id() == std::this_thread::get_id()) {
      thread_.detach();
    } else {
      thread_.join();
    }
  }

 private:
  void loop() {
    std::mt19937_64 random(options().execution.seed);
    while (Ref<CommandBuffer> next = pop()) {
      const int most_us = options().most_delay_us;
      if (most_us > 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(random() % static_cast<uint64_t>(most_us + 1)));
      }
      wait_while_held();
      next->run();
      next = nullptr;
      work_is_gone();
    }
  }

  /// Null when it is time to stop.
  Ref<CommandBuffer> pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return stopped_ || !waiting_.empty(); });
    if (waiting_.empty()) return nullptr;
    Ref<CommandBuffer> next = std::move(waiting_.front());
    waiting_.pop_front();
    return next;
  }

  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Ref<CommandBuffer>> waiting_;
  bool stopped_ = false;
};

// ---- queue ----------------------------------------------------------------------------------------------------------

Class& Queue::objc_class() {
  static Class& c =
      Class::define("MTLCommandQueue", Class::kProtocol).method<&Queue::command_buffer>("commandBufferWithDescriptor:");
  return c;
}

Queue::Queue(unsigned long most_command_buffers) : most_(most_command_buffers), thread_(QueueThread::start()) {}
Queue::~Queue() {
  thread_->stop();
}

Ref<CommandBuffer> Queue::command_buffer(CommandBufferDescriptor* descriptor) {
  if (!descriptor) die("commandBufferWithDescriptor: got nil");
  constexpr unsigned long kEncoderExecutionStatus = 1;
  take_slot();
  return make<CommandBuffer>(Ref<Queue>(this), (descriptor->error_options & kEncoderExecutionStatus) != 0);
}

/// Waits, as Metal does, while as many command buffers as the queue allows have not completed.
void Queue::take_slot() {
  std::unique_lock lock(mutex_);
  while (open_ >= most_) {
    if (committed_ == 0 || is_held()) {
      report("a command buffer more than the queue allows (" + std::to_string(most_) + "): waits for ever");
      break;
    }
    slot_free_.wait(lock);
  }
  ++open_;
}

void Queue::execute(Ref<CommandBuffer> command_buffer) {
  thread_->push(std::move(command_buffer));
}

void Queue::began() {
  std::lock_guard lock(mutex_);
  ++committed_;
}

void Queue::ended(bool was_committed) {
  std::lock_guard lock(mutex_);
  --open_;
  if (was_committed) --committed_;
  slot_free_.notify_all();
}

// ---- command buffer: what the host does
// ------------------------------------------------------------------------------

Class& EncoderInfo::objc_class() {
  static Class& c = Class::define("MTLCommandBufferEncoderInfo", Class::kProtocol)
                        .method<&EncoderInfo::label>("label")
                        .method<&EncoderInfo::error_state>("errorState")
                        .method<&EncoderInfo::signposts>("debugSignposts");
  return c;
}

Class& CommandBuffer::objc_class() {
  static Class& c = Class::define("MTLCommandBuffer", Class::kProtocol)
                        .method<&CommandBuffer::compute_encoder>("computeCommandEncoder")
                        .method<&CommandBuffer::commit>("commit")
                        .method<&CommandBuffer::wait>("waitUntilCompleted")
                        .method<&CommandBuffer::status>("status")
                        .method<&CommandBuffer::error>("error")
                        .method<&CommandBuffer::gpu_start>("GPUStartTime")
                        .method<&CommandBuffer::gpu_end>("GPUEndTime")
                        .method<&CommandBuffer::set_label>("setLabel:");
  return c;
}

CommandBuffer::CommandBuffer(Ref<Queue> queue, bool tells_encoders)
    : queue_(std::move(queue)), tells_encoders_(tells_encoders) {}

CommandBuffer::~CommandBuffer() {
  if (status_ == kNotEnqueued) queue_->ended(false);
}

Ref<ComputeEncoder> CommandBuffer::compute_encoder() {
  if (status() != kNotEnqueued) {
    report("computeCommandEncoder: the command buffer has been committed");
    return nullptr;
  }
  if (open_encoders_ > 0) fault("computeCommandEncoder: another encoder has not ended");
  ++open_encoders_;
  encoders_.push_back(make<EncoderInfo>());
  return make<ComputeEncoder>(Ref<CommandBuffer>(this), encoders_.back());
}

void CommandBuffer::record(const Ref<EncoderInfo>& encoder, emulator::Dispatch dispatch) {
  commands_.push_back({encoder, std::move(dispatch)});
}

void CommandBuffer::keep(Instance* object) {
  if (kept_once_.insert(object).second) kept_.push_back(Ref<Instance>(object));
}

void CommandBuffer::fault(const std::string& text, EncoderInfo* encoder) {
  report(text);
  if (status() != kNotEnqueued) return;
  if (first_fault_.empty()) first_fault_ = text;
  if (encoder) encoder->state = EncoderInfo::kFaulted;
}

template <typename Action>
void CommandBuffer::for_each_buffer(Action action) {
  for (const Ref<Instance>& each : kept_) {
    if (auto* buffer = dynamic_cast<Buffer*>(each.get())) action(*buffer);
  }
}

void CommandBuffer::commit() {
  if (open_encoders_ > 0) fault("commit: an encoder has not ended");
  {
    std::lock_guard lock(mutex_);
    if (status_ != kNotEnqueued) {
      report("commit: the command buffer was committed before");
      return;
    }
    status_ = kCommitted;
  }
  for_each_buffer([](Buffer& buffer) { buffer.begin_use(); });
  work_begins();
  queue_->began();
  queue_->execute(Ref<CommandBuffer>(this));
}

void CommandBuffer::wait() {
  std::unique_lock lock(mutex_);
  if (status_ == kNotEnqueued) {
    report("waitUntilCompleted: the command buffer has not been committed, so it waits for ever");
    return;
  }
  changed_.wait(lock, [this] { return status_ >= kCompleted; });
}

unsigned long CommandBuffer::status() {
  std::lock_guard lock(mutex_);
  return status_;
}

Ref<Error> CommandBuffer::error() {
  std::lock_guard lock(mutex_);
  return error_;
}

double CommandBuffer::gpu_start() {
  std::lock_guard lock(mutex_);
  return gpu_start_;
}

double CommandBuffer::gpu_end() {
  std::lock_guard lock(mutex_);
  return gpu_end_;
}

// ---- command buffer: what the GPU does
// -------------------------------------------------------------------------------

namespace {

/// There is one GPU: queues take turns.
std::mutex& gpu() {
  static auto& mutex = *new std::mutex;
  return mutex;
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void CommandBuffer::run() {
  std::string failure;
  {
    std::lock_guard turn(gpu());
    {
      std::lock_guard lock(mutex_);
      status_ = kScheduled;
      gpu_start_ = seconds_now();
    }
    for_each_buffer([](Buffer& buffer) { buffer.take_over_host_writes(); });
    failure = run_commands();
  }
  complete(failure);
}

/// "" or why the GPU gave up; what comes after the failure does not run.
std::string CommandBuffer::run_commands() {
  if (!first_fault_.empty()) return first_fault_;
  for (Command& command : commands_) {
    std::string failure = run_command(command);
    if (!failure.empty()) {
      command.encoder->state = EncoderInfo::kFaulted;
      return failure;
    }
    command.encoder->state = EncoderInfo::kCompleted;  // so far
  }
  for (const Ref<EncoderInfo>& encoder : encoders_) encoder->state = EncoderInfo::kCompleted;
  return "";
}

std::string CommandBuffer::run_command(Command& command) {
  const std::string& kernel = command.dispatch.kernel->name;
  const Options chosen = options();
  if (kernel == chosen.fail_kernel) return "Caused GPU Address Fault Error: kernel '" + kernel + "' fails on request";
  emulator::Outcome outcome = emulator::run(command.dispatch, chosen.execution);
  if (outcome.errors.empty() && outcome.threadgroup_bytes > kMostThreadgroupMemory) {
    outcome.errors.push_back(std::to_string(outcome.threadgroup_bytes) + " bytes of threadgroup memory, over 32 KiB");
  }
  const std::string who = "kernel '" + kernel + "': ";
  for (std::string& error : outcome.errors) report(error.insert(0, who));
  for (const std::string& text : outcome.notes) note(who + text);
  if (!outcome.errors.empty()) return outcome.errors[0];
  count_dispatch(kernel, outcome);
  return "";
}

Ref<Error> CommandBuffer::make_error(const std::string& failure) {
  auto details = make<Dictionary>();
  if (tells_encoders_) {
    auto infos = make<Array>();
    for (const Ref<EncoderInfo>& each : encoders_) infos->objects.push_back(each);
    details->objects[kEncoderInfoErrorKey] = infos;
  }
  return make<Error>(failure, details);
}

void CommandBuffer::complete(const std::string& failure) {
  Ref<Error> error = failure.empty() ? Ref<Error>() : make_error(failure);
  for_each_buffer([](Buffer& buffer) { buffer.end_use(); });
  kept_once_.clear();
  kept_.clear();
  commands_.clear();
  queue_->ended(true);
  std::lock_guard lock(mutex_);
  gpu_end_ = seconds_now();
  error_ = std::move(error);
  status_ = failure.empty() ? kCompleted : kFailed;
  changed_.notify_all();
}

}  // namespace marlin::fake_metal
