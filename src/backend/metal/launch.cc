// What the launch code of several ops needs.
#include "backend/metal/launch.h"

#include <bit>

#include "base/check.h"

namespace marlin::metal {
namespace {

uint32_t planes_of(const LinearWeight& weight) {
  return static_cast<uint32_t>(weight.n_planes);
}

}  // namespace

Format format_of(DType type) {
  switch (type) {
    case DType::kBF16:
      return kBf16;
    case DType::kF16:
      return kF16;
    case DType::kF32:
      return kF32;
    default:
      MARLIN_CHECK(false, "a stored tensor of type {}", dtype_name(type));
      return kNone;
  }
}

Format format_of(const LinearWeight& weight) {
  return weight.n_planes > 0 ? kFp4 : format_of(weight.plain_type);
}

Format bias_format(const LinearWeight& weight) {
  return weight.bias ? format_of(weight.bias_type) : kNone;
}

size_t format_bytes(Format format) {
  MARLIN_CHECK(format == kBf16 || format == kF16 || format == kF32, "format {} has no elements",
               static_cast<uint32_t>(format));
  return format == kF32 ? 4 : 2;
}

Forms forms_of(const Commands& commands, const RoleView& roles) {
  Forms forms;
  if (commands.deterministic() || !roles) {
    forms.decode = true;
    return forms;
  }
  MARLIN_CHECK(roles.any_prompt || roles.any_decode, "rows without a role");
  forms.decode = roles.any_decode;
  forms.prompt = roles.any_prompt;
  if (roles.any_prompt && roles.any_decode) {
    forms.decode_filter = kDecodeRows;
    forms.prompt_filter = kPromptRows;
  }
  return forms;
}

uint32_t kind_of(const LinearWeight& weight) {
  return weight_kind(format_of(weight), planes_of(weight), bias_format(weight));
}

WeightParams weight_params(const LinearWeight& weight) {
  WeightParams params{};
  params.out = static_cast<uint>(weight.out_features);
  params.in = static_cast<uint>(weight.in_features);
  for (int i = 0; i < weight.n_planes; ++i) {
    const auto size = static_cast<uint>(weight.planes[i].group_size);
    MARLIN_CHECK(std::has_single_bit(size) && size >= 16 && params.in % size == 0, "groups of {} in {} values", size,
                 params.in);
    params.group_shift[i] = static_cast<uint>(std::countr_zero(size));
  }
  return params;
}

void bind_weight(Commands& commands, int first, const LinearWeight& weight) {
  const auto rows = static_cast<size_t>(weight.out_features);
  const auto values = rows * static_cast<size_t>(weight.in_features);
  if (weight.n_planes == 0) commands.in(first, weight.plain, values * format_bytes(format_of(weight)));
  for (int i = 0; i < weight.n_planes; ++i) {
    const Fp4PlaneView& plane = weight.planes[i];
    commands.in(first + 2 * i, plane.codes, values / 2);
    commands.in(first + 2 * i + 1, plane.scales, values / static_cast<size_t>(plane.group_size) * 2);
  }
  if (weight.bias) commands.in(first + 4, weight.bias, rows * format_bytes(bias_format(weight)));
}

KvFormat kv_format(const KvLayout& layout) {
  switch (layout.type) {
    case KvType::kF32:
      return kKvF32;
    case KvType::kF16:
      return kKvF16;
    case KvType::kQ8:
      return kKvQ8;
    case KvType::kF64:
      break;
  }
  MARLIN_CHECK(false, "a cache of type {}", static_cast<int>(layout.type));
  return kKvF32;
}

KvParams kv_params(const KvView& kv, const TokenBatch& batch) {
  KvParams params{};
  params.blocks_per_slot = static_cast<uint>(batch.blocks_per_slot);
  params.n_layers = static_cast<uint>(kv.layout.n_layers);
  params.layer = static_cast<uint>(kv.layer);
  params.row_bytes = static_cast<uint>(kv.layout.row_bytes());
  params.latent = static_cast<uint>(kv.layout.latent_dim);
  params.rope = static_cast<uint>(kv.layout.rope_dim);
  return params;
}

size_t rest_of(View view) {
  return view.buffer->size() - view.offset;
}

size_t matrix_bytes(int64_t rows, int64_t stride, int64_t width) {
  return rows == 0 ? 0 : static_cast<size_t>((rows - 1) * stride + width) * sizeof(float);
}

}  // namespace marlin::metal
