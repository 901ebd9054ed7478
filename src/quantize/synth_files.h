// The small files of a synthetic checkpoint, made in code.
#pragma once

#include <cstdint>
#include <string>

namespace marlin {

inline constexpr int32_t kSynthAddedTokens = 36;

/// A tokenizer.json with GLM's regex and added tokens: ids 0-255 are the bytes (in GPT-2's order, as in the real
/// vocabulary), then fillers " w256", " w257"… that no text encodes to, and from `first_added` (at least 256) on the
/// added tokens. There are no merges: a text is as many tokens as it has bytes.
std::string synth_tokenizer(int32_t first_added);

/// GLM-4.7-Flash's chat template, as the bundled demo model has it.
std::string synth_chat_template();

}  // namespace marlin
