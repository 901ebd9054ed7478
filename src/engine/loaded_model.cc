#include "engine/loaded_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <utility>

#include "engine/generation_config.h"
#include "format/checkpoint.h"
#include "marlin/error.h"
#include "model/config.h"
#include "model/weight_traffic.h"

namespace marlin {
namespace {

constexpr int kMostParallel = 1024;
constexpr int kLargestChunk = 8192;

void check_options(const EngineOptions& options) {
  const auto check = [](const char* option, int value, int least, int most) {
    if (value >= least && value <= most) return;
    throw Error(ErrorCode::kUsage, fmt::format("{} is {}; expected {} to {}", option, value, least, most));
  };
  check("max_parallel", options.max_parallel, 1, kMostParallel);
  check("kv_contexts", options.kv_contexts, 1, kMostParallel);
  check("prefill_chunk", options.prefill_chunk, 1, kLargestChunk);
}

/// A copy was no faster on any machine measured (PERF.md), so nothing chooses it but the user.
Placement placement_of(const std::string& load) {
  if (load == "auto" || load == "mmap") return Placement::kMapped;
  if (load == "copy") return Placement::kCopied;
  throw Error(ErrorCode::kUsage, fmt::format("load is '{}'; expected auto, mmap or copy", load));
}

uint64_t stored_bytes(const Checkpoint& checkpoint) {
  uint64_t bytes = 0;
  for (const auto& file : checkpoint.files()) bytes += file->bytes().size();
  return bytes;
}

/// An upper estimate of the activations of one step (Model's workspace and the sampler's rows).
uint64_t workspace_bytes(const ModelConfig& c, const ModelOptions& options, int context, const Device& device) {
  const auto tokens = static_cast<uint64_t>(options.max_tokens);
  const int64_t shared = int64_t{c.moe_intermediate_size} * c.n_shared_experts;
  const int64_t attention = int64_t{c.n_heads} * (c.qk_head_dim() + 2 * c.kv_lora_rank + c.v_head_dim);
  const int64_t experts = int64_t{c.top_k + 1} * (2 * c.moe_intermediate_size + c.hidden_size);
  const int64_t row = 6 * int64_t{c.hidden_size} + c.q_lora_rank + 2 * int64_t{c.kv_lora_rank} + c.qk_rope_head_dim +
                      attention + experts + 2 * std::max<int64_t>(c.intermediate_size, shared) + c.n_routed_experts;
  const int64_t logits = int64_t{options.max_logit_rows} * (c.hidden_size + 2 * int64_t{c.vocab_size});
  return tokens * activation_bytes(device, row) + activation_bytes(device, logits) +
         static_cast<uint64_t>(context) * static_cast<uint64_t>(c.qk_rope_head_dim) * 4;
}

/// The config's stop tokens, then those that only generation_config.json has.
std::vector<int32_t> merge_eos(const ModelConfig& config, const GenerationConfig& generation,
                               const std::filesystem::path& directory) {
  std::vector<int32_t> eos = config.eos_token_ids;
  for (const int32_t id : generation.eos_ids) {
    if (id < 0 || id >= config.vocab_size) {
      throw Error(ErrorCode::kBadFile,
                  fmt::format("{}: eos_token_id {} is not an id of the vocabulary (0 to {})",
                              (directory / "generation_config.json").string(), id, config.vocab_size - 1));
    }
    if (std::ranges::find(eos, id) == eos.end()) eos.push_back(id);
  }
  return eos;
}

std::string directory_name(const std::filesystem::path& directory) {
  std::error_code ignored;
  const std::filesystem::path whole = std::filesystem::weakly_canonical(directory, ignored);
  return (whole.empty() ? directory : whole).filename().string();
}

/// Stages of loading for a progress callback, weighed in bytes of the checkpoint.
class Stages {
 public:
  Stages(const EngineOptions& options, uint64_t total) : options_(options), total_(total) {}
  void at(uint64_t done, const char* item) const {
    if (options_.progress) options_.progress(done, total_, item);
  }

 private:
  const EngineOptions& options_;
  uint64_t total_;
};

void load_template(const std::filesystem::path& directory, LoadedModel& loaded) {
  try {
    loaded.chat_template.emplace(ChatTemplate::load(directory));
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound) throw;
    loaded.no_template = error.what();
  }
}

ModelOptions model_options(const EngineOptions& options) {
  return {.max_tokens = options.prefill_chunk + options.max_parallel,
          .max_logit_rows = options.max_parallel,
          .max_slots = options.max_parallel,
          .kv_type = parse_kv_type(options.kv_type),
          .use_fused_moe = options.use_fused_moe};
}

MemoryPlan plan_for(const EngineOptions& options, const ModelConfig& config, const ModelOptions& model,
                    uint64_t weight_bytes, const Device& device) {
  const KvLayout layout = {.type = device.kv_type(model.kv_type),
                           .latent_dim = config.kv_lora_rank,
                           .rope_dim = config.qk_rope_head_dim,
                           .n_layers = config.n_layers};
  const int longest =
      options.context > 0 ? std::min(options.context, config.max_position_embeddings) : config.max_position_embeddings;
  return plan_memory({.model = directory_name(options.model),
                      .weight_bytes = weight_bytes,
                      .workspace_bytes = workspace_bytes(config, model, longest, device),
                      .block_bytes = layout.block_bytes(),
                      .model_context = config.max_position_embeddings,
                      .context = options.context,
                      .kv_memory = options.kv_memory,
                      .contexts = options.kv_contexts,
                      .max_parallel = options.max_parallel,
                      .device_budget = device.info().memory_budget,
                      .memory = memory_status()});
}

void describe(const EngineOptions& options, const Checkpoint& checkpoint, LoadedModel& loaded) {
  const ModelConfig& config = loaded.model->config();
  const KvLayout layout = loaded.model->kv_layout();
  const DeviceInfo device = loaded.device->info();
  const nlohmann::json& json = checkpoint.config();
  ModelInfo& info = loaded.info;
  info.name = directory_name(options.model);
  info.architecture = config.model_type;
  info.device = device.name;
  info.device_description = device.description;
  info.kv_type = kv_type_name(layout.type);
  info.threads = device.threads;
  info.weight_bytes = loaded.model->weights().bytes;
  const WeightTraffic traffic = decode_traffic(loaded.model->weights(), config);
  info.weight_bytes_per_token = traffic.bytes;
  info.expert_bytes_per_token = traffic.expert_bytes;
  info.n_experts = config.n_routed_experts;
  info.experts_per_token = config.top_k;
  info.kv_bytes_per_token = layout.row_bytes() * static_cast<uint64_t>(layout.n_layers);
  info.kv_memory = static_cast<uint64_t>(loaded.plan.kv_blocks) * layout.block_bytes();
  info.context = loaded.plan.context;
  info.model_context = config.max_position_embeddings;
  info.vocab_size = std::min(loaded.tokenizer->size(), config.vocab_size);
  info.has_mtp =
      config.n_mtp_layers > 0 && checkpoint.has_linear(fmt::format("model.layers.{}.eh_proj", config.n_layers));
  info.synthetic = json.contains("synthetic") && json["synthetic"] == true;
  info.notes = checkpoint.notes();
}

}  // namespace

LoadedModel LoadedModel::load(const EngineOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  check_options(options);
  ModelOptions chosen = model_options(options);
  const Placement placement = placement_of(options.load);
  const Checkpoint checkpoint = Checkpoint::open(options.model, {.placement = placement});
  const ModelConfig config =
      ModelConfig::from_json(checkpoint.config(), (checkpoint.directory() / "config.json").string());
  const uint64_t bytes = stored_bytes(checkpoint);
  const Stages stages(options, bytes);
  stages.at(0, "tokenizer");

  LoadedModel loaded;
  const GenerationConfig generation = GenerationConfig::load(options.model);
  loaded.info.default_sampling = generation.sampling;
  loaded.info.eos_ids = merge_eos(config, generation, options.model);
  loaded.tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(options.model / "tokenizer.json"));
  load_template(options.model, loaded);

  stages.at(0, "weights");
  loaded.device = make_device(options.device, {.threads = options.threads, .deterministic = options.deterministic});
  loaded.plan = plan_for(options, config, chosen, bytes, *loaded.device);
  chosen.max_positions = loaded.plan.context;
  if (options.lock_memory) {
    for (const auto& file : checkpoint.files()) file->lock();
  } else if (placement == Placement::kMapped) {
    loaded.read_ahead = std::make_unique<ReadAhead>(checkpoint.files());
  }
  loaded.model = Model::load(checkpoint, *loaded.device, chosen);
  describe(options, checkpoint, loaded);
  stages.at(bytes, "ready");
  loaded.info.load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return loaded;
}

}  // namespace marlin
