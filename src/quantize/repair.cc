#include "quantize/repair.h"

#include <fmt/format.h>

#include <algorithm>

#include "format/checkpoint.h"
#include "marlin/error.h"
#include "marlin/text.h"
#include "model/tensors.h"
#include "quantize/side_files.h"

namespace marlin {
namespace {

constexpr const char* kRepairShard = "model-repair.safetensors";

/// The tensors to add, found in the source and required to be unquantized.
std::vector<TensorView> find_missing(const Checkpoint& broken, const Checkpoint& source, const ModelConfig& config) {
  std::vector<TensorView> found;
  const bool with_mtp = broken.has_tensor(fmt::format("model.layers.{}.enorm.weight", config.n_layers));
  const std::vector<std::string> missing = missing_tensors(broken, config, with_mtp);
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    if (std::ranges::find(missing, tensor.name) == missing.end()) continue;
    const bool keeps_type = !tensor.linear || tensor.kind == TensorKind::kRouter ||
                            tensor.kind == TensorKind::kEmbedding || tensor.kind == TensorKind::kHead;
    if (!keeps_type) {
      throw Error(
          ErrorCode::kBadFile,
          fmt::format("{}: the quantized linear {} is missing; repair adds only unquantized tensors, convert the "
                      "model again with `metal-marlin mmfp4 quantize`",
                      broken.directory().string(), tensor.name));
    }
    const bool stored = tensor.linear ? source.has_linear(tensor.name) : source.has_tensor(tensor.name);
    if (!stored) {
      throw Error(ErrorCode::kNotFound,
                  fmt::format("{} is missing in {} and in {}; give the original model with --from", tensor.name,
                              broken.directory().string(), source.directory().string()));
    }
    if (tensor.linear) {
      LinearTensors linear = source.linear(tensor.name, tensor.shape[0], tensor.shape[1]);
      if (!linear.plain) {
        throw Error(ErrorCode::kUsage, fmt::format("{}: {} is quantized; give the unquantized model with --from",
                                                   source.directory().string(), tensor.name));
      }
      linear.plain->name = tensor.name + ".weight";
      found.push_back(*linear.plain);
    } else {
      found.push_back(source.tensor(tensor.name, tensor.shape));
    }
  }
  return found;
}

/// The index as it is, or one made from a single model.safetensors.
Json read_index(const Checkpoint& checkpoint) {
  const auto path = checkpoint.directory() / "model.safetensors.index.json";
  if (std::filesystem::exists(path)) return Json::parse(read_text_file(path));
  Json map = Json::object();
  const SafetensorsFile file = SafetensorsFile::open(checkpoint.directory() / "model.safetensors");
  for (const TensorView& tensor : file.tensors()) map[tensor.name] = "model.safetensors";
  return {{"metadata", Json::object()}, {"weight_map", map}};
}

}  // namespace

RepairReport repair_checkpoint(const std::filesystem::path& directory, const std::filesystem::path& bf16) {
  const Checkpoint broken = Checkpoint::open(directory, {.check_scales = true, .tolerate_missing = true});
  const Checkpoint source = Checkpoint::open(bf16);
  const ModelConfig config = ModelConfig::from_json(broken.config(), (directory / "config.json").string());

  const std::vector<std::string> present = side_files(directory);
  RepairReport report;
  const std::vector<TensorView> tensors = find_missing(broken, source, config);
  if (!tensors.empty()) {
    if (std::filesystem::exists(directory / kRepairShard)) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("{} exists already; remove it and repair again", (directory / kRepairShard).string()));
    }
    std::vector<TensorSpec> specs;
    specs.reserve(tensors.size());
    for (const TensorView& tensor : tensors) specs.push_back({tensor.name, tensor.dtype, tensor.shape});
    SafetensorsWriter writer(directory / kRepairShard, specs);
    for (const TensorView& tensor : tensors) writer.append(tensor.data);
    writer.finish();
    Json index = read_index(broken);
    for (const TensorView& tensor : tensors) {
      index["weight_map"][tensor.name] = kRepairShard;
      report.added.push_back(tensor.name);
    }
    write_file_atomically(directory / "model.safetensors.index.json", index.dump(2) + "\n");
  }
  for (const std::string& name : side_files(bf16)) {
    if (std::ranges::find(present, name) != present.end()) continue;
    copy_side_file(name, bf16, directory);
    report.copied_files.push_back(name);
  }
  return report;
}

}  // namespace marlin
