// MTLComputeCommandEncoder: gathers the state of a dispatch and checks it as Apple's validation layer does.
#pragma once

#include <array>
#include <map>
#include <set>
#include <string>

#include "metal/emulator/emulator.h"
#include "metal/fake/command_queue.h"
#include "metal/fake/device.h"
#include "metal/fake/library.h"
#include "metal/fake/objc_runtime.h"

namespace marlin::fake_metal {

/// MTLSize.
struct GridSize {
  unsigned long width, height, depth;
};

class ComputeEncoder : public Instance {
 public:
  ComputeEncoder(Ref<CommandBuffer> command_buffer, Ref<EncoderInfo> info)
      : command_buffer_(std::move(command_buffer)), info_(std::move(info)) {}
  ~ComputeEncoder() override;
  static Class& objc_class();

  void set_pipeline(Pipeline* pipeline);
  void set_buffer(Buffer* buffer, unsigned long offset, unsigned long index);
  void set_bytes(const void* bytes, unsigned long length, unsigned long index);
  void set_threadgroup_memory(unsigned long length, unsigned long index);
  void use_resources(const Id* resources, unsigned long count, unsigned long usage);
  void dispatch(GridSize threadgroups, GridSize threads);
  void insert_signpost(String* text);
  void set_label(String* label);
  void end();

 private:
  void fault(const std::string& text) { command_buffer_->fault(text, info_.get()); }
  bool is_open(const char* method);
  bool is_index(const char* method, unsigned long index);
  bool check_size(GridSize threadgroups, GridSize threads);
  bool check_threadgroup_memory(const emulator::Kernel& kernel);

  const Ref<CommandBuffer> command_buffer_;
  const Ref<EncoderInfo> info_;
  bool ended_ = false;
  Ref<Pipeline> pipeline_;
  emulator::Dispatch state_;
  std::set<int> new_threadgroup_memory_;  // indices given since the last dispatch
};

}  // namespace marlin::fake_metal
