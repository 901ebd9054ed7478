#include "metal/fake/device.h"

#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <mutex>

#include "metal/fake/command_queue.h"
#include "metal/fake/compute_encoder.h"
#include "metal/fake/state.h"

namespace marlin::fake_metal {

// ---- device ---------------------------------------------------------------------------------------------------------

Class& Device::objc_class() {
  static Class& c = Class::define("MTLDevice", Class::kProtocol)
                        .method<&Device::name>("name")
                        .method<&Device::has_unified_memory>("hasUnifiedMemory")
                        .method<&Device::supports_family>("supportsFamily:")
                        .method<&Device::recommended_max_working_set_size>("recommendedMaxWorkingSetSize")
                        .method<&Device::max_buffer_length>("maxBufferLength")
                        .method<&Device::current_allocated_size>("currentAllocatedSize")
                        .method<&Device::max_threadgroup_memory_length>("maxThreadgroupMemoryLength")
                        .method<&Device::new_queue>("newCommandQueueWithMaxCommandBufferCount:")
                        .method<&Device::new_buffer>("newBufferWithLength:options:")
                        .method<&Device::new_buffer_no_copy>("newBufferWithBytesNoCopy:length:options:deallocator:")
                        .method<&Device::new_library_with_source>("newLibraryWithSource:options:error:")
                        .method<&Device::new_library_with_url>("newLibraryWithURL:error:")
                        .method<&Device::new_pipeline>("newComputePipelineStateWithFunction:error:");
  return c;
}

bool Device::supports_family(long family) {
  constexpr long kApple1 = 1001, kApple7 = 1007, kCommon1 = 3001, kCommon3 = 3003, kMetal3 = 5001;
  return (family >= kApple1 && family <= kApple7) || (family >= kCommon1 && family <= kCommon3) || family == kMetal3;
}

uint64_t Device::recommended_max_working_set_size() {
  return options().working_set_bytes;
}
unsigned long Device::max_buffer_length() {
  return options().max_buffer_bytes;
}

Ref<Queue> Device::new_queue(unsigned long most_command_buffers) {
  if (most_command_buffers == 0) report("newCommandQueueWithMaxCommandBufferCount: 0 command buffers");
  return make<Queue>(most_command_buffers);
}

Ref<Library> Device::new_library_with_source(String* source, CompileOptions*, ErrorOut error) {
  if (!source) die("newLibraryWithSource: got nil");
  if (source->text.empty()) return fail(error, "the source is empty");
  return make<Library>();
}

Ref<Library> Device::new_library_with_url(Url* url, ErrorOut error) {
  if (!url) die("newLibraryWithURL: got nil");
  return fail(error, "the fake cannot load compiled libraries: '" + url->path + "'");
}

Ref<Pipeline> Device::new_pipeline(Function* function, ErrorOut error) {
  if (!function) {
    report("newComputePipelineStateWithFunction: got nil");
    return fail(error, "there is no function");
  }
  return make<Pipeline>(Ref<Function>(function));
}

// ---- making buffers -------------------------------------------------------------------------------------------------

namespace {

/// Whether the mapping that holds this address may not be written.
bool is_mapped_read_only(const void* address) {
  std::ifstream maps("/proc/self/maps");
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0, end = 0;
    char may_read = 0, may_write = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %c%c", &begin, &end, &may_read, &may_write) != 4) continue;
    if (begin <= wanted && wanted < end) return may_write != 'w';
  }
  return false;
}

}  // namespace

bool Device::accepts_buffer(const char* method, unsigned long bytes, unsigned long resource_options) {
  constexpr unsigned long kCpuCacheModes = 0x0F, kStorageModes = 0xF0, kHazardTrackingModes = 0x300;
  const unsigned long known = kCpuCacheModes | kStorageModes | kHazardTrackingModes;
  if (bytes == 0) report(std::string(method) + ": a buffer of no bytes");
  if ((resource_options & kStorageModes) != 0 || (resource_options & ~known) != 0) {
    report(std::string(method) + ": the fake has shared storage only, not options " + std::to_string(resource_options));
  }
  return bytes > 0 && bytes <= max_buffer_length();
}

Ref<Buffer> Device::new_buffer(unsigned long bytes, unsigned long resource_options) {
  if (!accepts_buffer("newBufferWithLength", bytes, resource_options)) return nullptr;
  return make<Buffer>(Ref<Device>(this), emulator::Region::allocate(bytes));
}

Ref<Buffer> Device::new_buffer_no_copy(void* data, unsigned long bytes, unsigned long resource_options,
                                       Id deallocator) {
  const char* const method = "newBufferWithBytesNoCopy";
  if (deallocator) die(std::string(method) + ": the fake calls no blocks");
  if (!accepts_buffer(method, bytes, resource_options)) return nullptr;
  const auto page = static_cast<unsigned long>(sysconf(_SC_PAGESIZE));
  if (!data || reinterpret_cast<uintptr_t>(data) % page != 0 || bytes % page != 0) {
    report(std::string(method) + ": address and length must be multiples of the page size " + std::to_string(page));
    return nullptr;
  }
  return make<Buffer>(Ref<Device>(this), emulator::Region::adopt(data, bytes, is_mapped_read_only(data)));
}

// ---- buffer ---------------------------------------------------------------------------------------------------------

namespace {

/// Buffers that committed work uses, and by how many command buffers. Never destroyed.
struct InUse {
  std::mutex mutex;
  std::map<Buffer*, int> buffers;
};

InUse& in_use() {
  static auto& only = *new InUse;
  return only;
}

}  // namespace

Class& Buffer::objc_class() {
  static Class& c = Class::define("MTLBuffer", Class::kProtocol)
                        .method<&Buffer::contents>("contents")
                        .method<&Buffer::length>("length")
                        .method<&Buffer::gpu_address>("gpuAddress")
                        .method<&Buffer::set_label>("setLabel:");
  return c;
}

Buffer::Buffer(Ref<Device> owner, std::shared_ptr<emulator::Region> memory)
    : device_(std::move(owner)), region_(std::move(memory)) {
  device_->allocated += region_->size();
}

Buffer::~Buffer() {
  device_->allocated -= region_->size();
}

void* Buffer::contents() {
  expect_idle(region_->data(), region_->size());
  host_may_have_written_ = true;
  return region_->data();
}

void Buffer::set_label(String* label) {
  region_->label = label ? "buffer '" + label->text + "'" : "";
}

std::string Buffer::description() const {
  return region_->label.empty() ? "a buffer" : region_->label;
}

void Buffer::begin_use() {
  std::lock_guard lock(in_use().mutex);
  ++in_use().buffers[this];
}

void Buffer::end_use() {
  std::lock_guard lock(in_use().mutex);
  auto it = in_use().buffers.find(this);
  if (--it->second == 0) in_use().buffers.erase(it);
}

void Buffer::take_over_host_writes() {
  if (host_may_have_written_.exchange(false)) region_->written_by_host(0, region_->size());
}

void expect_idle(const void* address, size_t bytes) {
  const auto* begin = static_cast<const std::byte*>(address);
  std::lock_guard lock(in_use().mutex);
  for (const auto& [buffer, uses] : in_use().buffers) {
    const std::byte* data = buffer->region()->data();
    if (begin < data + buffer->length() && data < begin + bytes) {
      report("the host uses " + buffer->description() + " while committed work that uses it has not completed");
    }
  }
}

// ---- the entry points -----------------------------------------------------------------------------------------------

namespace {

Id make_encoder_info_key() {
  String* key = make<String>(kEncoderInfoErrorKey).leak();
  Heap::make_immortal(key);
  return static_cast<Instance*>(key);
}

}  // namespace

void define_classes() {
  Class::root();
  for (auto* objc_class : {&String::objc_class, &Url::objc_class, &Array::objc_class, &Dictionary::objc_class,
                           &Error::objc_class, &CompileOptions::objc_class, &FunctionConstants::objc_class,
                           &Library::objc_class, &Function::objc_class, &Pipeline::objc_class, &Device::objc_class,
                           &Buffer::objc_class, &Queue::objc_class, &CommandBufferDescriptor::objc_class,
                           &CommandBuffer::objc_class, &EncoderInfo::objc_class, &ComputeEncoder::objc_class}) {
    objc_class();
  }
}

}  // namespace marlin::fake_metal

extern "C" {

extern void* const MTLCommandBufferEncoderInfoErrorKey;
void* const MTLCommandBufferEncoderInfoErrorKey = marlin::fake_metal::make_encoder_info_key();

void* MTLCreateSystemDefaultDevice() {
  using namespace marlin::fake_metal;
  define_classes();
  return static_cast<Instance*>(make<Device>().leak());
}

}  // extern "C"
