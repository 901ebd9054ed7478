// The op contract: what every backend can compute. One args struct an op; buffers are opaque, so no caller can look
// into device memory; shapes live on the host and never depend on device data.
//
// Conventions
// - T tokens (rows) of a ragged batch; all matrices row-major; strides count elements.
// - "act" is the backend's activation type (Device::activation_type): F32 on the CPU, F64 in the oracle.
// - Row invariance: row t of any output depends on row t of the inputs (and on the KV cache) only, bit for bit. The
//   number of rows, the other rows, threads and chunk borders never choose an order of summation.
// - Nothing throws and nothing allocates when an op is enqueued after the first step of the same size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "format/dtype.h"

namespace marlin {

/// Device memory. Only the backend that made it knows what is behind it.
class Buffer {
 public:
  explicit Buffer(size_t size) : size_(size) {}
  virtual ~Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  size_t size() const { return size_; }

 private:
  size_t size_;
};

/// A place in device memory: buffer and byte offset. The op's args tell how much is read or written from here.
struct View {
  Buffer* buffer = nullptr;
  size_t offset = 0;
  explicit operator bool() const { return buffer != nullptr; }
  View at(size_t bytes) const { return {buffer, offset + bytes}; }
};

/// Whether a token was sent by the user or generated: the only thing that may choose between numerics classes.
enum class Role : uint8_t { kPrompt = 0, kDecode = 1 };

// ---- weights -------------------------------------------------------------------------------------------------------

/// One plane of FP4 codes and scales in the file's layout (format/fp4.h).
struct Fp4PlaneView {
  View codes;   // [out, in/2] bytes
  View scales;  // [out, in/group_size] F16
  int group_size = 0;
};

/// y = W x + b with W [out_features, in_features]: plain, or the sum of one or two FP4 planes.
struct LinearWeight {
  int64_t out_features = 0;
  int64_t in_features = 0;
  View plain;                       // set for unquantized weights
  DType plain_type = DType::kBF16;  // BF16, F16 or F32
  Fp4PlaneView planes[2];
  int n_planes = 0;  // 0 for unquantized weights
  View bias;         // optional [out_features]
  DType bias_type = DType::kF32;
};

/// The experts of one kind in a layer. All have the same shape, type and group size.
struct ExpertBank {
  std::vector<LinearWeight> experts;
};

/// A norm's gain or another small vector as stored.
struct VectorWeight {
  View data;
  DType type = DType::kBF16;
  int64_t size = 0;
};

// ---- the ragged batch and the paged cache --------------------------------------------------------------------------

/// The roles of an op's rows, and what the host knows about them: devices that compute the classes by different kernels
/// leave out the one that no row needs. Both flags may be set in vain.
struct RoleView : View {  // U8 [rows]; none = decode
  RoleView() = default;
  RoleView(View roles, bool prompt = true, bool decode = true) : View(roles), any_prompt(prompt), any_decode(decode) {}

  bool any_prompt = true;
  bool any_decode = true;
};

/// T tokens of any sequences in one step, as device buffers. Tokens of one sequence stand in ascending position. A
/// token attends to all positions of its slot up to its own, those of earlier tokens in the same step included.
struct TokenBatch {
  int n_tokens = 0;
  View ids;           // I32 [T]
  View positions;     // I32 [T]
  View slots;         // I32 [T], row of block_tables
  RoleView roles;     // U8 [T], Role
  View block_tables;  // I32 [n_slots, blocks_per_slot]: physical block of positions [64 b, 64 b + 64)
  int n_slots = 0;
  int blocks_per_slot = 0;
};

enum class KvType : uint8_t { kF32, kF16, kQ8, kF64 };  // kF64 is the oracle's own

/// Positions per block of the paged cache.
inline constexpr int kKvBlockTokens = 64;
/// Values that share one F16 scale in a Q8 row.
inline constexpr int kKvQ8Group = 64;

/// Where a cached position lies. A row is [latent | rope] in the element type, adjacent, padded to 64 bytes. A Q8 row
/// is int8 values [latent | rope], then one F16 scale for each kKvQ8Group values of the latent and, starting anew, of
/// the rope part (each count rounded up): value = q * scale, scale = fp16(absmax / 127), q = round to nearest even. A
/// block holds 64 rows of every layer: offset(block, layer, r) = (block * n_layers + layer) * 64 * row + r * row.
struct KvLayout {
  KvType type = KvType::kF16;
  int latent_dim = 0;
  int rope_dim = 0;
  int n_layers = 0;

  int values() const { return latent_dim + rope_dim; }
  int q8_groups() const {
    return (latent_dim + kKvQ8Group - 1) / kKvQ8Group + (rope_dim + kKvQ8Group - 1) / kKvQ8Group;
  }
  size_t row_bytes() const {
    const auto n = static_cast<size_t>(values());
    size_t bytes = 0;
    switch (type) {
      case KvType::kF64:
        bytes = n * 8;
        break;
      case KvType::kF32:
        bytes = n * 4;
        break;
      case KvType::kF16:
        bytes = n * 2;
        break;
      case KvType::kQ8:
        bytes = n + 2 * static_cast<size_t>(q8_groups());
        break;
    }
    return (bytes + 63) / 64 * 64;
  }
  size_t block_layer_bytes() const { return row_bytes() * kKvBlockTokens; }
  size_t block_bytes() const { return block_layer_bytes() * static_cast<size_t>(n_layers); }
};

/// One layer of the cache.
struct KvView {
  View pool;
  KvLayout layout;
  int layer = 0;
};

// ---- ops -----------------------------------------------------------------------------------------------------------

/// out[t, :] = table[ids[t], :]; table is [vocab, H], plain or FP4.
struct EmbedArgs {
  int rows = 0;
  View ids;  // I32 [rows]
  const LinearWeight* table = nullptr;
  View out;
  int64_t out_stride = 0;
};

/// out = x * rsqrt(mean(x^2) + eps) * gain, statistics in FP32 or better. out may be x.
struct RmsNormArgs {
  int rows = 0;
  View x;
  int64_t x_stride = 0;
  const VectorWeight* gain = nullptr;  // its size is the width
  double eps = 0;
  View out;
  int64_t out_stride = 0;
};

/// out[t, n] = sum_k W[n, k] x[t, k] + b[n].
struct LinearArgs {
  int rows = 0;
  View x;
  int64_t x_stride = 0;
  const LinearWeight* weight = nullptr;
  RoleView roles;
  View out;
  int64_t out_stride = 0;
};

/// x += y over [rows, width].
struct AddArgs {
  int rows = 0;
  int64_t width = 0;
  View x;
  int64_t x_stride = 0;
  View y;
  int64_t y_stride = 0;
};

/// Rotates interleaved pairs (x0, x1), (x2, x3)… in place: pair i of position p by the angle p * theta^(-2i/dims).
struct RopeArgs {
  int rows = 0;
  int heads = 1;
  int dims = 0;
  View x;  // first rotated value of row 0, head 0
  int64_t row_stride = 0;
  int64_t head_stride = 0;
  View positions;  // I32 [rows]
  double theta = 0;
  View table;  // F32 [max_positions, dims/2, 2] cos and sin, filled by the host in double precision
};

/// Stores the normed latent and the rotated rope part of each token at its position.
struct KvWriteArgs {
  const TokenBatch* batch = nullptr;
  KvView kv;
  View latent;
  int64_t latent_stride = 0;
  View rope;
  int64_t rope_stride = 0;
};

/// The up-projection's shape: kv_b is head-major, rows h * (nope + v) … : nope rows of W_UK, then v rows of W_UV.
struct MlaShape {
  int heads = 0;
  int nope = 0;    // qk_nope_head_dim
  int rope = 0;    // qk_rope_head_dim
  int value = 0;   // v_head_dim
  int latent = 0;  // kv_lora_rank
};

/// q_latent[t, h, k] = sum_n q_nope[t, h, n] * W_UK[h, n, k]: the query moved into the latent space.
struct MlaAbsorbArgs {
  int rows = 0;
  MlaShape shape;
  const LinearWeight* kv_b = nullptr;
  RoleView roles;
  View q;  // first nope value of row 0, head 0
  int64_t q_row_stride = 0;
  int64_t q_head_stride = 0;
  View out;  // act [rows, heads, latent]
};

/// out[t, h, :] = sum_p softmax_p(scale * (q_latent . c_p + q_rope . k_rope_p)) * c_p over the positions of t's slot.
struct MlaAttendArgs {
  const TokenBatch* batch = nullptr;
  KvView kv;
  MlaShape shape;
  double scale = 0;
  View q_latent;  // act [T, heads, latent]
  View q_rope;    // first rope value of row 0, head 0
  int64_t q_row_stride = 0;
  int64_t q_head_stride = 0;
  View out;  // act [T, heads, latent]
  /// Weights that later ops read, in order: a hint to devices that can fetch memory while they compute. Read during the
  /// call only.
  std::span<const LinearWeight* const> next = {};
};

/// out[t, h, :] = W_UV[h] o_latent[t, h, :].
struct MlaUnabsorbArgs {
  int rows = 0;
  MlaShape shape;
  const LinearWeight* kv_b = nullptr;
  RoleView roles;
  View o_latent;  // act [rows, heads, latent]
  View out;       // act [rows, heads, value]
};

/// The same attention with K and V expanded from the cached latents; equals absorb, attend, unabsorb up to rounding.
struct MlaExpandedArgs {
  const TokenBatch* batch = nullptr;
  KvView kv;
  MlaShape shape;
  const LinearWeight* kv_b = nullptr;
  double scale = 0;
  View q;    // act [T, heads, nope + rope], rope rotated
  View out;  // act [T, heads, value]
};

/// Top-k choice of experts: s = sigmoid(logits); rank by s + bias (descending, ties to the lower id); with groups, only
/// the experts of the topk_group best groups take part (a group's score is the sum of its two best s + bias). Weights
/// are s of the chosen, divided by (their sum + 1e-20) if `normalize`, times `scale`.
struct RouteArgs {
  int rows = 0;
  int n_experts = 0;
  int top_k = 0;
  int n_group = 1;
  int topk_group = 1;
  bool normalize = true;
  double scale = 1;
  View logits;   // act [rows, n_experts]
  View bias;     // F32 [n_experts]
  View ids;      // I32 [rows, top_k], best first
  View weights;  // act [rows, top_k]
};

/// out[t, j, :] = bank[ids[t, j]] x[t, j, :].
struct ExpertLinearArgs {
  int rows = 0;
  int top_k = 0;
  View ids;  // I32 [rows, top_k]
  View x;
  int64_t x_row_stride = 0;
  int64_t x_slot_stride = 0;  // 0: the same input for all chosen experts of a token
  const ExpertBank* bank = nullptr;
  RoleView roles;
  View out;  // act [rows, top_k, out_features]
};

/// out = silu(gate) * up, elementwise over [rows, width]; out may be gate.
struct SwigluArgs {
  int rows = 0;
  int64_t width = 0;
  View gate;
  View up;
  View out;
};

/// out[t, :] = sum_j weights[t, j] * y[t, j, :] (rank order), then + shared[t, :] if given.
struct ExpertSumArgs {
  int rows = 0;
  int top_k = 0;
  int64_t width = 0;
  View y;        // act [rows, top_k, width]
  View weights;  // act [rows, top_k]
  View shared;   // act [rows, width] or none
  View out;      // act [rows, width]
};

/// All of route's consumers in one op: out = sum_j w_j * down_j(silu(gate_j x) * up_j x) + shared(x). Its reference is
/// expert_linear, swiglu, expert_linear, linear, expert_sum. Optional: Ops::has_fused_moe.
struct FusedMoeArgs {
  int rows = 0;
  int top_k = 0;
  View ids;
  View weights;
  View x;
  int64_t x_stride = 0;
  const ExpertBank* gate = nullptr;
  const ExpertBank* up = nullptr;
  const ExpertBank* down = nullptr;
  const LinearWeight* shared_gate = nullptr;  // all three or none
  const LinearWeight* shared_up = nullptr;
  const LinearWeight* shared_down = nullptr;
  RoleView roles;
  View hidden;              // scratch, act [rows, top_k + 1, moe_intermediate]
  View out;                 // act [rows, H]
  bool add_to_out = false;  // out += the sum; only where Ops::has_fused_layer
};

// ---- the fused layer: optional, all or none (Ops::has_fused_layer) -------------------------------------------------
// Each op equals the ops that it names up to rounding. Scratch is undefined afterwards.

/// out_i = W_i rms_norm(x) for one or two weights: rms_norm, linear, linear.
struct NormedLinearsArgs {
  int rows = 0;
  View x;
  int64_t x_stride = 0;
  const VectorWeight* gain = nullptr;
  double eps = 0;
  View normed;  // scratch, act [rows, width]
  struct Product {
    const LinearWeight* weight = nullptr;
    View out;
    int64_t out_stride = 0;
  };
  Product products[2];
  int n_products = 1;
  RoleView roles;
};

/// What attention needs of a token: q = W_qb rms_norm(q_a) with its rope parts rotated; the cache gets rms_norm(latent)
/// and the rotated rope part of kv_a. rms_norm, linear, rope; rms_norm, rope, kv_write.
struct MlaPrepareArgs {
  const TokenBatch* batch = nullptr;
  KvView kv;
  MlaShape shape;
  double eps = 0;
  View q_a;  // consumed
  int64_t q_a_stride = 0;
  const VectorWeight* q_a_norm = nullptr;
  const LinearWeight* q_b = nullptr;
  View kv_a;  // consumed; [latent | rope]
  int64_t kv_a_stride = 0;
  const VectorWeight* kv_a_norm = nullptr;
  View rope_table;
  double theta = 0;
  View latent;  // scratch, act [T, latent]
  View q;       // act [T, heads, nope + rope]
};

/// Attention in the latent space as one op: mla_absorb, mla_attend, mla_unabsorb.
struct MlaAbsorbedArgs {
  const TokenBatch* batch = nullptr;
  KvView kv;
  MlaShape shape;
  const LinearWeight* kv_b = nullptr;
  double scale = 0;
  View q;         // act [T, heads, nope + rope], rope rotated
  View q_latent;  // scratch, act [T, heads, latent]
  View o_latent;  // scratch, act [T, heads, latent]
  View out;       // act [T, heads, value]
};

/// normed = rms_norm(x), logits = router normed, then RouteArgs: rms_norm, linear, route.
struct NormedRouteArgs {
  View x;
  int64_t x_stride = 0;
  const VectorWeight* gain = nullptr;
  double eps = 0;
  View normed;  // act [rows, width]: an output, the experts' input
  const LinearWeight* router = nullptr;
  RoleView roles;
  RouteArgs route;  // its rows are all of the op's; its logits are scratch
};

/// out[i, :] = x[rows_in[i], :].
struct GatherRowsArgs {
  int rows = 0;  // of out
  int64_t width = 0;
  View x;
  int64_t x_stride = 0;
  View index;  // I32 [rows]
  View out;    // act [rows, width]
};

/// How one row of logits is turned into one id. Order: bias, penalties, mask; then temperature 0 takes the largest
/// logit (lowest id on ties); otherwise logits / temperature, top-k, top-p, min-p, and a draw by inverse CDF over
/// candidates in descending order (ties by id) with the uniform number of random.h for (seed, choice, position).
struct SampleParams {
  float temperature = 0;
  float top_p = 1;
  float min_p = 0;
  int32_t top_k = 0;             // 0 = all
  float repetition_penalty = 1;  // over prompt and generated tokens: positive logits divided, negative multiplied
  float presence_penalty = 0;    // over generated tokens
  float frequency_penalty = 0;   // times the count of generated tokens
  uint32_t choice = 0;
  uint64_t seed = 0;
  int64_t position = 0;
  int32_t counts_row = -1;  // row of SampleArgs::counts, -1: no penalties
  int32_t mask_row = -1;    // row of SampleArgs::mask, -1: all ids allowed
  int32_t bias_begin = 0;   // range of SampleArgs::bias_ids / bias_values
  int32_t bias_end = 0;
};

/// What happened to a row.
enum class SampleStatus : int32_t { kOk = 0, kNotFinite = 1, kNothingAllowed = 2 };

/// counts holds, per id, the number of generated occurrences in bits 0…30 and "is in the prompt" in bit 31; the op adds
/// the sampled id. Log-probabilities are of the distribution before temperature and filters, after mask and penalties.
struct SampleArgs {
  int rows = 0;
  int64_t vocab = 0;     // stride of logits
  int32_t n_valid = 0;   // ids from here on are padding and never sampled
  int top_logprobs = 0;  // 0: top_ids and top_values unused
  View logits;           // act [rows, vocab]; unchanged
  View params;           // SampleParams [rows]
  View counts;           // U32 [n, vocab] or none
  View mask;             // U32 [n, ceil(vocab / 32)] bit set = allowed, or none
  View bias_ids;         // I32, or none
  View bias_values;      // F32, or none
  View ids;              // I32 [rows]; -1 unless status is kOk
  View status;           // I32 [rows], SampleStatus
  View logprobs;         // F32 [rows], of the sampled id
  View top_ids;          // I32 [rows, top_logprobs]
  View top_values;       // F32 [rows, top_logprobs]
};

/// Copies bytes inside device memory; the ranges do not overlap.
struct CopyArgs {
  View from;
  View to;
  size_t bytes = 0;
};

/// out[0] (I32) = 1 if any of the n act values at x is NaN or Inf, else 0.
struct CheckFiniteArgs {
  int rows = 0;
  int64_t width = 0;
  View x;
  int64_t x_stride = 0;
  View out;
};

/// Enqueues ops, in order. Implemented by each backend's Stream.
class Ops {
 public:
  virtual ~Ops() = default;

  /// Names what follows, for error messages, traces and captures: layer -1 is outside the layers.
  virtual void mark(int /*layer*/, std::string_view /*part*/) {}

  virtual void embed(const EmbedArgs& args) = 0;
  virtual void rms_norm(const RmsNormArgs& args) = 0;
  virtual void linear(const LinearArgs& args) = 0;
  virtual void add(const AddArgs& args) = 0;
  virtual void rope(const RopeArgs& args) = 0;
  virtual void kv_write(const KvWriteArgs& args) = 0;
  virtual void mla_absorb(const MlaAbsorbArgs& args) = 0;
  virtual void mla_attend(const MlaAttendArgs& args) = 0;
  virtual void mla_unabsorb(const MlaUnabsorbArgs& args) = 0;
  virtual void mla_expanded(const MlaExpandedArgs& args) = 0;
  virtual void route(const RouteArgs& args) = 0;
  virtual void expert_linear(const ExpertLinearArgs& args) = 0;
  virtual void swiglu(const SwigluArgs& args) = 0;
  virtual void expert_sum(const ExpertSumArgs& args) = 0;
  virtual void gather_rows(const GatherRowsArgs& args) = 0;
  virtual void sample(const SampleArgs& args) = 0;
  virtual void copy(const CopyArgs& args) = 0;
  virtual void check_finite(const CheckFiniteArgs& args) = 0;

  virtual bool has_fused_moe() const { return false; }
  virtual void fused_moe(const FusedMoeArgs& args) = 0;

  /// The fused layer, for devices that pay for every dispatch: a decoded token takes at most 9 of them a layer.
  virtual bool has_fused_layer() const { return false; }
  virtual void normed_linears(const NormedLinearsArgs& /*args*/) { not_fused("normed_linears"); }
  virtual void mla_prepare(const MlaPrepareArgs& /*args*/) { not_fused("mla_prepare"); }
  virtual void mla_absorbed(const MlaAbsorbedArgs& /*args*/) { not_fused("mla_absorbed"); }
  virtual void normed_route(const NormedRouteArgs& /*args*/) { not_fused("normed_route"); }
  /// out += W x + b.
  virtual void linear_add(const LinearArgs& /*args*/) { not_fused("linear_add"); }

 protected:
  /// Aborts: nobody may call what has_fused_layer denies.
  [[noreturn]] static void not_fused(std::string_view op) {
    MARLIN_CHECK(false, "{} on a device without the fused layer", op);
    std::abort();
  }
};

}  // namespace marlin
