#include "format/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "format/checkpoint_contents.h"
#include "format/checkpoint_names.h"
#include "marlin/error.h"

namespace marlin {
namespace {

[[noreturn]] void fail_missing(const Checkpoint& checkpoint, const std::string& name, const std::string& expected) {
  const std::string_view hint = repair_hint(name);
  throw Error(ErrorCode::kNotFound, fmt::format("{} holds no tensor {}, expected {}{}", checkpoint.directory().string(),
                                                name, expected, hint.empty() ? "; is the checkpoint whole?" : hint));
}

[[noreturn]] void fail_shape(const Checkpoint& checkpoint, const std::string& name, const std::string& found,
                             const std::string& expected) {
  throw Error(ErrorCode::kBadFile, fmt::format("{}: {} is {}, expected {}; config.json and the shards do not belong "
                                               "together",
                                               checkpoint.directory().string(), name, found, expected));
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// Rows [first_row, first_row + out) of a fused experts tensor, or the whole of a plain one.
TensorView plain_view(CheckpointContents& contents, const StoredLinear& linear) {
  TensorView view = usable_view(contents, linear.plain, TensorUse::kAsStored);
  const size_t row_bytes = static_cast<size_t>(linear.in_features) * dtype_size(view.dtype);
  view.data = view.data.subspan(static_cast<size_t>(linear.first_row) * row_bytes,
                                static_cast<size_t>(linear.out_features) * row_bytes);
  view.shape = {linear.out_features, linear.in_features};
  view.name = linear.name + ".weight";
  return view;
}

}  // namespace

std::string_view writer_name(Writer writer) {
  switch (writer) {
    case Writer::kPlain:
      return "plain Hugging Face checkpoint";
    case Writer::kOurs:
      return "metal-marlin, or the published MMFP4 file";
    case Writer::kMrGptqScript:
      return "the reference MR-GPTQ script";
    case Writer::kRtnCli:
      return "the reference command line (layout K)";
    case Writer::kOlderNames:
      return "a reference writer with older names";
  }
  return "unknown";
}

bool Checkpoint::has_linear(const std::string& name) const {
  return contents_->linear_by_name.contains(name);
}

bool Checkpoint::has_tensor(const std::string& name) const {
  const auto it = contents_->tensor_by_name.find(name);
  if (it == contents_->tensor_by_name.end()) return false;
  const StoredTensor& tensor = contents_->tensors[it->second];
  if (tensor.linears.empty()) return !tensor.part || parse_tensor_name(name).role == TensorRole::kBias;
  return contents_->linears[tensor.linears.front()].planes.empty();
}

LinearTensors Checkpoint::linear(const std::string& name, int64_t out_features, int64_t in_features) const {
  const auto it = contents_->linear_by_name.find(name);
  if (it == contents_->linear_by_name.end()) {
    fail_missing(*this, name + ".weight", fmt::format("a linear [{}, {}]", out_features, in_features));
  }
  const std::lock_guard lock(contents_->mutex);
  StoredLinear& stored = contents_->linears[it->second];
  if (stored.out_features != out_features || stored.in_features != in_features) {
    fail_shape(*this, "linear " + name, shape_text({stored.out_features, stored.in_features}),
               shape_text({out_features, in_features}));
  }
  LinearTensors out;
  out.name = name;
  out.out_features = out_features;
  out.in_features = in_features;
  for (const StoredPlane& plane : stored.planes) {
    const TensorUse use = plane.transposed ? TensorUse::kLayoutK : TensorUse::kLayoutR;
    out.planes.push_back(
        {usable_view(*contents_, plane.weight, use), usable_view(*contents_, plane.scales, use), plane.group_size});
  }
  if (stored.planes.empty()) out.plain = plain_view(*contents_, stored);
  if (stored.bias != kNoTensor) out.bias = usable_view(*contents_, stored.bias, TensorUse::kAsStored);
  stored.claimed = true;
  for (const size_t part : stored.parts) contents_->tensors[part].claimed = true;
  return out;
}

TensorView Checkpoint::tensor(const std::string& name, const std::vector<int64_t>& shape) const {
  const auto it = contents_->tensor_by_name.find(name);
  if (it == contents_->tensor_by_name.end()) fail_missing(*this, name, shape_text(shape));
  const std::lock_guard lock(contents_->mutex);
  StoredTensor& stored = contents_->tensors[it->second];
  if (!has_tensor(name)) fail_shape(*this, "tensor " + name, "a part of a quantized linear", shape_text(shape));
  if (stored.view.shape != shape) {
    fail_shape(*this, "tensor " + name, stored.view.describe(), shape_text(shape));
  }
  stored.claimed = true;
  return usable_view(*contents_, it->second, TensorUse::kAsStored);
}

std::vector<LinearTensors> Checkpoint::experts(const std::string& prefix, const std::string& kind, int n_experts,
                                               int64_t out_features, int64_t in_features) const {
  std::vector<LinearTensors> out;
  out.reserve(static_cast<size_t>(n_experts));
  for (int expert = 0; expert < n_experts; ++expert) {
    out.push_back(linear(fmt::format("{}.experts.{}.{}", prefix, expert, kind), out_features, in_features));
  }
  return out;
}

std::vector<std::string> Checkpoint::unclaimed() const {
  const std::lock_guard lock(contents_->mutex);
  std::vector<std::string> out;
  for (const StoredTensor& tensor : contents_->tensors) {
    if (tensor.claimed) continue;
    if (!tensor.fused) {
      out.push_back(tensor.view.name);
      continue;
    }
    for (const size_t index : tensor.linears) {
      if (!contents_->linears[index].claimed) out.push_back(contents_->linears[index].name + ".weight");
    }
  }
  return out;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> out;
  for (const StoredTensor& tensor : contents_->tensors) {
    for (const size_t index : tensor.linears) out.push_back(contents_->linears[index].name);
    if (tensor.linears.empty() && !tensor.part) out.push_back(tensor.view.name);
  }
  return out;
}

const TensorView* Checkpoint::stored(const std::string& name) const {
  const auto it = contents_->tensor_by_name.find(name);
  return it == contents_->tensor_by_name.end() ? nullptr : &contents_->tensors[it->second].view;
}

}  // namespace marlin
