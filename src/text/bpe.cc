#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#include "base/check.h"
#include "text/utf8.h"

namespace marlin {

namespace {

constexpr size_t kShortPiece = 48;  // up to here a scan of all pairs is faster than a heap
constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();

/// GPT-2's table: printable Latin-1 bytes are themselves, the other 68 are U+0100 and following, in order.
constexpr std::array<uint16_t, 256> make_byte_to_code_point() {
  std::array<uint16_t, 256> table{};
  uint16_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    table[byte] = printable ? static_cast<uint16_t>(byte) : next++;
  }
  return table;
}

constexpr std::array<uint16_t, 256> kByteToCodePoint = make_byte_to_code_point();
constexpr size_t kAlphabetEnd = 0x100 + 68;

constexpr std::array<int16_t, kAlphabetEnd> make_code_point_to_byte() {
  std::array<int16_t, kAlphabetEnd> table{};
  for (int16_t& byte : table) byte = -1;
  for (unsigned byte = 0; byte < 256; ++byte) table[kByteToCodePoint[byte]] = static_cast<int16_t>(byte);
  return table;
}

constexpr std::array<int16_t, kAlphabetEnd> kCodePointToByte = make_code_point_to_byte();

/// Tables stay at most two thirds full.
size_t slots_for(size_t count) {
  return std::bit_ceil(std::max<size_t>(16, count + count / 2 + 1));
}

uint32_t hash_text(std::string_view text) {
  const uint64_t hash = std::hash<std::string_view>{}(text);
  return static_cast<uint32_t>(hash ^ (hash >> 32));
}

uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

/// For std::push_heap and friends, which keep the largest first: the lowest rank, then the leftmost.
bool after(const BpeModel::Scratch::Candidate& a, const BpeModel::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

void append_byte_level(std::string_view bytes, std::string& out) {
  for (const char c : bytes) {
    const unsigned code = kByteToCodePoint[static_cast<uint8_t>(c)];
    if (code < 0x80) {
      out.push_back(static_cast<char>(code));
    } else {
      out.push_back(static_cast<char>(0xC0u | (code >> 6)));
      out.push_back(static_cast<char>(0x80u | (code & 0x3Fu)));
    }
  }
}

std::optional<std::string> from_byte_level(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    if (step.kind != Utf8Kind::kValid || step.length > 2) return std::nullopt;
    unsigned code = static_cast<uint8_t>(text[0]);
    if (step.length == 2) code = ((code & 0x1Fu) << 6) | (static_cast<uint8_t>(text[1]) & 0x3Fu);
    if (code >= kAlphabetEnd || kCodePointToByte[code] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kCodePointToByte[code]));
    text.remove_prefix(step.length);
  }
  return bytes;
}

void VocabTable::reserve(size_t tokens) {
  entries_.reserve(tokens);
  if (slots_for(tokens) > slots_.size()) grow(slots_for(tokens));
}

size_t VocabTable::slot_of(std::string_view text, uint32_t hash) const {
  size_t slot = hash & (slots_.size() - 1);
  while (slots_[slot] != 0) {
    const Entry& entry = entries_[slots_[slot] - 1];
    if (entry.hash == hash && text_of(entry) == text) break;
    slot = (slot + 1) & (slots_.size() - 1);
  }
  return slot;
}

void VocabTable::grow(size_t slots) {
  slots_.assign(slots, 0);
  for (size_t i = 0; i < entries_.size(); ++i) {
    slots_[slot_of(text_of(entries_[i]), entries_[i].hash)] = static_cast<uint32_t>(i + 1);
  }
}

bool VocabTable::insert(std::string_view text, int32_t id) {
  if (slots_for(entries_.size() + 1) > slots_.size()) grow(slots_for(entries_.size() + 1));
  const uint32_t hash = hash_text(text);
  const size_t slot = slot_of(text, hash);
  if (slots_[slot] != 0) return false;
  entries_.push_back({static_cast<uint32_t>(text_.size()), static_cast<uint32_t>(text.size()), id, hash});
  text_.append(text);
  slots_[slot] = static_cast<uint32_t>(entries_.size());
  return true;
}

int32_t VocabTable::find(std::string_view text) const {
  if (slots_.empty()) return -1;
  const uint32_t found = slots_[slot_of(text, hash_text(text))];
  return found == 0 ? -1 : entries_[found - 1].id;
}

void MergeTable::reserve(size_t merges) {
  if (slots_for(merges) > slots_.size()) grow(slots_for(merges));
}

size_t MergeTable::slot_of(uint64_t key) const {
  // Fibonacci hashing: the high bits of the product depend on all bits of both ids.
  size_t slot = static_cast<size_t>((key * 0x9E3779B97F4A7C15u) >> (64 - std::countr_zero(slots_.size())));
  while (slots_[slot].key != kFree && slots_[slot].key != key) slot = (slot + 1) & (slots_.size() - 1);
  return slot;
}

void MergeTable::grow(size_t slots) {
  std::vector<Slot> old(slots);
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (slot.key != kFree) slots_[slot_of(slot.key)] = slot;
  }
}

void MergeTable::insert(int32_t left, int32_t right, Merge merge) {
  if (slots_for(count_ + 1) > slots_.size()) grow(slots_for(count_ + 1));
  Slot& slot = slots_[slot_of(pair_key(left, right))];
  if (slot.key == kFree) ++count_;
  slot = {pair_key(left, right), merge};
}

const Merge* MergeTable::find(int32_t left, int32_t right) const {
  if (slots_.empty()) return nullptr;
  const Slot& slot = slots_[slot_of(pair_key(left, right))];
  return slot.key == kFree ? nullptr : &slot.merge;
}

void BpeModel::encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  MARLIN_CHECK(piece.size() <= static_cast<size_t>(std::numeric_limits<int32_t>::max()), "{} bytes", piece.size());
  if (ignore_merges) {
    scratch.text.clear();
    append_byte_level(piece, scratch.text);
    const int32_t id = vocab.find(scratch.text);
    if (id >= 0) {
      ids.push_back(id);
      return;
    }
  }
  if (piece.size() <= kShortPiece) {
    merge_short(piece, ids);
  } else {
    merge_long(piece, scratch, ids);
  }
}

void BpeModel::merge_short(std::string_view piece, std::vector<int32_t>& ids) const {
  std::array<int32_t, kShortPiece> symbols;
  std::array<Merge, kShortPiece> next;  // the merge of symbol i with symbol i + 1
  size_t count = piece.size();
  const auto look_up = [&](size_t i) {
    const Merge* merge = i + 1 < count ? merges.find(symbols[i], symbols[i + 1]) : nullptr;
    next[i] = merge != nullptr ? *merge : Merge{kNoRank, -1};
  };
  for (size_t i = 0; i < count; ++i) symbols[i] = byte_ids[static_cast<uint8_t>(piece[i])];
  for (size_t i = 0; i < count; ++i) look_up(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (next[i].rank < next[best].rank) best = i;
    }
    if (next[best].rank == kNoRank) break;
    symbols[best] = next[best].id;
    std::copy(symbols.begin() + best + 2, symbols.begin() + count, symbols.begin() + best + 1);
    std::copy(next.begin() + best + 2, next.begin() + count, next.begin() + best + 1);
    --count;
    look_up(best);
    if (best > 0) look_up(best - 1);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.begin() + count);
}

void BpeModel::push_candidate(int32_t position, Scratch& scratch) const {
  const Scratch::Symbol& left = scratch.symbols[static_cast<size_t>(position)];
  const Merge* merge = merges.find(left.id, scratch.symbols[static_cast<size_t>(left.next)].id);
  if (merge != nullptr) scratch.heap.push_back({merge->rank, position, merge->id});
}

void BpeModel::merge_long(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const int32_t count = static_cast<int32_t>(piece.size());
  symbols.resize(piece.size());
  heap.clear();
  for (int32_t i = 0; i < count; ++i) {
    symbols[i] = {byte_ids[static_cast<uint8_t>(piece[i])], i - 1, i + 1 < count ? i + 1 : -1};
  }
  for (int32_t i = 0; i + 1 < count; ++i) push_candidate(i, scratch);
  std::make_heap(heap.begin(), heap.end(), after);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), after);
    const Scratch::Candidate top = heap.back();
    heap.pop_back();
    Scratch::Symbol& left = symbols[top.position];
    if (left.id < 0 || left.next < 0) continue;
    // Symbols only grow: the pair is the candidate's if and only if it still makes the same token.
    const Merge* merge = merges.find(left.id, symbols[left.next].id);
    if (merge == nullptr || merge->id != top.merged_id) continue;
    Scratch::Symbol& right = symbols[left.next];
    left.id = top.merged_id;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[left.next].previous = top.position;
    const auto push = [&](int32_t position) {
      const size_t before = heap.size();
      push_candidate(position, scratch);
      if (heap.size() > before) std::push_heap(heap.begin(), heap.end(), after);
    };
    if (left.previous >= 0) push(left.previous);
    if (left.next >= 0) push(top.position);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace marlin
