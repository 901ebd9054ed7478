// What a compiled kernel needs from the executor. Kernels see it, so it includes nothing: MSL has no C++ library, and
// names such as `thread` and `constant` are macros there.
#pragma once

namespace marlin::emulator::abi {

inline constexpr unsigned kSimdWidth = 32;
inline constexpr unsigned kArguments = 31;

struct Triple {
  unsigned x;
  unsigned y;
  unsigned z;
};

/// What a thread may ask about itself.
struct ThreadContext {
  Triple thread_in_threadgroup;
  Triple thread_in_grid;
  Triple threadgroup_in_grid;
  Triple threads_per_threadgroup;
  Triple threadgroups_per_grid;
  Triple threads_per_grid;
  unsigned index_in_threadgroup;
  unsigned lane;
  unsigned simdgroup;
  unsigned simdgroups;
};

/// The thread that runs now. The model of thread-local storage is the fast one, since kernels are linked into programs.
extern __thread ThreadContext* current __attribute__((tls_model("initial-exec")));

// ---- simd operations -----------------------------------------------------------------------------------------------

enum class SimdOperation : int {
  kBarrier,
  kReduction,
  kGather,
  kBroadcastFirst,
  kVote,
  kPrefix,
  kMatrixMultiply,
};

/// Where the lanes of a simdgroup leave their values, and the last one a result. There are two sets, used in turn: a
/// lane may still read the last operation's values while another one posts those of the next.
struct Exchange {
  static constexpr unsigned kSlotBytes = 32;
  static constexpr unsigned kResultBytes = 1024;
  alignas(64) unsigned char slots[2][kSimdWidth][kSlotBytes];
  alignas(64) unsigned char results[2][kResultBytes];
};

/// What simd_arrive gives to a lane.
struct Arrival {
  Exchange* exchange;
  unsigned set;
  unsigned active;  // mask of the lanes that take part
  bool last;        // this lane computes the result, then calls simd_release
};

/// Posts this lane's value and waits for the other lanes. The last lane to arrive goes on at once, the others after
/// simd_release.
Arrival simd_arrive(const void* value, unsigned bytes, SimdOperation operation, const char* file, int line);
void simd_release();

// ---- barriers and threadgroup memory -------------------------------------------------------------------------------

// Bits of mem_flags.
inline constexpr unsigned kOrderDevice = 1;
inline constexpr unsigned kOrderThreadgroup = 2;

void simdgroup_barrier(unsigned flags, const char* file, int line);
void threadgroup_barrier(unsigned flags, const char* file, int line);

/// The threadgroup variable that `key` stands for: the same memory for all threads of a threadgroup.
void* threadgroup_variable(const void* key, unsigned long bytes, unsigned long alignment, const char* name);

// ---- registration --------------------------------------------------------------------------------------------------

enum class Source : int {
  kBuffer,
  kThreadgroupBuffer,
  kThreadInThreadgroup,
  kThreadInGrid,
  kThreadgroupInGrid,
  kThreadsPerThreadgroup,
  kThreadgroupsPerGrid,
  kThreadsPerGrid,
  kIndexInThreadgroup,
  kLane,
  kSimdgroup,
  kSimdgroups,
  kThreadsPerSimdgroup,
};

/// Where a parameter of a kernel comes from; the index is that of [[buffer(n)]] or [[threadgroup(n)]].
struct Parameter {
  Source source;
  int index;
};

struct Arguments {
  void* buffers[kArguments];
  void* threadgroup_buffers[kArguments];
};

using Entry = void (*)(const Arguments&, const ThreadContext&);

/// A static object for each kernel of a compiled file.
struct KernelRegistration {
  const char* name;
  const char* file;
  bool checked;  // compiled to be watched
  Entry entry;
  const Parameter* parameters;
  int n_parameters;

  KernelRegistration(const char* its_name, const char* its_file, bool is_checked, Entry its_entry,
                     const Parameter* its_parameters, int count);
};

/// A static object for each function constant of a compiled file; run() sets the variables.
struct FunctionConstantRegistration {
  int index;
  const char* name;
  const char* type;
  const char* file;
  bool checked;
  void* value;
  unsigned size;
  bool* defined;

  FunctionConstantRegistration(int its_index, const char* its_name, const char* its_type, const char* its_file,
                               bool is_checked, void* its_value, unsigned its_size, bool* is_defined);
};

/// Checked kernels only: a vector was accessed at an address that is no multiple of its alignment. The checker has it.
void misaligned(const void* address, unsigned long alignment) __attribute__((cold, noinline));

}  // namespace marlin::emulator::abi
