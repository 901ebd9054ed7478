// The Objective-C runtime as C++ sees it, and the few Metal classes this backend uses, without Apple's headers: the
// same text compiles on every system. On macOS it links with -lobjc and the Metal framework; in tests on Linux with a
// fake of both (tests/metal/fake).
//
// Selectors are spelled once, in objc.cc, and checked when the device is made: a class that does not answer to one of
// them is an error that names it, not a crash later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace marlin::metal {

/// Any Objective-C object.
using Id = void*;

/// Owns one reference.
class Object {
 public:
  Object() = default;
  /// Takes over a reference that the caller owns (from new…, alloc, copy).
  static Object adopt(Id id) { return Object(id); }
  /// Adds a reference to an object that somebody else owns.
  static Object retain(Id id);
  Object(Object&& other) noexcept : id_(std::exchange(other.id_, nullptr)) {}
  Object& operator=(Object&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  ~Object();

  Id get() const { return id_; }
  explicit operator bool() const { return id_ != nullptr; }

 private:
  explicit Object(Id id) : id_(id) {}
  Id id_ = nullptr;
};

/// Objects that calls return without giving up ownership live until the innermost pool ends.
class AutoreleasePool {
 public:
  AutoreleasePool();
  ~AutoreleasePool();
  AutoreleasePool(const AutoreleasePool&) = delete;
  AutoreleasePool& operator=(const AutoreleasePool&) = delete;

 private:
  void* token_;
};

/// MTLSize: passed by value, as Metal does.
struct Size {
  unsigned long width = 1, height = 1, depth = 1;
};
static_assert(sizeof(unsigned long) == 8, "NSUInteger has 64 bits where Metal is");

// ---- values of Metal's enumerations ---------------------------------------------------------------------------------

inline constexpr unsigned long kResourceStorageModeShared = 0;
inline constexpr unsigned long kResourceHazardTrackingModeUntracked = 0x100;
inline constexpr unsigned long kResourceUsageRead = 1;
inline constexpr unsigned long kResourceUsageWrite = 2;
inline constexpr unsigned long kDataTypeUInt = 33;
inline constexpr unsigned long kLanguageVersion3_1 = (3UL << 16) + 1;
inline constexpr unsigned long kCommandBufferErrorOptionEncoderExecutionStatus = 1;
inline constexpr unsigned long kCommandBufferStatusCompleted = 4;
inline constexpr unsigned long kCommandBufferStatusError = 5;
inline constexpr long kGpuFamilyMetal3 = 5001;
inline constexpr long kGpuFamilyApple7 = 1007;

// ---- calls ---------------------------------------------------------------------------------------------------------
// Objects that these make on their way go before they return: callers need an AutoreleasePool only around long work,
// for what the system itself may autorelease on the thread. Text is UTF-8.

/// MTLCreateSystemDefaultDevice: null where there is no Metal GPU.
Object create_system_default_device();
/// "" or "class X does not answer to selector Y": asks the device, the classes that have names, and one cheap object of
/// each other kind. Libraries and pipelines are asked when they are made: then it is their `error`.
std::string missing_selectors(Id device);

namespace device {
std::string name(Id device);
bool has_unified_memory(Id device);
bool supports_family(Id device, long family);
uint64_t recommended_max_working_set_size(Id device);
uint64_t max_buffer_length(Id device);
uint64_t current_allocated_size(Id device);
unsigned long max_threadgroup_memory_length(Id device);
Object new_command_queue(Id device, unsigned long max_command_buffers);
Object new_buffer(Id device, size_t bytes, unsigned long options);
/// The memory stays the caller's; address and length are multiples of the page size.
Object new_buffer_no_copy(Id device, void* data, size_t bytes, unsigned long options);
/// Null with `error` filled in.
Object new_library_with_source(Id device, const char* source, std::string& error);
Object new_library_with_file(Id device, const std::string& path, std::string& error);
Object new_compute_pipeline(Id device, Id function, std::string& error);
}  // namespace device

namespace library {
/// A kernel with its function constants, all of type uint: constants[i] has the index i.
Object new_function(Id library, const char* name, const uint32_t* constants, const int* indices, int n,
                    std::string& error);
}  // namespace library

namespace pipeline {
unsigned long max_total_threads_per_threadgroup(Id pipeline);
unsigned long thread_execution_width(Id pipeline);
unsigned long static_threadgroup_memory_length(Id pipeline);
}  // namespace pipeline

namespace buffer {
void* contents(Id buffer);
size_t length(Id buffer);
uint64_t gpu_address(Id buffer);
void set_label(Id buffer, const char* label);
}  // namespace buffer

namespace queue {
/// Reports which encoders ran when it fails; keeps what it uses alive.
Object command_buffer(Id queue);
}  // namespace queue

namespace command_buffer {
Object compute_encoder(Id command_buffer);
void commit(Id command_buffer);
void wait_until_completed(Id command_buffer);
unsigned long status(Id command_buffer);
/// "" or the error's description, with the kernels (debug signposts) of the encoders that failed.
std::string error(Id command_buffer);
double gpu_start_time(Id command_buffer);
double gpu_end_time(Id command_buffer);
void set_label(Id command_buffer, const char* label);
}  // namespace command_buffer

namespace encoder {
void set_pipeline(Id encoder, Id pipeline);
void set_buffer(Id encoder, Id buffer, size_t offset, int index);
void set_bytes(Id encoder, const void* data, size_t bytes, int index);
void set_threadgroup_memory(Id encoder, size_t bytes, int index);
/// Resources reached by address.
void use_resources(Id encoder, const Id* resources, size_t n, unsigned long usage);
void dispatch_threadgroups(Id encoder, Size threadgroups, Size threads);
void insert_debug_signpost(Id encoder, const char* text);
/// Names the encoder in a failed command buffer's error.
void set_label(Id encoder, const char* label);
void end(Id encoder);
}  // namespace encoder

}  // namespace marlin::metal
