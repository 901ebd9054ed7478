// Sampling. Rows are taken one after the other, so that rows which share a row of counts see each other's ids; a row's
// vocabulary is divided among the threads in chunks at fixed ids whose results combine in order.
#include <algorithm>
#include <bit>
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
  bool finite = true;
  int64_t allowed = 0;
  double sum = 0;
};

/// What is known of a row's logits as a whole.
struct RowResult {
  float largest = kDisallowed;
  int32_t id = -1;  // of the largest, the lowest on ties; -1: none is allowed
  bool finite = true;
  int64_t allowed = 0;
};

// Independent lanes, so that the loops below become vector instructions.
constexpr int64_t kLanes = 16;

bool all_finite(const float* x, int64_t n) {
  constexpr uint32_t kExponent = 0x7f800000u;
  uint32_t any = 0;
  for (int64_t i = 0; i < n; ++i)
    any |= static_cast<uint32_t>((std::bit_cast<uint32_t>(x[i]) & kExponent) == kExponent);
  return any == 0;
}

float largest_of(const float* x, int64_t n) {
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, kDisallowed);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
  }
  for (; i < n; ++i) lanes[0] = std::max(lanes[0], x[i]);
  return *std::max_element(lanes, lanes + kLanes);
}

int64_t count_allowed(const float* x, int64_t n) {
  int32_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += static_cast<int32_t>(x[i] > kDisallowed);
  return count;
}

/// All rows' inputs and one row's scratch.
struct SampleWork {
  const SampleArgs& args;
  ThreadPool& pool;
  const Family& family;
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

  /// Fills z.
  RowResult prepare(const float* row, const SampleParams& p) const {
    for_chunks([&](ChunkResult& result, int64_t begin, int64_t end) {
      adjust(row, p, begin, end);
      result = {largest_of(z + begin, end - begin), all_finite(row + begin, end - begin),
                count_allowed(z + begin, end - begin), 0};
    });
    RowResult found;
    int64_t chunk = 0;
    for (int64_t c = 0; c < n_chunks(); ++c) {
      found.finite = found.finite && results[c].finite;
      found.allowed += results[c].allowed;
      if (results[c].largest <= found.largest) continue;
      found.largest = results[c].largest;
      chunk = c;
    }
    if (!found.finite || found.largest == kDisallowed) return found;
    found.id = static_cast<int32_t>(std::find(z + chunk * kChunk, z + args.n_valid, found.largest) - z);
    return found;
  }

  float weight(int64_t id, float largest, float temperature) const { return std::exp((z[id] - largest) / temperature); }

  /// Sum of the weights of all ids.
  double total(float largest, float temperature) const {
    for_chunks([&](ChunkResult& result, int64_t begin, int64_t end) {
      result.sum = static_cast<double>(family.sum_exp(z + begin, end - begin, largest, 1 / temperature));
    });
    double sum = 0;
    for (int64_t c = 0; c < n_chunks(); ++c) sum += results[c].sum;
    return sum;
  }
};

/// The allowed ids in descending order of z (ties by id), gathered and sorted only as far as they are asked for.
class Ranking {
 public:
  Ranking(const SampleWork& work, const RowResult& row, float temperature)
      : work_(work), z_(work.z), ids_(work.candidates), size_(row.allowed) {
    // The rest weighs less than exp(-10) each: few draws get so far.
    near_ = row.largest - 10 * std::max(temperature, 1.0f);
    for (int64_t c = 0; c < work.n_chunks(); ++c) {
      if (work.results[c].largest < near_) continue;
      const auto end = static_cast<int32_t>(std::min<int64_t>((c + 1) * kChunk, work.args.n_valid));
      for (auto i = static_cast<int32_t>(c * kChunk); i < end; ++i) {
        if (z_[i] >= near_) ids_[gathered_++] = i;
      }
    }
  }
  int64_t size() const { return size_; }
  int32_t operator[](int64_t rank) {
    if (rank >= gathered_) gather_rest();
    if (rank >= sorted_) sort_beyond(rank);
    return ids_[rank];
  }

 private:
  void gather_rest() {
    sort_beyond(gathered_ - 1);
    for (int32_t i = 0; i < work_.args.n_valid; ++i) {
      if (z_[i] < near_ && z_[i] > kDisallowed) ids_[gathered_++] = i;
    }
  }

  void sort_beyond(int64_t rank) {
    const auto before = [this](int32_t a, int32_t b) { return z_[a] != z_[b] ? z_[a] > z_[b] : a < b; };
    const int64_t end = std::min(gathered_, std::max<int64_t>({64, 4 * sorted_, rank + 1}));
    if (end < gathered_) std::nth_element(ids_ + sorted_, ids_ + end, ids_ + gathered_, before);
    std::sort(ids_ + sorted_, ids_ + end, before);
    sorted_ = end;
  }

  const SampleWork& work_;
  const float* z_;
  int32_t* ids_;
  int64_t size_;
  float near_;
  int64_t gathered_ = 0;
  int64_t sorted_ = 0;
};

/// Top-k, top-p and min-p each keep a prefix of the ranking; top-p's share is of what top-k left. `sum`: of the weights
/// at temperature 1.
int32_t draw(const SampleWork& work, const SampleParams& p, float largest, double sum, Ranking& ranking) {
  const auto weight = [&](int64_t rank) {
    return static_cast<double>(work.weight(ranking[rank], largest, p.temperature));
  };
  int64_t kept = ranking.size();
  double mass = 0;
  if (p.top_k > 0 && p.top_k < kept) {
    kept = p.top_k;
    for (int64_t i = 0; i < kept; ++i) mass += weight(i);
  } else {
    mass = p.temperature == 1 ? sum : work.total(largest, p.temperature);
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
  const RowResult best = work.prepare(logits, p);
  if (!best.finite || best.id < 0) {
    *out.status = static_cast<int32_t>(best.finite ? SampleStatus::kNothingAllowed : SampleStatus::kNotFinite);
    return;
  }
  *out.status = static_cast<int32_t>(SampleStatus::kOk);
  const double sum = work.total(best.largest, 1.0f);
  const double log_sum = std::log(sum);
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(static_cast<double>(work.z[id]) - static_cast<double>(best.largest) - log_sum);
  };
  *out.id = best.id;
  if (p.temperature > 0 || n_top > 0) {
    Ranking ranking(work, best, p.temperature);
    if (p.temperature > 0) *out.id = draw(work, p, best.largest, sum, ranking);
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
                        ctx.family,
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
