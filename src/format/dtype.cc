#include "format/dtype.h"

#include <array>

namespace marlin {
namespace {

struct TypeInfo {
  std::string_view name;
  size_t size;
};

// Indexed by DType.
constexpr std::array<TypeInfo, 13> kTypes = {{{"F64", 8},
                                              {"F32", 4},
                                              {"F16", 2},
                                              {"BF16", 2},
                                              {"I64", 8},
                                              {"I32", 4},
                                              {"I16", 2},
                                              {"I8", 1},
                                              {"U64", 8},
                                              {"U32", 4},
                                              {"U16", 2},
                                              {"U8", 1},
                                              {"BOOL", 1}}};
static_assert(kTypes.size() == static_cast<size_t>(DType::kBool) + 1);

}  // namespace

size_t dtype_size(DType type) {
  return kTypes[static_cast<size_t>(type)].size;
}

std::string_view dtype_name(DType type) {
  return kTypes[static_cast<size_t>(type)].name;
}

bool parse_dtype(std::string_view name, DType& out) {
  for (size_t i = 0; i < kTypes.size(); ++i) {
    if (kTypes[i].name == name) {
      out = static_cast<DType>(i);
      return true;
    }
  }
  return false;
}

bool is_plain(DType type) {
  return type == DType::kF32 || type == DType::kF16 || type == DType::kBF16;
}

bool is_container(DType type) {
  return type == DType::kU32 || type == DType::kI32 || type == DType::kI64;
}

}  // namespace marlin
