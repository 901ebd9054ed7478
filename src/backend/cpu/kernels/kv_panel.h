// Attention with integer products: a block of the latent cache, its queries and its softmax weights as small integers.
//
// Values go in groups of 64 of the latent and, starting anew, of the rope part (the last of each padded with zeros):
// the groups of a Q8 row. With m the largest magnitude and l the sum of magnitudes of a group,
//
//              8 bits                            16 bits
//   cache      Q8 rows as they are;              Q8 rows times 128, exactly;
//              F16 rows as round(x 127 / m)      F16 rows as round(x 16383 / m)
//   query      round(x 127 / m)                  round(x min(131000 / l, 32767 / m))
//   weight     round(w s 255 / m)                round(w s min(131000 / l, 32767 / m))
//
// so that a sum of 64 products is exact in int32: at worst 64 * 255 * 127, or (131000 + 32) * 16383. w is a softmax
// weight and s its position's scale; their m and l are those of the visible weights of the block, times the largest s
// among them. Groups are added in FP32, one fused multiply-add each, in order. Nothing depends on which positions or
// queries share a call.
//
// A group of the cache that holds a NaN or an infinity has the scale NaN; so do the scores and all that follows.
//
// Panel, in lines of 64 bytes, where w values are four bytes (4 of 8 bits, 2 of 16):
//   scales: [groups][64 positions] FP32
//   keys:   [groups][64 x 64]; line 4 l + v is
//           | position 16 v: values w l … w l + w - 1 | position 16 v + 1: … | … |
//           (8 bits: x + 128, for products of unsigned and signed bytes)
//   values: [latent groups][64 x 64]; line 4 l + v is
//           | value 16 v: positions w l … w l + w - 1 | value 16 v + 1: … | … |
// Query:
//   | [groups] FP32 scale | [groups] int32: what its sums start with, padded to 64 bytes | [groups][64] integers |
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
