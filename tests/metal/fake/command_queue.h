// MTLCommandQueue, and MTLCommandBuffer with what it tells about a failure.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "metal/emulator/emulator.h"
#include "metal/fake/device.h"
#include "metal/fake/foundation.h"
#include "metal/fake/objc_runtime.h"

namespace marlin::fake_metal {

/// The text of MTLCommandBufferEncoderInfoErrorKey.
inline constexpr const char* kEncoderInfoErrorKey = "MTLCommandBufferEncoderInfoErrorKey";

class CommandBuffer;
class ComputeEncoder;
class QueueThread;

class CommandBufferDescriptor : public Instance {
 public:
  static Class& objc_class();
  void set_error_options(unsigned long options) { error_options = options; }

  unsigned long error_options = 0;
};

class Queue : public Instance {
 public:
  explicit Queue(unsigned long most_command_buffers);
  ~Queue() override;
  static Class& objc_class();
  Ref<CommandBuffer> command_buffer(CommandBufferDescriptor* descriptor);

  /// In the order of calls.
  void execute(Ref<CommandBuffer> command_buffer);
  /// A command buffer was committed; it completed, or went away without.
  void began();
  void ended(bool was_committed);

 private:
  void take_slot();

  const unsigned long most_;
  std::mutex mutex_;
  std::condition_variable slot_free_;
  unsigned long open_ = 0;       // made and not completed
  unsigned long committed_ = 0;  // of these, those that will complete
  std::shared_ptr<QueueThread> thread_;
};

/// What a failed command buffer tells about one of its encoders.
class EncoderInfo : public Instance {
 public:
  enum State : long { kUnknown, kCompleted, kAffected, kPending, kFaulted };
  static Class& objc_class();
  Ref<String> label() { return label_; }
  long error_state() { return state; }
  Ref<Array> signposts() { return signposts_; }
  void set_label(String* label) { label_ = Ref<String>(label); }
  void add_signpost(String* text) { signposts_->objects.push_back(Ref<String>(text)); }

  State state = kPending;

 private:
  Ref<String> label_;
  Ref<Array> signposts_ = make<Array>();
};

class CommandBuffer : public Instance {
 public:
  CommandBuffer(Ref<Queue> queue, bool tells_encoders);
  ~CommandBuffer() override;
  static Class& objc_class();

  Ref<ComputeEncoder> compute_encoder();
  void commit();
  void wait();
  unsigned long status();
  Ref<Error> error();
  double gpu_start();
  double gpu_end();
  void set_label(String*) {}

  /// The encoder's part: a dispatch, what must live until completion, and what the caller did wrong.
  void record(const Ref<EncoderInfo>& encoder, emulator::Dispatch dispatch);
  void keep(Instance* object);
  void fault(const std::string& text, EncoderInfo* encoder = nullptr);
  void encoder_ended() { --open_encoders_; }

  /// The queue's part.
  void run();

 private:
  enum Status : unsigned long { kNotEnqueued = 0, kCommitted = 2, kScheduled = 3, kCompleted = 4, kFailed = 5 };
  struct Command {
    Ref<EncoderInfo> encoder;
    emulator::Dispatch dispatch;
  };

  std::string run_commands();
  std::string run_command(Command& command);
  void complete(const std::string& failure);
  Ref<Error> make_error(const std::string& failure);
  template <typename Action>
  void for_each_buffer(Action action);

  const Ref<Queue> queue_;
  const bool tells_encoders_;
  int open_encoders_ = 0;
  std::vector<Ref<EncoderInfo>> encoders_;
  std::vector<Command> commands_;
  std::vector<Ref<Instance>> kept_;
  std::set<Instance*> kept_once_;
  std::string first_fault_;

  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  Status status_ = kNotEnqueued;
  Ref<Error> error_;
  double gpu_start_ = 0, gpu_end_ = 0;
};

}  // namespace marlin::fake_metal
