#include "quantize/inspect.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "format/checkpoint.h"
#include "format/checkpoint_names.h"
#include "format/json.h"
#include "model/tensors.h"

namespace marlin {
namespace {

constexpr int64_t kCodesPerWord = 8;

/// Adds up the stored tensors of a checkpoint by what the model uses them for.
class Inspector {
 public:
  Inspector(const Checkpoint& checkpoint, const ModelConfig& config)
      : checkpoint_(checkpoint), expected_(expected_tensors(config)) {
    out_.config = config;
    for (const ExpectedTensor& tensor : expected_) by_name_[tensor.name] = &tensor;
  }

  Inspection run() {
    out_.writer = std::string(writer_name(checkpoint_.writer()));
    out_.notes = checkpoint_.notes();
    out_.files = checkpoint_.files().size();
    for (const auto& file : checkpoint_.files()) {
      out_.file_bytes += file->bytes().size();
      for (TensorView& view : tensors_of(*file)) {
        view.name = canonical_name(view.name);
        const TensorName parsed = parse_tensor_name(view.name);
        if (parsed.role == TensorRole::kScales) scales_[std::string(parsed.base)] = view.elements();
        views_.push_back(std::move(view));
      }
    }
    const std::string mtp_prefix = fmt::format("model.layers.{}.", out_.config.n_layers);
    out_.has_mtp = std::ranges::any_of(views_, [&](const TensorView& v) { return v.name.starts_with(mtp_prefix); });
    for (const TensorView& view : views_) count(view);
    out_.missing = missing_tensors(checkpoint_, out_.config, out_.has_mtp);
    for (const std::string& name : checkpoint_.names()) {
      if (!by_name_.contains(name)) out_.extra.push_back(name);
    }
    find_files();
    return std::move(out_);
  }

 private:
  static std::vector<TensorView> tensors_of(const MappedFile& file) {
    return SafetensorsFile::parse(file.bytes(), file.path().string()).tensors();
  }

  /// The expected tensor that a stored one is or belongs to; for fused experts the first of them.
  const ExpectedTensor* find(const TensorView& view, const TensorName& parsed) const {
    if (const auto it = by_name_.find(view.name); it != by_name_.end() && !it->second->linear) return it->second;
    if (const auto it = by_name_.find(std::string(parsed.base)); it != by_name_.end()) return it->second;
    const std::string base = view.name.ends_with(".weight") ? view.name.substr(0, view.name.size() - 7) : view.name;
    if (!is_fused(base)) return nullptr;
    const std::string prefix = base.substr(0, base.rfind('.'));
    const auto it = by_name_.find(prefix + ".0.down_proj");
    return it == by_name_.end() ? nullptr : it->second;
  }

  static bool is_fused(const std::string& base) {
    return base.ends_with(".experts.gate_up_proj") || base.ends_with(".experts.down_proj");
  }

  KindTotals& totals(const std::string& kind) {
    for (auto& [name, totals] : out_.kinds) {
      if (name == kind) return totals;
    }
    return out_.kinds.emplace_back(kind, KindTotals()).second;
  }

  void count(const TensorView& view) {
    const TensorName parsed = parse_tensor_name(view.name);
    const ExpectedTensor* expected = find(view, parsed);
    std::string kind = "not used";
    if (expected != nullptr) {
      kind = expected->layer == out_.config.n_layers ? "MTP layer" : std::string(tensor_kind_name(expected->kind));
    }
    const bool second_plane = parsed.role == TensorRole::kWeight2 || parsed.role == TensorRole::kScales2;
    const bool own_parameters = !second_plane && parsed.role != TensorRole::kScales &&
                                parsed.role != TensorRole::kGroupSize && parsed.role != TensorRole::kHadamard;
    const bool codes = is_container(view.dtype);
    const int64_t parameters = own_parameters ? view.elements() * (codes ? kCodesPerWord : 1) : 0;
    for (KindTotals* sum : {&totals(kind), &out_.total}) {
      sum->tensors += own_parameters ? 1 : 0;
      sum->parameters += parameters;
      sum->bytes += view.data.size();
      if (own_parameters) sum->stored_as.insert(stored_as(view, parsed, codes));
      if (parsed.role == TensorRole::kWeight2) sum->stored_as.insert("a second plane");
    }
    if (own_parameters && expected != nullptr) check_shape(view, parsed, *expected, codes);
  }

  std::string stored_as(const TensorView& view, const TensorName& parsed, bool codes) const {
    const auto scales = scales_.find(std::string(parsed.base));
    if (!codes || scales == scales_.end() || scales->second == 0) return std::string(dtype_name(view.dtype));
    return fmt::format("FP4 g{}", view.elements() * kCodesPerWord / scales->second);
  }

  void check_shape(const TensorView& view, const TensorName& parsed, const ExpectedTensor& expected, bool codes) {
    if (parsed.role == TensorRole::kBias && expected.linear) return;
    const std::vector<int64_t>& want = expected.shape;
    bool fits = view.shape == want;
    if (expected.linear && codes && view.shape.size() == 2) {
      const int64_t a = view.shape[0];
      const int64_t b = view.shape[1];
      fits = (a == want[0] && b * kCodesPerWord == want[1]) || (a * kCodesPerWord == want[1] && b == want[0]);
    }
    // Fused experts are cut by the reader, which has checked them.
    if (fits || view.shape.size() == 3) return;
    out_.misshapen.push_back(fmt::format("{}: {}, expected [{}]{}", view.name, view.describe(), fmt::join(want, ", "),
                                         codes ? " in FP4" : ""));
  }

  void find_files() {
    const std::filesystem::path& directory = checkpoint_.directory();
    const auto has = [&](const char* name) {
      std::error_code ignored;  // what cannot be looked at cannot be read either
      return std::filesystem::is_regular_file(directory / name, ignored);
    };
    if (!has("tokenizer.json")) out_.missing_files.emplace_back("tokenizer.json");
    if (!has("chat_template.jinja") && !has("tokenizer_config.json")) {
      out_.missing_files.emplace_back("chat_template.jinja");
    }
    if (!has("generation_config.json")) {
      out_.notes.emplace_back("no generation_config.json: sampling has the program's defaults");
    }
    if (!out_.has_mtp) out_.notes.emplace_back("no MTP layer: no speculation");
  }

  const Checkpoint& checkpoint_;
  std::vector<ExpectedTensor> expected_;
  std::map<std::string, const ExpectedTensor*> by_name_;
  std::map<std::string, int64_t> scales_;  // elements, by linear
  std::vector<TensorView> views_;
  Inspection out_;
};

}  // namespace

Inspection inspect_checkpoint(const std::filesystem::path& directory) {
  const Checkpoint checkpoint = Checkpoint::open(directory, {.check_scales = false, .tolerate_missing = true});
  const ModelConfig config = ModelConfig::from_json(checkpoint.config(), (directory / "config.json").string());
  Inspection result = Inspector(checkpoint, config).run();
  if (const auto it = checkpoint.config().find("synthetic"); it != checkpoint.config().end() && *it == true) {
    result.notes.emplace_back("synthetic: the weights are random");
  }
  const auto quantization = checkpoint.config().find("quantization_config");
  if (quantization != checkpoint.config().end() && quantization->is_object()) {
    const auto producer = quantization->find("producer");
    if (producer != quantization->end() && producer->is_string()) {
      result.producer = printable(producer->get<std::string>());
    }
  }
  return result;
}

}  // namespace marlin
