#include "backend/metal/objc.h"

#include <cstring>
#include <vector>

// The runtime's and Metal's own C symbols; Apple's headers would declare them the same.
extern "C" {
using ObjcSel = struct objc_selector*;
void objc_msgSend();  // never called as such: each call casts it to the type of its method
void* objc_getClass(const char* name);
ObjcSel sel_registerName(const char* name);
const char* object_getClassName(void* object);
void* objc_autoreleasePoolPush();
void objc_autoreleasePoolPop(void* token);
void* objc_retain(void* object);
void objc_release(void* object);
void* MTLCreateSystemDefaultDevice();
extern void* const MTLCommandBufferEncoderInfoErrorKey;
}

namespace marlin::metal {
namespace {

using ULong = unsigned long;  // NSUInteger

constexpr ULong kMathModeSafe = 0;
constexpr ULong kMathFloatingPointFunctionsPrecise = 1;
constexpr ULong kMostSignpostsShown = 16;

// ---- the table of selectors -----------------------------------------------------------------------------------------

/// Who answers to a selector. The classes behind Metal's protocols are private: only a live object can be asked.
struct Owner {
  enum Kind { kClass, kInstances, kProtocol } kind;
  const char* name;
};
constexpr Owner kObjectClass{Owner::kClass, "NSObject"}, kStringClass{Owner::kClass, "NSString"};
constexpr Owner kUrlClass{Owner::kClass, "NSURL"};
constexpr Owner kString{Owner::kInstances, "NSString"}, kError{Owner::kInstances, "NSError"};
constexpr Owner kDictionary{Owner::kInstances, "NSDictionary"}, kArray{Owner::kInstances, "NSArray"};
constexpr Owner kCompileOptionsClass{Owner::kClass, "MTLCompileOptions"};
constexpr Owner kCompileOptions{Owner::kInstances, "MTLCompileOptions"};
constexpr Owner kConstantsClass{Owner::kClass, "MTLFunctionConstantValues"};
constexpr Owner kConstants{Owner::kInstances, "MTLFunctionConstantValues"};
constexpr Owner kDescriptorClass{Owner::kClass, "MTLCommandBufferDescriptor"};
constexpr Owner kDescriptor{Owner::kInstances, "MTLCommandBufferDescriptor"};
constexpr Owner kDevice{Owner::kProtocol, "MTLDevice"}, kLibrary{Owner::kProtocol, "MTLLibrary"};
constexpr Owner kPipeline{Owner::kProtocol, "MTLComputePipelineState"}, kBuffer{Owner::kProtocol, "MTLBuffer"};
constexpr Owner kQueue{Owner::kProtocol, "MTLCommandQueue"};
constexpr Owner kCommandBuffer{Owner::kProtocol, "MTLCommandBuffer"};
constexpr Owner kEncoder{Owner::kProtocol, "MTLComputeCommandEncoder"};
constexpr Owner kEncoderInfo{Owner::kProtocol, "MTLCommandBufferEncoderInfo"};

struct Selector {
  Selector(std::vector<Owner> who, const char* text)
      : owners(std::move(who)), spelling(text), sel(sel_registerName(text)) {
    all().push_back(this);
  }
  Selector(const Selector&) = delete;
  static std::vector<const Selector*>& all() {
    static std::vector<const Selector*> list;
    return list;
  }

  std::vector<Owner> owners;  // none: not every system has it, so its use asks first
  const char* spelling;
  ObjcSel sel;
};

/// A selector with the C types of its result and arguments: arm64 has one objc_msgSend, and no call may be variadic.
template <typename Signature>
struct Message;
template <typename Result, typename... Args>
struct Message<Result(Args...)> : Selector {
  using Selector::Selector;
  Result operator()(Id receiver, Args... args) const {
    return reinterpret_cast<Result (*)(Id, ObjcSel, Args...)>(objc_msgSend)(receiver, sel, args...);
  }
};

struct Messages {
  Message<bool(ObjcSel)> responds{{kObjectClass}, "respondsToSelector:"};
  Message<bool(ObjcSel)> instances_respond{{kObjectClass}, "instancesRespondToSelector:"};
  Message<Id()> make{{kCompileOptionsClass, kConstantsClass, kDescriptorClass}, "new"};

  Message<Id()> alloc{{kStringClass}, "alloc"};
  Message<Id(const char*)> init_with_utf8{{kString}, "initWithUTF8String:"};
  Message<const char*()> utf8{{kString}, "UTF8String"};
  Message<Id(Id)> file_url{{kUrlClass}, "fileURLWithPath:"};
  Message<Id()> description{{kError}, "localizedDescription"};
  Message<Id()> user_info{{kError}, "userInfo"};
  Message<Id(Id)> object_for_key{{kDictionary}, "objectForKey:"};
  Message<ULong()> count{{kArray}, "count"};
  Message<Id(ULong)> object_at{{kArray}, "objectAtIndex:"};

  Message<void(ULong)> set_language_version{{kCompileOptions}, "setLanguageVersion:"};
  Message<void(bool)> set_fast_math{{}, "setFastMathEnabled:"};
  Message<void(ULong)> set_math_mode{{}, "setMathMode:"};
  Message<void(ULong)> set_math_functions{{}, "setMathFloatingPointFunctions:"};
  Message<void(const void*, ULong, ULong)> set_constant{{kConstants}, "setConstantValue:type:atIndex:"};
  Message<void(ULong)> set_error_options{{kDescriptor}, "setErrorOptions:"};

  Message<Id()> name{{kDevice}, "name"};
  Message<bool()> unified_memory{{kDevice}, "hasUnifiedMemory"};
  Message<bool(long)> supports_family{{kDevice}, "supportsFamily:"};
  Message<uint64_t()> working_set{{kDevice}, "recommendedMaxWorkingSetSize"};
  Message<ULong()> max_buffer{{kDevice}, "maxBufferLength"};
  Message<ULong()> allocated{{kDevice}, "currentAllocatedSize"};
  Message<ULong()> max_threadgroup_memory{{kDevice}, "maxThreadgroupMemoryLength"};
  Message<Id(ULong)> new_queue{{kDevice}, "newCommandQueueWithMaxCommandBufferCount:"};
  Message<Id(ULong, ULong)> new_buffer{{kDevice}, "newBufferWithLength:options:"};
  Message<Id(void*, ULong, ULong, Id)> new_buffer_no_copy{{kDevice},
                                                          "newBufferWithBytesNoCopy:length:options:deallocator:"};
  Message<Id(Id, Id, Id*)> library_of_source{{kDevice}, "newLibraryWithSource:options:error:"};
  Message<Id(Id, Id*)> library_of_url{{kDevice}, "newLibraryWithURL:error:"};
  Message<Id(Id, Id*)> new_pipeline{{kDevice}, "newComputePipelineStateWithFunction:error:"};
  Message<Id(Id, Id, Id*)> new_function{{kLibrary}, "newFunctionWithName:constantValues:error:"};

  Message<ULong()> max_threads{{kPipeline}, "maxTotalThreadsPerThreadgroup"};
  Message<ULong()> simd_width{{kPipeline}, "threadExecutionWidth"};
  Message<ULong()> static_memory{{kPipeline}, "staticThreadgroupMemoryLength"};

  Message<void*()> contents{{kBuffer}, "contents"};
  Message<ULong()> length{{kBuffer}, "length"};
  Message<uint64_t()> gpu_address{{kBuffer}, "gpuAddress"};
  Message<void(Id)> set_label{{kBuffer, kCommandBuffer, kEncoder}, "setLabel:"};

  Message<Id(Id)> command_buffer{{kQueue}, "commandBufferWithDescriptor:"};
  Message<Id()> compute_encoder{{kCommandBuffer}, "computeCommandEncoder"};
  Message<void()> commit{{kCommandBuffer}, "commit"};
  Message<void()> wait{{kCommandBuffer}, "waitUntilCompleted"};
  Message<ULong()> status{{kCommandBuffer}, "status"};
  Message<Id()> error{{kCommandBuffer}, "error"};
  Message<double()> gpu_start{{kCommandBuffer}, "GPUStartTime"};
  Message<double()> gpu_end{{kCommandBuffer}, "GPUEndTime"};
  Message<Id()> label{{kEncoderInfo}, "label"};
  Message<long()> error_state{{kEncoderInfo}, "errorState"};
  Message<Id()> signposts{{kEncoderInfo}, "debugSignposts"};

  Message<void(Id)> set_pipeline{{kEncoder}, "setComputePipelineState:"};
  Message<void(Id, ULong, ULong)> set_buffer{{kEncoder}, "setBuffer:offset:atIndex:"};
  Message<void(const void*, ULong, ULong)> set_bytes{{kEncoder}, "setBytes:length:atIndex:"};
  Message<void(ULong, ULong)> set_threadgroup_memory{{kEncoder}, "setThreadgroupMemoryLength:atIndex:"};
  Message<void(const Id*, ULong, ULong)> use_resources{{kEncoder}, "useResources:count:usage:"};
  Message<void(Size, Size)> dispatch{{kEncoder}, "dispatchThreadgroups:threadsPerThreadgroup:"};
  Message<void(Id)> insert_signpost{{kEncoder}, "insertDebugSignpost:"};
  Message<void()> end_encoding{{kEncoder}, "endEncoding"};
};

const Messages& send() {
  static const Messages messages;
  return messages;
}

// ---- does everybody answer? -----------------------------------------------------------------------------------------

bool owned_by(const Selector& selector, const Owner& owner) {
  for (const Owner& each : selector.owners) {
    if (each.kind == owner.kind && std::strcmp(each.name, owner.name) == 0) return true;
  }
  return false;
}

std::string missing_in_classes() {
  const Messages& m = send();
  for (const Selector* selector : Selector::all()) {
    for (const Owner& owner : selector->owners) {
      if (owner.kind == Owner::kProtocol) continue;
      Id objc_class = objc_getClass(owner.name);
      if (!objc_class) return std::string("there is no class ") + owner.name;
      bool answers = owner.kind == Owner::kClass ? m.responds(objc_class, selector->sel)
                                                 : m.instances_respond(objc_class, selector->sel);
      if (!answers) return std::string("class ") + owner.name + " does not answer to selector " + selector->spelling;
    }
  }
  Id options = objc_getClass("MTLCompileOptions");
  if (!m.instances_respond(options, m.set_math_mode.sel) && !m.instances_respond(options, m.set_fast_math.sel)) {
    return "class MTLCompileOptions answers to neither setMathMode: nor setFastMathEnabled:";
  }
  return "";
}

std::string missing_in_object(const Owner& protocol, Id object) {
  if (!object) return std::string("could not make an object of ") + protocol.name;
  for (const Selector* selector : Selector::all()) {
    if (owned_by(*selector, protocol) && !send().responds(object, selector->sel)) {
      return std::string("class ") + object_getClassName(object) + " does not answer to selector " + selector->spelling;
    }
  }
  return "";
}

// ---- Foundation -----------------------------------------------------------------------------------------------------

Object make_string(const char* text) {
  return Object::adopt(send().init_with_utf8(send().alloc(objc_getClass("NSString")), text));
}

Object make(const char* class_name) {
  return Object::adopt(send().make(objc_getClass(class_name)));
}

std::string to_string(Id string) {
  const char* text = string ? send().utf8(string) : nullptr;
  return text ? text : "";
}

/// Of a call that returned nil: never empty.
std::string description_of(Id error) {
  std::string text = error ? to_string(send().description(error)) : "";
  return text.empty() ? "Metal gave no reason" : text;
}

/// "; encoder 'label' faulted (signpost, signpost)", or "" for an encoder that did nothing wrong.
std::string describe_encoder(Id info) {
  if (std::string missing = missing_in_object(kEncoderInfo, info); !missing.empty()) return "; " + missing;
  const Messages& m = send();
  const char* const kStates[] = {nullptr, nullptr, "was affected", nullptr, "faulted"};  // MTLCommandEncoderErrorState
  long state = m.error_state(info);
  if (state < 0 || state > 4 || !kStates[state]) return "";
  std::string text = "; encoder '" + to_string(m.label(info)) + "' " + kStates[state];
  Id signposts = m.signposts(info);
  ULong n = m.count(signposts);
  for (ULong i = 0; i < n && i < kMostSignpostsShown; ++i) {
    text += (i ? ", " : " (") + to_string(m.object_at(signposts, i));
  }
  if (n > kMostSignpostsShown) text += ", ...";
  return n ? text + ")" : text;
}

/// Checks what only an object that is costly to make can tell.
Object checked(const Owner& protocol, Object object, Id reason, std::string& error) {
  error = object ? missing_in_object(protocol, object.get()) : description_of(reason);
  return error.empty() ? std::move(object) : Object();
}

}  // namespace

// ---- objects --------------------------------------------------------------------------------------------------------

Object Object::retain(Id id) {
  return Object(id ? objc_retain(id) : nullptr);
}

Object::~Object() {
  if (id_) objc_release(id_);
}

AutoreleasePool::AutoreleasePool() : token_(objc_autoreleasePoolPush()) {}
AutoreleasePool::~AutoreleasePool() {
  objc_autoreleasePoolPop(token_);
}

Object create_system_default_device() {
  AutoreleasePool pool;
  return Object::adopt(MTLCreateSystemDefaultDevice());
}

std::string missing_selectors(Id device) {
  AutoreleasePool pool;
  std::string missing = missing_in_classes();
  if (missing.empty()) missing = missing_in_object(kDevice, device);
  if (!missing.empty()) return missing;

  Object buffer = device::new_buffer(device, 16, kResourceStorageModeShared);
  missing = missing_in_object(kBuffer, buffer.get());
  if (!missing.empty()) return missing;
  Object queue = device::new_command_queue(device, 1);
  missing = missing_in_object(kQueue, queue.get());
  if (!missing.empty()) return missing;
  Object command_buffer = queue::command_buffer(queue.get());
  missing = missing_in_object(kCommandBuffer, command_buffer.get());
  if (!missing.empty()) return missing;
  Object encoder = command_buffer::compute_encoder(command_buffer.get());
  missing = missing_in_object(kEncoder, encoder.get());
  if (send().responds(encoder.get(), send().end_encoding.sel)) encoder::end(encoder.get());
  return missing;
}

// ---- device ---------------------------------------------------------------------------------------------------------

namespace device {

std::string name(Id device) {
  AutoreleasePool pool;
  return to_string(send().name(device));
}

bool has_unified_memory(Id device) {
  return send().unified_memory(device);
}
bool supports_family(Id device, long family) {
  return send().supports_family(device, family);
}
uint64_t recommended_max_working_set_size(Id device) {
  return send().working_set(device);
}
uint64_t max_buffer_length(Id device) {
  return send().max_buffer(device);
}
uint64_t current_allocated_size(Id device) {
  return send().allocated(device);
}
unsigned long max_threadgroup_memory_length(Id device) {
  return send().max_threadgroup_memory(device);
}

Object new_command_queue(Id device, unsigned long max_command_buffers) {
  AutoreleasePool pool;
  return Object::adopt(send().new_queue(device, max_command_buffers));
}

Object new_buffer(Id device, size_t bytes, unsigned long options) {
  AutoreleasePool pool;
  return Object::adopt(send().new_buffer(device, bytes, options));
}

Object new_buffer_no_copy(Id device, void* data, size_t bytes, unsigned long options) {
  AutoreleasePool pool;
  return Object::adopt(send().new_buffer_no_copy(device, data, bytes, options, nullptr));
}

Object new_library_with_source(Id device, const char* source, std::string& error) {
  AutoreleasePool pool;
  const Messages& m = send();
  Object options = make("MTLCompileOptions");
  m.set_language_version(options.get(), kLanguageVersion3_1);
  if (m.responds(options.get(), m.set_math_mode.sel)) {  // macOS 15 and later
    m.set_math_mode(options.get(), kMathModeSafe);
    if (m.responds(options.get(), m.set_math_functions.sel)) {
      m.set_math_functions(options.get(), kMathFloatingPointFunctionsPrecise);
    }
  } else {
    m.set_fast_math(options.get(), false);
  }
  Object text = make_string(source);
  Id reason = nullptr;
  Object library = Object::adopt(m.library_of_source(device, text.get(), options.get(), &reason));
  return checked(kLibrary, std::move(library), reason, error);
}

Object new_library_with_file(Id device, const std::string& path, std::string& error) {
  AutoreleasePool pool;
  Object text = make_string(path.c_str());
  Id url = send().file_url(objc_getClass("NSURL"), text.get());
  Id reason = nullptr;
  Object library = Object::adopt(send().library_of_url(device, url, &reason));
  return checked(kLibrary, std::move(library), reason, error);
}

Object new_compute_pipeline(Id device, Id function, std::string& error) {
  AutoreleasePool pool;
  Id reason = nullptr;
  Object pipeline = Object::adopt(send().new_pipeline(device, function, &reason));
  return checked(kPipeline, std::move(pipeline), reason, error);
}

}  // namespace device

namespace library {

Object new_function(Id library, const char* name, const uint32_t* constants, const int* indices, int n,
                    std::string& error) {
  AutoreleasePool pool;
  Object values = make("MTLFunctionConstantValues");
  for (int i = 0; i < n; ++i) {
    send().set_constant(values.get(), constants + i, kDataTypeUInt, static_cast<ULong>(indices[i]));
  }
  Object text = make_string(name);
  Id reason = nullptr;
  Object function = Object::adopt(send().new_function(library, text.get(), values.get(), &reason));
  error = function ? "" : description_of(reason);
  return function;
}

}  // namespace library

namespace pipeline {
unsigned long max_total_threads_per_threadgroup(Id pipeline) {
  return send().max_threads(pipeline);
}
unsigned long thread_execution_width(Id pipeline) {
  return send().simd_width(pipeline);
}
unsigned long static_threadgroup_memory_length(Id pipeline) {
  return send().static_memory(pipeline);
}
}  // namespace pipeline

namespace buffer {
void* contents(Id buffer) {
  return send().contents(buffer);
}
size_t length(Id buffer) {
  return send().length(buffer);
}
uint64_t gpu_address(Id buffer) {
  return send().gpu_address(buffer);
}
void set_label(Id buffer, const char* label) {
  send().set_label(buffer, make_string(label).get());
}
}  // namespace buffer

// ---- commands -------------------------------------------------------------------------------------------------------

namespace queue {

Object command_buffer(Id queue) {
  AutoreleasePool pool;
  Object descriptor = make("MTLCommandBufferDescriptor");  // retains what its commands use unless told otherwise
  send().set_error_options(descriptor.get(), kCommandBufferErrorOptionEncoderExecutionStatus);
  return Object::retain(send().command_buffer(queue, descriptor.get()));
}

}  // namespace queue

namespace command_buffer {

Object compute_encoder(Id command_buffer) {
  AutoreleasePool pool;
  return Object::retain(send().compute_encoder(command_buffer));
}

void commit(Id command_buffer) {
  send().commit(command_buffer);
}
void wait_until_completed(Id command_buffer) {
  send().wait(command_buffer);
}
unsigned long status(Id command_buffer) {
  return send().status(command_buffer);
}

std::string error(Id command_buffer) {
  AutoreleasePool pool;
  const Messages& m = send();
  Id error = m.error(command_buffer);
  if (!error) return m.status(command_buffer) == kCommandBufferStatusError ? description_of(nullptr) : "";
  std::string text = description_of(error);
  Id infos = m.object_for_key(m.user_info(error), MTLCommandBufferEncoderInfoErrorKey);
  ULong n = m.count(infos);  // 0 of nil
  for (ULong i = 0; i < n; ++i) text += describe_encoder(m.object_at(infos, i));
  return text;
}

double gpu_start_time(Id command_buffer) {
  return send().gpu_start(command_buffer);
}
double gpu_end_time(Id command_buffer) {
  return send().gpu_end(command_buffer);
}
void set_label(Id command_buffer, const char* label) {
  send().set_label(command_buffer, make_string(label).get());
}

}  // namespace command_buffer

namespace encoder {

void set_pipeline(Id encoder, Id pipeline) {
  send().set_pipeline(encoder, pipeline);
}

void set_buffer(Id encoder, Id buffer, size_t offset, int index) {
  send().set_buffer(encoder, buffer, offset, static_cast<ULong>(index));
}

void set_bytes(Id encoder, const void* data, size_t bytes, int index) {
  send().set_bytes(encoder, data, bytes, static_cast<ULong>(index));
}

void set_threadgroup_memory(Id encoder, size_t bytes, int index) {
  send().set_threadgroup_memory(encoder, bytes, static_cast<ULong>(index));
}

void use_resources(Id encoder, const Id* resources, size_t n, unsigned long usage) {
  send().use_resources(encoder, resources, n, usage);
}

void dispatch_threadgroups(Id encoder, Size threadgroups, Size threads) {
  send().dispatch(encoder, threadgroups, threads);
}

void insert_debug_signpost(Id encoder, const char* text) {
  send().insert_signpost(encoder, make_string(text).get());
}
void set_label(Id encoder, const char* label) {
  send().set_label(encoder, make_string(label).get());
}
void end(Id encoder) {
  send().end_encoding(encoder);
}

}  // namespace encoder

}  // namespace marlin::metal
