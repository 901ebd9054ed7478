#include "backend/cpu/cpu_device.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "backend/cpu/context.h"
#include "backend/cpu/cpu_buffer.h"
#include "backend/cpu/cpu_topology.h"
#include "backend/cpu/kernels/families.h"
#include "backend/cpu/kernels/kernels.h"
#include "base/memory.h"
#include "marlin/devices.h"
#include "marlin/error.h"

namespace marlin {
namespace cpu {

std::unique_ptr<CpuBuffer> CpuBuffer::map(size_t bytes) {
  // MAP_NORESERVE: a cache sized for the longest context takes memory only for the positions that are used.
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
  flags |= MAP_NORESERVE;
#endif
  void* data = mmap(nullptr, std::max<size_t>(bytes, 1), PROT_READ | PROT_WRITE, flags, -1, 0);
  if (data == MAP_FAILED) {
    throw Error(ErrorCode::kNoMemory,
                fmt::format("cannot allocate {} bytes of memory: {}", bytes, std::strerror(errno)));
  }
  return std::unique_ptr<CpuBuffer>(new CpuBuffer(static_cast<std::byte*>(data), bytes));
}

CpuBuffer::~CpuBuffer() {
  if (mapped_) munmap(data_, std::max<size_t>(size(), 1));
}

namespace {

/// What the device's streams share. The lock is held for an op at a time: streams of different threads take turns.
struct Engine {
  Engine(const std::vector<ThreadPlace>& places, const Family& family, bool deterministic)
      : context(places, family, deterministic) {}
  std::mutex mutex;
  Context context;
};

class CpuStream : public Stream {
 public:
  explicit CpuStream(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}

  void embed(const EmbedArgs& args) override { run(args.rows, cpu::embed, args); }
  void rms_norm(const RmsNormArgs& args) override { run(args.rows, cpu::rms_norm, args); }
  void linear(const LinearArgs& args) override { run(args.rows, cpu::linear, args); }
  void add(const AddArgs& args) override { run(args.rows, cpu::add, args); }
  void rope(const RopeArgs& args) override { run(args.rows, cpu::rope, args); }
  void kv_write(const KvWriteArgs& args) override { run(args.batch->n_tokens, cpu::kv_write, args); }
  void mla_absorb(const MlaAbsorbArgs& args) override { run(args.rows, cpu::mla_absorb, args); }
  void mla_attend(const MlaAttendArgs& args) override { run(args.batch->n_tokens, cpu::mla_attend, args); }
  void mla_unabsorb(const MlaUnabsorbArgs& args) override { run(args.rows, cpu::mla_unabsorb, args); }
  void mla_expanded(const MlaExpandedArgs& args) override { run(args.batch->n_tokens, cpu::mla_expanded, args); }
  void route(const RouteArgs& args) override { run(args.rows, cpu::route, args); }
  void expert_linear(const ExpertLinearArgs& args) override { run(args.rows, cpu::expert_linear, args); }
  void swiglu(const SwigluArgs& args) override { run(args.rows, cpu::swiglu, args); }
  void expert_sum(const ExpertSumArgs& args) override { run(args.rows, cpu::expert_sum, args); }
  void gather_rows(const GatherRowsArgs& args) override { run(args.rows, cpu::gather_rows, args); }
  void sample(const SampleArgs& args) override { run(args.rows, cpu::sample, args); }
  void copy(const CopyArgs& args) override { run(args.bytes, cpu::copy, args); }
  void check_finite(const CheckFiniteArgs& args) override { run(1, cpu::check_finite, args); }
  bool has_fused_moe() const override { return true; }
  void fused_moe(const FusedMoeArgs& args) override { run(args.rows, cpu::fused_moe, args); }

  void upload(View to, std::span<const std::byte> bytes) override {
    const std::lock_guard lock(engine_->mutex);
    if (bytes.empty()) return;
    std::byte* data = engine_->context.out<std::byte>(to, static_cast<int64_t>(bytes.size()));
    std::memcpy(data, bytes.data(), bytes.size());
  }

  Fence submit() override {
    const std::lock_guard lock(engine_->mutex);
    return {engine_->context.serial++};
  }

  void read(const Completed& done, View from, std::span<std::byte> bytes) override {
    const std::lock_guard lock(engine_->mutex);
    if (bytes.empty()) return;
    const std::byte* data = engine_->context.in<std::byte>(from, static_cast<int64_t>(bytes.size()));
    const uint64_t written = static_cast<const CpuBuffer&>(*from.buffer).last_write();
    MARLIN_CHECK(written <= done.serial(), "read of work {} after waiting for {}", written, done.serial());
    std::memcpy(bytes.data(), data, bytes.size());
  }

 protected:
  void wait_for(Fence fence) override {
    const std::lock_guard lock(engine_->mutex);
    MARLIN_CHECK(fence.serial < engine_->context.serial, "fence {} was never submitted", fence.serial);
  }

 private:
  template <typename Count, typename Args>
  void run(Count count, void (*kernel)(Context&, const Args&), const Args& args) {
    if (count == 0) return;
    const std::lock_guard lock(engine_->mutex);
    kernel(engine_->context, args);
  }

  std::shared_ptr<Engine> engine_;
};

class CpuDevice : public Device {
 public:
  CpuDevice(int n_threads, const Family& family, bool deterministic)
      : places_(place_threads(n_threads, affinity_cores())),
        engine_(std::make_shared<Engine>(places_, family, deterministic)) {
    info_.name = "cpu";
    info_.description = fmt::format("{}, {} {}, {} kernels", processor_name(), n_threads,
                                    n_threads == 1 ? "thread" : "threads", family.name);
    info_.memory_budget = memory_status().total;
    info_.threads = n_threads;
    info_.int8_planes = family.split != nullptr;
    info_.integer_attention = family.kv_panel != nullptr;
  }

  DeviceInfo info() const override { return info_; }

  DType activation_type() const override { return DType::kF32; }

  std::unique_ptr<Buffer> allocate(size_t bytes) override { return CpuBuffer::map(bytes); }

  std::unique_ptr<Buffer> bind(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) override {
    return std::make_unique<CpuBuffer>(bytes.data(), bytes.size(), std::move(owner));
  }

  std::unique_ptr<Stream> make_stream() override { return std::make_unique<CpuStream>(engine_); }

  void adopt_thread() override { take_place(places_.front()); }

 private:
  std::vector<ThreadPlace> places_;
  std::shared_ptr<Engine> engine_;
  DeviceInfo info_;
};

}  // namespace
}  // namespace cpu

std::unique_ptr<Device> make_cpu_device(const DeviceOptions& options) {
  if (options.threads < 0 || options.threads > kMostThreads) {
    throw Error(ErrorCode::kUsage,
                fmt::format("threads = {}: expected 0 (one a core) to {}", options.threads, kMostThreads));
  }
  return std::make_unique<cpu::CpuDevice>(options.threads > 0 ? options.threads : cpu::usable_cores(),
                                          cpu::choose_family(options.kernels), options.deterministic);
}

}  // namespace marlin
