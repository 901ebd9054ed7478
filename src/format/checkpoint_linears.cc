// Which stored tensors make a linear, in which layout and with which group size.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/float16.h"
#include "format/checkpoint_contents.h"
#include "format/checkpoint_names.h"
#include "format/fp4.h"
#include "marlin/error.h"

namespace marlin {
namespace {

constexpr size_t kRoles = static_cast<size_t>(TensorRole::kOther);

// The stored tensors that share a base name, by role.
struct Parts {
  std::array<size_t, kRoles> tensor;
  std::array<Spelling, kRoles> spelling{};
  Parts() { tensor.fill(kNoTensor); }
  size_t at(TensorRole role) const { return tensor[static_cast<size_t>(role)]; }
  bool has(TensorRole role) const { return at(role) != kNoTensor; }
  Spelling spelled(TensorRole role) const { return spelling[static_cast<size_t>(role)]; }
};

[[noreturn]] void fail(const std::string& what) {
  throw Error(ErrorCode::kBadFile, what);
}

class LinearFinder {
 public:
  LinearFinder(CheckpointContents& contents, const QuantizationClaims& claims, const CheckpointOptions& options)
      : contents_(contents), claims_(claims), options_(options) {}

  void run() {
    // In file order of the first part, so that linears come out in file order as well.
    std::map<std::string_view, size_t> by_base;
    std::vector<std::pair<std::string_view, Parts>> groups;
    for (size_t i = 0; i < contents_.tensors.size(); ++i) {
      const std::string_view name = contents_.tensors[i].view.name;
      const TensorName parsed = parse_tensor_name(name);
      if (parsed.role == TensorRole::kOther) {
        cut_fused(i);
        continue;
      }
      const auto [it, is_new] = by_base.emplace(parsed.base, groups.size());
      if (is_new) groups.emplace_back(parsed.base, Parts());
      Parts& parts = groups[it->second].second;
      size_t& slot = parts.tensor[static_cast<size_t>(parsed.role)];
      if (slot != kNoTensor) {
        fail(fmt::format("tensors {} and {} say the same thing twice, expected one of them; remove the stale one",
                         view(slot).name, name));
      }
      slot = i;
      parts.spelling[static_cast<size_t>(parsed.role)] = parsed.spelling;
    }
    for (const auto& [base, parts] : groups) add(base, parts);
  }

 private:
  const TensorView& view(size_t tensor) const { return contents_.tensors[tensor].view; }

  void add(std::string_view base, const Parts& parts);
  void add_quantized(std::string_view base, const Parts& parts);
  void add_plain(std::string_view base, const Parts& parts);
  void cut_fused(size_t tensor);
  void insert(StoredLinear linear);
  void take_bias(StoredLinear& linear, const Parts& parts);
  StoredPlane plane(size_t weight, size_t scales, StoredLinear& linear) const;
  void check_group_size(const StoredPlane& plane, const Parts& parts) const;
  void check_scales(const TensorView& scales) const;

  CheckpointContents& contents_;
  const QuantizationClaims& claims_;
  const CheckpointOptions& options_;
};

void LinearFinder::add(std::string_view base, const Parts& parts) {
  if (parts.has(TensorRole::kHadamard)) {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("tensor {}: the weights of {} are stored rotated by a Hadamard matrix, which this build does "
                    "not undo; quantize the BF16 checkpoint again without rotation",
                    view(parts.at(TensorRole::kHadamard)).name, base));
  }
  if (parts.has(TensorRole::kForeign)) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("tensor {} belongs to another quantization format (GPTQ, AWQ, MLX, NVFP4 or FP8), expected "
                            "MMFP4; quantize the BF16 checkpoint instead",
                            view(parts.at(TensorRole::kForeign)).name));
  }
  for (const TensorRole role :
       {TensorRole::kScales, TensorRole::kWeight2, TensorRole::kScales2, TensorRole::kGroupSize}) {
    if (!parts.has(role)) continue;
    if (!parts.has(TensorRole::kWeight)) {
      fail(
          fmt::format("tensor {} {} has no weight beside it, expected {}.weight (experts one by one, not stacked); "
                      "copy the missing shard or quantize again",
                      view(parts.at(role)).name, view(parts.at(role)).describe(), base));
    }
    return add_quantized(base, parts);
  }
  if (!parts.has(TensorRole::kWeight)) return;
  const TensorView& weight = view(parts.at(TensorRole::kWeight));
  if (is_plain(weight.dtype) && parts.spelled(TensorRole::kWeight) == Spelling::kAny) {
    if (weight.shape.size() == 2) add_plain(base, parts);
    return;
  }
  if (weight.shape.size() != 2 || !is_container(weight.dtype)) {
    fail(fmt::format("tensor {} is {}, expected F32, F16 or BF16{}; download or convert the checkpoint again",
                     weight.name, weight.describe(), weight.shape.size() == 2 ? ", or U32 codes with scales" : ""));
  }
  fail(
      fmt::format("tensor {} {} has no scales, expected {}.scales F16 [out, in / group_size]; copy the missing shard "
                  "or quantize again",
                  weight.name, weight.describe(), base));
}

void LinearFinder::add_quantized(std::string_view base, const Parts& parts) {
  StoredLinear linear;
  linear.name = base;
  if (!parts.has(TensorRole::kScales)) {
    fail(
        fmt::format("tensor {} {} has no scales, expected {}.scales F16 [out, in / group_size]; copy the missing "
                    "shard or quantize again",
                    view(parts.at(TensorRole::kWeight)).name, view(parts.at(TensorRole::kWeight)).describe(), base));
  }
  linear.planes.push_back(plane(parts.at(TensorRole::kWeight), parts.at(TensorRole::kScales), linear));
  check_group_size(linear.planes[0], parts);
  if (parts.has(TensorRole::kWeight2) != parts.has(TensorRole::kScales2)) {
    fail(
        fmt::format("{} has only one of {}.weight_2 and {}.scales_2, expected both or none; copy the missing shard or "
                    "quantize again",
                    base, base, base));
  }
  if (parts.has(TensorRole::kWeight2)) {
    linear.planes.push_back(plane(parts.at(TensorRole::kWeight2), parts.at(TensorRole::kScales2), linear));
  }
  Writer writer = Writer::kOurs;
  if (parts.spelled(TensorRole::kWeight) == Spelling::kOlder ||
      parts.spelled(TensorRole::kScales) == Spelling::kOlder) {
    writer = Writer::kOlderNames;
  } else if (linear.planes[0].transposed) {
    writer = Writer::kRtnCli;
  } else if (parts.spelled(TensorRole::kScales) == Spelling::kNested) {
    writer = Writer::kMrGptqScript;
  }
  contents_.writers.insert(writer);
  for (const StoredPlane& p : linear.planes) {
    contents_.tensors[p.scales].part = true;
    linear.parts.insert(linear.parts.end(), {p.weight, p.scales});
  }
  // The second weight is found through the first, which stands for the linear in the file's order.
  if (linear.planes.size() == 2) contents_.tensors[linear.planes[1].weight].part = true;
  if (parts.has(TensorRole::kGroupSize)) {
    contents_.tensors[parts.at(TensorRole::kGroupSize)].part = true;
    linear.parts.push_back(parts.at(TensorRole::kGroupSize));
  }
  take_bias(linear, parts);
  insert(std::move(linear));
}

void LinearFinder::add_plain(std::string_view base, const Parts& parts) {
  StoredLinear linear;
  linear.name = base;
  linear.plain = parts.at(TensorRole::kWeight);
  linear.out_features = view(linear.plain).shape[0];
  linear.in_features = view(linear.plain).shape[1];
  linear.parts.push_back(linear.plain);
  take_bias(linear, parts);
  insert(std::move(linear));
}

// transformers 5 keeps all experts of a layer in one tensor: gate_up_proj [E, 2I, H], gate rows first, and down_proj
// [E, H, I]. Their experts are runs of rows, so they are linears like any other.
void LinearFinder::cut_fused(size_t tensor) {
  const TensorView fused = view(tensor);
  const bool gate_up = fused.name.ends_with(".experts.gate_up_proj");
  if (!gate_up && !fused.name.ends_with(".experts.down_proj")) return;
  if (fused.shape.size() != 3 || !is_plain(fused.dtype) || (gate_up && fused.shape[1] % 2 != 0)) {
    fail(fmt::format("tensor {} is {}, expected {} in F32, F16 or BF16; quantized experts must be stored one by one",
                     fused.name, fused.describe(),
                     gate_up ? "[experts, 2 * intermediate, hidden]" : "[experts, hidden, intermediate]"));
  }
  contents_.tensors[tensor].fused = true;
  const std::string experts = fused.name.substr(0, fused.name.rfind('.'));
  const std::vector<std::string> kinds =
      gate_up ? std::vector<std::string>{"gate_proj", "up_proj"} : std::vector<std::string>{"down_proj"};
  // Checked against the bytes that are there: a shape with a zero could name any number of experts.
  if (fused.data.empty()) fail(fmt::format("tensor {} {} is empty, expected experts", fused.name, fused.describe()));
  const auto n_kinds = static_cast<int64_t>(kinds.size());
  const int64_t rows = fused.shape[1] / n_kinds;
  for (int64_t expert = 0; expert < fused.shape[0]; ++expert) {
    for (int64_t kind = 0; kind < n_kinds; ++kind) {
      StoredLinear linear;
      linear.name = fmt::format("{}.{}.{}", experts, expert, kinds[static_cast<size_t>(kind)]);
      linear.plain = tensor;
      linear.out_features = rows;
      linear.in_features = fused.shape[2];
      linear.first_row = (expert * n_kinds + kind) * rows;
      insert(std::move(linear));
    }
  }
}

void LinearFinder::insert(StoredLinear linear) {
  const size_t index = contents_.linears.size();
  if (!contents_.linear_by_name.emplace(linear.name, index).second) {
    fail(
        fmt::format("linear {} is stored twice, alone and in a fused experts tensor; remove one of them", linear.name));
  }
  const size_t anchor = linear.planes.empty() ? linear.plain : linear.planes[0].weight;
  contents_.tensors[anchor].linears.push_back(index);
  contents_.linears.push_back(std::move(linear));
}

void LinearFinder::take_bias(StoredLinear& linear, const Parts& parts) {
  if (!parts.has(TensorRole::kBias)) return;
  const size_t bias = parts.at(TensorRole::kBias);
  if (!is_plain(view(bias).dtype) || view(bias).shape != std::vector<int64_t>{linear.out_features}) {
    fail(fmt::format("tensor {} is {}, expected F16, BF16 or F32 [{}]; download or quantize the checkpoint again",
                     view(bias).name, view(bias).describe(), linear.out_features));
  }
  linear.bias = bias;
  linear.parts.push_back(bias);
  contents_.tensors[bias].part = true;
}

// Layout R is [out, in/8] with scales [out, in/g], layout K is [in/8, out] with scales [in/g, out]. Both fit only when
// the two tensors have the same shape, which means g = 8; that is no legal group size.
StoredPlane LinearFinder::plane(size_t weight, size_t scales, StoredLinear& linear) const {
  const TensorView& w = view(weight);
  const TensorView& s = view(scales);
  const bool shaped = is_container(w.dtype) && s.dtype == DType::kF16 && w.shape.size() == 2 && s.shape.size() == 2 &&
                      !w.data.empty() && !s.data.empty();
  const bool fits_r = shaped && s.shape[0] == w.shape[0] && 8 * w.shape[1] % s.shape[1] == 0;
  const bool fits_k = shaped && s.shape[1] == w.shape[1] && 8 * w.shape[0] % s.shape[0] == 0;
  if (!fits_r && !fits_k) {
    fail(
        fmt::format("tensors {} {} and {} {} do not belong together, expected U32 [out, in / 8] with F16 [out, in / "
                    "group_size], or both transposed; download or quantize the checkpoint again",
                    w.name, w.describe(), s.name, s.describe()));
  }
  StoredPlane out{weight, scales, 0, !fits_r};
  const int64_t in = 8 * w.shape[out.transposed ? 0 : 1];
  const int64_t rows = w.shape[out.transposed ? 1 : 0];
  const int64_t group_size = in / s.shape[out.transposed ? 0 : 1];
  if (!fp4::legal_group_size(group_size)) {
    fail(fmt::format(
        "tensors {} {} and {} {} make a group size of {}{}, expected 32, 64 or 128 that divides in_features "
        "= {}; quantize the BF16 checkpoint again",
        w.name, w.describe(), s.name, s.describe(), group_size, fits_r && fits_k ? " in either layout" : "", in));
  }
  out.group_size = static_cast<int>(group_size);
  if (linear.out_features != 0 && (linear.out_features != rows || linear.in_features != in)) {
    fail(fmt::format("tensor {} {} is a plane of [{}, {}], but the first plane of {} is [{}, {}]; quantize again",
                     w.name, w.describe(), rows, in, linear.name, linear.out_features, linear.in_features));
  }
  linear.out_features = rows;
  linear.in_features = in;
  if (options_.check_scales) check_scales(s);
  return out;
}

// A stored .group_size tensor speaks for its linear; quantization_config for those that have none.
void LinearFinder::check_group_size(const StoredPlane& plane, const Parts& parts) const {
  std::optional<int64_t> claim = claims_.group_size;
  std::string source = "quantization_config";
  if (parts.has(TensorRole::kGroupSize)) {
    const TensorView& tensor = view(parts.at(TensorRole::kGroupSize));
    source = tensor.name;
    if (!is_container(tensor.dtype) || tensor.elements() != 1) {
      fail(fmt::format("tensor {} is {}, expected I32 [1]; quantize again", tensor.name, tensor.describe()));
    }
    int32_t low = 0;  // the low word comes first in an I64 as well
    std::memcpy(&low, tensor.data.data(), sizeof(low));
    claim = low;
  }
  if (!claim || *claim == plane.group_size) return;
  fail(
      fmt::format("{} says group size {}, but {} {} and its scales {} make {}; the checkpoint is damaged or its config "
                  "belongs to another one, download or quantize it again",
                  source, *claim, view(plane.weight).name, view(plane.weight).describe(), view(plane.scales).describe(),
                  plane.group_size));
}

void LinearFinder::check_scales(const TensorView& scales) const {
  const auto n = static_cast<int64_t>(scales.data.size() / 2);
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, scales.data.data() + 2 * i, sizeof(bits));
    if ((bits & 0x7c00u) != 0x7c00u) continue;
    fail(fmt::format("tensor {}: scale [{}, {}] is {}, expected finite numbers; quantize the BF16 checkpoint again",
                     scales.name, i / scales.shape[1], i % scales.shape[1],
                     std::isnan(f16_to_f32(bits)) ? "NaN" : "infinite"));
  }
}

}  // namespace

void find_linears(CheckpointContents& contents, const QuantizationClaims& claims, const CheckpointOptions& options) {
  LinearFinder(contents, claims, options).run();
}

}  // namespace marlin
