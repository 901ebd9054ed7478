// The vocabulary and the merges of a byte-level BPE model, in tables that load fast and stay small.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace marlin {

/// Ids at or above this are refused, so that a corrupt file cannot make the tables huge.
inline constexpr int32_t kMaxTokenId = (1 << 22) - 1;

/// GPT-2's printable alphabet: every byte is written as one character of one or two UTF-8 bytes.
void append_byte_level(std::string_view bytes, std::string& out);
/// The bytes that `text` stands for, or nothing if a character of it is not in the alphabet.
std::optional<std::string> from_byte_level(std::string_view text);

/// Token text (in the byte-level alphabet) -> id. Open addressing over one block of text.
class VocabTable {
 public:
  void reserve(size_t tokens);
  /// False if `text` is there already.
  bool insert(std::string_view text, int32_t id);
  /// -1 if there is no such token.
  int32_t find(std::string_view text) const;
  size_t count() const { return entries_.size(); }

 private:
  struct Entry {
    uint32_t offset;
    uint32_t length;
    int32_t id;
    uint32_t hash;
  };
  std::string_view text_of(const Entry& entry) const { return {text_.data() + entry.offset, entry.length}; }
  size_t slot_of(std::string_view text, uint32_t hash) const;
  void grow(size_t slots);

  std::string text_;
  std::vector<Entry> entries_;
  std::vector<uint32_t> slots_;  // index into entries_ plus 1; 0 is free
};

struct Merge {
  uint32_t rank;
  int32_t id;
};

/// (left id, right id) -> rank and id of the merged token.
class MergeTable {
 public:
  void reserve(size_t merges);
  /// A later rule for the same pair replaces the earlier, as in Hugging Face's tokenizers.
  void insert(int32_t left, int32_t right, Merge merge);
  /// Null if the pair is never merged.
  const Merge* find(int32_t left, int32_t right) const;
  size_t count() const { return count_; }

 private:
  struct Slot {
    uint64_t key = kFree;
    Merge merge{};
  };
  static constexpr uint64_t kFree = ~uint64_t{0};
  size_t slot_of(uint64_t key) const;
  void grow(size_t slots);

  std::vector<Slot> slots_;
  size_t count_ = 0;
};

/// One BPE model. Built by the loader; constant and thread-safe afterwards.
class BpeModel {
 public:
  /// Memory that is reused from piece to piece; one for each running encode.
  struct Scratch {
    struct Symbol {
      int32_t id;
      int32_t previous;
      int32_t next;
    };
    struct Candidate {
      uint32_t rank;
      int32_t position;
      int32_t merged_id;
    };
    std::string text;
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  /// Appends the ids of one piece of the pre-tokenizer to `ids`. A piece is shorter than 2^31 bytes.
  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

  VocabTable vocab;
  MergeTable merges;
  std::array<int32_t, 256> byte_ids{};  // -1: no token; only for bytes that do not occur in UTF-8
  bool ignore_merges = false;           // a piece that is a token is that token, whatever the merges say

 private:
  void merge_short(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge_long(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;
  void push_candidate(int32_t position, Scratch& scratch) const;
};

}  // namespace marlin
