// Attention over the paged cache. Both forms walk the context in the cache's blocks of 64 positions, which lie at fixed
// absolute positions, and fold each block into a running softmax in index order: how many tokens a step has, and where
// a chunk begins, never shows in a result.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/kv_cache.h"
#include "backend/cpu/kernels/rows.h"
#include "backend/cpu/kernels/weights.h"

namespace marlin::cpu {
namespace {

/// A row's softmax so far: the largest score and the sum of exp(score - largest).
struct SoftmaxState {
  float largest = -std::numeric_limits<float>::infinity();
  float sum = 0;
};

/// Turns `n` raw scores into weights relative to the new maximum; returns the factor for what was accumulated before.
float fold_scores(float* scores, int64_t n, float scale, SoftmaxState& state) {
  float largest = state.largest;
  for (int64_t p = 0; p < n; ++p) {
    scores[p] *= scale;
    largest = std::max(largest, scores[p]);
  }
  const float keep = std::exp(state.largest - largest);
  float sum = state.sum * keep;
  for (int64_t p = 0; p < n; ++p) {
    scores[p] = std::exp(scores[p] - largest);
    sum += scores[p];
  }
  state = {largest, sum};
  return keep;
}

void divide_row(float* row, int64_t n, float sum) {
  const float factor = 1.0f / sum;
  for (int64_t i = 0; i < n; ++i) row[i] *= factor;
}

/// Positions of block b that a token at `position` sees.
int64_t visible(int64_t position, int64_t b) {
  return std::clamp<int64_t>(position - b * kKvBlockTokens + 1, 0, kKvBlockTokens);
}

// ---- absorbed ----------------------------------------------------------------------------------------------------

struct AttendWork {
  const Family& family;
  const MlaAttendArgs& args;
  KvCache<const std::byte> cache;
  const int32_t* positions;
  const int32_t* slots;
  const float* q_latent;
  const float* q_rope;
  float* out;
  PerWorker<float> rows;    // [64, values]
  PerWorker<float> scores;  // [heads, 64]
  PerWorker<float> query;   // [heads, values]
  PerWorker<SoftmaxState> state;

  // Heads [h0, h1) of one token.
  void attend(int64_t t, int64_t h0, int64_t h1, int worker) const {
    const MlaShape& s = args.shape;
    const KvLayout& layout = args.kv.layout;
    const int64_t values = layout.values();
    float* q = query[worker];
    float* token_out = out + t * s.heads * s.latent;
    for (int64_t h = h0; h < h1; ++h) {
      const float* rope = q_rope + t * args.q_row_stride + h * args.q_head_stride;
      std::copy_n(q_latent + (t * s.heads + h) * s.latent, s.latent, q + (h - h0) * values);
      std::copy_n(rope, s.rope, q + (h - h0) * values + s.latent);
      state[worker][h - h0] = {};
      std::fill_n(token_out + h * s.latent, s.latent, 0.0f);
    }
    const auto x_row = [&](int64_t i) { return q + i * values; };
    const auto score_row = [&](int64_t i) { return scores[worker] + i * kKvBlockTokens; };
    for (int64_t b = 0; b * kKvBlockTokens <= positions[t]; ++b) {
      const int64_t n = visible(positions[t], b);
      const std::byte* block = cache.block(slots[t], b);
      for (int64_t p = 0; p < n; ++p) {
        decode_kv_row(family, layout, block + static_cast<size_t>(p) * cache.row_bytes, rows[worker] + p * values);
      }
      dot_matrix(family, rows[worker], values, n, h1 - h0, values, x_row, score_row);
      accumulate_rows(
          family, rows[worker], values, n, s.latent, h1 - h0, score_row,
          [&](int64_t i) { return fold_scores(score_row(i), n, static_cast<float>(args.scale), state[worker][i]); },
          [&](int64_t i) { return token_out + (h0 + i) * s.latent; });
    }
    for (int64_t h = h0; h < h1; ++h) divide_row(token_out + h * s.latent, s.latent, state[worker][h - h0].sum);
  }
};

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
      const float keep = fold_scores(score_row(j), seen, static_cast<float>(args.scale), state[row]);
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
  const int64_t rows = batch.n_tokens;
  const int64_t values = args.kv.layout.values();
  const int64_t q_width = (s.heads - 1) * args.q_head_stride + s.rope;
  const AttendWork work{ctx.family,
                        args,
                        resolve_kv<const std::byte>(ctx, args.kv, batch),
                        ctx.in<int32_t>(batch.positions, rows),
                        ctx.in<int32_t>(batch.slots, rows),
                        ctx.in<float>(args.q_latent, rows * s.heads * s.latent),
                        ctx.in<float>(args.q_rope, extent(rows, args.q_row_stride, q_width)),
                        ctx.out<float>(args.out, rows * s.heads * s.latent),
                        ctx.per_worker<float>(Scratch::kRows, kKvBlockTokens * values),
                        ctx.per_worker<float>(Scratch::kScores, int64_t{s.heads} * kKvBlockTokens),
                        ctx.per_worker<float>(Scratch::kQuery, s.heads * values),
                        ctx.per_worker<SoftmaxState>(Scratch::kState, s.heads)};
  ctx.pool.parallel_for(rows * s.heads, [&](int64_t begin, int64_t end, int worker) {
    while (begin < end) {
      const int64_t h = begin % s.heads;
      const int64_t n = std::min<int64_t>(end - begin, s.heads - h);
      work.attend(begin / s.heads, h, h + n, worker);
      begin += n;
    }
  });
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
