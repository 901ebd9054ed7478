#include "metal/emulator/shadow.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <new>

namespace marlin::emulator {
namespace {

void* map_zeros(size_t bytes) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  return mapped;
}

}  // namespace

Shadow::Shadow(size_t bytes) : mapping_bytes_(bytes * 2 * (sizeof(Stamp) + sizeof(CodeOffset)) + kPageBytes) {
  mapping_ = map_zeros(mapping_bytes_);
  writers = static_cast<Stamp*>(mapping_);
  readers = writers + bytes;
  write_places = reinterpret_cast<CodeOffset*>(readers + bytes);
  read_places = write_places + bytes;
}

Shadow::~Shadow() {
  munmap(mapping_, mapping_bytes_);
}

ReadMarks::ReadMarks(size_t bytes) : mapping_bytes_((bytes / kBytes + 1) * sizeof(Block)) {
  blocks_ = static_cast<Block*>(map_zeros(mapping_bytes_));
}

ReadMarks::~ReadMarks() {
  munmap(blocks_, mapping_bytes_);
}

unsigned ReadMarks::mark(size_t offset, size_t bytes, uint32_t dispatch) {
  unsigned fresh = 0;
  while (bytes > 0) {
    const size_t first = offset % kBytes;
    const size_t count = std::min(bytes, kBytes - first);
    Block& block = blocks_[offset / kBytes];
    if (block.dispatch != dispatch) block = {dispatch, 0};
    const auto mask = static_cast<uint32_t>(((uint64_t{1} << count) - 1) << first);
    fresh += static_cast<unsigned>(std::popcount(mask & ~block.mask));
    block.mask |= mask;
    offset += count;
    bytes -= count;
  }
  return fresh;
}

RegionShadow::RegionShadow(const MemoryRegion& region) {
  if (region.read_only()) {
    marks = std::make_unique<ReadMarks>(region.size());
  } else {
    cells = std::make_unique<Shadow>(region.size());
  }
  if (!region.allocated()) add_host_range(0, region.size());
}

void RegionShadow::add_host_range(size_t offset, size_t bytes) {
  std::lock_guard lock(mutex_);
  size_t begin = offset;
  size_t end = offset + bytes;
  auto range = host_ranges_.upper_bound(begin);
  if (range != host_ranges_.begin() && std::prev(range)->second >= begin) --range;
  while (range != host_ranges_.end() && range->first <= end) {
    begin = std::min(begin, range->first);
    end = std::max(end, range->second);
    range = host_ranges_.erase(range);
  }
  host_ranges_.emplace(begin, end);
}

bool RegionShadow::host_wrote(size_t offset, size_t bytes) const {
  std::lock_guard lock(mutex_);
  auto after = host_ranges_.upper_bound(offset);
  return after != host_ranges_.begin() && std::prev(after)->second >= offset + bytes;
}

RegionShadow& shadow_of(MemoryRegion& region) {
  // The host may tell of a write while a kernel runs on other memory.
  static auto* mutex = new std::mutex;
  std::lock_guard lock(*mutex);
  if (!region.checker_state) region.checker_state = std::make_shared<RegionShadow>(region);
  return *static_cast<RegionShadow*>(region.checker_state.get());
}

}  // namespace marlin::emulator
