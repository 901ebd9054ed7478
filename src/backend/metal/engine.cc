#include "backend/metal/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <utility>

#include "backend/metal/kernels/params.h"
#include "backend/metal/launch.h"
#include "base/check.h"
#include "marlin/error.h"

namespace marlin::metal {
namespace {

constexpr unsigned long kMostCommandBuffers = 8;  // of the queue; we keep two
constexpr size_t kMostInFlight = 2;
constexpr size_t kSmallestStaging = size_t{64} << 10;

MetalBuffer& buffer_of(View view) {
  MARLIN_CHECK(view.buffer != nullptr, "an op's argument has no buffer");
  return static_cast<MetalBuffer&>(*view.buffer);
}

}  // namespace

Engine::Engine(Object device, bool deterministic)
    : device_(std::move(device)),
      queue_(device::new_command_queue(device_.get(), kMostCommandBuffers)),
      pipelines_(device_.get()),
      deterministic_(deterministic) {
  if (!queue_) throw Error(ErrorCode::kUnsupported, "Metal gives no command queue");
}

Engine::~Engine() {
  const AutoreleasePool pool;
  if (encoder_) encoder::end(encoder_.get());
  while (!in_flight_.empty()) reap_oldest();
}

// The GPU may still be reading what is about to be unmapped.
void Engine::released(MetalBuffer& buffer) {
  const std::lock_guard lock(mutex_);
  const AutoreleasePool pool;
  for (auto entry = tables_.begin(); entry != tables_.end();) {
    ExpertTable& table = entry->second;
    const bool uses = std::ranges::find(table.weights, &buffer) != table.weights.end();
    if (uses) retired_.push_back(std::move(table.entries));
    entry = uses ? tables_.erase(entry) : std::next(entry);
  }
  if (buffer.last_use() == serial_) submit();
  while (!in_flight_.empty() && in_flight_.front().serial <= buffer.last_use()) reap_oldest();
}

// ---- command buffers -----------------------------------------------------------------------------------------------

void Engine::open() {
  if (encoder_) return;
  while (in_flight_.size() >= kMostInFlight) reap_oldest();
  command_buffer_ = queue::command_buffer(queue_.get());
  encoder_ = command_buffer::compute_encoder(command_buffer_.get());
  bound_ = stale_ = 0;
}

uint64_t Engine::submit() {
  const uint64_t serial = serial_++;
  if (!encoder_) return serial;
  encoder::end(encoder_.get());
  encoder_ = {};
  command_buffer::commit(command_buffer_.get());
  in_flight_.push_back({serial, std::move(command_buffer_), std::move(staging_)});
  command_buffer_ = {};
  staging_.clear();
  return serial;
}

void Engine::reap_oldest() {
  Work work = std::move(in_flight_.front());
  in_flight_.pop_front();
  command_buffer::wait_until_completed(work.command_buffer.get());
  if (command_buffer::status(work.command_buffer.get()) != kCommandBufferStatusCompleted && failure_.empty()) {
    failure_ = command_buffer::error(work.command_buffer.get());
    if (failure_.empty()) failure_ = "unknown error";
  }
  completed_ = work.serial;
  for (auto& buffer : work.staging) free_staging_.push_back(std::move(buffer));
  std::erase_if(retired_, [&](const auto& buffer) { return buffer->last_use() <= completed_; });
}

void Engine::wait(uint64_t serial) {
  MARLIN_CHECK(serial < serial_, "fence {} was never submitted", serial);
  while (!in_flight_.empty() && in_flight_.front().serial <= serial) reap_oldest();
  if (in_flight_.empty()) completed_ = std::max(completed_, serial);
  if (failure_.empty()) return;
  throw Error(ErrorCode::kUnsupported, fmt::format("the GPU failed: {}", std::exchange(failure_, "")));
}

void Engine::upload(View to, std::span<const std::byte> bytes) {
  MetalBuffer& buffer = buffer_of(to);
  MARLIN_CHECK(buffer.writable(), "upload into weights");
  MARLIN_CHECK(to.offset <= buffer.size() && bytes.size() <= buffer.size() - to.offset,
               "upload of {} bytes at {} of {}", bytes.size(), to.offset, buffer.size());
  if (buffer.last_use() <= completed_) {
    std::memcpy(buffer.data() + to.offset, bytes.data(), bytes.size());
    return;
  }
  std::unique_ptr<MetalBuffer> staged = staging(bytes.size());
  std::memcpy(staged->data(), bytes.data(), bytes.size());
  copy(*this, {.from = {staged.get(), 0}, .to = to, .bytes = bytes.size()});
  staging_.push_back(std::move(staged));
}

std::unique_ptr<MetalBuffer> Engine::staging(size_t bytes) {
  const auto fits = std::ranges::find_if(free_staging_, [&](const auto& buffer) { return buffer->size() >= bytes; });
  if (fits == free_staging_.end()) {
    return MetalBuffer::allocate(device(), std::bit_ceil(std::max(bytes, kSmallestStaging)), nullptr);
  }
  std::unique_ptr<MetalBuffer> found = std::move(*fits);
  free_staging_.erase(fits);
  return found;
}

void Engine::read(uint64_t completed, View from, std::span<std::byte> bytes) const {
  const MetalBuffer& buffer = buffer_of(from);
  MARLIN_CHECK(buffer.last_write() <= completed, "read of work {} after waiting for {}", buffer.last_write(),
               completed);
  MARLIN_CHECK(from.offset <= buffer.size() && bytes.size() <= buffer.size() - from.offset,
               "read of {} bytes at {} of {}", bytes.size(), from.offset, buffer.size());
  std::memcpy(bytes.data(), buffer.data() + from.offset, bytes.size());
}

// ---- one dispatch --------------------------------------------------------------------------------------------------

void Engine::kernel(const char* name, std::initializer_list<Constant> constants) {
  pipeline_ = &pipelines_.get(name, constants);
  open();
  encoder::set_pipeline(encoder_.get(), pipeline_->state.get());
  encoder::insert_debug_signpost(encoder_.get(), name);
  stale_ |= bound_;
  bound_ = 0;
}

void Engine::set(int index, const Place& place) {
  encoder::set_buffer(encoder_.get(), place.buffer, place.offset, index);
  bound_ |= 1U << index;
}

void Engine::in(int index, View view, size_t bytes) {
  if (!view) return;
  MetalBuffer& buffer = buffer_of(view);
  set(index, buffer.place(view.offset, bytes));
  buffer.used_by(serial_);
}

void Engine::out(int index, View view, size_t bytes) {
  if (!view) return;
  MetalBuffer& buffer = buffer_of(view);
  MARLIN_CHECK(buffer.writable(), "{} writes into weights", pipeline_->name);
  set(index, buffer.place(view.offset, bytes));
  buffer.written_by(serial_);
}

void Engine::bytes(int index, const void* data, size_t size) {
  encoder::set_bytes(encoder_.get(), data, size, index);
  bound_ |= 1U << index;
}

void Engine::threadgroup_memory(int index, size_t bytes) {
  encoder::set_threadgroup_memory(encoder_.get(), (bytes + 15) / 16 * 16, index);
}

void Engine::dispatch(Size threadgroups, Size threads) {
  MARLIN_CHECK(threads.width * threads.height * threads.depth <= pipeline_->most_threads,
               "{} runs at most {} threads a threadgroup here, {} x {} x {} are wanted", pipeline_->name,
               pipeline_->most_threads, threads.width, threads.height, threads.depth);
  // What an earlier kernel was bound to must not stand in for a binding that this one forgot.
  for (uint32_t left = stale_ & ~bound_; left != 0; left &= left - 1) {
    encoder::set_buffer(encoder_.get(), nullptr, 0, std::countr_zero(left));
  }
  stale_ = 0;
  encoder::dispatch_threadgroups(encoder_.get(), threadgroups, threads);
  ++dispatches_;
}

View Engine::scratch(Scratch slot, size_t bytes) {
  std::unique_ptr<MetalBuffer>& buffer = scratch_[static_cast<size_t>(slot)];
  if (!buffer || buffer->size() < bytes) {
    if (buffer) retired_.push_back(std::move(buffer));
    buffer = MetalBuffer::allocate(device(), std::bit_ceil(bytes), nullptr);
  }
  return {buffer.get(), 0};
}

// ---- experts -------------------------------------------------------------------------------------------------------

void Engine::experts(int index, const ExpertBank& bank) {
  ExpertTable& table = table_of(bank);
  if (table.resident_for != serial_) {
    encoder::use_resources(encoder_.get(), table.handles.data(), table.handles.size(), kResourceUsageRead);
    for (MetalBuffer* weights : table.weights) weights->used_by(serial_);
    table.resident_for = serial_;
  }
  in(index, {table.entries.get(), 0}, table.entries->size());
}

Engine::ExpertTable& Engine::table_of(const ExpertBank& bank) {
  const auto codes = [](const LinearWeight& weight) {
    return weight.n_planes > 0 ? weight.planes[0].codes : weight.plain;
  };
  const View first = codes(bank.experts.front());
  const View last = codes(bank.experts.back());
  const auto same = [](View a, View b) { return a.buffer == b.buffer && a.offset == b.offset; };
  ExpertTable& table = tables_[&bank];
  const size_t bytes = bank.experts.size() * sizeof(ExpertAddress);
  if (table.entries && table.entries->size() == bytes && same(table.first, first) && same(table.last, last)) {
    return table;
  }
  if (table.entries) retired_.push_back(std::move(table.entries));
  table = {};
  table.first = first;
  table.last = last;
  table.entries = MetalBuffer::allocate(device(), bytes, nullptr);
  fill_table(bank, table);
  return table;
}

void Engine::fill_table(const ExpertBank& bank, ExpertTable& table) {
  std::vector<ExpertAddress> entries;
  const auto address = [&](View view, int64_t bytes) -> uint64_t {
    if (!view) return 0;
    MetalBuffer& buffer = buffer_of(view);
    const Place place = buffer.place(view.offset, static_cast<size_t>(bytes));
    if (std::ranges::find(table.handles, place.buffer) == table.handles.end()) table.handles.push_back(place.buffer);
    if (std::ranges::find(table.weights, &buffer) == table.weights.end()) table.weights.push_back(&buffer);
    return place.address;
  };
  for (const LinearWeight& weight : bank.experts) {
    const int64_t count = weight.out_features * weight.in_features;
    ExpertAddress entry{};
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
  std::memcpy(table.entries->data(), entries.data(), entries.size() * sizeof(ExpertAddress));
}

}  // namespace marlin::metal
