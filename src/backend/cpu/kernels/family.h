// The inner loops that differ between instruction sets. A family is one implementation of all of them; the ops above
// (threads, tables, orders of summation between calls) are the same for all families.
//
// This header is all that a family's own file may share with other files, because everything inline in a file that is
// compiled for AVX-512 may be the copy the linker keeps for the whole program: plain structs and pointers only.
//
// Row invariance is part of the contract: how rows and tokens are grouped into calls never shows in a result.
#pragma once

#include <cstddef>
#include <cstdint>

namespace marlin::cpu {

/// out[j][i] = w[i * w_stride ..] . x[j] over n FP32 values, for i < n_w, j < n_x.
struct DotArgs {
  const float* w;
  int64_t w_stride;
  int64_t n_w;
  const float* const* x;
  int64_t n_x;
  int64_t n;
  float* const* out;
};

/// acc[j][k] = acc[j][k] * keep[j] + sum over p < n of a[j][p] * rows[p * stride + k] for k < width, j < n_x, one p
/// after the other.
struct AccumulateArgs {
  const float* const* a;
  int64_t n;
  const float* rows;
  int64_t stride;
  int64_t width;
  const float* keep;
  float* const* acc;
  int64_t n_x;
};

/// Rows [row, row + n_rows) of one FP4 plane times n_x token rows that `split` has written: out[j][i] is set, or added
/// to. `high_only` takes the rows' high plane for the whole row. scratch: fp4_scratch_bytes(in_features), 64-byte
/// aligned.
struct Fp4DotArgs {
  const uint8_t* codes;
  const uint16_t* scales;
  int group_size;
  int64_t in_features;
  int64_t row;
  int64_t n_rows;
  const uint8_t* const* x;
  int64_t n_x;
  float* const* out;
  bool add;
  bool high_only;
  uint8_t* scratch;
  // Rows that the caller reads after these: fetched meanwhile, since no prefetcher can guess them. May be null.
  const uint8_t* next_codes = nullptr;
  const uint16_t* next_scales = nullptr;
};

/// out[k] = sum over p < n of a[p] * W[row + p, first + k] for k < width, one p after the other, of one FP4 plane: the
/// bits that decode_fp4 and `accumulate` give. `first` is a multiple of the group size, `width` of 32.
struct Fp4AccumulateArgs {
  const uint8_t* codes;
  const uint16_t* scales;
  int group_size;
  int64_t in_features;
  int64_t row;
  int64_t n;
  int64_t first;
  int64_t width;
  const float* a;
  float* out;
};

/// A row's softmax so far: the largest score and the sum of exp(score - largest).
struct SoftmaxState {
  float largest = -__builtin_inff();
  float sum = 0;
};

/// Integer attention over a block of the cache (kv_panel.h).
struct PanelShape;

/// A panel of the first n <= 64 rows of a block; the others count as zeros.
struct KvPanelArgs {
  const PanelShape& shape;
  const void* rows;  // F16 values, or Q8 rows (ops.h)
  size_t row_bytes;
  bool q8;
  int64_t n;
  uint8_t* panel;
};

/// Memory that is read soon: fetched into the caches while something else is computed.
struct AheadBytes {
  const void* data = nullptr;
  int64_t size = 0;
};

/// scores[j][p] = cache row p . query j for all 64 positions; those the panel lacks get 0.
struct PanelScoresArgs {
  const PanelShape& shape;
  const uint8_t* panel;
  const uint8_t* const* queries;  // as `panel_query` has written them
  float* const* scores;
  int64_t n_x;
  AheadBytes ahead;
};

/// acc[j][k] = acc[j][k] * keep[j] + sum over p < n of weights[j][p] * latent p [k], for weights in [0, 1].
struct PanelSumsArgs {
  const PanelShape& shape;
  const uint8_t* panel;
  int64_t n;
  const float* const* weights;
  const float* keep;
  float* const* acc;
  int64_t n_x;  // at most kPanelCallRows
  AheadBytes ahead;
};
enum : int64_t { kPanelCallRows = 64 };

struct Family {
  const char* name;
  void (*dot)(const DotArgs& args);
  void (*accumulate)(const AccumulateArgs& args);
  /// Turns n <= 64 raw scores into weights exp(score * scale - largest) relative to the new largest one; returns the
  /// factor for what was accumulated before.
  float (*fold_scores)(float* scores, int64_t n, float scale, SoftmaxState* state);
  /// Sum of exp((x[i] - largest) * scale), where no x[i] is above `largest`.
  float (*sum_exp)(const float* x, int64_t n, float largest, float scale);
  /// out[i] = silu(gate[i]) * up[i]; out may be gate or up.
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* out);
  void (*decode_f16)(const uint16_t* in, int64_t count, float* out);
  void (*decode_bf16)(const uint16_t* in, int64_t count, float* out);
  /// `count` values, a multiple of group_size, of one plane; `add` adds them to out.
  void (*decode_fp4)(const uint8_t* codes, const uint16_t* scales, int group_size, int64_t count, bool add, float* out);

  // FP4 products with activations as two int8 planes (planes.h); null where a family has none: then FP4 rows are
  // decoded to FP32.
  void (*split)(const float* x, int64_t n, uint8_t* out);
  void (*fp4_dot)(const Fp4DotArgs& args);
  /// Null where rows are decoded first.
  void (*fp4_accumulate)(const Fp4AccumulateArgs& args);

  // Attention with integer products; null where a family has none: then cache rows are decoded to FP32.
  void (*panel_query)(const PanelShape& shape, const float* latent, const float* rope, uint8_t* out) = nullptr;
  void (*kv_panel)(const KvPanelArgs& args) = nullptr;
  void (*panel_scores)(const PanelScoresArgs& args) = nullptr;
  void (*panel_sums)(const PanelSumsArgs& args) = nullptr;
};

float fold_scores_portable(float* scores, int64_t n, float scale, SoftmaxState* state);
float sum_exp_portable(const float* x, int64_t n, float largest, float scale);
void swiglu_portable(const float* gate, const float* up, int64_t n, float* out);

extern const Family kPortableFamily;
#if defined(__x86_64__)
extern const Family kAvx2Family;           // AVX2, FMA, F16C
extern const Family kAvxVnniFamily;        // those and AVX-VNNI
extern const Family kAvx512Vnni256Family;  // those of kAvx2Family and AVX-512 F, VL, VNNI
extern const Family kAvx512Family;         // AVX-512 F, BW, VL, VBMI, VNNI
#elif defined(__aarch64__)
extern const Family kNeonFamily;     // every 64-bit ARM
extern const Family kDotprodFamily;  // and the dot product extension (ARMv8.2)
extern const Family kI8mmFamily;     // and the int8 matrix extension (ARMv8.6)
#endif

}  // namespace marlin::cpu
