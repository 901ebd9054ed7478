// Activations as two int8 planes, for integer products with FP4 codes.
//
// A row is cut into blocks of 128 values. With m the block's largest magnitude, q = round(x * 32639 / m) is split into
// q = 256 hi + lo with hi in [-127, 127] and lo in [-128, 127]. A code stands for an even multiple of 1/2, so 2w is an
// integer, and
//
//   sum over a group of w x  =  (m / 32639 / 2) * scale * sum of 2w q,
//
// where the inner sum is exact in int32 (128 * 12 * 32639 < 2^26). Groups are added in FP32, one fused multiply-add
// each, in order of k. A result is therefore the same bits with every instruction set, tile shape and number of rows.
// The error of an x is at most m / 65278, about 1.5e-5 of the largest in its block. A block that holds a NaN or an
// infinity gives NaN.
//
// The high plane alone is a row of its own: q = 256 hi, one int8 a value, an error of at most m / 255. It takes half
// the products and serves prompts (Role::kPrompt) where speed counts; what it costs is in PERF.md.
//
// Row:    | FP32 factor of each block, padded to 64 bytes | block 0 | block 1 | …   (the last block padded with 0)
// Block:  | hi of even k: 64 | hi of odd k: 64 | lo of even k: 64 | lo of odd k: 64 | sums: 16 int32 | high sums: 16 |
// A 64-byte line of codes has even k in its low nibbles and odd k in its high ones; hence the order.
// The unsigned operand of some dot product instructions is 2w + 12. `sums` takes the 12 off again: the four values from
// 4 c on are all 12 * (sum of q over k in [32 c, 32 c + 32)); `high sums` are the same of 256 hi.
#pragma once

#include <cstddef>
#include <cstdint>

namespace marlin::cpu {

enum : int64_t {
  kPlaneBlock = 128,
  kPlaneBlockBytes = 384,
  kPlaneSums = 256,    // offset of the sums in a block
  kHighSums = 320,     // offset of the high plane's sums
  kPlaneSteps = 32639  // the largest |q|
};
/// A block whose largest magnitude is below this counts as zeros: the reciprocal would overflow.
#define MARLIN_PLANE_TINY 1e-34f

static inline int64_t plane_blocks(int64_t n) {
  return (n + kPlaneBlock - 1) / kPlaneBlock;
}
static inline int64_t plane_header_bytes(int64_t n) {
  return (plane_blocks(n) * 4 + 63) / 64 * 64;
}
static inline int64_t plane_row_bytes(int64_t n) {
  return plane_header_bytes(n) + plane_blocks(n) * kPlaneBlockBytes;
}

/// A panel: 16 weight rows decoded to bytes, 16 lines of 64 bytes for the even and for the odd k of each block, then
/// 16 FP32 scales for each group (32 at the least).
static inline int64_t fp4_scratch_bytes(int64_t in_features) {
  return plane_blocks(in_features) * (16 * kPlaneBlock + 4 * 64);
}

}  // namespace marlin::cpu
