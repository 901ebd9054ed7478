#include "model/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "marlin/error.h"
#include "model/enqueue.h"

namespace marlin {
namespace {

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values, size_t begin, size_t count) {
  return std::as_bytes(std::span(values).subspan(begin, count));
}

}  // namespace

std::unique_ptr<Model> Model::load(const Checkpoint& checkpoint, Device& device, const ModelOptions& options) {
  return std::unique_ptr<Model>(new Model(checkpoint, device, options));
}

Model::Model(const Checkpoint& checkpoint, Device& device, const ModelOptions& options)
    : config_(ModelConfig::from_json(checkpoint.config(), (checkpoint.directory() / "config.json").string())),
      options_(options),
      device_(&device),
      weights_(ModelWeights::bind(checkpoint, config_, device, options.with_mtp)) {
  options_.max_positions = std::min(options_.max_positions, config_.max_position_embeddings);
  options_.kv_type = device.kv_type(options_.kv_type);
  allocate_workspace();
}

KvLayout Model::kv_layout() const {
  return {.type = options_.kv_type,
          .latent_dim = config_.kv_lora_rank,
          .rope_dim = config_.qk_rope_head_dim,
          .n_layers = config_.n_layers + (has_mtp() ? 1 : 0)};
}

void Model::allocate_workspace() {
  const ModelConfig& c = config_;
  const int64_t tokens = options_.max_tokens;
  const int64_t hidden = c.hidden_size;
  const int64_t slots = options_.max_slots;
  const int64_t blocks = (options_.max_positions + kKvBlockTokens - 1) / kKvBlockTokens;
  const int64_t chosen = tokens * c.top_k;
  const int64_t shared = int64_t{c.moe_intermediate_size} * c.n_shared_experts;
  const auto raw = [&](View& view, int64_t bytes) {
    buffers_.push_back(device_->allocate(static_cast<size_t>(std::max<int64_t>(bytes, 64))));
    view = {buffers_.back().get(), 0};
  };
  const auto rows = [&](Matrix& matrix, int64_t n, int64_t width) {
    raw(matrix.data, static_cast<int64_t>(activation_bytes(*device_, n * width)));
    matrix.stride = width;
  };

  raw(ws_.ids, tokens * 4);
  raw(ws_.positions, tokens * 4);
  raw(ws_.slots, tokens * 4);
  raw(ws_.roles, tokens);
  raw(ws_.block_tables, slots * blocks * 4);
  raw(ws_.logit_rows, static_cast<int64_t>(options_.max_logit_rows) * 4);
  raw(ws_.expert_ids, chosen * 4);
  raw(ws_.rope_table, int64_t{options_.max_positions} * c.qk_rope_head_dim * 4);

  for (Matrix* matrix : {&ws_.h, &ws_.x, &ws_.branch, &ws_.normed, &ws_.shared_out}) rows(*matrix, tokens, hidden);
  rows(ws_.q_a, tokens, c.q_lora_rank);
  rows(ws_.q, tokens, int64_t{c.n_heads} * c.qk_head_dim());
  rows(ws_.kv_a, tokens, c.kv_lora_rank + c.qk_rope_head_dim);
  rows(ws_.latent, tokens, c.kv_lora_rank);
  rows(ws_.q_latent, tokens, int64_t{c.n_heads} * c.kv_lora_rank);
  rows(ws_.o_latent, tokens, int64_t{c.n_heads} * c.kv_lora_rank);
  rows(ws_.attention, tokens, int64_t{c.n_heads} * c.v_head_dim);
  for (Matrix* matrix : {&ws_.gate, &ws_.up}) rows(*matrix, tokens, std::max<int64_t>(c.intermediate_size, shared));
  rows(ws_.router_logits, tokens, c.n_routed_experts);
  rows(ws_.expert_weights, tokens, c.top_k);
  rows(ws_.expert_gate, chosen + tokens, c.moe_intermediate_size);  // the fused op adds a slot for the shared expert
  rows(ws_.expert_up, chosen, c.moe_intermediate_size);
  rows(ws_.expert_out, chosen, hidden);
  rows(ws_.rows, options_.max_logit_rows, hidden);
  rows(ws_.logits, options_.max_logit_rows, c.vocab_size);
  if (has_mtp()) {
    rows(ws_.mtp_input, tokens, 2 * hidden);
    rows(ws_.mtp_logits, tokens, c.vocab_size);
  }
  host_ints_.resize(static_cast<size_t>(std::max(tokens * 3 + options_.max_logit_rows, slots * blocks)));
  host_roles_.resize(static_cast<size_t>(tokens));
}

// Angles in double: at position 200,000 an FP32 product would be off by 0.01 rad.
void Model::fill_rope_table(Stream& stream) {
  const int pairs = config_.qk_rope_head_dim / 2;
  std::vector<float> table(static_cast<size_t>(options_.max_positions) * static_cast<size_t>(pairs) * 2);
  for (int i = 0; i < pairs; ++i) {
    const double frequency = std::pow(config_.rope_theta, -2.0 * i / config_.qk_rope_head_dim);
    for (int p = 0; p < options_.max_positions; ++p) {
      const size_t at = (static_cast<size_t>(p) * static_cast<size_t>(pairs) + static_cast<size_t>(i)) * 2;
      table[at] = static_cast<float>(std::cos(p * frequency));
      table[at + 1] = static_cast<float>(std::sin(p * frequency));
    }
  }
  stream.upload(ws_.rope_table, bytes_of(table, 0, table.size()));
  rope_ready_ = true;
}

TokenBatch Model::upload(Stream& stream, const Step& step) {
  const size_t n = step.tokens.size();
  MARLIN_CHECK(n >= 1 && n <= static_cast<size_t>(options_.max_tokens), "{} tokens, at most {}", n,
               options_.max_tokens);
  MARLIN_CHECK(step.sequences.size() <= static_cast<size_t>(options_.max_slots), "{} sequences, at most {}",
               step.sequences.size(), options_.max_slots);
  RoleView roles(ws_.roles, false, false);
  for (size_t i = 0; i < n; ++i) {
    const StepToken& token = step.tokens[i];
    (token.role == Role::kPrompt ? roles.any_prompt : roles.any_decode) = true;
    const int length = step.sequences[static_cast<size_t>(token.slot)]->length();
    MARLIN_CHECK(token.id >= 0 && token.id < config_.vocab_size, "id {} of {}", token.id, config_.vocab_size);
    MARLIN_CHECK(token.position >= 0 && token.position < std::min(length, options_.max_positions),
                 "position {}, length {}, limit {}", token.position, length, options_.max_positions);
    host_ints_[i] = token.id;
    host_ints_[n + i] = token.position;
    host_ints_[2 * n + i] = token.slot;
    host_roles_[i] = static_cast<uint8_t>(token.role);
  }
  stream.upload(ws_.ids, bytes_of(host_ints_, 0, n));
  stream.upload(ws_.positions, bytes_of(host_ints_, n, n));
  stream.upload(ws_.slots, bytes_of(host_ints_, 2 * n, n));
  stream.upload(ws_.roles, bytes_of(host_roles_, 0, n));

  size_t widest = 1;
  for (const KvSequence* sequence : step.sequences) widest = std::max(widest, sequence->blocks().size());
  std::fill_n(host_ints_.begin(), widest * step.sequences.size(), 0);
  for (size_t slot = 0; slot < step.sequences.size(); ++slot) {
    std::ranges::copy(step.sequences[slot]->blocks(), host_ints_.begin() + static_cast<std::ptrdiff_t>(slot * widest));
  }
  stream.upload(ws_.block_tables, bytes_of(host_ints_, 0, widest * step.sequences.size()));
  return {.n_tokens = static_cast<int>(n),
          .ids = ws_.ids,
          .positions = ws_.positions,
          .slots = ws_.slots,
          .roles = roles,
          .block_tables = ws_.block_tables,
          .n_slots = static_cast<int>(step.sequences.size()),
          .blocks_per_slot = static_cast<int>(widest)};
}

Model::Outputs Model::forward(Stream& stream, const Step& step, KvCache& cache, View captured) {
  if (!rope_ready_) fill_rope_table(stream);
  const TokenBatch batch = upload(stream, step);
  const size_t bytes = activation_bytes(*device_, int64_t{batch.n_tokens} * config_.hidden_size);
  const auto capture = [&](int index, Matrix from) {
    const View to = captured.at(static_cast<size_t>(index) * bytes);
    if (captured) stream.copy({.from = from.data, .to = to, .bytes = bytes});
  };

  stream.mark(-1, "embed_tokens");
  embed(stream, batch, weights_.embedding, ws_.h);
  for (int i = 0; i < config_.n_layers; ++i) {
    capture(i, ws_.h);
    layer(stream, i, weights_.layers[static_cast<size_t>(i)], batch, cache);
  }
  stream.mark(-1, "norm");
  rms_norm(stream, batch.n_tokens, ws_.h, weights_.norm, config_.rms_norm_eps, ws_.normed);
  capture(config_.n_layers, ws_.normed);
  const int n_logit_rows = head(stream, step);
  return {.logits = ws_.logits.data, .n_logit_rows = n_logit_rows, .hidden = ws_.normed.data, .batch = batch};
}

// Only the rows somebody asked for: a prefill chunk would otherwise make 512 x 154,880 logits.
int Model::head(Stream& stream, const Step& step) {
  int rows = 0;
  for (size_t i = 0; i < step.tokens.size(); ++i) {
    if (!step.tokens[i].wants_logits) continue;
    MARLIN_CHECK(rows < options_.max_logit_rows, "more than {} logits rows wanted", options_.max_logit_rows);
    host_ints_[static_cast<size_t>(rows++)] = static_cast<int32_t>(i);
  }
  if (rows == 0) return 0;
  stream.upload(ws_.logit_rows, bytes_of(host_ints_, 0, static_cast<size_t>(rows)));
  stream.mark(-1, "lm_head");
  stream.gather_rows({.rows = rows,
                      .width = config_.hidden_size,
                      .x = ws_.normed.data,
                      .x_stride = ws_.normed.stride,
                      .index = ws_.logit_rows,
                      .out = ws_.rows.data});
  linear(stream, rows, {}, ws_.rows, weights_.head, ws_.logits);
  return rows;
}

}  // namespace marlin
