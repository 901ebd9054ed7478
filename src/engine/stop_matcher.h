// Finds stop strings in streamed text and holds back what may still become one.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace marlin {

/// The match that ends first wins, and of those the one that begins first: the result is the same for every split of
/// the text.
class StopMatcher {
 public:
  /// No string may be empty.
  explicit StopMatcher(std::vector<std::string> stops);

  /// Returns the text that is now certain to lie before any match. After a match: nothing.
  std::string feed(std::string_view text);
  /// End of the text: what was held back.
  std::string finish();
  bool matched() const { return matched_ != nullptr; }
  /// The string that was found; empty before.
  std::string match() const { return matched_ ? *matched_ : std::string(); }

 private:
  /// Knuth-Morris-Pratt: `state` bytes at the end of the text are the beginning of `text`.
  struct Automaton {
    std::string text;
    std::vector<size_t> fallback;  // [i]: longest proper border of the first i bytes
    size_t state = 0;
    void advance(char byte);
  };

  std::vector<Automaton> automata_;
  std::string held_;
  const std::string* matched_ = nullptr;
};

}  // namespace marlin
