#include "metal/cuda/cuda_engine.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>
#include <utility>

#include "backend/metal/kernels/params.h"
#include "base/check.h"
#include "marlin/error.h"

namespace marlin::metal_on_cuda {
namespace {

/// A function constant that no kernel was given: no sane value.
constexpr unsigned kUnset = 0xDEADBEEF;
constexpr unsigned long kMostThreads = 1024;
constexpr unsigned long kMostGroupsYz = 65535;
constexpr int kNothing = 0xFF;  // bytes that make a NaN of a float

void check(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return;
  throw Error(ErrorCode::kUnsupported, fmt::format("{}: {}", what, cudaGetErrorString(error)));
}

CudaBuffer& buffer_of(View view) {
  MARLIN_CHECK(view.buffer != nullptr, "an op's argument has no buffer");
  return static_cast<CudaBuffer&>(*view.buffer);
}

const Kernel*& first_kernel() {
  static const Kernel* first = nullptr;
  return first;
}

}  // namespace

Kernel::Kernel(const char* its_name, const void* its_entry, const void* its_constants)
    : name(its_name), entry(its_entry), constants(its_constants), next(std::exchange(first_kernel(), this)) {}

const Kernel* find_kernel(const char* name) {
  const Kernel* kernel = first_kernel();
  while (kernel != nullptr && std::string_view(kernel->name) != name) kernel = kernel->next;
  return kernel;
}

// ---- memory --------------------------------------------------------------------------------------------------------

CudaBuffer::CudaBuffer(size_t size, bool writable) : Buffer(size), writable_(writable) {
  void* data = nullptr;
  check(cudaMalloc(&data, std::max<size_t>(size, 1)), "cudaMalloc");
  data_ = static_cast<std::byte*>(data);
  check(cudaMemset(data_, 0, size), "cudaMemset");
  check(cudaDeviceSynchronize(), "cudaMemset");
}

CudaBuffer::~CudaBuffer() {
  cudaFree(data_);  // waits for work in flight
}

void CudaBuffer::fill(std::span<const std::byte> bytes) {
  check(cudaMemcpy(data_, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
  // The copy may still be on its way, and our stream does not wait for it.
  check(cudaDeviceSynchronize(), "cudaMemcpy");
}

std::byte* CudaBuffer::at(size_t offset, size_t bytes) const {
  MARLIN_CHECK(offset <= size() && bytes <= size() - offset, "{} bytes at {} of a buffer of {}", bytes, offset, size());
  return data_ + offset;
}

// ---- work ----------------------------------------------------------------------------------------------------------

CudaEngine::CudaEngine(bool deterministic) : deterministic_(deterministic) {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
}

CudaEngine::~CudaEngine() {
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

void CudaEngine::upload(View to, std::span<const std::byte> bytes) {
  CudaBuffer& buffer = buffer_of(to);
  MARLIN_CHECK(buffer.writable(), "upload into weights");
  std::byte* at = buffer.at(to.offset, bytes.size());
  check(cudaMemcpyAsync(at, bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream_), "cudaMemcpy to the GPU");
  check(cudaStreamSynchronize(stream_), "upload");
}

uint64_t CudaEngine::submit() {
  return serial_++;
}

void CudaEngine::wait(uint64_t serial) {
  MARLIN_CHECK(serial < serial_, "fence {} was never submitted", serial);
  check(cudaStreamSynchronize(stream_), "the GPU failed");
  retired_.clear();
}

void CudaEngine::read(uint64_t, View from, std::span<std::byte> bytes) const {
  const std::byte* at = buffer_of(from).at(from.offset, bytes.size());
  check(cudaMemcpyAsync(bytes.data(), at, bytes.size(), cudaMemcpyDeviceToHost, stream_), "cudaMemcpy from the GPU");
  check(cudaStreamSynchronize(stream_), "read");
}

// ---- one dispatch --------------------------------------------------------------------------------------------------

void CudaEngine::kernel(const char* name, std::initializer_list<metal::Constant> constants) {
  kernel_ = find_kernel(name);
  MARLIN_CHECK(kernel_ != nullptr, "no kernel is named {}", name);
  constants_.fill(kUnset);
  for (const metal::Constant& constant : constants) constants_.at(static_cast<size_t>(constant.index)) = constant.value;
  arguments_ = {};
  std::ranges::fill(arguments_.in_bytes, -1);
  bytes_used_ = 0;
}

void CudaEngine::bind(int index, void* address) {
  MARLIN_CHECK(index >= 0 && index < kArguments, "{}: argument {}", kernel_->name, index);
  arguments_.buffers[index] = address;
}

void CudaEngine::in(int index, View view, size_t bytes) {
  if (!view) return;
  bind(index, buffer_of(view).at(view.offset, bytes));
}

void CudaEngine::out(int index, View view, size_t bytes) {
  if (!view) return;
  MARLIN_CHECK(buffer_of(view).writable(), "{} writes into weights", kernel_->name);
  bind(index, buffer_of(view).at(view.offset, bytes));
}

void CudaEngine::bytes(int index, const void* data, size_t size) {
  MARLIN_CHECK(bytes_used_ + size <= kMostBytes, "{}: {} bytes of parameters", kernel_->name, bytes_used_ + size);
  std::memcpy(arguments_.bytes + bytes_used_, data, size);
  arguments_.in_bytes[index] = static_cast<int>(bytes_used_);
  bytes_used_ = (bytes_used_ + size + 15) / 16 * 16;
}

void CudaEngine::threadgroup_memory(int index, size_t) {
  MARLIN_CHECK(false, "{}: threadgroup argument {}, which no kernel had", kernel_->name, index);
}

void CudaEngine::experts(int index, const ExpertBank& bank) {
  std::vector<metal::ExpertAddress> entries;
  const auto address = [](View view, int64_t bytes) -> uint64_t {
    return view ? std::bit_cast<uint64_t>(buffer_of(view).at(view.offset, static_cast<size_t>(bytes))) : 0;
  };
  for (const LinearWeight& weight : bank.experts) {
    const int64_t count = weight.out_features * weight.in_features;
    metal::ExpertAddress entry{};
    if (weight.n_planes == 0) {
      entry.codes[0] = address(weight.plain, count * static_cast<int64_t>(dtype_size(weight.plain_type)));
    }
    for (int p = 0; p < weight.n_planes; ++p) {
      const Fp4PlaneView& plane = weight.planes[p];
      entry.codes[p] = address(plane.codes, count / 2);
      entry.scales[p] = address(plane.scales, count / plane.group_size * 2);
    }
    entry.bias = address(weight.bias, weight.out_features * static_cast<int64_t>(dtype_size(weight.bias_type)));
    entries.push_back(entry);
  }
  retired_.push_back(std::make_unique<CudaBuffer>(entries.size() * sizeof(metal::ExpertAddress), false));
  retired_.back()->fill(std::as_bytes(std::span(entries)));
  bind(index, retired_.back()->data());
}

View CudaEngine::scratch(metal::Scratch slot, size_t bytes) {
  std::unique_ptr<CudaBuffer>& buffer = scratch_[static_cast<size_t>(slot)];
  if (!buffer || buffer->size() != bytes) {  // not a byte more than is wanted, so that one too far is seen
    if (buffer) retired_.push_back(std::move(buffer));
    buffer = std::make_unique<CudaBuffer>(bytes, true);
  }
  check(cudaMemsetAsync(buffer->data(), kNothing, buffer->size(), stream_), "cudaMemset");
  return {buffer.get(), 0};
}

void CudaEngine::dispatch(metal::Size threadgroups, metal::Size threads) {
  MARLIN_CHECK(threads.width * threads.height * threads.depth <= kMostThreads, "{}: {} x {} x {} threads",
               kernel_->name, threads.width, threads.height, threads.depth);
  MARLIN_CHECK(threadgroups.height <= kMostGroupsYz && threadgroups.depth <= kMostGroupsYz,
               "{}: {} x {} x {} threadgroups, more than CUDA has", kernel_->name, threadgroups.width,
               threadgroups.height, threadgroups.depth);
  const auto dimensions = [](metal::Size size) {
    return dim3(static_cast<unsigned>(size.width), static_cast<unsigned>(size.height),
                static_cast<unsigned>(size.depth));
  };
  // The kernels of a file share the memory of its constants, and the stream keeps the order.
  check(cudaMemcpyToSymbolAsync(kernel_->constants, constants_.data(), sizeof(constants_), 0, cudaMemcpyHostToDevice,
                                stream_),
        kernel_->name);
  void* arguments[] = {&arguments_};
  check(cudaLaunchKernel(kernel_->entry, dimensions(threadgroups), dimensions(threads), arguments, 0, stream_),
        kernel_->name);
}

}  // namespace marlin::metal_on_cuda
