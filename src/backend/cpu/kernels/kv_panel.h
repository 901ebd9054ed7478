// Attention with integer products: a block of the latent cache, its queries and its softmax weights as small integers.
//
// Values go in groups of 64 of the latent and, starting anew, of the rope part (the last of each padded with zeros):
// the groups of a Q8 row. With m the largest magnitude of a group,
//
//              8 bits                            16 bits
//   cache      Q8 rows as they are;              Q8 rows times 32, exactly;
//              F16 rows as round(x 127 / m)      F16 rows as round(x 4095 / m)
//   query      round(x 127 / m)                  round(x 8191 / m)
//   weight     round(w s 255 / m)                round(w s 8191 / m)     w: softmax weight, s: the position's scale
//
// so that a sum of 64 products is exact in int32 (64 * 4095 * 8191 < 2^31). Groups are added in FP32, one fused
// multiply-add each, in order. Nothing depends on which positions or queries share a call: a weight's m is the largest
// weight of its query's visible positions times their largest scale.
//
// A group of the cache that holds a NaN or an infinity has the scale NaN; so do the scores and all that follows.
//
// Panel: | scales: [groups][64] FP32 | keys: [groups][64 positions x 64 values] | values: the same, latent groups only
// | A line is 64 bytes; w = values in four bytes: 4 of 8 bits, 2 of 16.
//   keys    line 4 l + v of a group:  | position 16 v: values w l … w l + w - 1 | position 16 v + 1: … | … |
//           8 bits as x + 128, for unsigned times signed products
//   values  line 4 l + v of a group:  | value 16 v: positions w l … w l + w - 1 | value 16 v + 1: … | … |
// Query: | [groups]: FP32 scale | [groups]: int32 sum to start with, padded to 64 bytes | [groups][64] integers |
#pragma once

#include <cstdint>

namespace marlin::cpu {

enum : int64_t { kPanelPositions = 64, kPanelGroup = 64 };

/// Dimensions of a latent cache as panels see them.
struct PanelShape {
  int bits;  // 8 or 16
  int64_t latent;
  int64_t rope;
};

static inline int64_t latent_groups(const PanelShape& s) {
  return (s.latent + kPanelGroup - 1) / kPanelGroup;
}
static inline int64_t panel_groups(const PanelShape& s) {
  return latent_groups(s) + (s.rope + kPanelGroup - 1) / kPanelGroup;
}
static inline int64_t panel_tile_bytes(const PanelShape& s) {
  return kPanelPositions * kPanelGroup * s.bits / 8;
}
static inline int64_t panel_bytes(const PanelShape& s) {
  return panel_groups(s) * kPanelPositions * 4 + (panel_groups(s) + latent_groups(s)) * panel_tile_bytes(s);
}
static inline int64_t panel_query_header_bytes(const PanelShape& s) {
  return (panel_groups(s) * 8 + 63) / 64 * 64;
}
static inline int64_t panel_query_bytes(const PanelShape& s) {
  return panel_query_header_bytes(s) + panel_groups(s) * kPanelGroup * s.bits / 8;
}

}  // namespace marlin::cpu
