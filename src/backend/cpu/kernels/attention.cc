// Attention over the paged cache. Both forms walk the context in the cache's blocks of 64 positions, which lie at fixed
// absolute positions, and fold each block into a running softmax in index order: how many tokens a step has, and where
// a chunk begins, never shows in a result.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <numeric>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/kv_cache.h"
#include "backend/cpu/kernels/kv_panel.h"
#include "backend/cpu/kernels/rows.h"
#include "backend/cpu/kernels/weights.h"

namespace marlin::cpu {
namespace {

void divide_row(float* row, int64_t n, float sum) {
  const float factor = 1.0f / sum;
  for (int64_t i = 0; i < n; ++i) row[i] *= factor;
}

/// Positions of block b that a token at `position` sees.
int64_t visible(int64_t position, int64_t b) {
  return std::clamp<int64_t>(position - b * kKvBlockTokens + 1, 0, kKvBlockTokens);
}

// ---- absorbed ----------------------------------------------------------------------------------------------------

// A split is a run of positions that is folded on its own before it joins the rest: the unit in which threads share a
// context. Its place is absolute. Splits grow with the position: short contexts need many for the threads, and in long
// ones joining costs.
constexpr int64_t kSplitSizes[] = {128, 256, 512};
constexpr int64_t kSplitEnds[] = {512, 4096};  // where the first two sizes end

/// First position of a split.
constexpr int64_t split_begin(int64_t split) {
  int64_t begin = 0;
  for (int i = 0; i < 2; ++i) {
    const int64_t count = (kSplitEnds[i] - begin) / kSplitSizes[i];
    if (split <= count) return begin + split * kSplitSizes[i];
    split -= count;
    begin = kSplitEnds[i];
  }
  return begin + split * kSplitSizes[2];
}

/// The split that holds a position.
constexpr int64_t split_of(int64_t position) {
  int64_t begin = 0;
  int64_t split = 0;
  for (int i = 0; i < 2; ++i) {
    if (position < kSplitEnds[i]) return split + (position - begin) / kSplitSizes[i];
    split += (kSplitEnds[i] - begin) / kSplitSizes[i];
    begin = kSplitEnds[i];
  }
  return split + (position - begin) / kSplitSizes[2];
}

static_assert(split_begin(split_of(511)) == 384 && split_begin(split_of(512)) == 512 && split_of(4095) == 17 &&
              split_begin(18) == 4096 && split_of(4096) == 18 && split_begin(split_of(5000)) == 4608);

// Tokens of a sequence that share a decoded block.
constexpr int32_t kGroupTokens = 4;

// Partial results of a step that may lie in memory at once, in bytes; a step with more walks its splits one by one.
// Asked for at once, of which the system gives what is used: else each split that a context grows by would allocate.
constexpr int64_t kPartialBytes = int64_t{64} << 20;

/// Neighbouring tokens of one sequence.
struct TokenGroup {
  int32_t first;
  int32_t count;
  int32_t slot;
  int32_t n_splits;
};

int64_t group_tokens(const int32_t* slots, const int32_t* positions, int64_t n_tokens, TokenGroup* groups) {
  int64_t n = 0;
  for (int32_t t = 0; t < n_tokens; ++t) {
    if (n == 0 || groups[n - 1].slot != slots[t] || groups[n - 1].count == kGroupTokens) {
      groups[n++] = {t, 0, slots[t], 0};
    }
    ++groups[n - 1].count;
    groups[n - 1].n_splits = static_cast<int32_t>(split_of(positions[t]) + 1);
  }
  return n;
}

/// The width of the integers that attention multiplies (kv_panel.h): as exact as the cache, but a Q8 row's neighbours
/// in a product may have eight bits too unless the device is deterministic. 0: FP32.
int attend_bits(const Context& ctx, KvType type) {
  if (ctx.family.kv_panel == nullptr || (type != KvType::kF16 && type != KvType::kQ8)) return 0;
  return type == KvType::kQ8 && !ctx.deterministic ? 8 : 16;
}

/// Weights that the ops after attention read, handed out in pieces to threads that compute: attention over a long
/// context leaves the memory idle, and what has come into the caches meanwhile need not be waited for later.
class AheadQueue {
 public:
  explicit AheadQueue(const Context& ctx, std::span<const LinearWeight* const> weights) {
    for (const LinearWeight* weight : weights) {
      if (weight != nullptr) add(resolve(ctx, *weight));
    }
  }

  AheadBytes take() {
    int64_t at = taken_.fetch_add(kPieceBytes, std::memory_order_relaxed);
    for (int i = 0; i < n_parts_; ++i) {
      const AheadBytes& part = parts_[static_cast<size_t>(i)];
      if (at < part.size) return {static_cast<const char*>(part.data) + at, std::min(kPieceBytes, part.size - at)};
      at -= (part.size + kPieceBytes - 1) / kPieceBytes * kPieceBytes;
    }
    return {};
  }

 private:
  // As much as a thread can fetch while it computes a block for one token.
  static constexpr int64_t kPieceBytes = int64_t{64} << 10;

  void add(const Weight& weight) {
    const int64_t values = weight.out_features * weight.in_features;
    if (weight.plain != nullptr) add(weight.plain, values * static_cast<int64_t>(dtype_size(weight.plain_type)));
    for (int i = 0; i < weight.n_planes; ++i) add(weight.planes[i].codes, values / 2);
  }
  void add(const void* data, int64_t size) {
    if (n_parts_ < static_cast<int>(parts_.size())) parts_[static_cast<size_t>(n_parts_++)] = {data, size};
  }

  std::array<AheadBytes, 8> parts_;
  int n_parts_ = 0;
  std::atomic<int64_t> taken_{0};
};

/// Softmax-weighted sums of some rows: their states, and sums [rows, latent] relative to the state's largest score.
struct Partial {
  SoftmaxState* state;
  float* sums;

  Partial at(int64_t row, int64_t latent) const { return {state + row, sums + row * latent}; }
};

struct AttendWork {
  const Family& family;
  const MlaAttendArgs& args;
  KvCache<const std::byte> cache;
  const int32_t* positions;
  const float* q_latent;
  const float* q_rope;
  Partial total;             // of all rows; its sums are the output
  PanelShape panel;          // 0 bits: FP32
  int64_t query_bytes;       // of a row
  uint8_t* queries;          // of all rows, as integers or FP32 [values]
  PerWorker<float> scores;   // [kGroupTokens * heads, 64]
  PerWorker<uint8_t> block;  // a panel, or FP32 [64, values]
  AheadQueue& next;

  int64_t heads() const { return args.shape.heads; }
  float* block_rows(int worker) const { return reinterpret_cast<float*>(block[worker]); }
  uint8_t* query(int64_t row) const { return queries + row * query_bytes; }

  void load_query(int64_t row) const {
    const MlaShape& s = args.shape;
    const float* latent = q_latent + row * s.latent;
    const float* rope = q_rope + row / heads() * args.q_row_stride + row % heads() * args.q_head_stride;
    if (panel.bits > 0) {
      family.panel_query(panel, latent, rope, query(row));
    } else {
      std::copy_n(rope, s.rope, std::copy_n(latent, s.latent, reinterpret_cast<float*>(query(row))));
    }
  }

  // The first n positions of a block.
  void load_block(const std::byte* from, int64_t n, int worker) const {
    const KvLayout& layout = args.kv.layout;
    if (panel.bits > 0) {
      family.kv_panel({panel, from, cache.row_bytes, layout.type == KvType::kQ8, n, block[worker]});
      return;
    }
    for (int64_t p = 0; p < n; ++p) {
      decode_kv_row(family, layout, from + static_cast<size_t>(p) * cache.row_bytes,
                    block_rows(worker) + p * layout.values());
    }
  }

  // The group's rows over the positions of one split.
  void run(const TokenGroup& group, int64_t split, int worker, const Partial& out) const {
    std::fill_n(out.state, group.count * heads(), SoftmaxState{});
    std::fill_n(out.sums, group.count * heads() * args.shape.latent, 0.0f);
    const int32_t last = positions[group.first + group.count - 1];
    const int64_t end = std::min<int64_t>(split_begin(split + 1), int64_t{last} + 1);
    for (int64_t b = split_begin(split) / kKvBlockTokens; b * kKvBlockTokens < end; ++b) {
      load_block(cache.block(group.slot, b), visible(last, b), worker);
      AheadBytes ahead;
      if (const int64_t n = visible(last, b + 1); n > 0) {
        ahead = {cache.block(group.slot, b + 1), n * static_cast<int64_t>(cache.row_bytes)};
      }
      // Tokens that see the same positions of the block go together; on the diagonal each goes alone.
      for (int32_t i = 0; i < group.count;) {
        const int64_t seen = visible(positions[group.first + i], b);
        int32_t j = i + 1;
        while (j < group.count && visible(positions[group.first + j], b) == seen) ++j;
        if (seen > 0 && panel.bits > 0) {
          fold_panel(group, i * heads(), j * heads(), seen, worker, out, ahead);
          ahead = {};
        } else if (seen > 0) {
          fold_rows(group, i * heads(), j * heads(), seen, worker, out);
        }
        i = j;
      }
    }
  }

  // Rows [begin, end) of the group against the first n positions of the block.
  void fold_panel(const TokenGroup& group, int64_t begin, int64_t end, int64_t n, int worker, const Partial& out,
                  const AheadBytes& ahead) const {
    const uint8_t* query_rows[kPanelCallRows];
    float* score_rows[kPanelCallRows];
    float* sum_rows[kPanelCallRows];
    float keep[kPanelCallRows];
    for (int64_t first = begin; first < end; first += kPanelCallRows) {
      const int64_t count = std::min<int64_t>(end - first, kPanelCallRows);
      for (int64_t i = 0; i < count; ++i) {
        query_rows[i] = query(group.first * heads() + first + i);
        score_rows[i] = scores[worker] + (first + i) * kKvBlockTokens;
        sum_rows[i] = out.sums + (first + i) * args.shape.latent;
      }
      family.panel_scores({panel, block[worker], query_rows, score_rows, count, first == begin ? ahead : AheadBytes{}});
      for (int64_t i = 0; i < count; ++i) {
        keep[i] = family.fold_scores(score_rows[i], n, static_cast<float>(args.scale), out.state + first + i);
      }
      family.panel_sums({panel, block[worker], n, score_rows, keep, sum_rows, count, next.take()});
    }
  }

  // The same in FP32.
  void fold_rows(const TokenGroup& group, int64_t begin, int64_t end, int64_t n, int worker, const Partial& out) const {
    const int64_t values = args.kv.layout.values();
    const auto score_row = [&](int64_t i) { return scores[worker] + (begin + i) * kKvBlockTokens; };
    dot_matrix(
        family, block_rows(worker), values, n, end - begin, values,
        [&](int64_t i) { return reinterpret_cast<const float*>(query(group.first * heads() + begin + i)); }, score_row);
    const auto scale = static_cast<float>(args.scale);
    accumulate_rows(
        family, block_rows(worker), values, n, args.shape.latent, end - begin, score_row,
        [&](int64_t i) { return family.fold_scores(score_row(i), n, scale, out.state + begin + i); },
        [&](int64_t i) { return out.sums + (begin + i) * args.shape.latent; });
  }

  Partial total_of(const TokenGroup& group) const { return total.at(group.first * heads(), args.shape.latent); }

  // Adds a later split to what came before it, for rows [begin, end) of the tokens that reach so far.
  void merge(const TokenGroup& group, int64_t split, const Partial& part, int64_t begin, int64_t end) const {
    const Partial sum = total_of(group);
    for (int64_t i = begin; i < end; ++i) {
      if (positions[group.first + i / heads()] < split_begin(split)) continue;
      const float largest = std::max(sum.state[i].largest, part.state[i].largest);
      const float keep = std::exp(sum.state[i].largest - largest);
      const float add = std::exp(part.state[i].largest - largest);
      sum.state[i] = {largest, sum.state[i].sum * keep + part.state[i].sum * add};
      const int64_t row = i * args.shape.latent;
      const float* weight = &add;
      float* to = sum.sums + row;
      family.accumulate({&weight, 1, part.sums + row, args.shape.latent, args.shape.latent, &keep, &to, 1});
    }
  }

  void finish(const TokenGroup& group, int64_t begin, int64_t end) const {
    const Partial sum = total_of(group);
    for (int64_t i = begin; i < end; ++i) {
      divide_row(sum.sums + i * args.shape.latent, args.shape.latent, sum.state[i].sum);
    }
  }
};

/// Enough groups for all threads: each walks its context in order.
void attend_by_group(Context& ctx, const AttendWork& work, const TokenGroup* groups, int64_t n_groups) {
  const int64_t rows = kGroupTokens * work.heads();
  const int64_t latent = work.args.shape.latent;
  const PerWorker<SoftmaxState> states = ctx.per_worker<SoftmaxState>(Scratch::kPartialState, rows);
  const PerWorker<float> sums = ctx.per_worker<float>(Scratch::kPartialSums, rows * latent);
  ctx.pool.parallel_for(n_groups, [&](int64_t begin, int64_t end, int worker) {
    const Partial part{states[worker], sums[worker]};
    for (int64_t g = begin; g < end; ++g) {
      work.run(groups[g], 0, worker, work.total_of(groups[g]));
      for (int64_t split = 1; split < groups[g].n_splits; ++split) {
        work.run(groups[g], split, worker, part);
        work.merge(groups[g], split, part, 0, groups[g].count * work.heads());
      }
      work.finish(groups[g], 0, groups[g].count * work.heads());
    }
  });
}

/// Few groups of long contexts: the threads share the splits, which are merged in the same order as above.
void attend_by_split(Context& ctx, const AttendWork& work, const TokenGroup* groups, int64_t n_groups, int64_t n_splits,
                     int64_t most_splits) {
  const int64_t rows = kGroupTokens * work.heads();
  const int64_t latent = work.args.shape.latent;
  const Partial parts{ctx.shared<SoftmaxState>(Scratch::kPartialState, most_splits * rows),
                      ctx.shared<float>(Scratch::kPartialSums, most_splits * rows * latent)};
  auto* first = ctx.shared<int32_t>(Scratch::kOffsets, n_groups + 1);  // of each group's splits
  first[0] = 0;
  for (int64_t g = 0; g < n_groups; ++g) first[g + 1] = first[g] + groups[g].n_splits;
  ctx.pool.parallel_for(n_splits, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t g = std::upper_bound(first, first + n_groups + 1, i) - first - 1;
      const int64_t split = i - first[g];
      work.run(groups[g], split, worker, split == 0 ? work.total_of(groups[g]) : parts.at(i * rows, latent));
    }
  });
  for (int64_t g = 0; g < n_groups; ++g) {
    ctx.pool.parallel_for(groups[g].count * work.heads(), [&](int64_t begin, int64_t end, int) {
      for (int64_t split = 1; split < groups[g].n_splits; ++split) {
        work.merge(groups[g], split, parts.at((first[g] + split) * rows, latent), begin, end);
      }
      work.finish(groups[g], begin, end);
    });
  }
}

// ---- expanded ----------------------------------------------------------------------------------------------------

// Token rows scored together: enough to reuse a block's keys from the first-level cache.
constexpr int64_t kScoreRows = 16;

struct ExpandedWork {
  const Family& family;
  const MlaExpandedArgs& args;
  Weight kv_b;
  KvCache<const std::byte> cache;
  const int32_t* positions;
  const float* q;
  float* out;
  PerWorker<float> weights;
  PerWorker<float> scores;  // [kScoreRows, 64]
  float* rows;              // [64, values]: the block's latents and rotated keys
  float* keys;              // [heads, 64, nope + rope]
  float* values;            // [heads, 64, value]
  SoftmaxState* state;      // [T, heads]

  void decode(int32_t slot, int64_t b, int64_t begin, int64_t end) const {
    const KvLayout& layout = args.kv.layout;
    const std::byte* block = cache.block(slot, b);
    for (int64_t p = begin; p < end; ++p) {
      decode_kv_row(family, layout, block + static_cast<size_t>(p) * cache.row_bytes, rows + p * layout.values());
    }
  }

  // Rows [begin, end) of kv_b times the block's first n latents.
  void expand(int64_t n, int64_t begin, int64_t end, int worker) const {
    const MlaShape& s = args.shape;
    const int64_t row_values = args.kv.layout.values();
    const int64_t key = s.nope + s.rope;
    while (begin < end) {
      const int64_t h = begin / (s.nope + s.value);
      const int64_t r = begin % (s.nope + s.value);
      const bool is_key = r < s.nope;
      const int64_t n_rows = std::min<int64_t>(end - begin, (is_key ? s.nope : s.nope + s.value) - r);
      float* to = is_key ? keys + h * kKvBlockTokens * key + r : values + h * kKvBlockTokens * s.value + r - s.nope;
      const int64_t stride = is_key ? key : s.value;
      for_row_blocks(kv_b, begin, begin + n_rows, weights[worker], [&](int64_t first, int64_t count, const float* w) {
        dot_matrix(
            family, w, s.latent, count, n, s.latent, [&](int64_t p) { return rows + p * row_values; },
            [&](int64_t p) { return to + p * stride + first - begin; });
      });
      // The rotated part is the same for all heads; beside the rest, a score is one dot product.
      if (r == 0) {
        for (int64_t p = 0; p < n; ++p) std::copy_n(rows + p * row_values + s.latent, s.rope, to + p * key + s.nope);
      }
      begin += n_rows;
    }
  }

  // Tokens tokens[0..n_tokens) of one head against block b, of which n positions exist.
  void attend(const int32_t* tokens, int64_t n_tokens, int64_t h, int64_t b, int64_t n, int worker) const {
    const MlaShape& s = args.shape;
    const int64_t key = s.nope + s.rope;
    const float* head_keys = keys + h * kKvBlockTokens * key;
    const float* head_values = values + h * kKvBlockTokens * s.value;
    const auto score_row = [&](int64_t j) { return scores[worker] + j * kKvBlockTokens; };
    dot_matrix(
        family, head_keys, key, n, n_tokens, key,
        [&](int64_t j) { return q + (tokens[j] * int64_t{s.heads} + h) * key; }, score_row);
    for (int64_t j = 0; j < n_tokens; ++j) {
      const int64_t row = tokens[j] * int64_t{s.heads} + h;
      const int64_t seen = visible(positions[tokens[j]], b);
      const float keep = family.fold_scores(score_row(j), seen, static_cast<float>(args.scale), state + row);
      float* to = out + row * s.value;
      const float* weights_row = score_row(j);
      family.accumulate({&weights_row, seen, head_values, s.value, s.value, &keep, &to, 1});
    }
  }

  // All tokens of one slot, in ascending position, against its whole context.
  void run_slot(ThreadPool& pool, int32_t slot, const int32_t* tokens, int64_t n_tokens) const {
    const MlaShape& s = args.shape;
    const int64_t last = positions[tokens[n_tokens - 1]];
    int64_t first_seeing = 0;  // tokens before this one lie wholly before the block
    for (int64_t b = 0; b * kKvBlockTokens <= last; ++b) {
      const int64_t n = visible(last, b);
      while (positions[tokens[first_seeing]] < b * kKvBlockTokens) ++first_seeing;
      pool.parallel_for(n, [&](int64_t begin, int64_t end, int) { decode(slot, b, begin, end); });
      pool.parallel_for(static_cast<int64_t>(s.heads) * (s.nope + s.value),
                        [&](int64_t begin, int64_t end, int worker) { expand(n, begin, end, worker); });
      const int64_t n_seeing = n_tokens - first_seeing;
      pool.parallel_for(s.heads * n_seeing, [&](int64_t begin, int64_t end, int worker) {
        while (begin < end) {
          const int64_t j = begin % n_seeing;
          const int64_t count = std::min({end - begin, n_seeing - j, kScoreRows});
          attend(tokens + first_seeing + j, count, begin / n_seeing, b, n, worker);
          begin += count;
        }
      });
    }
  }
};

/// Token indices by slot, in batch order: tokens[offsets[s] .. offsets[s + 1]) are those of slot s.
void group_by_slot(const int32_t* slots, int n_tokens, int n_slots, int32_t* tokens, int32_t* offsets) {
  std::fill_n(offsets, n_slots + 1, 0);
  for (int t = 0; t < n_tokens; ++t) {
    MARLIN_CHECK(slots[t] >= 0 && slots[t] < n_slots, "slot {} of {}", slots[t], n_slots);
    ++offsets[slots[t] + 1];
  }
  for (int s = 0; s < n_slots; ++s) offsets[s + 1] += offsets[s];
  for (int t = 0; t < n_tokens; ++t) tokens[offsets[slots[t]]++] = t;
  for (int s = n_slots; s > 0; --s) offsets[s] = offsets[s - 1];
  offsets[0] = 0;
}

}  // namespace

void kv_write(Context& ctx, const KvWriteArgs& args) {
  const TokenBatch& batch = *args.batch;
  const KvLayout& layout = args.kv.layout;
  const KvCache<std::byte> cache = resolve_kv<std::byte>(ctx, args.kv, batch);
  const int32_t* positions = ctx.in<int32_t>(batch.positions, batch.n_tokens);
  const int32_t* slots = ctx.in<int32_t>(batch.slots, batch.n_tokens);
  const float* latent = ctx.in<float>(args.latent, extent(batch.n_tokens, args.latent_stride, layout.latent_dim));
  const float* rope = ctx.in<float>(args.rope, extent(batch.n_tokens, args.rope_stride, layout.rope_dim));
  ctx.pool.parallel_for(batch.n_tokens, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int32_t position = positions[t];
      std::byte* block = cache.block(slots[t], position / kKvBlockTokens);
      std::byte* row = block + static_cast<size_t>(position % kKvBlockTokens) * cache.row_bytes;
      encode_kv_row(layout, latent + t * args.latent_stride, rope + t * args.rope_stride, row);
    }
  });
}

void mla_attend(Context& ctx, const MlaAttendArgs& args) {
  const TokenBatch& batch = *args.batch;
  const MlaShape& s = args.shape;
  const int64_t rows = int64_t{batch.n_tokens} * s.heads;
  const int64_t values = args.kv.layout.values();
  const int64_t q_width = (s.heads - 1) * args.q_head_stride + s.rope;
  const int64_t group_rows = int64_t{kGroupTokens} * s.heads;
  const PanelShape panel{attend_bits(ctx, args.kv.layout.type), s.latent, s.rope};
  const int64_t row_bytes = values * int64_t{sizeof(float)};
  const int64_t query_bytes = panel.bits > 0 ? panel_query_bytes(panel) : row_bytes;
  const int64_t block_bytes = panel.bits > 0 ? panel_bytes(panel) : kKvBlockTokens * row_bytes;
  // Many tokens keep the later ops busy computing: they do not wait for memory.
  constexpr int kFetchTokens = 4;
  AheadQueue next(ctx, batch.n_tokens <= kFetchTokens ? args.next : std::span<const LinearWeight* const>{});
  const AttendWork work{ctx.family,
                        args,
                        resolve_kv<const std::byte>(ctx, args.kv, batch),
                        ctx.in<int32_t>(batch.positions, batch.n_tokens),
                        ctx.in<float>(args.q_latent, rows * s.latent),
                        ctx.in<float>(args.q_rope, extent(batch.n_tokens, args.q_row_stride, q_width)),
                        {ctx.shared<SoftmaxState>(Scratch::kState, rows), ctx.out<float>(args.out, rows * s.latent)},
                        panel,
                        query_bytes,
                        ctx.shared<uint8_t>(Scratch::kQuery, rows * query_bytes),
                        ctx.per_worker<float>(Scratch::kScores, group_rows * kKvBlockTokens),
                        ctx.per_worker<uint8_t>(Scratch::kRows, block_bytes),
                        next};
  ctx.pool.parallel_for(rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) work.load_query(row);
  });
  auto* groups = ctx.shared<TokenGroup>(Scratch::kTokens, batch.n_tokens);
  const int64_t n_groups =
      group_tokens(ctx.in<int32_t>(batch.slots, batch.n_tokens), work.positions, batch.n_tokens, groups);
  const int64_t n_splits = std::accumulate(groups, groups + n_groups, int64_t{0},
                                           [](int64_t n, const TokenGroup& g) { return n + g.n_splits; });
  const int64_t most_splits = kPartialBytes / (group_rows * (s.latent + 2) * int64_t{sizeof(float)});
  if (n_groups < 4 * ctx.pool.size() && n_splits > n_groups && n_splits <= most_splits) {
    attend_by_split(ctx, work, groups, n_groups, n_splits, most_splits);
  } else {
    attend_by_group(ctx, work, groups, n_groups);
  }
}

void mla_expanded(Context& ctx, const MlaExpandedArgs& args) {
  const TokenBatch& batch = *args.batch;
  const MlaShape& s = args.shape;
  const int64_t n_rows = int64_t{batch.n_tokens} * s.heads;
  const int64_t block_heads = int64_t{s.heads} * kKvBlockTokens;
  const ExpandedWork work{ctx.family,
                          args,
                          resolve(ctx, *args.kv_b),
                          resolve_kv<const std::byte>(ctx, args.kv, batch),
                          ctx.in<int32_t>(batch.positions, batch.n_tokens),
                          ctx.in<float>(args.q, n_rows * (s.nope + s.rope)),
                          ctx.out<float>(args.out, n_rows * s.value),
                          ctx.per_worker<float>(Scratch::kWeights, kRowBlock * s.latent),
                          ctx.per_worker<float>(Scratch::kScores, kScoreRows * kKvBlockTokens),
                          ctx.shared<float>(Scratch::kRows, int64_t{kKvBlockTokens} * args.kv.layout.values()),
                          ctx.shared<float>(Scratch::kKeys, block_heads * (s.nope + s.rope)),
                          ctx.shared<float>(Scratch::kValues, block_heads * s.value),
                          ctx.shared<SoftmaxState>(Scratch::kState, n_rows)};
  const int32_t* slots = ctx.in<int32_t>(batch.slots, batch.n_tokens);
  int32_t* tokens = ctx.shared<int32_t>(Scratch::kTokens, batch.n_tokens);
  int32_t* offsets = ctx.shared<int32_t>(Scratch::kOffsets, batch.n_slots + 1);
  group_by_slot(slots, batch.n_tokens, batch.n_slots, tokens, offsets);
  std::fill_n(work.state, n_rows, SoftmaxState{});
  std::fill_n(work.out, n_rows * s.value, 0.0f);
  for (int32_t slot = 0; slot < batch.n_slots; ++slot) {
    const int64_t n_tokens = offsets[slot + 1] - offsets[slot];
    if (n_tokens > 0) work.run_slot(ctx.pool, slot, tokens + offsets[slot], n_tokens);
  }
  ctx.pool.parallel_for(n_rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) divide_row(work.out + row * s.value, s.value, work.state[row].sum);
  });
}

}  // namespace marlin::cpu
