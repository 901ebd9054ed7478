// Dispatches of one op, as the launch code of ops writes them. Everything a kernel is bound to passes through here, so
// ranges are checked and writes are remembered in one place.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <type_traits>

#include "backend/metal/objc.h"
#include "ops/ops.h"

namespace marlin::metal {

/// A function constant (kernels/params.h) and its value.
struct Constant {
  int index = 0;
  uint32_t value = 0;
};

/// Memory that kernels of one stream use between dispatches of one op.
enum class Scratch { kAttention, kExpanded, kExperts, kSample, kCount };

class Commands {
 public:
  virtual ~Commands() = default;

  /// Begins a dispatch of a kernel, specialised by function constants. `name` is a literal.
  virtual void kernel(const char* name, std::initializer_list<Constant> constants) = 0;
  /// Binds `bytes` from `view` on, to be read. An absent view (optional inputs) binds nothing.
  virtual void in(int index, View view, size_t bytes) = 0;
  /// The same, to be written or updated.
  virtual void out(int index, View view, size_t bytes) = 0;
  /// The table of a bank's experts (ExpertAddress); its weights are made resident.
  virtual void experts(int index, const ExpertBank& bank) = 0;
  template <typename Params>
  void params(int index, const Params& params) {
    static_assert(std::is_trivially_copyable_v<Params> && sizeof(Params) <= 4096);
    bytes(index, &params, sizeof(Params));
  }
  virtual void bytes(int index, const void* data, size_t size) = 0;
  /// Length of a [[threadgroup(index)]] argument, rounded up to 16.
  virtual void threadgroup_memory(int index, size_t bytes) = 0;
  /// Runs it with everything bound since kernel().
  virtual void dispatch(Size threadgroups, Size threads) = 0;

  /// At least `bytes` of memory whose content is undefined; the next call for the same slot may return the same.
  virtual View scratch(Scratch slot, size_t bytes) = 0;
  /// One numerics class for all rows (DeviceOptions::deterministic): the decode form.
  virtual bool deterministic() const = 0;
};

}  // namespace marlin::metal
