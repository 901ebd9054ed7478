// How many bytes of weights a decode step has to read: what memory bandwidth is compared with.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/weights.h"

namespace marlin {

/// Stored bytes of a linear: codes and scales of its planes or its plain matrix, and its bias.
uint64_t stored_bytes(const LinearWeight& weight);

struct WeightTraffic {
  uint64_t bytes = 0;         // of one token: everything below included
  uint64_t expert_bytes = 0;  // of these, the routed experts'
};

/// One token through the trunk: its embedding row, all norms, attention, dense and shared linears and routers, the
/// router's top k of the experts, and the head. The MTP layer is left out: plain decoding does not read it.
WeightTraffic decode_traffic(const ModelWeights& weights, const ModelConfig& config);

}  // namespace marlin
