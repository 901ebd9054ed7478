#include "quantize/synth.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <memory>
#include <span>
#include <thread>

#include "base/float16.h"
#include "base/thread_pool.h"
#include "format/checkpoint.h"
#include "marlin/error.h"
#include "model/tensors.h"
#include "ops/random.h"
#include "quantize/destination.h"
#include "quantize/synth_files.h"

namespace marlin {
namespace {

namespace fs = std::filesystem;

constexpr int kGroupSize = 128;
constexpr const char* kGenerator = "1";  // to be raised when the same seed gives other bytes
constexpr const char* kConfigName = "config.json";
// Bytes made and written at a time: what bounds the memory.
constexpr size_t kBlockBytes = size_t{4} << 20;

using Sink = std::function<void(std::span<const std::byte>)>;

// --- random numbers ------------------------------------------------------------------------------

uint64_t tensor_key(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return mix64(mix64(seed) ^ hash);
}

/// Word `index` of the tensor with this key: SplitMix64's sequence.
uint64_t random_word(uint64_t key, uint64_t index) {
  return mix64(key + index * 0x9e3779b97f4a7c15u);
}

/// Turns every code 8 (-0), which this project's writers never write, into 0.
uint64_t without_negative_zeros(uint64_t codes) {
  constexpr uint64_t kLowest = 0x1111111111111111u;
  const uint64_t not_zero = (codes | codes >> 1 | codes >> 2) & kLowest;
  return codes & (~(kLowest << 3) | not_zero << 3);
}

/// Makes a tensor's 64-bit words block by block and hands them to the sink. `word(i)` is its word i in memory order.
class WordMaker {
 public:
  WordMaker() : pool_(static_cast<int>(std::max(1U, std::thread::hardware_concurrency()))) {}

  template <typename Word>
  void make(uint64_t bytes, const Sink& sink, const Word& word) {
    constexpr uint64_t kWordBytes = sizeof(uint64_t);
    block_.resize(kBlockBytes / kWordBytes);
    const uint64_t words = (bytes + kWordBytes - 1) / kWordBytes;
    for (uint64_t begin = 0; begin < words; begin += block_.size()) {
      const uint64_t n = std::min<uint64_t>(block_.size(), words - begin);
      const auto fill = [&](int64_t first, int64_t last, int /*worker*/) {
        for (auto i = static_cast<uint64_t>(first); i < static_cast<uint64_t>(last); ++i) block_[i] = word(begin + i);
      };
      constexpr uint64_t kWorthThreads = 1 << 14;
      if (n >= kWorthThreads) {
        pool_.parallel_for(static_cast<int64_t>(n), fill);
      } else {
        fill(0, static_cast<int64_t>(n), 0);
      }
      sink(std::as_bytes(std::span(block_)).first(std::min(n * kWordBytes, bytes - begin * kWordBytes)));
    }
  }

 private:
  ThreadPool pool_;
  std::vector<uint64_t> block_;
};

// --- what the weights are ------------------------------------------------------------------------

/// RMS of a linear's output for an input of RMS 1. Updates of the residual stream are small, so that it stays near 1
/// through 47 layers; every other product keeps the RMS, and logits are spread as a trained model's are.
double output_rms(const ExpectedTensor& tensor) {
  if (tensor.kind == TensorKind::kHead) return 3;
  return tensor.name.ends_with(".o_proj") || tensor.name.ends_with(".down_proj") ? 0.15 : 1;
}

/// Scales of a linear, uniform in +-25 % around the one that gives the wanted RMS. An embedding is not summed over.
std::array<uint16_t, 256> scale_table(const ExpectedTensor& tensor) {
  constexpr double kCodeRms = 2.926;  // of all E2M1 codes: sqrt(8.5625)
  const auto columns = static_cast<double>(tensor.shape[1]);
  const double terms = tensor.kind == TensorKind::kEmbedding ? 1 : columns;
  const double middle = output_rms(tensor) / (kCodeRms * std::sqrt(terms));
  std::array<uint16_t, 256> table{};
  for (size_t i = 0; i < table.size(); ++i) {
    table[i] = f32_to_f16(static_cast<float>(middle * (0.75 + 0.5 * static_cast<double>(i) / 255)));
  }
  return table;
}

/// Values of a tensor that stays unquantized: uniform in center +- width.
struct Range {
  double center = 0;
  double width = 0;
};

Range plain_range(const ExpectedTensor& tensor) {
  if (tensor.kind != TensorKind::kRouter) return {1, 0.1};  // norms
  if (!tensor.linear) return {0, 0.05};                     // correction biases
  return {0, std::sqrt(3.0 / static_cast<double>(tensor.shape[1]))};
}

float uniform(const Range& range, uint64_t word) {
  const double unit = static_cast<double>(word >> 11) * 0x1p-52 - 1;
  return static_cast<float>(range.center + range.width * unit);
}

/// The tensors of one checkpoint and how their bytes are made when the writer asks.
class Weights {
 public:
  Weights(const ModelConfig& config, uint64_t seed) : seed_(seed) {
    for (const ExpectedTensor& tensor : expected_tensors(config)) {
      if (!tensor.required) continue;
      int64_t elements = 1;
      for (const int64_t size : tensor.shape) elements *= size;
      parameters_ += elements;
      if (tensor.linear && tensor.kind != TensorKind::kRouter) {
        add_fp4(tensor);
      } else {
        add_plain(tensor, elements);
      }
    }
  }

  const std::vector<OutputTensor>& tensors() const { return tensors_; }
  const std::vector<std::string>& plain_linears() const { return plain_linears_; }
  int64_t parameters() const { return parameters_; }

 private:
  void add(const ExpectedTensor& tensor, TensorSpec spec, std::function<void(const Sink&)> produce) {
    tensors_.push_back({.spec = std::move(spec), .layer = tensor.layer, .produce = std::move(produce)});
  }

  void add_fp4(const ExpectedTensor& tensor) {
    const int64_t rows = tensor.shape[0];
    const int64_t columns = tensor.shape[1];
    if (columns % kGroupSize != 0) {
      throw Error(ErrorCode::kUsage, fmt::format("{}: in_features is {}; expected a multiple of the group size {}",
                                                 tensor.name, columns, kGroupSize));
    }
    TensorSpec codes = {tensor.name + ".weight", DType::kU32, {rows, columns / 8}};
    TensorSpec scales = {tensor.name + ".scales", DType::kF16, {rows, columns / kGroupSize}};
    const uint64_t code_bytes = codes.bytes();
    const uint64_t scale_bytes = scales.bytes();
    const uint64_t code_key = tensor_key(seed_, codes.name);
    const uint64_t scale_key = tensor_key(seed_, scales.name);
    add(tensor, std::move(codes), [this, code_bytes, code_key](const Sink& sink) {
      maker_.make(code_bytes, sink, [=](uint64_t i) { return without_negative_zeros(random_word(code_key, i)); });
    });
    add(tensor, std::move(scales), [this, scale_bytes, scale_key, table = scale_table(tensor)](const Sink& sink) {
      maker_.make(scale_bytes, sink, [&](uint64_t i) {
        const uint64_t random = random_word(scale_key, i);
        uint64_t word = 0;
        for (unsigned lane = 0; lane < 4; ++lane) {
          word |= uint64_t{table[random >> (8 * lane) & 0xff]} << (16 * lane);
        }
        return word;
      });
    });
  }

  void add_plain(const ExpectedTensor& tensor, int64_t elements) {
    const bool f32 = tensor.kind == TensorKind::kRouter && !tensor.linear;
    if (tensor.linear) plain_linears_.push_back(tensor.name);
    TensorSpec spec = {tensor.linear ? tensor.name + ".weight" : tensor.name, f32 ? DType::kF32 : DType::kBF16,
                       tensor.shape};
    const uint64_t key = tensor_key(seed_, spec.name);
    add(tensor, std::move(spec), [f32, key, elements, range = plain_range(tensor)](const Sink& sink) {
      std::vector<float> values(static_cast<size_t>(elements));
      for (size_t i = 0; i < values.size(); ++i) values[i] = uniform(range, random_word(key, i));
      if (f32) {
        sink(std::as_bytes(std::span(values)));
        return;
      }
      std::vector<uint16_t> rounded(values.size());
      std::ranges::transform(values, rounded.begin(), f32_to_bf16);
      sink(std::as_bytes(std::span(rounded)));
    });
  }

  uint64_t seed_;
  WordMaker maker_;
  std::vector<OutputTensor> tensors_;
  std::vector<std::string> plain_linears_;
  int64_t parameters_ = 0;
};

Json finished_config(Json config, const std::vector<std::string>& plain_linears) {
  config["synthetic"] = true;
  config["quantization_config"] = {{"quant_method", "mmfp4"},
                                   {"format", "e2m1"},
                                   {"group_size", kGroupSize},
                                   {"scale_dtype", "float16"},
                                   {"method", "random"},
                                   {"modules_to_not_convert", plain_linears},
                                   {"producer", "metal-marlin " MARLIN_VERSION}};
  return config;
}

Json generation_config(const ModelConfig& config) {
  return {{"do_sample", true},
          {"temperature", 1.0},
          {"top_p", 0.95},
          {"eos_token_id", config.eos_token_ids},
          {"pad_token_id", config.eos_token_ids.front()}};
}

ModelConfig checked_config(const Json& config) {
  ModelConfig checked = ModelConfig::from_json(config, kConfigName);
  const int first = checked.eos_token_ids.empty() ? 0 : checked.eos_token_ids.front();
  if (first < 256 || first + kSynthAddedTokens > checked.vocab_size) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: the first eos_token_id is {}; expected 256 to {}: the added tokens begin there, after "
                            "the bytes",
                            kConfigName, first, checked.vocab_size - kSynthAddedTokens));
  }
  return checked;
}

uint64_t total_bytes(const std::vector<OutputTensor>& tensors) {
  uint64_t bytes = 0;
  for (const OutputTensor& tensor : tensors) bytes += tensor.spec.bytes();
  return bytes;
}

}  // namespace

Json SynthReport::to_json() const {
  return {{"layers", layers},
          {"parameters", parameters},
          {"tensor_bytes", tensor_bytes},
          {"written_bytes", written_bytes},
          {"seconds", seconds}};
}

const std::vector<std::string>& synth_architectures() {
  static const std::vector<std::string> names = {"glm-4.7-flash"};
  return names;
}

Json synth_config(const std::string& architecture, int layers) {
  constexpr int kLayers = 47;
  if (architecture != synth_architectures().front()) {
    throw Error(ErrorCode::kUsage,
                fmt::format("architecture '{}' is unknown; expected {}", architecture, synth_architectures().front()));
  }
  if (layers < 0 || layers > kLayers) {
    throw Error(ErrorCode::kUsage, fmt::format("{} layers; {} has 1 to {}", layers, architecture, kLayers));
  }
  return {{"architectures", {"Glm4MoeLiteForCausalLM"}},
          {"attention_bias", false},
          {"attention_dropout", 0.0},
          {"pad_token_id", 154820},
          {"eos_token_id", {154820, 154827, 154829}},
          {"hidden_act", "silu"},
          {"hidden_size", 2048},
          {"intermediate_size", 10240},
          {"max_position_embeddings", 202752},
          {"model_type", "glm4_moe_lite"},
          {"moe_intermediate_size", 1536},
          {"topk_method", "noaux_tc"},
          {"norm_topk_prob", true},
          {"num_attention_heads", 20},
          {"n_group", 1},
          {"topk_group", 1},
          {"n_routed_experts", 64},
          {"n_shared_experts", 1},
          {"routed_scaling_factor", 1.8},
          {"num_experts_per_tok", 4},
          {"first_k_dense_replace", 1},
          {"num_hidden_layers", layers == 0 ? kLayers : layers},
          {"num_key_value_heads", 20},
          {"num_nextn_predict_layers", 1},
          {"partial_rotary_factor", 1.0},
          {"rms_norm_eps", 1e-5},
          {"rope_scaling", nullptr},
          {"rope_theta", 1000000},
          {"tie_word_embeddings", false},
          {"dtype", "bfloat16"},
          {"q_lora_rank", 768},
          {"kv_lora_rank", 512},
          {"qk_nope_head_dim", 192},
          {"qk_rope_head_dim", 64},
          {"v_head_dim", 256},
          {"vocab_size", 154880}};
}

SynthReport synthesize_checkpoint(const Json& config, const fs::path& destination, const SynthOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const ModelConfig checked = checked_config(config);
  Weights weights(checked, options.seed);
  const std::string tokenizer = synth_tokenizer(checked.eos_token_ids.front());
  SynthReport report = {.layers = checked.n_layers, .parameters = weights.parameters()};
  report.tensor_bytes = total_bytes(weights.tensors());

  const Json recipe = {{"generator", kGenerator},
                       {"seed", options.seed},
                       {"max_shard_bytes", options.max_shard_bytes},
                       {"config", config}};
  Destination directory(destination, "metal-marlin mmfp4 synth", recipe, Interrupted::kReplace);
  // A header's entry and an index's line a tensor, and the headers' padding.
  const uint64_t overhead = weights.tensors().size() * 384 + (uint64_t{1} << 20);
  directory.check(report.tensor_bytes + tokenizer.size() + overhead, options.free_bytes);
  directory.begin();
  const auto finish_files = [&] {
    write_file_atomically(destination / "tokenizer.json", tokenizer);
    write_file_atomically(destination / "chat_template.jinja", synth_chat_template());
    write_file_atomically(destination / "generation_config.json", generation_config(checked).dump(2) + "\n");
    write_file_atomically(destination / kConfigName, finished_config(config, weights.plain_linears()).dump(2) + "\n");
  };
  report.written_bytes = report.tensor_bytes - std::min(report.tensor_bytes, directory.kept_bytes());
  write_checkpoint(destination, weights.tensors(),
                   {.max_shard_bytes = options.max_shard_bytes,
                    .resume = true,
                    .metadata = {{"format", "pt"},
                                 {"method", "random " + std::string(kGenerator)},
                                 {"seed", std::to_string(options.seed)}},
                    .before_index = finish_files,
                    .progress = options.progress});
  directory.finish();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace marlin
