// The arithmetic of GLM-4.7-Flash, layer by layer. Everything here is named ops over the step's workspace; shapes are
// in Model::Workspace (model.cc), the equations in DESIGN.md.

#include "base/check.h"
#include "model/model.h"

namespace marlin {
namespace {

/// A view moved by `elements` of the device's activation type.
View shifted(const Device& device, View view, int64_t elements) {
  return view.at(activation_bytes(device, elements));
}

}  // namespace

void Model::layer(Ops& ops, int index, const LayerWeights& weights, const TokenBatch& batch, KvCache& cache) {
  const int64_t hidden = config_.hidden_size;
  ops.mark(index, "input_layernorm");
  ops.rms_norm({.rows = batch.n_tokens,
                .x = ws_.h,
                .x_stride = hidden,
                .gain = &weights.input_norm,
                .eps = config_.rms_norm_eps,
                .out = ws_.x,
                .out_stride = hidden});
  attention(ops, index, weights.attention, batch, cache);
  ops.mark(index, "attention residual");
  ops.add(
      {.rows = batch.n_tokens, .width = hidden, .x = ws_.h, .x_stride = hidden, .y = ws_.branch, .y_stride = hidden});

  ops.mark(index, "post_attention_layernorm");
  ops.rms_norm({.rows = batch.n_tokens,
                .x = ws_.h,
                .x_stride = hidden,
                .gain = &weights.post_attention_norm,
                .eps = config_.rms_norm_eps,
                .out = ws_.x,
                .out_stride = hidden});
  if (weights.moe) {
    ops.mark(index, "mlp.gate");
    moe(ops, *weights.moe, batch);
  } else {
    ops.mark(index, "mlp");
    dense_mlp(ops, *weights.dense, batch);
  }
  ops.mark(index, "mlp residual");
  ops.add(
      {.rows = batch.n_tokens, .width = hidden, .x = ws_.h, .x_stride = hidden, .y = ws_.branch, .y_stride = hidden});
}

// Multi-head latent attention. The cache holds the normed latent c and the rotated k_rope; keys and values of all heads
// are W_UK c and W_UV c. Absorbed: q.(W_UK c) = (W_UK^T q).c, so the heads attend to the latents themselves.
void Model::attention(Ops& ops, int index, const AttentionWeights& weights, const TokenBatch& batch, KvCache& cache) {
  const int rows = batch.n_tokens;
  const MlaShape shape = config_.mla();
  const int64_t hidden = config_.hidden_size;
  const int64_t head = config_.qk_head_dim();
  const int64_t q_width = shape.heads * head;
  const int64_t kv_width = shape.latent + shape.rope;
  const View q_rope = shifted(*device_, ws_.q, shape.nope);
  const View k_rope = shifted(*device_, ws_.kv_a, shape.latent);

  ops.mark(index, "self_attn.q_a_proj");
  ops.linear({.rows = rows,
              .x = ws_.x,
              .x_stride = hidden,
              .weight = &weights.q_a,
              .roles = batch.roles,
              .out = ws_.q_a,
              .out_stride = config_.q_lora_rank});
  ops.mark(index, "self_attn.q_a_layernorm");
  ops.rms_norm({.rows = rows,
                .x = ws_.q_a,
                .x_stride = config_.q_lora_rank,
                .gain = &weights.q_a_norm,
                .eps = config_.latent_norm_eps,
                .out = ws_.q_a,
                .out_stride = config_.q_lora_rank});
  ops.mark(index, "self_attn.q_b_proj");
  ops.linear({.rows = rows,
              .x = ws_.q_a,
              .x_stride = config_.q_lora_rank,
              .weight = &weights.q_b,
              .roles = batch.roles,
              .out = ws_.q,
              .out_stride = q_width});

  ops.mark(index, "self_attn.kv_a_proj_with_mqa");
  ops.linear({.rows = rows,
              .x = ws_.x,
              .x_stride = hidden,
              .weight = &weights.kv_a,
              .roles = batch.roles,
              .out = ws_.kv_a,
              .out_stride = kv_width});
  ops.mark(index, "self_attn.kv_a_layernorm");
  ops.rms_norm({.rows = rows,
                .x = ws_.kv_a,
                .x_stride = kv_width,
                .gain = &weights.kv_a_norm,
                .eps = config_.latent_norm_eps,
                .out = ws_.latent,
                .out_stride = shape.latent});

  ops.mark(index, "self_attn.rope");
  ops.rope({.rows = rows,
            .heads = shape.heads,
            .dims = shape.rope,
            .x = q_rope,
            .row_stride = q_width,
            .head_stride = head,
            .positions = batch.positions,
            .theta = config_.rope_theta,
            .table = ws_.rope_table});
  ops.rope({.rows = rows,
            .heads = 1,
            .dims = shape.rope,
            .x = k_rope,
            .row_stride = kv_width,
            .head_stride = shape.rope,
            .positions = batch.positions,
            .theta = config_.rope_theta,
            .table = ws_.rope_table});
  ops.mark(index, "self_attn.kv_write");
  ops.kv_write({.batch = &batch,
                .kv = cache.layer(index),
                .latent = ws_.latent,
                .latent_stride = shape.latent,
                .rope = k_rope,
                .rope_stride = kv_width});

  if (options_.attention == AttentionForm::kExpanded) {
    ops.mark(index, "self_attn.expanded");
    ops.mla_expanded({.batch = &batch,
                      .kv = cache.layer(index),
                      .shape = shape,
                      .kv_b = &weights.kv_b,
                      .scale = config_.attention_scale(),
                      .q = ws_.q,
                      .out = ws_.attention});
  } else {
    ops.mark(index, "self_attn.absorb");
    ops.mla_absorb({.rows = rows,
                    .shape = shape,
                    .kv_b = &weights.kv_b,
                    .roles = batch.roles,
                    .q = ws_.q,
                    .q_row_stride = q_width,
                    .q_head_stride = head,
                    .out = ws_.q_latent});
    ops.mark(index, "self_attn.attend");
    ops.mla_attend({.batch = &batch,
                    .kv = cache.layer(index),
                    .shape = shape,
                    .scale = config_.attention_scale(),
                    .q_latent = ws_.q_latent,
                    .q_rope = q_rope,
                    .q_row_stride = q_width,
                    .q_head_stride = head,
                    .out = ws_.o_latent});
    ops.mark(index, "self_attn.unabsorb");
    ops.mla_unabsorb({.rows = rows,
                      .shape = shape,
                      .kv_b = &weights.kv_b,
                      .roles = batch.roles,
                      .o_latent = ws_.o_latent,
                      .out = ws_.attention});
  }
  ops.mark(index, "self_attn.o_proj");
  ops.linear({.rows = rows,
              .x = ws_.attention,
              .x_stride = int64_t{shape.heads} * shape.value,
              .weight = &weights.o,
              .roles = batch.roles,
              .out = ws_.branch,
              .out_stride = hidden});
}

void Model::dense_mlp(Ops& ops, const MlpWeights& weights, const TokenBatch& batch) {
  const int64_t hidden = config_.hidden_size;
  const int64_t width = config_.intermediate_size;
  ops.linear({.rows = batch.n_tokens,
              .x = ws_.x,
              .x_stride = hidden,
              .weight = &weights.gate,
              .roles = batch.roles,
              .out = ws_.gate,
              .out_stride = width});
  ops.linear({.rows = batch.n_tokens,
              .x = ws_.x,
              .x_stride = hidden,
              .weight = &weights.up,
              .roles = batch.roles,
              .out = ws_.up,
              .out_stride = width});
  ops.swiglu({.rows = batch.n_tokens, .width = width, .gate = ws_.gate, .up = ws_.up, .out = ws_.gate});
  ops.linear({.rows = batch.n_tokens,
              .x = ws_.gate,
              .x_stride = width,
              .weight = &weights.down,
              .roles = batch.roles,
              .out = ws_.branch,
              .out_stride = hidden});
}

void Model::moe(Ops& ops, const MoeWeights& weights, const TokenBatch& batch) {
  const int rows = batch.n_tokens;
  const int top_k = config_.top_k;
  const int64_t hidden = config_.hidden_size;
  const int64_t width = config_.moe_intermediate_size;
  ops.linear({.rows = rows,
              .x = ws_.x,
              .x_stride = hidden,
              .weight = &weights.router,
              .roles = batch.roles,
              .out = ws_.router_logits,
              .out_stride = config_.n_routed_experts});
  ops.route({.rows = rows,
             .n_experts = config_.n_routed_experts,
             .top_k = top_k,
             .n_group = config_.n_group,
             .topk_group = config_.topk_group,
             .normalize = config_.norm_topk_prob,
             .scale = config_.routed_scaling_factor,
             .logits = ws_.router_logits,
             .bias = weights.correction_bias,
             .ids = ws_.expert_ids,
             .weights = ws_.expert_weights});

  // The fused op's scratch has one slot for the shared expert, so it must be as wide as a routed one.
  const bool shared_fits = !weights.shared || weights.shared->gate.out_features == width;
  if (options_.use_fused_moe && config_.use_fused_moe && ops.has_fused_moe() && shared_fits) {
    ops.fused_moe({.rows = rows,
                   .top_k = top_k,
                   .ids = ws_.expert_ids,
                   .weights = ws_.expert_weights,
                   .x = ws_.x,
                   .x_stride = hidden,
                   .gate = &weights.gate,
                   .up = &weights.up,
                   .down = &weights.down,
                   .shared_gate = weights.shared ? &weights.shared->gate : nullptr,
                   .shared_up = weights.shared ? &weights.shared->up : nullptr,
                   .shared_down = weights.shared ? &weights.shared->down : nullptr,
                   .roles = batch.roles,
                   .hidden = ws_.gate,
                   .out = ws_.branch});
    return;
  }

  ops.expert_linear({.rows = rows,
                     .top_k = top_k,
                     .ids = ws_.expert_ids,
                     .x = ws_.x,
                     .x_row_stride = hidden,
                     .x_slot_stride = 0,
                     .bank = &weights.gate,
                     .roles = batch.roles,
                     .out = ws_.gate});
  ops.expert_linear({.rows = rows,
                     .top_k = top_k,
                     .ids = ws_.expert_ids,
                     .x = ws_.x,
                     .x_row_stride = hidden,
                     .x_slot_stride = 0,
                     .bank = &weights.up,
                     .roles = batch.roles,
                     .out = ws_.expert_up});
  ops.swiglu({.rows = rows * top_k, .width = width, .gate = ws_.gate, .up = ws_.expert_up, .out = ws_.gate});
  ops.expert_linear({.rows = rows,
                     .top_k = top_k,
                     .ids = ws_.expert_ids,
                     .x = ws_.gate,
                     .x_row_stride = top_k * width,
                     .x_slot_stride = width,
                     .bank = &weights.down,
                     .roles = batch.roles,
                     .out = ws_.expert_out});
  if (weights.shared) {
    const int64_t shared = weights.shared->gate.out_features;
    ops.linear({.rows = rows,
                .x = ws_.x,
                .x_stride = hidden,
                .weight = &weights.shared->gate,
                .roles = batch.roles,
                .out = ws_.shared_gate,
                .out_stride = shared});
    ops.linear({.rows = rows,
                .x = ws_.x,
                .x_stride = hidden,
                .weight = &weights.shared->up,
                .roles = batch.roles,
                .out = ws_.shared_up,
                .out_stride = shared});
    ops.swiglu({.rows = rows, .width = shared, .gate = ws_.shared_gate, .up = ws_.shared_up, .out = ws_.shared_gate});
    ops.linear({.rows = rows,
                .x = ws_.shared_gate,
                .x_stride = shared,
                .weight = &weights.shared->down,
                .roles = batch.roles,
                .out = ws_.shared_out,
                .out_stride = hidden});
  }
  ops.expert_sum({.rows = rows,
                  .top_k = top_k,
                  .width = hidden,
                  .y = ws_.expert_out,
                  .weights = ws_.expert_weights,
                  .shared = weights.shared ? ws_.shared_out : View{},
                  .out = ws_.branch});
}

// Multi-token prediction: one more sparse block over [embedding of the next token | final hidden state of this one],
// predicting the token after the next.
View Model::mtp(Stream& stream, const Outputs& trunk, std::span<const int32_t> next_ids, KvCache& cache) {
  MARLIN_CHECK(has_mtp(), "the model was loaded without its MTP layer");
  MARLIN_CHECK(next_ids.size() == static_cast<size_t>(trunk.batch.n_tokens), "{} next ids for {} tokens",
               next_ids.size(), trunk.batch.n_tokens);
  const MtpWeights& mtp = *weights_.mtp;
  const TokenBatch& batch = trunk.batch;
  const int index = config_.n_layers;
  const int64_t hidden = config_.hidden_size;
  stream.upload(ws_.ids, std::as_bytes(next_ids));

  stream.mark(index, "embed_tokens");
  stream.embed({.rows = batch.n_tokens,
                .ids = ws_.ids,
                .table = mtp.embedding ? &*mtp.embedding : &weights_.embedding,
                .out = ws_.h,
                .out_stride = hidden});
  stream.mark(index, "enorm");
  stream.rms_norm({.rows = batch.n_tokens,
                   .x = ws_.h,
                   .x_stride = hidden,
                   .gain = &mtp.embedding_norm,
                   .eps = config_.rms_norm_eps,
                   .out = ws_.mtp_input,
                   .out_stride = 2 * hidden});
  stream.mark(index, "hnorm");
  stream.rms_norm({.rows = batch.n_tokens,
                   .x = trunk.hidden,
                   .x_stride = hidden,
                   .gain = &mtp.hidden_norm,
                   .eps = config_.rms_norm_eps,
                   .out = shifted(*device_, ws_.mtp_input, hidden),
                   .out_stride = 2 * hidden});
  stream.mark(index, "eh_proj");
  stream.linear({.rows = batch.n_tokens,
                 .x = ws_.mtp_input,
                 .x_stride = 2 * hidden,
                 .weight = &mtp.projection,
                 .roles = batch.roles,
                 .out = ws_.h,
                 .out_stride = hidden});
  layer(stream, index, mtp.layer, batch, cache);
  stream.mark(index, "shared_head.norm");
  stream.rms_norm({.rows = batch.n_tokens,
                   .x = ws_.h,
                   .x_stride = hidden,
                   .gain = &mtp.head_norm,
                   .eps = config_.rms_norm_eps,
                   .out = ws_.x,
                   .out_stride = hidden});
  stream.mark(index, "shared_head.head");
  stream.linear({.rows = batch.n_tokens,
                 .x = ws_.x,
                 .x_stride = hidden,
                 .weight = mtp.head ? &*mtp.head : &weights_.head,
                 .roles = batch.roles,
                 .out = ws_.mtp_logits,
                 .out_stride = config_.vocab_size});
  return ws_.mtp_logits;
}

}  // namespace marlin
