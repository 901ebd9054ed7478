// MTLDevice and MTLBuffer.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "metal/emulator/emulator.h"
#include "metal/fake/foundation.h"
#include "metal/fake/library.h"
#include "metal/fake/objc_runtime.h"

namespace marlin::fake_metal {

class Buffer;
class Queue;

inline constexpr unsigned long kMostThreadgroupMemory = 32 * 1024;
inline constexpr unsigned long kMostThreadsPerThreadgroup = 1024;

class Device : public Instance {
 public:
  static Class& objc_class();

  Ref<String> name() { return make<String>("Fake Apple GPU"); }
  bool has_unified_memory() { return true; }
  bool supports_family(long family);
  uint64_t recommended_max_working_set_size();
  unsigned long max_buffer_length();
  unsigned long current_allocated_size() { return allocated; }
  unsigned long max_threadgroup_memory_length() { return kMostThreadgroupMemory; }

  Ref<Queue> new_queue(unsigned long most_command_buffers);
  Ref<Buffer> new_buffer(unsigned long bytes, unsigned long options);
  Ref<Buffer> new_buffer_no_copy(void* data, unsigned long bytes, unsigned long options, Id deallocator);
  Ref<Library> new_library_with_source(String* source, CompileOptions* options, ErrorOut error);
  Ref<Library> new_library_with_url(Url* url, ErrorOut error);
  Ref<Pipeline> new_pipeline(Function* function, ErrorOut error);

  std::atomic<unsigned long> allocated{0};

 private:
  bool accepts_buffer(const char* method, unsigned long bytes, unsigned long options);
};

class Buffer : public Instance {
 public:
  Buffer(Ref<Device> owner, std::shared_ptr<emulator::Region> memory);
  ~Buffer() override;
  static Class& objc_class();

  void* contents();
  unsigned long length() { return region_->size(); }
  uint64_t gpu_address() { return reinterpret_cast<uint64_t>(region_->data()); }
  void set_label(String* label);

  const std::shared_ptr<emulator::Region>& region() const { return region_; }
  /// "buffer 'logits'".
  std::string description() const;

  /// Between commit and completion of a command buffer that uses it.
  void begin_use();
  void end_use();
  /// Before kernels run: what the host may have written through contents() counts as written.
  void take_over_host_writes();

 private:
  Ref<Device> device_;
  std::shared_ptr<emulator::Region> region_;
  std::atomic<bool> host_may_have_written_{false};
};

}  // namespace marlin::fake_metal
