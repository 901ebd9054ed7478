#include "format/checkpoint_names.h"

#include <array>
#include <charconv>

namespace marlin {
namespace {

struct Suffix {
  std::string_view text;
  TensorRole role;
  Spelling spelling;
};

// The first match counts, so a suffix stands before every shorter one that it ends with.
constexpr std::array<Suffix, 20> kSuffixes = {{
    {".weight.scales", TensorRole::kScales, Spelling::kNested},
    {".weight.group_size", TensorRole::kGroupSize, Spelling::kNested},
    {".weight.hadamard_block_size", TensorRole::kHadamard, Spelling::kNested},
    {".weight_group_size", TensorRole::kGroupSize, Spelling::kOlder},
    {".group_size", TensorRole::kGroupSize, Spelling::kAny},
    {".hadamard_block_size", TensorRole::kHadamard, Spelling::kAny},
    {".weight_scale", TensorRole::kScales, Spelling::kOlder},
    {".scales_fp4", TensorRole::kScales, Spelling::kOlder},
    {".scales_2", TensorRole::kScales2, Spelling::kAny},
    {".scales", TensorRole::kScales, Spelling::kAny},
    {".packed_weight", TensorRole::kWeight, Spelling::kOlder},
    {".qweight", TensorRole::kWeight, Spelling::kOlder},
    {".weight_2", TensorRole::kWeight2, Spelling::kAny},
    {".weight", TensorRole::kWeight, Spelling::kAny},
    {".bias", TensorRole::kBias, Spelling::kAny},
    {".biases", TensorRole::kForeign, Spelling::kAny},
    {".qzeros", TensorRole::kForeign, Spelling::kAny},
    {".g_idx", TensorRole::kForeign, Spelling::kAny},
    {".weight_scale_2", TensorRole::kForeign, Spelling::kAny},
    {".weight_scale_inv", TensorRole::kForeign, Spelling::kAny},
}};

}  // namespace

std::string canonical_name(std::string_view stored) {
  for (const std::string_view prefix : {"model.language_model.", "language_model.model."}) {
    if (stored.starts_with(prefix)) return "model." + std::string(stored.substr(prefix.size()));
  }
  constexpr std::string_view kPrefix = "language_model.";
  if (!stored.starts_with(kPrefix)) return std::string(stored);
  const std::string_view rest = stored.substr(kPrefix.size());
  // The head is not part of the model proper and never carries its prefix.
  return rest.starts_with("lm_head.") ? std::string(rest) : "model." + std::string(rest);
}

TensorName parse_tensor_name(std::string_view canonical) {
  for (const Suffix& suffix : kSuffixes) {
    if (canonical.size() > suffix.text.size() && canonical.ends_with(suffix.text)) {
      return {canonical.substr(0, canonical.size() - suffix.text.size()), suffix.role, suffix.spelling};
    }
  }
  return {canonical, TensorRole::kOther, Spelling::kAny};
}

std::optional<ExpertName> parse_expert_name(std::string_view name) {
  constexpr std::string_view kMarker = ".experts.";
  const size_t marker = name.find(kMarker);
  if (marker == std::string_view::npos) return std::nullopt;
  const std::string_view rest = name.substr(marker + kMarker.size());
  ExpertName out;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), out.expert);
  const auto digits = static_cast<size_t>(end - rest.data());
  if (error != std::errc() || out.expert < 0 || digits >= rest.size() || rest[digits] != '.') return std::nullopt;
  const std::string_view tail = rest.substr(digits + 1);
  const size_t dot = tail.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  out.kind = tail.substr(0, dot);
  out.suffix = tail.substr(dot + 1);
  return out;
}

std::string_view repair_hint(std::string_view canonical) {
  if (canonical == "model.norm.weight" || canonical.ends_with(".e_score_correction_bias")) {
    return "; the published MMFP4 checkpoint lacks it: run `metal-marlin mmfp4 repair --from <BF16 checkpoint>`, "
           "which copies it";
  }
  return "";
}

}  // namespace marlin
