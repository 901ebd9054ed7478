// Telling checkpoints apart without reading all of them.
#pragma once

#include "format/checkpoint.h"
#include "marlin/text.h"

namespace marlin {

/// An object with config.json and every file of weights by name: its size, and a hash of its header and of the middle
/// of every tensor, since a fine-tuned model differs from its base in the weights alone. Reads at most 4 KiB a tensor.
Json checkpoint_fingerprint(const Checkpoint& checkpoint);

}  // namespace marlin
