// Element types of stored and computed tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace marlin {

enum class DType : uint8_t { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool };

/// Bytes of one element.
size_t dtype_size(DType type);
/// The safetensors spelling: "F32", "BF16", "U32"…
std::string_view dtype_name(DType type);
/// True and sets `out` when `name` is a type safetensors defines and we know.
bool parse_dtype(std::string_view name, DType& out);
/// F32, F16 or BF16: what an unquantized weight may be.
bool is_plain(DType type);
/// U32, I32 or I64: what words of FP4 codes are stored in.
bool is_container(DType type);

}  // namespace marlin
