// What a device is: memory, bound model files, and streams of ops. One folder a backend; registry.cc knows them all.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "ops/ops.h"

namespace marlin {

class Stream;

/// Work submitted up to some point of a stream.
struct Fence {
  uint64_t serial = 0;
};

/// Proof that the work up to a fence has finished. Only Stream::wait makes one, and reading device memory needs one:
/// an unsynchronised read cannot be written down.
class Completed {
 public:
  uint64_t serial() const { return serial_; }

 private:
  friend class Stream;
  explicit Completed(uint64_t serial) : serial_(serial) {}
  uint64_t serial_;
};

/// An ordered queue of ops. One thread uses a stream at a time.
class Stream : public Ops {
 public:
  /// Copies host bytes to `to` in stream order; `bytes` may be reused at return.
  virtual void upload(View to, std::span<const std::byte> bytes) = 0;
  /// Starts everything enqueued so far.
  virtual Fence submit() = 0;
  /// Blocks until the fence's work is done. Throws Error{kUnsupported} when the device reports a failure.
  Completed wait(Fence fence) {
    wait_for(fence);
    return Completed(fence.serial);
  }
  /// Copies device bytes to the host. The work that wrote them must be covered by `done` (checked).
  virtual void read(const Completed& done, View from, std::span<std::byte> bytes) = 0;

 protected:
  virtual void wait_for(Fence fence) = 0;
};

struct DeviceInfo {
  std::string name;                // "cpu"
  std::string description;         // what doctor prints: processor, chosen kernels
  uint64_t memory_budget = 0;      // bytes this device may use in all; 0 = unknown
  int threads = 0;                 // of a CPU device
  bool int8_planes = false;        // FP4 products take activations as two int8 planes: a coarser class than FP32
  bool integer_attention = false;  // attention over F16 and Q8 caches multiplies integers of 8 or 16 bits
  bool half_prompts = false;       // products of prompt rows take both factors as half
};

class Device {
 public:
  virtual ~Device() = default;
  virtual DeviceInfo info() const = 0;
  virtual DType activation_type() const = 0;
  /// The cache type this device uses for the requested one (the oracle stores F64 whatever is asked).
  virtual KvType kv_type(KvType requested) const { return requested; }

  /// Zeroed memory; pages are committed when first written where the system can. Throws Error{kNoMemory}.
  virtual std::unique_ptr<Buffer> allocate(size_t bytes) = 0;
  /// The bytes of a mapped file, or of any host memory that outlives the result, as a buffer for weights: in place on
  /// the CPU and in unified memory, uploaded elsewhere. Read only.
  virtual std::unique_ptr<Buffer> bind(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) = 0;
  virtual std::unique_ptr<Stream> make_stream() = 0;
  /// Call it in the thread that will enqueue this device's ops, if that is no thread of a user of the library: the
  /// device may move it to a processor core for good.
  virtual void adopt_thread() {}
};

struct DeviceOptions {
  int threads = 0;  // 0 = one a physical core
  bool deterministic = false;
  std::string kernels = {};  // of the CPU, for diagnosis: "" the best, or the name of a family (cpu/kernels/families.h)
};

/// A device this build may have. `make` is empty when it cannot be used here; `why_not` says why, for doctor and
/// errors.
struct DeviceEntry {
  std::string name;
  std::string why_not;
  std::function<std::unique_ptr<Device>(const DeviceOptions&)> make;
};
/// All known devices, best first: metal, cuda, cpu, reference.
std::vector<DeviceEntry> device_registry();
/// "auto" takes the best usable one. Throws Error{kUnsupported} that lists what there is and why others are not.
std::unique_ptr<Device> make_device(std::string_view name, const DeviceOptions& options);

/// Elements of the activation type <-> float on the host.
size_t activation_bytes(const Device& device, int64_t elements);
void upload_activations(Stream& stream, const Device& device, View to, std::span<const float> values);
std::vector<float> read_activations(Stream& stream, const Device& device, const Completed& done, View from,
                                    int64_t elements);
/// The same without narrowing, for the oracle.
std::vector<double> read_activations_f64(Stream& stream, const Device& device, const Completed& done, View from,
                                         int64_t elements);

/// Wraps a stream so that every op's output is read back and checked. After the first NaN or Inf it throws
/// Error{kNumeric} naming the layer, the part and the op. Slow; for diagnosis (--check-numerics and automatic re-runs).
std::unique_ptr<Stream> make_checked_stream(Device& device, Stream& inner);

}  // namespace marlin
