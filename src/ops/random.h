// Counter-based random numbers: a draw depends on (seed, choice, position) alone, so a replay, another batch or another
// thread gives the same one.
#pragma once

#include <cstdint>

namespace marlin {

/// SplitMix64's finaliser: a bijection of 64 bits whose output bits all depend on all input bits.
constexpr uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Uniform in [0, 1) with 24 bits, exact in FP32, for one draw of one choice of one request.
constexpr float uniform_draw(uint64_t seed, uint32_t choice, int64_t position) {
  const uint64_t bits = mix64(mix64(mix64(seed) ^ choice) ^ static_cast<uint64_t>(position));
  return static_cast<float>(bits >> 40) * 0x1p-24f;
}

}  // namespace marlin
