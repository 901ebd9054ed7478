#include "text/bpe_added.h"

namespace marlin {

int32_t AddedTokenMatcher::child_of(int32_t node, char byte) const {
  int32_t child = nodes_[static_cast<size_t>(node)].child;
  while (child >= 0 && nodes_[static_cast<size_t>(child)].byte != byte) {
    child = nodes_[static_cast<size_t>(child)].sibling;
  }
  return child;
}

void AddedTokenMatcher::add(std::string_view text, int32_t id) {
  int32_t& root = roots_[static_cast<uint8_t>(text[0])];
  if (root < 0) {
    root = static_cast<int32_t>(nodes_.size());
    nodes_.push_back({-1, -1, -1, text[0]});
  }
  int32_t node = root;
  for (const char byte : text.substr(1)) {
    int32_t child = child_of(node, byte);
    if (child < 0) {
      child = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({-1, nodes_[static_cast<size_t>(node)].child, -1, byte});
      nodes_[static_cast<size_t>(node)].child = child;
    }
    node = child;
  }
  int32_t& end = nodes_[static_cast<size_t>(node)].id;
  if (end < 0) end = id;
}

AddedTokenMatcher::Match AddedTokenMatcher::find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    Match match;
    int32_t node = roots_[static_cast<uint8_t>(text[begin])];
    for (size_t end = begin + 1; node >= 0; ++end) {
      const int32_t id = nodes_[static_cast<size_t>(node)].id;
      if (id >= 0) match = {begin, end, id};
      if (end == text.size()) break;
      node = child_of(node, text[end]);
    }
    if (match.id >= 0) return match;
  }
  return {};
}

}  // namespace marlin
