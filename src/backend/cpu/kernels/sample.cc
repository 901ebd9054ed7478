// Sampling. Rows are taken one after the other, so that rows which share a row of counts see each other's ids; a row's
// vocabulary is divided among the threads in chunks at fixed ids whose results combine in order.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/kernels/kernels.h"
#include "ops/random.h"

namespace marlin::cpu {
namespace {

constexpr int64_t kChunk = 4096;
constexpr float kDisallowed = -std::numeric_limits<float>::infinity();
constexpr uint32_t kInPrompt = 0x80000000u;

/// What one pass over a chunk finds.
struct ChunkResult {
  float largest = kDisallowed;
  int32_t id = -1;
  bool finite = true;
  double sum = 0;
};

/// All rows' inputs and one row's scratch.
struct SampleWork {
  const SampleArgs& args;
  ThreadPool& pool;
  const float* logits;
  const SampleParams* params;
  const uint32_t* mask;
  const int32_t* bias_ids;
  const float* bias_values;
  uint32_t* counts;
  float* z;              // [n_valid] logits after bias, penalties and mask
  int32_t* candidates;   // [n_valid]
  ChunkResult* results;  // one a chunk

  int64_t n_chunks() const { return (args.n_valid + kChunk - 1) / kChunk; }
  int64_t mask_words() const { return (args.vocab + 31) / 32; }

  template <typename Body>
  void for_chunks(const Body& body) const {
    pool.parallel_for(n_chunks(), [&](int64_t begin, int64_t end, int) {
      for (int64_t c = begin; c < end; ++c) {
        body(results[c], c * kChunk, std::min<int64_t>((c + 1) * kChunk, args.n_valid));
      }
    });
  }

  void penalise(const SampleParams& p, int64_t begin, int64_t end) const {
    const uint32_t* row = counts + p.counts_row * args.vocab;
    for (int64_t i = begin; i < end; ++i) {
      if (row[i] == 0) continue;
      z[i] = z[i] > 0 ? z[i] / p.repetition_penalty : z[i] * p.repetition_penalty;
      const auto generated = static_cast<float>(row[i] & ~kInPrompt);
      if (generated > 0) z[i] -= p.presence_penalty + generated * p.frequency_penalty;
    }
  }

  void adjust(const float* row, const SampleParams& p, int64_t begin, int64_t end) const {
    std::copy(row + begin, row + end, z + begin);
    for (int32_t b = p.bias_begin; b < p.bias_end; ++b) {
      if (bias_ids[b] >= begin && bias_ids[b] < end) z[bias_ids[b]] += bias_values[b];
    }
    if (p.counts_row >= 0) penalise(p, begin, end);
    if (p.mask_row < 0) return;
    const uint32_t* allowed = mask + p.mask_row * mask_words();
    for (int64_t i = begin; i < end; ++i) {
      if (((allowed[i / 32] >> (i % 32)) & 1u) == 0) z[i] = kDisallowed;
    }
  }

  /// Fills z and returns its largest element, the lowest id on ties.
  ChunkResult prepare(const float* row, const SampleParams& p) const {
    for_chunks([&](ChunkResult& result, int64_t begin, int64_t end) {
      result = {};
      for (int64_t i = begin; i < end; ++i) result.finite = result.finite && std::isfinite(row[i]);
      adjust(row, p, begin, end);
      for (int64_t i = begin; i < end; ++i) {
        if (z[i] > result.largest) result = {z[i], static_cast<int32_t>(i), result.finite, 0};
      }
    });
    ChunkResult best;
    for (int64_t c = 0; c < n_chunks(); ++c) {
      const bool finite = best.finite && results[c].finite;
      if (results[c].largest > best.largest) best = results[c];
      best.finite = finite;
    }
    return best;
  }

  float weight(int64_t id, float largest, float temperature) const { return std::exp((z[id] - largest) / temperature); }

  /// Sum of the weights of all ids.
  double total(float largest, float temperature) const {
    for_chunks([&](ChunkResult& result, int64_t begin, int64_t end) {
      double sum = 0;
      for (int64_t i = begin; i < end; ++i) sum += static_cast<double>(weight(i, largest, temperature));
      result.sum = sum;
    });
    double sum = 0;
    for (int64_t c = 0; c < n_chunks(); ++c) sum += results[c].sum;
    return sum;
  }
};

/// The allowed ids in descending order of z (ties by id), sorted only as far as they are asked for.
class Ranking {
 public:
  explicit Ranking(const SampleWork& work) : z_(work.z), ids_(work.candidates) {
    for (int32_t i = 0; i < work.args.n_valid; ++i) {
      if (z_[i] > kDisallowed) ids_[size_++] = i;
    }
  }
  int64_t size() const { return size_; }
  int32_t operator[](int64_t rank) {
    if (rank >= sorted_) sort_beyond(rank);
    return ids_[rank];
  }

 private:
  void sort_beyond(int64_t rank) {
    const auto before = [this](int32_t a, int32_t b) { return z_[a] != z_[b] ? z_[a] > z_[b] : a < b; };
    const int64_t end = std::min(size_, std::max<int64_t>({64, 4 * sorted_, rank + 1}));
    if (end < size_) std::nth_element(ids_ + sorted_, ids_ + end, ids_ + size_, before);
    std::sort(ids_ + sorted_, ids_ + end, before);
    sorted_ = end;
  }

  const float* z_;
  int32_t* ids_;
  int64_t size_ = 0;
  int64_t sorted_ = 0;
};

/// Top-k, top-p and min-p each keep a prefix of the ranking; top-p's share is of what top-k left.
int32_t draw(const SampleWork& work, const SampleParams& p, float largest, Ranking& ranking) {
  const auto weight = [&](int64_t rank) {
    return static_cast<double>(work.weight(ranking[rank], largest, p.temperature));
  };
  int64_t kept = ranking.size();
  double mass = 0;
  if (p.top_k > 0 && p.top_k < kept) {
    kept = p.top_k;
    for (int64_t i = 0; i < kept; ++i) mass += weight(i);
  } else {
    mass = work.total(largest, p.temperature);
  }
  if (p.top_p < 1 || p.min_p > 0) {
    const double enough = p.top_p < 1 ? static_cast<double>(p.top_p) * mass : mass * 2;
    const int64_t limit = kept;
    mass = weight(0);  // 1: the largest is always kept
    for (kept = 1; kept < limit && mass < enough; ++kept) {
      const double next = weight(kept);
      if (next < static_cast<double>(p.min_p)) break;
      mass += next;
    }
  }
  const double target = static_cast<double>(uniform_draw(p.seed, p.choice, p.position)) * mass;
  double cumulative = 0;
  for (int64_t i = 0; i < kept; ++i) {
    cumulative += weight(i);
    if (cumulative > target) return ranking[i];
  }
  return ranking[kept - 1];
}

/// Where one row's results go.
struct RowOutputs {
  int32_t* id;
  int32_t* status;
  float* logprob;
  int32_t* top_ids;
  float* top_values;
};

void sample_row(const SampleWork& work, const float* logits, const SampleParams& p, const RowOutputs& out) {
  const int n_top = work.args.top_logprobs;
  *out.id = -1;
  *out.logprob = 0;
  for (int i = 0; i < n_top; ++i) {
    out.top_ids[i] = -1;
    out.top_values[i] = kDisallowed;
  }
  const ChunkResult best = work.prepare(logits, p);
  if (!best.finite || best.id < 0) {
    *out.status = static_cast<int32_t>(best.finite ? SampleStatus::kNothingAllowed : SampleStatus::kNotFinite);
    return;
  }
  *out.status = static_cast<int32_t>(SampleStatus::kOk);
  const double log_sum = std::log(work.total(best.largest, 1.0f));
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(static_cast<double>(work.z[id]) - static_cast<double>(best.largest) - log_sum);
  };
  *out.id = best.id;
  if (p.temperature > 0 || n_top > 0) {
    Ranking ranking(work);
    if (p.temperature > 0) *out.id = draw(work, p, best.largest, ranking);
    for (int64_t i = 0; i < std::min<int64_t>(n_top, ranking.size()); ++i) {
      out.top_ids[i] = ranking[i];
      out.top_values[i] = logprob(ranking[i]);
    }
  }
  *out.logprob = logprob(*out.id);
  if (p.counts_row >= 0) ++work.counts[p.counts_row * work.args.vocab + *out.id];
}

}  // namespace

void sample(Context& ctx, const SampleArgs& args) {
  MARLIN_CHECK(args.n_valid > 0 && args.n_valid <= args.vocab, "{} valid ids of {}", args.n_valid, args.vocab);
  const int64_t n_top = int64_t{args.rows} * args.top_logprobs;
  const int64_t n_chunks = (args.n_valid + kChunk - 1) / kChunk;
  const SampleWork work{args,
                        ctx.pool,
                        ctx.in<float>(args.logits, args.rows * args.vocab),
                        ctx.in<SampleParams>(args.params, args.rows),
                        args.mask ? ctx.in<uint32_t>(args.mask, 0) : nullptr,
                        args.bias_ids ? ctx.in<int32_t>(args.bias_ids, 0) : nullptr,
                        args.bias_values ? ctx.in<float>(args.bias_values, 0) : nullptr,
                        args.counts ? ctx.out<uint32_t>(args.counts, 0) : nullptr,
                        ctx.shared<float>(Scratch::kScores, args.n_valid),
                        ctx.shared<int32_t>(Scratch::kTokens, args.n_valid),
                        ctx.shared<ChunkResult>(Scratch::kState, n_chunks)};
  const RowOutputs out{ctx.out<int32_t>(args.ids, args.rows), ctx.out<int32_t>(args.status, args.rows),
                       ctx.out<float>(args.logprobs, args.rows),
                       n_top > 0 ? ctx.out<int32_t>(args.top_ids, n_top) : nullptr,
                       n_top > 0 ? ctx.out<float>(args.top_values, n_top) : nullptr};
  for (int64_t r = 0; r < args.rows; ++r) {
    const RowOutputs row{out.id + r, out.status + r, out.logprob + r,
                         n_top > 0 ? out.top_ids + r * args.top_logprobs : nullptr,
                         n_top > 0 ? out.top_values + r * args.top_logprobs : nullptr};
    sample_row(work, work.logits + r * args.vocab, work.params[r], row);
  }
}

}  // namespace marlin::cpu
