// The command queue of a Metal device: what its streams share. Encodes dispatches into one command buffer a step, keeps
// at most two in flight, and knows which work has completed.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "backend/metal/commands.h"
#include "backend/metal/metal_buffer.h"
#include "backend/metal/pipelines.h"

namespace marlin::metal {

class Engine final : public Commands {
 public:
  Engine(Object device, bool deterministic);
  ~Engine() override;

  /// Streams of different threads take turns: the lock is held for an op at a time.
  std::mutex& mutex() { return mutex_; }
  Id device() const { return device_.get(); }

  /// Waits for work that uses the buffer, which is about to go. Takes the lock.
  void released(MetalBuffer& buffer);

  // With the lock held:
  /// Copies at once where no unfinished work uses the buffer, else in stream order by way of staging memory.
  void upload(View to, std::span<const std::byte> bytes);
  /// Commits what was encoded; the number of the work that includes it.
  uint64_t submit();
  /// Blocks until the work is done. Throws Error{kUnsupported} if the GPU reported a failure of it or of work before.
  void wait(uint64_t serial);
  /// `written` is covered by the work that the caller waited for.
  void read(uint64_t completed, View from, std::span<std::byte> bytes) const;
  /// Dispatches encoded so far, for tests of how many an op takes.
  uint64_t dispatches() const { return dispatches_; }

  void kernel(const char* name, std::initializer_list<Constant> constants) override;
  void in(int index, View view, size_t bytes) override;
  void out(int index, View view, size_t bytes) override;
  void experts(int index, const ExpertBank& bank) override;
  void bytes(int index, const void* data, size_t size) override;
  void threadgroup_memory(int index, size_t bytes) override;
  void dispatch(Size threadgroups, Size threads) override;
  View scratch(Scratch slot, size_t bytes) override;
  bool deterministic() const override { return deterministic_; }

 private:
  struct Work {
    uint64_t serial = 0;
    Object command_buffer;
    std::vector<std::unique_ptr<MetalBuffer>> staging;
  };
  /// Addresses of a bank's experts in device memory.
  struct ExpertTable {
    std::unique_ptr<MetalBuffer> entries;
    std::vector<MetalBuffer*> weights;  // distinct
    std::vector<Id> handles;
    uint64_t resident_for = 0;  // the work that was told of them
    View first, last;           // of the bank's codes: another bank at the same address differs here
  };

  void open();
  void set(int index, const Place& place);
  void reap_oldest();
  std::unique_ptr<MetalBuffer> staging(size_t bytes);
  ExpertTable& table_of(const ExpertBank& bank);
  void fill_table(const ExpertBank& bank, ExpertTable& table);

  std::mutex mutex_;
  Object device_;
  Object queue_;
  Pipelines pipelines_;
  bool deterministic_;

  uint64_t serial_ = 1;  // of the work being encoded
  uint64_t completed_ = 0;
  Object command_buffer_;
  Object encoder_;
  const Pipeline* pipeline_ = nullptr;
  uint32_t bound_ = 0;                                 // indices bound since kernel()
  uint32_t stale_ = 0;                                 // indices that hold what an earlier dispatch was bound to
  std::vector<std::unique_ptr<MetalBuffer>> staging_;  // of the work being encoded
  std::deque<Work> in_flight_;
  std::vector<std::unique_ptr<MetalBuffer>> free_staging_;
  std::vector<std::unique_ptr<MetalBuffer>> retired_;  // scratch that grew; freed once unused
  std::array<std::unique_ptr<MetalBuffer>, static_cast<size_t>(Scratch::kCount)> scratch_;
  std::unordered_map<const ExpertBank*, ExpertTable> tables_;
  std::string failure_;
  uint64_t dispatches_ = 0;
};

}  // namespace marlin::metal
