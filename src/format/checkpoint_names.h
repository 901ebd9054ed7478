// What a stored tensor's name says: the naming of every MMFP4 writer (docs/format.md) in one place.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace marlin {

/// "model.language_model.X", "language_model.model.X" and "language_model.X" -> "model.X".
std::string canonical_name(std::string_view stored);

enum class TensorRole {
  kWeight,
  kScales,
  kWeight2,
  kScales2,
  kGroupSize,
  kHadamard,
  kBias,
  kForeign,  // a part of another quantization format: zero points, affine biases, a column order
  kOther,
};

/// Who spells a role this way; kAny where all writers agree.
enum class Spelling { kAny, kNested, kOlder };

struct TensorName {
  std::string_view base;  // a view into the name given; the whole name for kOther
  TensorRole role = TensorRole::kOther;
  Spelling spelling = Spelling::kAny;
};

TensorName parse_tensor_name(std::string_view canonical);

/// "P.experts.17.gate_proj.weight" -> expert 17, kind "gate_proj", suffix "weight".
struct ExpertName {
  int64_t expert = 0;
  std::string_view kind;
  std::string_view suffix;
};
std::optional<ExpertName> parse_expert_name(std::string_view name);

/// "; run …" for the tensors that the published checkpoint lacks, "" for all others.
std::string_view repair_hint(std::string_view canonical);

}  // namespace marlin
