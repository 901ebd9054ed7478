// GLM-4.7-Flash (glm4_moe_lite): the forward pass, written once for any ragged batch.
#pragma once

#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "model/weights.h"

namespace marlin {

/// How attention is computed: over the latents (decode's form), or with K and V expanded from them.
enum class AttentionForm { kAbsorbed, kExpanded };

struct ModelOptions {
  int max_tokens = 512;      // largest step
  int max_logit_rows = 32;   // most rows of logits wanted in one step
  int max_slots = 32;        // most sequences in one step
  int max_positions = 4096;  // longest sequence
  KvType kv_type = KvType::kF16;
  AttentionForm attention = AttentionForm::kAbsorbed;
  bool with_mtp = false;
  bool use_fused_moe = true;
};

/// Rows of activations in a workspace buffer: `stride` elements from one row to the next.
struct Matrix {
  View data;
  int64_t stride = 0;
};

/// One token of a step, as the host plans it.
struct StepToken {
  int32_t id = 0;
  int32_t slot = 0;  // index into Step::sequences
  int32_t position = 0;
  Role role = Role::kPrompt;
  bool wants_logits = false;
};

/// A step's plan. Tokens of one slot in ascending position; their positions lie below the sequence's length().
struct Step {
  std::vector<StepToken> tokens;
  std::vector<const KvSequence*> sequences;
};

class Model {
 public:
  /// Binds the checkpoint's tensors to the device and allocates the workspace for `options`. Throws Error.
  static std::unique_ptr<Model> load(const Checkpoint& checkpoint, Device& device, const ModelOptions& options);

  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return weights_; }
  const ModelOptions& options() const { return options_; }
  Device& device() const { return *device_; }
  bool has_mtp() const { return weights_.mtp.has_value(); }
  /// The cache this model writes: one layer more when the MTP layer is loaded.
  KvLayout kv_layout() const;

  /// What a step left on the device.
  struct Outputs {
    View logits;  // act [n_logit_rows, vocab], in token order of the tokens that wanted them
    int n_logit_rows = 0;
    View hidden;       // act [n_tokens, H] after the final norm (input of the MTP layer)
    TokenBatch batch;  // for mtp()
  };

  /// Uploads the plan and enqueues the trunk: embedding, layers, final norm, and the head for the wanted rows.
  /// With `captured` set, the embedding output, each layer's output, and the final norm's instead of the last layer's
  /// are copied to it: act [n_layers + 1, n_tokens, H].
  Outputs forward(Stream& stream, const Step& step, KvCache& cache, View captured = {});

  /// The MTP layer over the same tokens: `next_ids[i]` is the token after token i of the step. Writes its own cache
  /// layer at the same positions. Returns act [n_tokens, vocab] logits that predict the token after next_ids[i].
  View mtp(Stream& stream, const Outputs& trunk, std::span<const int32_t> next_ids, KvCache& cache);

 private:
  Model(const Checkpoint& checkpoint, Device& device, const ModelOptions& options);
  void allocate_workspace();
  void fill_rope_table(Stream& stream);
  TokenBatch upload(Stream& stream, const Step& step);
  int head(Stream& stream, const Step& step);
  void layer(Ops& ops, int index, const LayerWeights& weights, const TokenBatch& batch, KvCache& cache);
  bool fuses_layers(const Ops& ops, const LayerWeights& layer) const;
  void fused_layer(Ops& ops, int index, const LayerWeights& layer, const TokenBatch& batch, KvCache& cache);
  void fused_moe_block(Ops& ops, int index, const LayerWeights& layer, const TokenBatch& batch);
  void normed_linears(Ops& ops, const TokenBatch& batch, const VectorWeight& gain,
                      std::initializer_list<NormedLinearsArgs::Product> products);
  void attention(Ops& ops, int index, const LayerWeights& layer, const TokenBatch& batch, KvCache& cache);
  void attend(Ops& ops, int index, const LayerWeights& layer, const TokenBatch& batch, const KvView& kv);
  void rope(Ops& ops, const TokenBatch& batch, Matrix x, int heads, int64_t head_stride);
  void swiglu_mlp(Ops& ops, const MlpWeights& weights, const TokenBatch& batch, Matrix out);
  void moe(Ops& ops, int index, const MoeWeights& weights, const TokenBatch& batch);
  RouteArgs route_args(const MoeWeights& weights, const TokenBatch& batch) const;
  FusedMoeArgs fused_moe_args(const MoeWeights& weights, const TokenBatch& batch) const;
  bool shared_fits(const MoeWeights& weights) const;
  void unfused_experts(Ops& ops, int index, const MoeWeights& weights, const TokenBatch& batch);
  /// The columns of `m` from `column` on.
  Matrix columns(Matrix m, int64_t column) const { return {m.data.at(activation_bytes(*device_, column)), m.stride}; }

  /// Device buffers of one step's intermediate results; widths in allocate_workspace.
  struct Workspace {
    View ids, positions, slots, roles, block_tables, logit_rows, expert_ids, rope_table;
    Matrix h, x, branch;                                         // residual stream, normed input, its update
    Matrix q_a, q, kv_a, latent, q_latent, o_latent, attention;  // attention
    Matrix gate, up;                                             // dense and shared SwiGLU
    Matrix router_logits, expert_weights, expert_gate, expert_up, expert_out, shared_out;  // rows of all chosen experts
    Matrix normed, rows, logits, mtp_input, mtp_logits;
  };

  ModelConfig config_;
  ModelOptions options_;
  Device* device_;
  ModelWeights weights_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  Workspace ws_;
  bool rope_ready_ = false;
  std::vector<int32_t> host_ints_;  // staging, sized once
  std::vector<uint8_t> host_roles_;
};

}  // namespace marlin
