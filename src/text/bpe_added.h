// Finds added tokens in text: the leftmost, and of those that begin there the longest.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace marlin {

class AddedTokenMatcher {
 public:
  struct Match {
    size_t begin = 0;
    size_t end = 0;
    int32_t id = -1;
  };

  AddedTokenMatcher() { roots_.fill(-1); }

  /// `text` is not empty; the first id given for a text stays.
  void add(std::string_view text, int32_t id);
  bool empty() const { return nodes_.empty(); }
  /// The first match that begins at or after `from`; id -1 if there is none.
  Match find(std::string_view text, size_t from) const;

 private:
  struct Node {
    int32_t child = -1;
    int32_t sibling = -1;
    int32_t id = -1;  // of the token that ends here
    char byte = 0;
  };
  int32_t child_of(int32_t node, char byte) const;

  std::array<int32_t, 256> roots_;
  std::vector<Node> nodes_;
};

}  // namespace marlin
