#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

#include "metal/emulator/executor_internal.h"

namespace marlin::emulator {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kGuardBytes = 64 << 10;
/// Address space is never used twice, so that an address kept for too long faults.
constexpr size_t kReservedBytes = size_t{4} << 40;

std::byte* map_nothing(std::byte* at, size_t bytes) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0);
  void* mapped = mmap(at, bytes, PROT_NONE, flags, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  return static_cast<std::byte*>(mapped);
}

size_t whole_pages(size_t bytes) {
  return std::max<size_t>(1, (bytes + kPageBytes - 1) / kPageBytes) * kPageBytes;
}

/// All regions by their first address. A pointer that leads outside of one is likely to fault, since what lies between
/// them is reserved and not mapped.
class AddressSpace {
 public:
  static AddressSpace& instance() {
    static auto* space = new AddressSpace;  // regions may outlive static objects
    return *space;
  }

  std::byte* reserve(size_t bytes) {
    std::lock_guard lock(mutex_);
    if (!reserved_) reserved_ = map_nothing(nullptr, kReservedBytes);
    if (bytes > kReservedBytes - used_ - kGuardBytes) throw std::bad_alloc();
    std::byte* result = reserved_ + used_ + kGuardBytes;
    used_ += kGuardBytes + bytes;
    return result;
  }
  void add(MemoryRegion* region) {
    std::lock_guard lock(mutex_);
    regions_.emplace(region->data(), region);
  }
  void remove(MemoryRegion* region) {
    std::lock_guard lock(mutex_);
    auto [begin, end] = regions_.equal_range(region->data());
    auto found = std::find_if(begin, end, [region](const auto& each) { return each.second == region; });
    if (found != end) regions_.erase(found);
  }
  const MemoryRegion* find(const std::byte* address);
  std::string describe(const std::byte* address);

 private:
  std::mutex mutex_;
  std::byte* reserved_ = nullptr;
  size_t used_ = 0;
  std::multimap<const std::byte*, MemoryRegion*> regions_;
};

const MemoryRegion* AddressSpace::find(const std::byte* address) {
  std::lock_guard lock(mutex_);
  auto after = regions_.upper_bound(address);
  if (after == regions_.begin()) return nullptr;
  const MemoryRegion* region = std::prev(after)->second;
  return address < region->data() + region->size() ? region : nullptr;
}

std::string AddressSpace::describe(const std::byte* address) {
  std::lock_guard lock(mutex_);
  auto after = regions_.upper_bound(address);
  if (after != regions_.begin()) {
    const MemoryRegion& region = *std::prev(after)->second;
    const auto offset = static_cast<size_t>(address - region.data());
    if (offset < region.size()) return "byte " + std::to_string(offset) + " of " + region.description();
    if (offset - region.size() < kReservedBytes) {
      return std::to_string(offset - region.size()) + " bytes past the end of " + region.description();
    }
  }
  if (after != regions_.end()) {
    const MemoryRegion& region = *after->second;
    const auto before = static_cast<size_t>(region.data() - address);
    if (before <= kGuardBytes) return std::to_string(before) + " bytes before " + region.description();
  }
  return "";
}

}  // namespace

// ---- regions -------------------------------------------------------------------------------------------------------

std::shared_ptr<Region> Region::allocate(size_t bytes) {
  const size_t mapped = whole_pages(bytes);
  std::byte* mapping = AddressSpace::instance().reserve(mapped);
  if (mprotect(mapping, mapped, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
  std::memset(mapping, 0xFF, mapped);
  const size_t slack = (mapped - bytes) / kAlignment * kAlignment;
  return std::make_shared<MemoryRegion>(mapping + slack, bytes, false, mapping, mapped);
}

std::shared_ptr<Region> Region::adopt(void* data, size_t bytes, bool read_only) {
  return std::make_shared<MemoryRegion>(static_cast<std::byte*>(data), bytes, read_only, nullptr, 0);
}

MemoryRegion::MemoryRegion(std::byte* data, size_t bytes, bool read_only, std::byte* mapping, size_t mapping_bytes)
    : Region(data, bytes, read_only), mapping_(mapping), mapping_bytes_(mapping_bytes) {
  AddressSpace::instance().add(this);
}

MemoryRegion::~MemoryRegion() {
  AddressSpace::instance().remove(this);
  if (allocated()) map_nothing(mapping_, mapping_bytes_);
}

void MemoryRegion::written_by_host(size_t offset, size_t bytes) {
  if (checker_hooks()) checker_hooks()->host_wrote(*this, offset, bytes);
}

std::string MemoryRegion::description() const {
  const std::string bytes = std::to_string(size()) + " bytes";
  return label.empty() ? "a buffer of " + bytes : "buffer '" + label + "' (" + bytes + ")";
}

const MemoryRegion* region_at(const void* address) {
  return AddressSpace::instance().find(static_cast<const std::byte*>(address));
}

std::string describe_address(const void* address) {
  return AddressSpace::instance().describe(static_cast<const std::byte*>(address));
}

}  // namespace marlin::emulator
