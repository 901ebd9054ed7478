#include "metal/fake/compute_encoder.h"

#include <algorithm>
#include <limits>

#include "metal/fake/state.h"

namespace marlin::fake_metal {
namespace {

constexpr unsigned long kMostInlineBytes = 4096;
constexpr unsigned long kThreadgroupMemoryUnit = 16;
constexpr unsigned long kUsageRead = 1, kUsageWrite = 2;

std::string to_string(GridSize size) {
  return std::to_string(size.width) + "x" + std::to_string(size.height) + "x" + std::to_string(size.depth);
}

bool has_zero(GridSize size) {
  return size.width == 0 || size.height == 0 || size.depth == 0;
}

bool exceeds(GridSize size, unsigned long most) {
  return size.width > most || size.height > most || size.depth > most;
}

emulator::Size narrow(GridSize size) {
  return {static_cast<uint32_t>(size.width), static_cast<uint32_t>(size.height), static_cast<uint32_t>(size.depth)};
}

}  // namespace

Class& ComputeEncoder::objc_class() {
  static Class& c = Class::define("MTLComputeCommandEncoder", Class::kProtocol)
                        .method<&ComputeEncoder::set_pipeline>("setComputePipelineState:")
                        .method<&ComputeEncoder::set_buffer>("setBuffer:offset:atIndex:")
                        .method<&ComputeEncoder::set_bytes>("setBytes:length:atIndex:")
                        .method<&ComputeEncoder::set_threadgroup_memory>("setThreadgroupMemoryLength:atIndex:")
                        .method<&ComputeEncoder::use_resources>("useResources:count:usage:")
                        .method<&ComputeEncoder::dispatch>("dispatchThreadgroups:threadsPerThreadgroup:")
                        .method<&ComputeEncoder::insert_signpost>("insertDebugSignpost:")
                        .method<&ComputeEncoder::set_label>("setLabel:")
                        .method<&ComputeEncoder::end>("endEncoding");
  return c;
}

ComputeEncoder::~ComputeEncoder() {
  if (!ended_) fault("an encoder was released without endEncoding");
}

bool ComputeEncoder::is_open(const char* method) {
  if (ended_) fault(std::string(method) + ": the encoder has ended");
  return !ended_;
}

bool ComputeEncoder::is_index(const char* method, unsigned long index) {
  if (index >= emulator::kBufferIndices)
    fault(std::string(method) + ": index " + std::to_string(index) + " is over 30");
  return index < emulator::kBufferIndices;
}

// ---- state ----------------------------------------------------------------------------------------------------------

void ComputeEncoder::set_pipeline(Pipeline* pipeline) {
  if (!is_open("setComputePipelineState")) return;
  if (!pipeline) {
    fault("setComputePipelineState: got nil");
    return;
  }
  pipeline_ = Ref<Pipeline>(pipeline);
  state_.kernel = pipeline->function->kernel;
  state_.constants = pipeline->function->constants;
  command_buffer_->keep(pipeline);
}

void ComputeEncoder::set_buffer(Buffer* buffer, unsigned long offset, unsigned long index) {
  if (!is_open("setBuffer") || !is_index("setBuffer", index)) return;
  state_.buffers[index] = {};
  if (!buffer) return;
  const std::string where = "setBuffer: " + buffer->description() + " at index " + std::to_string(index) + ": offset " +
                            std::to_string(offset);
  if (offset >= buffer->length()) {
    fault(where + " is past its end at " + std::to_string(buffer->length()));
  } else {  // any alignment: device memory asks for its type's, which checked kernels watch
    state_.buffers[index] = {buffer->region(), offset, {}};
    command_buffer_->keep(buffer);
  }
}

void ComputeEncoder::set_bytes(const void* bytes, unsigned long length, unsigned long index) {
  if (!is_open("setBytes") || !is_index("setBytes", index)) return;
  if (!bytes || length == 0 || length > kMostInlineBytes) {
    fault("setBytes: " + std::to_string(length) + " bytes at index " + std::to_string(index) + ", not 1 to 4096");
    return;
  }
  const auto* begin = static_cast<const std::byte*>(bytes);
  state_.buffers[index] = {nullptr, 0, {begin, begin + length}};
}

void ComputeEncoder::set_threadgroup_memory(unsigned long length, unsigned long index) {
  const char* const method = "setThreadgroupMemoryLength";
  if (!is_open(method) || !is_index(method, index)) return;
  if (length % kThreadgroupMemoryUnit != 0) {
    fault(std::string(method) + ": " + std::to_string(length) + " is no multiple of 16");
    return;
  }
  state_.threadgroup_bytes[index] = length;
  if (length > 0) new_threadgroup_memory_.insert(static_cast<int>(index));
}

void ComputeEncoder::use_resources(const Id* resources, unsigned long count, unsigned long usage) {
  if (!is_open("useResources")) return;
  if (usage == 0 || (usage & ~(kUsageRead | kUsageWrite)) != 0) {
    fault("useResources: usage " + std::to_string(usage) + " is neither read nor write");
  }
  for (unsigned long i = 0; i < count; ++i) {
    auto* buffer = as<Buffer>(resources[i], "useResources:count:usage:");
    if (!buffer) {
      fault("useResources: resource " + std::to_string(i) + " is nil");
      continue;
    }
    state_.resident.push_back(buffer->region());
    command_buffer_->keep(buffer);
  }
}

// ---- dispatch -------------------------------------------------------------------------------------------------------

bool ComputeEncoder::check_size(GridSize threadgroups, GridSize threads) {
  if (has_zero(threadgroups) || has_zero(threads)) {
    fault("dispatchThreadgroups: nothing to do: " + to_string(threadgroups) + " threadgroups of " + to_string(threads));
    return false;
  }
  if (exceeds(threads, kMostThreadsPerThreadgroup) ||
      threads.width * threads.height * threads.depth > kMostThreadsPerThreadgroup) {
    fault("dispatchThreadgroups: threadgroups of " + to_string(threads) + " threads, over 1024");
    return false;
  }
  if (exceeds(threadgroups, std::numeric_limits<uint32_t>::max())) {
    fault("dispatchThreadgroups: " + to_string(threadgroups) + " threadgroups");
    return false;
  }
  return true;
}

/// Lengths stay set from one dispatch to the next, so only those that are new must be the kernel's.
bool ComputeEncoder::check_threadgroup_memory(const emulator::Kernel& kernel) {
  unsigned long total = 0;
  for (size_t i = 0; i < emulator::kBufferIndices; ++i) {
    const auto index = static_cast<int>(i);
    const std::vector<int>& declared = kernel.threadgroup_buffers;
    if (std::find(declared.begin(), declared.end(), index) != declared.end()) {
      total += state_.threadgroup_bytes[i];
    } else if (new_threadgroup_memory_.contains(index)) {
      fault("setThreadgroupMemoryLength: kernel '" + kernel.name + "' has no index " + std::to_string(i));
      return false;
    }
  }
  if (total <= kMostThreadgroupMemory) return true;
  fault("kernel '" + kernel.name + "': " + std::to_string(total) + " bytes of threadgroup memory, over 32 KiB");
  return false;
}

void ComputeEncoder::dispatch(GridSize threadgroups, GridSize threads) {
  if (!is_open("dispatchThreadgroups")) return;
  if (!pipeline_) {
    fault("dispatchThreadgroups: no pipeline is set");
    return;
  }
  const emulator::Kernel& kernel = *state_.kernel;
  const bool fits = check_size(threadgroups, threads) && check_threadgroup_memory(kernel);
  new_threadgroup_memory_.clear();
  if (!fits) return;
  emulator::Dispatch dispatch = state_;
  dispatch.threadgroups = narrow(threadgroups);
  dispatch.threads_per_threadgroup = narrow(threads);
  const std::vector<int>& declared = kernel.threadgroup_buffers;
  for (size_t i = 0; i < emulator::kBufferIndices; ++i) {
    const bool used = std::find(declared.begin(), declared.end(), static_cast<int>(i)) != declared.end();
    if (!used) dispatch.threadgroup_bytes[i] = 0;
  }
  command_buffer_->record(info_, std::move(dispatch));
}

// ---- the rest -------------------------------------------------------------------------------------------------------

void ComputeEncoder::insert_signpost(String* text) {
  if (!is_open("insertDebugSignpost")) return;
  if (text) {
    info_->add_signpost(text);
  } else {
    fault("insertDebugSignpost: got nil");
  }
}

void ComputeEncoder::set_label(String* label) {
  if (is_open("setLabel")) info_->set_label(label);
}

void ComputeEncoder::end() {
  if (!is_open("endEncoding")) return;
  ended_ = true;
  command_buffer_->encoder_ended();
}

}  // namespace marlin::fake_metal
