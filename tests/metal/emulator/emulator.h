// Executes compiled .metal kernels on the CPU as a GPU would: threadgroups of threads in simdgroups of 32, with
// barriers, simd operations and threadgroup memory. Each thread is a fiber, so that the order in which threads run is
// ours to choose. In checked runs every load and store of a kernel is seen: races, reads of memory that nobody wrote,
// accesses out of bounds and misaligned ones are reported with the line of the .metal file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace marlin::emulator {

// ---- memory --------------------------------------------------------------------------------------------------------

/// Memory that kernels may touch: what an MTLBuffer is to them. A kernel's access to an address in no region of its
/// dispatch is an error.
class Region {
 public:
  /// Fresh memory whose end lies as near before a guard page as an alignment of 256 allows. Filled with 0xFF, which is
  /// NaN in every floating type; checked runs know that nobody wrote it.
  static std::shared_ptr<Region> allocate(size_t bytes);
  /// Somebody else's memory, which must stay mapped; counts as written. Kernels may not store to a read-only region.
  static std::shared_ptr<Region> adopt(void* data, size_t bytes, bool read_only = false);
  virtual ~Region() = default;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  bool read_only() const { return read_only_; }
  /// The host wrote these bytes. Without it, a checked kernel's read of allocated memory is one of memory never
  /// written.
  virtual void written_by_host(size_t offset, size_t bytes) = 0;
  /// For messages: "buffer 'logits'".
  std::string label;

 protected:
  Region(std::byte* data, size_t size, bool read_only) : data_(data), size_(size), read_only_(read_only) {}

 private:
  std::byte* data_;
  size_t size_;
  bool read_only_;
};

// ---- kernels -------------------------------------------------------------------------------------------------------

struct FunctionConstant {
  int index = 0;
  std::string name;
  std::string type;  // "uint", "bool", ...
  size_t size = 0;
};

/// A kernel of a .metal file that was compiled into this program: once to be fast, once to be checked.
struct Kernel {
  std::string name;
  std::string file;
  std::vector<int> buffers;                 // indices of [[buffer(n)]] parameters
  std::vector<int> threadgroup_buffers;     // indices of [[threadgroup(n)]] parameters
  std::vector<FunctionConstant> constants;  // of its file
};

/// Null if there is none.
const Kernel* find_kernel(std::string_view name);
std::vector<std::string> kernel_names();

// ---- dispatch ------------------------------------------------------------------------------------------------------

struct Size {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t{x} * y * z; }
};

/// What a buffer index is bound to: a region, or bytes (setBytes).
struct Binding {
  std::shared_ptr<Region> region;
  size_t offset = 0;
  std::vector<std::byte> bytes;
};

inline constexpr size_t kBufferIndices = 31;

struct Dispatch {
  const Kernel* kernel = nullptr;
  std::map<int, std::vector<std::byte>>
      constants;  // by index; those left out are undefined in MSL: is_function_constant_defined is false
  std::array<Binding, kBufferIndices> buffers;
  std::array<size_t, kBufferIndices> threadgroup_bytes{};
  std::vector<std::shared_ptr<Region>> resident;  // regions reached through addresses (useResource)
  Size threadgroups;
  Size threads_per_threadgroup;
};

enum class Schedule { kForward, kReverse, kRandom };

struct Options {
  Schedule schedule = Schedule::kForward;
  uint64_t seed = 1;
  bool checked = false;
  int workers = 1;  // threads that share the threadgroups of an unchecked dispatch
};

struct Outcome {
  std::vector<std::string> errors;  // none: the dispatch was correct as far as it was watched
  std::vector<std::string> notes;   // legal but odd: races of equal values
  size_t threadgroup_bytes = 0;     // static and dynamic
  uint64_t bytes_read = 0;          // of device memory, each byte counted once; checked runs only
  uint64_t bytes_written = 0;
  double milliseconds = 0;
};

/// Runs one dispatch to its end. Faults of the kernel (guard pages included) become errors; the caller goes on.
Outcome run(const Dispatch& dispatch, const Options& options);

}  // namespace marlin::emulator
