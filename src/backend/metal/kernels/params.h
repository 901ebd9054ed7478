// What host and shaders must agree on: function constants and parameter structs. Compiled as C++ by the host and as
// Metal by the shaders, so members have the same size and alignment in both: 4-byte members, addresses first.
//
// Names of shapes: `in` and `out` are features of a weight, `rows` tokens, strides count elements.
#pragma once

#ifdef __METAL_VERSION__
#define MARLIN_ADDRESS(type) device const type*
#else
#include <cstdint>
#define MARLIN_ADDRESS(type) uint64_t
namespace marlin::metal {
using uint = uint32_t;
#endif

// ---- function constants: all of type uint --------------------------------------------------------------------------
// One number means the same in every kernel. A macro, since an attribute takes no enumerator.
#define FC_FORMAT 0    // of the weight: Format
#define FC_PLANES 1    // of an FP4 weight: 1 or 2
#define FC_BIAS 2      // Format of the bias, kNone without one
#define FC_GAIN 3      // Format of a norm's gain, kNone without a norm
#define FC_ROWS 4      // tokens that share one reading of a weight: 1, 2 or 4
#define FC_ROLE 5      // rows to compute: RoleFilter
#define FC_ADD 6       // 1: add to the output
#define FC_KV 7        // KvFormat
#define FC_PRODUCTS 8  // weights that share the input: 1 or 2
#define FC_WORDS 9     // 1: addresses are multiples of 16 bytes

// linear.metal and moe.metal. A kind is how a weight is stored, in one number: see weight_kind.
#define FC_KV_GAIN 20      // Format of the latent's gain
#define FC_GATE 21         // kind of an expert's gate, or of its only weight
#define FC_UP 22           // kind of an expert's up
#define FC_SHARED_GATE 23  // the same of the shared expert
#define FC_SHARED_UP 24
#define FC_SHARED 25       // 1: there is a shared expert
#define FC_CHOICE_BIAS 26  // 1: experts are ranked by score + bias

// attention.metal
#define FC_LATENT_STEPS 40   // of 32 values in a latent
#define FC_ROPE_STEPS 41     // of 32 values in a rope part
#define FC_WHOLE 42          // 1: not in splits
#define FC_LATENT_GROUPS 43  // of 8 values in a latent
#define FC_ROPE_GROUPS 44    // of 8 values in a rope part

enum Format : uint { kFp4 = 0, kBf16 = 1, kF16 = 2, kF32 = 3, kNone = 4 };
enum KvFormat : uint { kKvF32 = 0, kKvF16 = 1, kKvQ8 = 2 };
enum RoleFilter : uint { kAllRows = 0, kDecodeRows = 1, kPromptRows = 2 };

/// How a weight is stored: Format, number of planes and the bias's Format, four bits each.
static inline uint weight_kind(uint format, uint planes, uint bias) {
  return format | (planes << 4) | (bias << 8);
}

// ---- experts -------------------------------------------------------------------------------------------------------

/// Where an expert's weight lies: one entry of the table of a bank. Addresses are what MTLBuffer.gpuAddress counts
/// from.
struct ExpertAddress {
  MARLIN_ADDRESS(unsigned char) codes[2];   // of each plane, or codes[0]: the plain weight
  MARLIN_ADDRESS(unsigned char) scales[2];  // F16
  MARLIN_ADDRESS(unsigned char) bias;
};

// ---- elementwise.metal ---------------------------------------------------------------------------------------------

struct EmbedParams {
  uint rows;
  uint width;
  uint group_size[2];
  uint out_stride;
};

struct RmsNormParams {
  uint rows;
  uint width;
  uint x_stride;
  uint out_stride;
  float eps;
};

struct AddParams {
  uint rows;
  uint width;
  uint x_stride;
  uint y_stride;
};

struct SwigluParams {
  uint count;
};

struct GatherRowsParams {
  uint rows;
  uint width;
  uint x_stride;
};

struct CopyParams {
  uint bytes;
};

struct CheckFiniteParams {
  uint rows;
  uint width;
  uint x_stride;
};

// ---- gemm.metal ----------------------------------------------------------------------------------------------------

struct GemmParams {
  uint rows;
  uint in;
  uint out;
  uint group_size[2];
  uint x_stride;
  uint out_stride;
};

/// Most experts of a layer that group_experts counts.
#define MARLIN_MOST_EXPERTS 1024

struct GroupParams {
  uint rows;
  uint top_k;
  uint n_experts;
  uint most_tiles;
};

/// Slots begin … begin + count of the list belong to one expert; none: no tile.
struct ExpertTile {
  uint expert;
  uint begin;
  uint count;
};

struct ExpertGemmParams {
  uint top_k;
  uint in;
  uint out;
  uint group_size[2];
  uint up_group_size[2];
  uint x_row_stride;
  uint x_slot_stride;
};

// ---- weights.h -----------------------------------------------------------------------------------------------------

struct WeightParams {
  uint out;
  uint in;
  uint group_shift[2];  // a group of plane p has 2^group_shift[p] values
};

// ---- kv_rows.h -----------------------------------------------------------------------------------------------------

/// KvLayout, and where a batch's block tables lie.
struct KvParams {
  uint blocks_per_slot;
  uint n_layers;
  uint layer;
  uint row_bytes;
  uint latent;
  uint rope;
};

// ---- linear.metal --------------------------------------------------------------------------------------------------

struct LinearParams {
  uint rows;
  uint x_stride;
  float eps;
  uint weight_tiles;  // of the first weight
  uint out_stride[2];
  WeightParams weight[2];
};

struct MlaPrepareParams {
  uint rows;
  uint q_a_stride;
  uint kv_a_stride;
  float eps;
  uint token_tiles;
  uint nope;
  WeightParams weight;
  KvParams kv;
};

// ---- moe.metal -----------------------------------------------------------------------------------------------------

#define MAX_ROUTED_EXPERTS 512

struct RouteParams {
  uint n_experts;
  uint top_k;
  uint n_group;
  uint topk_group;
  uint normalize;
  float scale;
};

struct NormedRouteParams {
  uint x_stride;
  float eps;
  WeightParams router;
  RouteParams route;
};

struct ExpertLinearParams {
  uint rows;
  uint top_k;
  uint n_experts;
  uint x_row_stride;
  uint x_slot_stride;
  WeightParams weight;
};

struct ExpertSumParams {
  uint top_k;
  uint width;
};

struct MoeGateUpParams {
  uint rows;
  uint top_k;
  uint n_experts;
  uint x_stride;
  WeightParams gate;
  WeightParams up;
  WeightParams shared_gate;
  WeightParams shared_up;
};

struct MoeDownParams {
  uint rows;
  uint top_k;
  uint n_experts;
  WeightParams down;
  WeightParams shared_down;
};

// ---- attention.metal -----------------------------------------------------------------------------------------------

/// Positions of a split of a context: short contexts are cut finer, so that more than one core has work. It depends on
/// the token's own position alone, as its result may.
static inline uint split_positions(uint length) {
  return length <= 512 ? 32 : length <= 1024 ? 64 : length <= 2048 ? 128 : 256;
}
/// Splits of a context of `length` positions.
static inline uint split_count(uint length) {
  return (length + split_positions(length) - 1) / split_positions(length);
}
/// Most splits of any context of up to `length` positions: 16 from 481 positions on, more beyond 4,096.
static inline uint most_splits(uint length) {
  const uint fine = (length + 31) / 32;
  const uint coarse = (length + 255) / 256;
  return coarse > 16 ? coarse : fine < 16 ? fine : 16;
}
/// The widest latent and rope part that registers hold.
#define MARLIN_MOST_LATENT 512
#define MARLIN_MOST_ROPE 128

struct RopeParams {
  uint rows;
  uint heads;
  uint dims;
  uint row_stride;
  uint head_stride;
};

struct KvWriteParams {
  KvParams kv;
  uint latent_stride;
  uint rope_stride;
};

struct AbsorbParams {
  uint rows;
  uint heads;
  uint nope;
  uint head_rows;  // of kv_b: nope + value
  uint q_row_stride;
  uint q_head_stride;
  WeightParams weight;
};

struct AttendParams {
  KvParams kv;
  uint first_token;
  uint heads;
  uint splits;
  uint q_row_stride;
  uint q_head_stride;
  float scale;
};

struct CombineParams {
  uint first_token;
  uint heads;
  uint splits;
  uint latent;
};

struct UnabsorbParams {
  uint first_token;
  uint heads;
  uint splits;
  uint nope;
  uint value;
  WeightParams weight;
};

// ---- sample.metal --------------------------------------------------------------------------------------------------

/// SampleParams of ops.h, member by member; 64-bit values as two words, the lower first.
struct SampleRow {
  float temperature;
  float top_p;
  float min_p;
  int top_k;
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  uint choice;
  uint seed[2];
  uint position[2];
  int counts_row;
  int mask_row;
  int bias_begin;
  int bias_end;
};

struct SampleShape {
  uint vocab;
  uint n_valid;
  uint mask_words;
  uint top_logprobs;
};

#ifndef __METAL_VERSION__
}  // namespace marlin::metal
#endif
