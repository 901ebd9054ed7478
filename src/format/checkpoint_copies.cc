// Tensors that the kernels cannot use where they lie: layout K, I64 containers, odd offsets.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "format/checkpoint_contents.h"
#include "marlin/error.h"

namespace marlin {
namespace {

constexpr std::align_val_t kAlignment{64};  // one cache line, and enough for every vector load

struct AlignedBytes {
  std::shared_ptr<std::byte> owner;
  std::span<std::byte> bytes;
};

AlignedBytes allocate(size_t size) {
  auto* data = static_cast<std::byte*>(::operator new(size, kAlignment));
  std::shared_ptr<std::byte> owner(data, [](std::byte* p) { ::operator delete(p, kAlignment); });
  return {std::move(owner), {data, size}};
}

// An I64 word must be a zero- or sign-extended 32-bit one; anything else is not a container of eight codes.
void narrow_words(const TensorView& view, std::span<std::byte> out) {
  const size_t n = out.size() / 4;
  for (size_t i = 0; i < n; ++i) {
    int64_t wide = 0;
    std::memcpy(&wide, view.data.data() + 8 * i, sizeof(wide));
    const auto low = static_cast<uint32_t>(wide);
    if (wide != static_cast<int64_t>(low) && wide != static_cast<int64_t>(static_cast<int32_t>(low))) {
      throw Error(ErrorCode::kBadFile, fmt::format("tensor {}: word {} is {}, expected 32 bits in an I64; quantize the "
                                                   "BF16 checkpoint again",
                                                   view.name, i, wide));
    }
    std::memcpy(out.data() + 4 * i, &low, sizeof(low));
  }
}

// [rows, cols] -> [cols, rows], in tiles so that both sides stay in the cache.
template <size_t kElement>
void transpose(const std::byte* from, std::byte* to, int64_t rows, int64_t cols) {
  constexpr int64_t kTile = 32;
  for (int64_t row0 = 0; row0 < rows; row0 += kTile) {
    for (int64_t col0 = 0; col0 < cols; col0 += kTile) {
      const int64_t row1 = std::min(rows, row0 + kTile);
      const int64_t col1 = std::min(cols, col0 + kTile);
      for (int64_t col = col0; col < col1; ++col) {
        for (int64_t row = row0; row < row1; ++row) {
          std::memcpy(to + (col * rows + row) * static_cast<int64_t>(kElement),
                      from + (row * cols + col) * static_cast<int64_t>(kElement), kElement);
        }
      }
    }
  }
}

void point_to(TensorView& view, const AlignedBytes& copy) {
  view.data = copy.bytes;
  view.owner = copy.owner;
  view.file = nullptr;
}

}  // namespace

bool misaligned(const TensorView& view) {
  return reinterpret_cast<uintptr_t>(view.data.data()) % dtype_size(view.dtype) != 0;
}

TensorView usable_view(CheckpointContents& contents, size_t tensor, TensorUse use) {
  TensorView view = contents.tensors[tensor].view;
  const bool codes = use != TensorUse::kAsStored && view.dtype != DType::kF16;
  const bool wide = codes && view.dtype == DType::kI64;
  if (codes && !wide) view.dtype = DType::kU32;
  if (use != TensorUse::kLayoutK && !wide && !misaligned(view)) return view;
  if (const auto it = contents.copies.find(tensor); it != contents.copies.end()) return it->second;

  if (wide) {
    const AlignedBytes narrow = allocate(view.data.size() / 2);
    narrow_words(view, narrow.bytes);
    point_to(view, narrow);
    view.dtype = DType::kU32;
  }
  if (use == TensorUse::kLayoutK) {
    const AlignedBytes turned = allocate(view.data.size());
    const auto turn = view.dtype == DType::kU32 ? transpose<4> : transpose<2>;
    turn(view.data.data(), turned.bytes.data(), view.shape[0], view.shape[1]);
    point_to(view, turned);
    std::swap(view.shape[0], view.shape[1]);
  } else if (misaligned(view)) {
    const AlignedBytes aligned = allocate(view.data.size());
    std::copy(view.data.begin(), view.data.end(), aligned.bytes.begin());
    point_to(view, aligned);
  }
  contents.copies.emplace(tensor, view);
  return view;
}

}  // namespace marlin
