// The arithmetic of GLM-4.7-Flash, layer by layer. The equations are in DESIGN.md; widths of the workspace's matrices
// in model.cc; h is the residual stream, x a block's normed input, branch a block's output.

#include <algorithm>

#include "base/check.h"
#include "model/enqueue.h"
#include "model/model.h"

namespace marlin {

void Model::layer(Ops& ops, int index, const LayerWeights& weights, const TokenBatch& batch, KvCache& cache) {
  if (fuses_layers(ops, weights)) {
    fused_layer(ops, index, weights, batch, cache);
    return;
  }
  ops.mark(index, "input_layernorm");
  rms_norm(ops, batch.n_tokens, ws_.h, weights.input_norm, config_.rms_norm_eps, ws_.x);
  attention(ops, index, weights, batch, cache);
  ops.mark(index, "attention residual");
  add(ops, batch, config_.hidden_size, ws_.h, ws_.branch);

  ops.mark(index, "post_attention_layernorm");
  rms_norm(ops, batch.n_tokens, ws_.h, weights.post_attention_norm, config_.rms_norm_eps, ws_.x);
  if (weights.moe) {
    moe(ops, index, *weights.moe, batch);
  } else {
    ops.mark(index, "mlp");
    swiglu_mlp(ops, *weights.dense, batch, ws_.branch);
  }
  ops.mark(index, "mlp residual");
  add(ops, batch, config_.hidden_size, ws_.h, ws_.branch);
}

// The fused layer computes the same in fewer, larger ops.
bool Model::fuses_layers(const Ops& ops, const LayerWeights& layer) const {
  return options_.use_fused_moe && config_.use_fused_moe && ops.has_fused_layer() &&
         options_.attention == AttentionForm::kAbsorbed && (!layer.moe || shared_fits(*layer.moe));
}

void Model::fused_layer(Ops& ops, int index, const LayerWeights& layer, const TokenBatch& batch, KvCache& cache) {
  const AttentionWeights& attention = layer.attention;
  const MlaShape shape = config_.mla();
  const KvView kv = cache.layer(index);
  ops.mark(index, "self_attn.q_a_proj and kv_a_proj_with_mqa");
  normed_linears(ops, batch, layer.input_norm,
                 {{&attention.q_a, ws_.q_a.data, ws_.q_a.stride}, {&attention.kv_a, ws_.kv_a.data, ws_.kv_a.stride}});
  ops.mark(index, "self_attn.q_b_proj and kv_write");
  ops.mla_prepare({.batch = &batch,
                   .kv = kv,
                   .shape = shape,
                   .eps = config_.latent_norm_eps,
                   .q_a = ws_.q_a.data,
                   .q_a_stride = ws_.q_a.stride,
                   .q_a_norm = &attention.q_a_norm,
                   .q_b = &attention.q_b,
                   .kv_a = ws_.kv_a.data,
                   .kv_a_stride = ws_.kv_a.stride,
                   .kv_a_norm = &attention.kv_a_norm,
                   .rope_table = ws_.rope_table,
                   .theta = config_.rope_theta,
                   .latent = ws_.latent.data,
                   .q = ws_.q.data});
  ops.mark(index, "self_attn");
  ops.mla_absorbed({.batch = &batch,
                    .kv = kv,
                    .shape = shape,
                    .kv_b = &attention.kv_b,
                    .scale = config_.attention_scale(),
                    .q = ws_.q.data,
                    .q_latent = ws_.q_latent.data,
                    .o_latent = ws_.o_latent.data,
                    .out = ws_.attention.data});
  ops.mark(index, "self_attn.o_proj");
  linear_add(ops, batch, ws_.attention, attention.o, ws_.h);

  if (layer.moe) {
    fused_moe_block(ops, index, layer, batch);
    return;
  }
  const MlpWeights& mlp = *layer.dense;
  const int64_t width = mlp.gate.out_features;
  ops.mark(index, "mlp");
  normed_linears(ops, batch, layer.post_attention_norm,
                 {{&mlp.gate, ws_.gate.data, width}, {&mlp.up, ws_.up.data, width}});
  ops.swiglu({.rows = batch.n_tokens, .width = width, .gate = ws_.gate.data, .up = ws_.up.data, .out = ws_.gate.data});
  linear_add(ops, batch, {ws_.gate.data, width}, mlp.down, ws_.h);
}

void Model::fused_moe_block(Ops& ops, int index, const LayerWeights& layer, const TokenBatch& batch) {
  ops.mark(index, "mlp.gate");
  ops.normed_route({.x = ws_.h.data,
                    .x_stride = ws_.h.stride,
                    .gain = &layer.post_attention_norm,
                    .eps = config_.rms_norm_eps,
                    .normed = ws_.x.data,
                    .router = &layer.moe->router,
                    .roles = batch.roles,
                    .route = route_args(*layer.moe, batch)});
  FusedMoeArgs experts = fused_moe_args(*layer.moe, batch);
  experts.out = ws_.h.data;
  experts.add_to_out = true;
  ops.mark(index, "mlp.experts");
  ops.fused_moe(experts);
}

// out_i = W_i rms_norm(h)
void Model::normed_linears(Ops& ops, const TokenBatch& batch, const VectorWeight& gain,
                           std::initializer_list<NormedLinearsArgs::Product> products) {
  NormedLinearsArgs args = {.rows = batch.n_tokens,
                            .x = ws_.h.data,
                            .x_stride = ws_.h.stride,
                            .gain = &gain,
                            .eps = config_.rms_norm_eps,
                            .normed = ws_.x.data,
                            .products = {},
                            .n_products = static_cast<int>(products.size()),
                            .roles = batch.roles};
  std::ranges::copy(products, args.products);
  ops.normed_linears(args);
}

// Multi-head latent attention. The cache holds the normed latent c and the rotated k_rope; keys and values of all heads
// are W_UK c and W_UV c.
void Model::attention(Ops& ops, int index, const LayerWeights& layer, const TokenBatch& batch, KvCache& cache) {
  const AttentionWeights& weights = layer.attention;
  const MlaShape shape = config_.mla();
  const Matrix q_rope = columns(ws_.q, shape.nope);
  const Matrix k_rope = columns(ws_.kv_a, shape.latent);

  ops.mark(index, "self_attn.q_a_proj");
  linear(ops, batch, ws_.x, weights.q_a, ws_.q_a);
  ops.mark(index, "self_attn.q_a_layernorm");
  rms_norm(ops, batch.n_tokens, ws_.q_a, weights.q_a_norm, config_.latent_norm_eps, ws_.q_a);
  ops.mark(index, "self_attn.q_b_proj");
  linear(ops, batch, ws_.q_a, weights.q_b, ws_.q);

  ops.mark(index, "self_attn.kv_a_proj_with_mqa");
  linear(ops, batch, ws_.x, weights.kv_a, ws_.kv_a);
  ops.mark(index, "self_attn.kv_a_layernorm");
  rms_norm(ops, batch.n_tokens, ws_.kv_a, weights.kv_a_norm, config_.latent_norm_eps, ws_.latent);

  ops.mark(index, "self_attn.rope");
  rope(ops, batch, q_rope, shape.heads, config_.qk_head_dim());
  rope(ops, batch, k_rope, 1, shape.rope);
  ops.mark(index, "self_attn.kv_write");
  ops.kv_write({.batch = &batch,
                .kv = cache.layer(index),
                .latent = ws_.latent.data,
                .latent_stride = ws_.latent.stride,
                .rope = k_rope.data,
                .rope_stride = k_rope.stride});

  attend(ops, index, layer, batch, cache.layer(index));
  ops.mark(index, "self_attn.o_proj");
  linear(ops, batch, ws_.attention, weights.o, ws_.branch);
}

// Absorbed: q.(W_UK c) = (W_UK^T q).c, so that all heads attend to the latents themselves. Expanded: K and V are made
// from the latents first. Both give the same sums in another order.
void Model::attend(Ops& ops, int index, const LayerWeights& layer, const TokenBatch& batch, const KvView& kv) {
  const LinearWeight& kv_b = layer.attention.kv_b;
  const MlaShape shape = config_.mla();
  const double scale = config_.attention_scale();
  if (options_.attention == AttentionForm::kExpanded) {
    ops.mark(index, "self_attn.expanded");
    ops.mla_expanded({.batch = &batch,
                      .kv = kv,
                      .shape = shape,
                      .kv_b = &kv_b,
                      .scale = scale,
                      .q = ws_.q.data,
                      .out = ws_.attention.data});
    return;
  }
  ops.mark(index, "self_attn.absorb");
  ops.mla_absorb({.rows = batch.n_tokens,
                  .shape = shape,
                  .kv_b = &kv_b,
                  .roles = batch.roles,
                  .q = ws_.q.data,
                  .q_row_stride = ws_.q.stride,
                  .q_head_stride = config_.qk_head_dim(),
                  .out = ws_.q_latent.data});
  ops.mark(index, "self_attn.attend");
  const auto next = layer.after_attention();
  ops.mla_attend({.batch = &batch,
                  .kv = kv,
                  .shape = shape,
                  .scale = scale,
                  .q_latent = ws_.q_latent.data,
                  .q_rope = columns(ws_.q, shape.nope).data,
                  .q_row_stride = ws_.q.stride,
                  .q_head_stride = config_.qk_head_dim(),
                  .out = ws_.o_latent.data,
                  .next = next});
  ops.mark(index, "self_attn.unabsorb");
  ops.mla_unabsorb({.rows = batch.n_tokens,
                    .shape = shape,
                    .kv_b = &kv_b,
                    .roles = batch.roles,
                    .o_latent = ws_.o_latent.data,
                    .out = ws_.attention.data});
}

void Model::rope(Ops& ops, const TokenBatch& batch, Matrix x, int heads, int64_t head_stride) {
  ops.rope({.rows = batch.n_tokens,
            .heads = heads,
            .dims = config_.qk_rope_head_dim,
            .x = x.data,
            .row_stride = x.stride,
            .head_stride = head_stride,
            .positions = batch.positions,
            .theta = config_.rope_theta,
            .table = ws_.rope_table});
}

// out = down(silu(gate x) * up x)
void Model::swiglu_mlp(Ops& ops, const MlpWeights& weights, const TokenBatch& batch, Matrix out) {
  const int64_t width = weights.gate.out_features;
  const Matrix gate{ws_.gate.data, width};
  const Matrix up{ws_.up.data, width};
  linear(ops, batch, ws_.x, weights.gate, gate);
  linear(ops, batch, ws_.x, weights.up, up);
  ops.swiglu({.rows = batch.n_tokens, .width = width, .gate = gate.data, .up = up.data, .out = gate.data});
  linear(ops, batch, gate, weights.down, out);
}

// out = sum over the chosen of w_e * expert_e(x), plus the shared expert, which is not scaled.
void Model::moe(Ops& ops, int index, const MoeWeights& weights, const TokenBatch& batch) {
  ops.mark(index, "mlp.gate");
  linear(ops, batch, ws_.x, weights.router, ws_.router_logits);
  ops.route(route_args(weights, batch));
  if (!options_.use_fused_moe || !config_.use_fused_moe || !ops.has_fused_moe() || !shared_fits(weights)) {
    unfused_experts(ops, index, weights, batch);
    return;
  }
  ops.mark(index, "mlp.experts");
  ops.fused_moe(fused_moe_args(weights, batch));
}

RouteArgs Model::route_args(const MoeWeights& weights, const TokenBatch& batch) const {
  return {.rows = batch.n_tokens,
          .n_experts = config_.n_routed_experts,
          .top_k = config_.top_k,
          .n_group = config_.n_group,
          .topk_group = config_.topk_group,
          .normalize = config_.norm_topk_prob,
          .scale = config_.routed_scaling_factor,
          .logits = ws_.router_logits.data,
          .bias = weights.correction_bias,
          .ids = ws_.expert_ids,
          .weights = ws_.expert_weights.data};
}

FusedMoeArgs Model::fused_moe_args(const MoeWeights& weights, const TokenBatch& batch) const {
  return {.rows = batch.n_tokens,
          .top_k = config_.top_k,
          .ids = ws_.expert_ids,
          .weights = ws_.expert_weights.data,
          .x = ws_.x.data,
          .x_stride = ws_.x.stride,
          .gate = &weights.gate,
          .up = &weights.up,
          .down = &weights.down,
          .shared_gate = weights.shared ? &weights.shared->gate : nullptr,
          .shared_up = weights.shared ? &weights.shared->up : nullptr,
          .shared_down = weights.shared ? &weights.shared->down : nullptr,
          .roles = batch.roles,
          .hidden = ws_.expert_gate.data,
          .out = ws_.branch.data};
}

// The fused op's scratch has one slot for the shared expert, so that must be as wide as a routed one.
bool Model::shared_fits(const MoeWeights& weights) const {
  return !weights.shared || weights.shared->gate.out_features == config_.moe_intermediate_size;
}

void Model::unfused_experts(Ops& ops, int index, const MoeWeights& weights, const TokenBatch& batch) {
  const int64_t width = config_.moe_intermediate_size;
  const auto experts = [&](const char* part, View x, int64_t row_stride, int64_t slot_stride, const ExpertBank& bank,
                           Matrix out) {
    ops.mark(index, part);
    ops.expert_linear({.rows = batch.n_tokens,
                       .top_k = config_.top_k,
                       .ids = ws_.expert_ids,
                       .x = x,
                       .x_row_stride = row_stride,
                       .x_slot_stride = slot_stride,
                       .bank = &bank,
                       .roles = batch.roles,
                       .out = out.data});
  };
  experts("mlp.experts.gate_proj", ws_.x.data, ws_.x.stride, 0, weights.gate, ws_.expert_gate);
  experts("mlp.experts.up_proj", ws_.x.data, ws_.x.stride, 0, weights.up, ws_.expert_up);
  ops.swiglu({.rows = batch.n_tokens * config_.top_k,
              .width = width,
              .gate = ws_.expert_gate.data,
              .up = ws_.expert_up.data,
              .out = ws_.expert_gate.data});
  experts("mlp.experts.down_proj", ws_.expert_gate.data, config_.top_k * width, width, weights.down, ws_.expert_out);
  ops.mark(index, "mlp.shared_experts");
  if (weights.shared) swiglu_mlp(ops, *weights.shared, batch, ws_.shared_out);
  ops.mark(index, "mlp.experts sum");
  ops.expert_sum({.rows = batch.n_tokens,
                  .top_k = config_.top_k,
                  .width = config_.hidden_size,
                  .y = ws_.expert_out.data,
                  .weights = ws_.expert_weights.data,
                  .shared = weights.shared ? ws_.shared_out.data : View{},
                  .out = ws_.branch.data});
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
  const Matrix hidden{trunk.hidden, config_.hidden_size};
  stream.upload(ws_.ids, std::as_bytes(next_ids));

  stream.mark(index, "embed_tokens");
  embed(stream, batch, mtp.embedding ? *mtp.embedding : weights_.embedding, ws_.h);
  stream.mark(index, "enorm");
  rms_norm(stream, batch.n_tokens, ws_.h, mtp.embedding_norm, config_.rms_norm_eps, ws_.mtp_input);
  stream.mark(index, "hnorm");
  rms_norm(stream, batch.n_tokens, hidden, mtp.hidden_norm, config_.rms_norm_eps,
           columns(ws_.mtp_input, config_.hidden_size));
  stream.mark(index, "eh_proj");
  linear(stream, batch, ws_.mtp_input, mtp.projection, ws_.h);
  layer(stream, index, mtp.layer, batch, cache);
  stream.mark(index, "shared_head.norm");
  rms_norm(stream, batch.n_tokens, ws_.h, mtp.head_norm, config_.rms_norm_eps, ws_.x);
  stream.mark(index, "shared_head.head");
  linear(stream, batch, ws_.x, mtp.head ? *mtp.head : weights_.head, ws_.mtp_logits);
  return ws_.mtp_logits.data;
}

}  // namespace marlin
