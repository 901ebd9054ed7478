#include "engine/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace marlin {

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  automata_.reserve(stops.size());
  for (std::string& text : stops) {
    std::vector<size_t> fallback(text.size() + 1, 0);
    size_t border = 0;
    for (size_t i = 1; i < text.size(); ++i) {
      while (border > 0 && text[i] != text[border]) border = fallback[border];
      if (text[i] == text[border]) ++border;
      fallback[i + 1] = border;
    }
    automata_.push_back({std::move(text), std::move(fallback)});
  }
}

// `state` is below the text's size: feeding ends with the first match.
void StopMatcher::Automaton::advance(char byte) {
  while (state > 0 && text[state] != byte) state = fallback[state];
  if (text[state] == byte) ++state;
}

std::string StopMatcher::feed(std::string_view text) {
  if (matched()) return {};
  for (const char byte : text) {
    held_.push_back(byte);
    const Automaton* longest = nullptr;
    for (Automaton& automaton : automata_) {
      automaton.advance(byte);
      const bool complete = automaton.state == automaton.text.size();
      if (complete && (!longest || automaton.state > longest->state)) longest = &automaton;
    }
    if (!longest) continue;
    matched_ = &longest->text;
    held_.resize(held_.size() - longest->state);
    return std::exchange(held_, {});
  }
  size_t uncertain = 0;
  for (const Automaton& automaton : automata_) uncertain = std::max(uncertain, automaton.state);
  std::string certain = held_.substr(0, held_.size() - uncertain);
  held_.erase(0, certain.size());
  return certain;
}

std::string StopMatcher::finish() {
  return std::exchange(held_, {});
}

}  // namespace marlin
