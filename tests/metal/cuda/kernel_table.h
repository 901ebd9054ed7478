// What generated CUDA files and the device that runs them share. No C++20: nvcc reads it too.
#pragma once

namespace marlin::metal_on_cuda {

constexpr int kArguments = 31;
/// Function constants have smaller indices.
constexpr int kConstants = 64;
constexpr int kMostBytes = 2048;

/// What a kernel is launched with.
struct Arguments {
  void* buffers[kArguments];
  /// Where in `bytes` an argument lies that was given by its bytes; -1: it is a buffer.
  int in_bytes[kArguments];
  alignas(16) unsigned char bytes[kMostBytes];
};

/// A static object for each kernel of a generated file.
struct Kernel {
  const char* name;
  const void* entry;      // for cudaLaunchKernel
  const void* constants;  // unsigned[kConstants] of the file, for cudaMemcpyToSymbol
  const Kernel* next;

  Kernel(const char* its_name, const void* its_entry, const void* its_constants);
};

/// Null when there is none of that name.
const Kernel* find_kernel(const char* name);

}  // namespace marlin::metal_on_cuda
