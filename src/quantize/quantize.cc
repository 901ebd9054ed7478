#include "quantize/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <thread>

#include "format/checkpoint.h"
#include "format/fp4.h"
#include "marlin/error.h"
#include "model/tensors.h"
#include "quantize/destination.h"
#include "quantize/fingerprint.h"
#include "quantize/rtn.h"
#include "quantize/side_files.h"

namespace marlin {
namespace {

// Elements read, quantized and written at a time; the scales of one shard are all else that memory holds.
constexpr int64_t kChunkElements = int64_t{1} << 22;
// At most what a tensor adds to a shard's header and to the index.
constexpr uint64_t kHeaderEntryBytes = 384;

Json error_row(const TensorError& error) {
  return {{"name", error.name},       {"rows", error.rows},
          {"columns", error.columns}, {"relative_rmse", error.relative_rmse},
          {"max_abs", error.max_abs}, {"sqnr_db", std::isfinite(error.sqnr_db) ? Json(error.sqnr_db) : Json(nullptr)}};
}

/// The inverse of error_row.
TensorError error_of(const Json& row) {
  return {.name = row.at("name"),
          .rows = row.at("rows"),
          .columns = row.at("columns"),
          .relative_rmse = row.at("relative_rmse"),
          .max_abs = row.at("max_abs"),
          .sqnr_db = row.at("sqnr_db").is_null() ? INFINITY : row.at("sqnr_db").get<double>()};
}

using Sink = std::function<void(std::span<const std::byte>)>;

/// The conversion of one checkpoint: decides what each tensor becomes and produces it when the writer asks.
class Conversion {
 public:
  Conversion(const Checkpoint& source, const ModelConfig& config, const QuantizeOptions& options)
      : source_(source),
        config_(config),
        options_(options),
        pool_(static_cast<int>(std::max(1U, std::thread::hardware_concurrency()))) {}

  std::vector<OutputTensor> plan() {
    std::vector<OutputTensor> out;
    for (const ExpectedTensor& tensor : expected_tensors(config_)) {
      if (!stored(tensor)) continue;
      if (!tensor.linear) {
        keep(source_.tensor(tensor.name, tensor.shape), tensor, out);
        continue;
      }
      const LinearTensors linear = source_.linear(tensor.name, tensor.shape[0], tensor.shape[1]);
      if (linear.quantized()) {
        throw Error(ErrorCode::kUsage,
                    fmt::format("{}: {} is quantized already; expected a BF16, F16 or F32 checkpoint",
                                source_.directory().string(), tensor.name));
      }
      if (same_as_trunk(tensor, *linear.plain)) continue;
      if (becomes_fp4(tensor)) {
        quantize(linear, tensor, out);
      } else {
        keep(*linear.plain, tensor, out);
        kept_.push_back(tensor.name);
      }
      if (linear.bias) keep(*linear.bias, tensor, out);
    }
    return out;
  }

  /// The errors of all tensors quantized so far, as JSON.
  Json errors() const {
    Json rows = Json::array();
    for (const auto& [name, error] : errors_) rows.push_back(error_row(error));
    return rows;
  }
  /// The same from an interrupted run, whose shards are kept. `rows` is null when there was none; `source` is for
  /// messages.
  void restore_errors(const Json& rows, const std::filesystem::path& source) {
    try {
      for (const Json& row : rows) {
        const TensorError error = error_of(row);
        errors_[error.name] = error;
      }
    } catch (const Json::exception&) {
      throw Error(ErrorCode::kBadFile,
                  fmt::format("{}: the note about finished tensors is damaged; remove the directory and start again",
                              source.string()));
    }
  }

  uint64_t bytes() const { return report_.bytes; }
  QuantizeReport report() const {
    QuantizeReport report = report_;
    for (const std::string& name : quantized_) {
      if (const auto it = errors_.find(name); it != errors_.end()) report.tensors.push_back(it->second);
    }
    report.bits_per_weight = 8.0 * static_cast<double>(report.bytes) /
                             static_cast<double>(report.quantized_parameters + report.plain_parameters);
    return report;
  }
  const std::vector<std::string>& kept_linears() const { return kept_; }

 private:
  bool stored(const ExpectedTensor& tensor) const {
    return tensor.linear ? source_.has_linear(tensor.name) : source_.has_tensor(tensor.name);
  }

  bool becomes_fp4(const ExpectedTensor& tensor) const {
    switch (tensor.kind) {
      case TensorKind::kEmbedding:
        return options_.include_embeddings;
      case TensorKind::kHead:
        return options_.include_head;
      case TensorKind::kRouter:
      case TensorKind::kNorm:
        return false;
      default:
        return true;
    }
  }

  /// The published model stores its MTP layer with copies of embedding and head; equal copies are left out.
  bool same_as_trunk(const ExpectedTensor& tensor, const TensorView& copy) const {
    if (tensor.layer != config_.n_layers) return false;
    if (tensor.kind != TensorKind::kEmbedding && tensor.kind != TensorKind::kHead) return false;
    const std::string trunk = tensor.kind == TensorKind::kEmbedding ? "model.embed_tokens" : "lm_head";
    if (!source_.has_linear(trunk)) return false;
    const LinearTensors original = source_.linear(trunk, tensor.shape[0], tensor.shape[1]);
    return original.plain && original.plain->dtype == copy.dtype && std::ranges::equal(original.plain->data, copy.data);
  }

  void keep(const TensorView& tensor, const ExpectedTensor& expected, std::vector<OutputTensor>& out) {
    require_type(tensor, expected);
    report_.plain_parameters += tensor.elements();
    report_.bytes += tensor.data.size();
    std::string name = expected.linear && tensor.shape.size() == 2 ? expected.name + ".weight" : tensor.name;
    out.push_back({.spec = {std::move(name), tensor.dtype, tensor.shape},
                   .layer = expected.layer,
                   .produce = [tensor](const Sink& sink) {
                     require_finite(tensor);
                     sink(tensor.data);
                   }});
  }

  /// The types that the model takes.
  void require_type(const TensorView& tensor, const ExpectedTensor& expected) const {
    const bool correction_bias = expected.kind == TensorKind::kRouter && !expected.linear;
    if (correction_bias ? tensor.dtype == DType::kF32 : is_plain(tensor.dtype)) return;
    throw Error(ErrorCode::kBadFile, fmt::format("{}: {} is {}; expected {}; download or convert the checkpoint again",
                                                 source_.directory().string(), tensor.name, tensor.describe(),
                                                 correction_bias ? "F32" : "BF16, F16 or F32"));
  }

  void quantize(const LinearTensors& linear, const ExpectedTensor& expected, std::vector<OutputTensor>& out) {
    const int64_t group = options_.group_size;
    const int64_t rows = linear.out_features;
    const int64_t columns = linear.in_features;
    if (columns % group != 0) {
      throw Error(
          ErrorCode::kUsage,
          fmt::format("{}: in_features {} is not a multiple of the group size {}; choose --group-size 32, 64 or "
                      "128 that divides it",
                      expected.name, columns, group));
    }
    quantized_.push_back(linear.plain->name);
    report_.quantized_parameters += rows * columns;
    report_.bytes += static_cast<uint64_t>(rows * (columns / 2 + columns / group * 2));
    // The scales' turn comes after all codes of the shard; they wait here meanwhile (1/32 of the codes' size with group
    // size 128, 1/8 with 32).
    auto scales = std::make_shared<std::vector<uint16_t>>();
    out.push_back({.spec = {expected.name + ".weight", DType::kU32, {rows, columns / 8}},
                   .layer = expected.layer,
                   .produce = [this, source = *linear.plain, scales](const Sink& sink) {
                     produce_codes(source, *scales, sink);
                   }});
    out.push_back({.spec = {expected.name + ".scales", DType::kF16, {rows, columns / group}},
                   .layer = expected.layer,
                   .produce = [scales](const Sink& sink) {
                     sink(std::as_bytes(std::span(*scales)));
                     scales->clear();
                     scales->shrink_to_fit();
                   }});
  }

  void produce_codes(const TensorView& source, std::vector<uint16_t>& scales, const Sink& sink) {
    RtnQuantizer quantizer(source, options_.group_size);
    const int64_t columns = source.shape[1];
    const int64_t groups = columns / options_.group_size;
    const int64_t chunk = std::max<int64_t>(1, kChunkElements / columns);
    scales.resize(static_cast<size_t>(quantizer.rows() * groups));
    std::vector<uint8_t> codes(static_cast<size_t>(std::min(chunk, quantizer.rows()) * columns / 2));
    for (int64_t begin = 0; begin < quantizer.rows(); begin += chunk) {
      const int64_t end = std::min(begin + chunk, quantizer.rows());
      quantizer.quantize(pool_, begin, end, codes.data(), scales.data() + begin * groups);
      sink(std::as_bytes(std::span(codes).first(static_cast<size_t>((end - begin) * columns / 2))));
    }
    errors_[source.name] = quantizer.error();
  }

  const Checkpoint& source_;
  const ModelConfig& config_;
  const QuantizeOptions& options_;
  ThreadPool pool_;
  QuantizeReport report_;  // but for the errors
  std::vector<std::string> quantized_;
  std::map<std::string, TensorError> errors_;
  std::vector<std::string> kept_;
};

nlohmann::ordered_json quantized_config(const std::filesystem::path& source, const QuantizeOptions& options,
                                        const std::vector<std::string>& kept) {
  auto config = nlohmann::ordered_json::parse(read_text_file(source / "config.json"));
  config["quantization_config"] = {{"quant_method", "mmfp4"},
                                   {"format", "e2m1"},
                                   {"group_size", options.group_size},
                                   {"scale_dtype", "float16"},
                                   {"method", "rtn"},
                                   {"modules_to_not_convert", kept},
                                   {"producer", "metal-marlin " MARLIN_VERSION}};
  return config;
}

void check_options(const std::filesystem::path& source, const std::filesystem::path& destination,
                   const QuantizeOptions& options) {
  if (!fp4::legal_group_size(options.group_size)) {
    throw Error(ErrorCode::kUsage, fmt::format("group size {} is not one of 32, 64 and 128", options.group_size));
  }
  std::error_code ignored;
  if (std::filesystem::equivalent(source, destination, ignored)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{} is both source and destination; choose another destination", destination.string()));
  }
}

/// What the bytes of the shards depend on: --resume must not mix two conversions.
Json recipe_of(const Checkpoint& source, const QuantizeOptions& options) {
  return {{"options",
           {{"method", "rtn"},
            {"group_size", options.group_size},
            {"include_head", options.include_head},
            {"include_embeddings", options.include_embeddings},
            {"max_shard_bytes", options.max_shard_bytes}}},
          {"source", checkpoint_fingerprint(source)}};
}

}  // namespace

Json QuantizeReport::to_json() const {
  Json rows = Json::array();
  for (const TensorError& tensor : tensors) rows.push_back(error_row(tensor));
  return {{"tensors", rows}, {"quantized_parameters", quantized_parameters}, {"plain_parameters", plain_parameters},
          {"bytes", bytes},  {"bits_per_weight", bits_per_weight},           {"seconds", seconds}};
}

QuantizeReport quantize_checkpoint(const std::filesystem::path& source, const std::filesystem::path& destination,
                                   const QuantizeOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  check_options(source, destination, options);
  const Checkpoint checkpoint = Checkpoint::open(source);
  const std::vector<std::string> files = side_files(source);
  const ModelConfig config = ModelConfig::from_json(checkpoint.config(), (source / "config.json").string());
  const std::vector<std::string> missing = missing_tensors(checkpoint, config, /*with_mtp=*/false);
  if (!missing.empty()) {
    throw Error(ErrorCode::kBadFile,
                fmt::format("{}: {} tensors are missing, the first is {}; expected a whole checkpoint", source.string(),
                            missing.size(), missing.front()));
  }
  Conversion conversion(checkpoint, config, options);
  std::vector<OutputTensor> tensors = conversion.plan();
  Destination directory(destination, "metal-marlin mmfp4 quantize", recipe_of(checkpoint, options),
                        options.resume ? Interrupted::kContinue : Interrupted::kRefuse);
  directory.check(conversion.bytes() + tensors.size() * kHeaderEntryBytes);
  directory.begin();
  conversion.restore_errors(directory.note(), destination / kUnfinishedName);
  const auto finish_files = [&] {
    for (const std::string& name : files) copy_side_file(name, source, destination);
    write_file_atomically(destination / "config.json",
                          quantized_config(source, options, conversion.kept_linears()).dump(2) + "\n");
  };
  write_checkpoint(
      destination, std::move(tensors),
      {.max_shard_bytes = options.max_shard_bytes,
       .resume = options.resume,
       .metadata = {{"format", "pt"}, {"method", "rtn"}, {"group_size", std::to_string(options.group_size)}},
       .shard_made = [&] { directory.keep_note(conversion.errors()); },
       .before_index = finish_files,
       .progress = options.progress});
  directory.finish();

  QuantizeReport report = conversion.report();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace marlin
