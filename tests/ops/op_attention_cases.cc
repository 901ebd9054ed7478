// Cases of the cache and of attention in both forms: several slots with interleaved tokens, contexts that end around
// the borders of blocks, and physical blocks in shuffled order.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/check.h"
#include "op_test_util.h"

namespace marlin::op_test {
namespace {

constexpr int kLayers = 2;
constexpr int kLayer = 1;

struct Token {
  int32_t slot;
  int32_t position;
};

/// Which tokens are in the cache.
struct Contexts {
  std::vector<int32_t> lengths;  // of each slot
  bool interleaved;              // neighbouring tokens of a batch belong to different slots

  int32_t longest() const { return *std::max_element(lengths.begin(), lengths.end()); }
  int blocks_per_slot() const { return longest() / kKvBlockTokens + 2; }
  int blocks() const { return static_cast<int>(lengths.size()) * blocks_per_slot(); }

  std::vector<Token> tokens() const {
    std::vector<Token> tokens;
    for (size_t s = 0; s < lengths.size(); ++s) {
      for (int32_t p = 0; p < lengths[s]; ++p) tokens.push_back({static_cast<int32_t>(s), p});
    }
    if (interleaved) {
      std::stable_sort(tokens.begin(), tokens.end(),
                       [](const Token& a, const Token& b) { return a.position < b.position; });
    }
    return tokens;
  }

  /// The positions at and next to borders: of blocks, and of the pieces that a long context is worked on in.
  std::vector<Token> queries() const {
    std::vector<Token> all = tokens();
    std::erase_if(all, [](const Token& token) {
      const int32_t p = token.position;
      return p != 0 && !(p >= 62 && p <= 65) && !(p >= 126 && p <= 129) && !(p >= 508 && p <= 515) && p < 1022;
    });
    return all;
  }
};

const Contexts kShort = {{64, 65, 130, 1, 128, 129}, true};
const Contexts kLong = {{1030, 515}, false};

/// A token batch and the arrays behind it.
TokenBatch make_batch(Rig& rig, const Contexts& contexts, const std::vector<Token>& tokens) {
  std::vector<int32_t> positions;
  std::vector<int32_t> slots;
  for (const Token& token : tokens) {
    positions.push_back(token.position);
    slots.push_back(token.slot);
  }
  // Multiplication by 7 modulo a number that is prime to it scatters the blocks; one physical block stays unused.
  std::vector<int32_t> tables;
  const int n_blocks = contexts.blocks();
  MARLIN_CHECK((n_blocks + 1) % 7 != 0, "{} blocks would all be one", n_blocks);
  tables.reserve(static_cast<size_t>(n_blocks));
  for (int i = 0; i < n_blocks; ++i) tables.push_back((i + 1) * 7 % (n_blocks + 1));
  TokenBatch batch;
  batch.n_tokens = static_cast<int>(tokens.size());
  batch.ids = rig.array(std::vector<int32_t>(tokens.size(), 0));
  batch.positions = rig.array(positions);
  batch.slots = rig.array(slots);
  batch.roles = rig.array(std::vector<uint8_t>(tokens.size(), 1));
  batch.block_tables = rig.array(tables);
  batch.n_slots = static_cast<int>(contexts.lengths.size());
  batch.blocks_per_slot = contexts.blocks_per_slot();
  return batch;
}

/// Which roles the queries have.
enum class Queries { kDecode, kPrompt, kMixed };

Role query_role(Queries queries, int64_t row) {
  if (queries == Queries::kMixed) return role_of(row);
  return queries == Queries::kPrompt ? Role::kPrompt : Role::kDecode;
}

View query_roles(Rig& rig, Queries queries, RowRange range) {
  std::vector<uint8_t> roles;
  for (int64_t t = 0; t < range.count; ++t) {
    roles.push_back(static_cast<uint8_t>(query_role(queries, range.first + t)));
  }
  return rig.array(roles);
}

struct Setup {
  Contexts contexts;
  MlaShape shape;
  KvType type = KvType::kF32;
  Queries queries_of = Queries::kDecode;
  WeightPtr kv_b;
  std::vector<float> cache;     // [slot][longest][latent + rope], what the cache reads back
  std::vector<float> q;         // [query tokens, heads, nope + rope]
  std::vector<float> q_latent;  // [query tokens, heads, latent]

  int64_t queries() const { return static_cast<int64_t>(contexts.queries().size()); }
  int64_t values() const { return shape.latent + shape.rope; }
  int64_t key() const { return shape.nope + shape.rope; }
  const float* row(const Token& token) const {
    return &cache[static_cast<size_t>((token.slot * contexts.longest() + token.position) * values())];
  }
};

/// Values that the cache type stores without error, so that one tolerance serves all types: multiples of a power of two
/// and, for Q8, a largest magnitude of exactly 127 of them in each group. Rounding itself has its own test.
void fill_cache(Setup& setup) {
  Random random(71);
  setup.cache.resize(setup.contexts.lengths.size() * static_cast<size_t>(setup.contexts.longest() * setup.values()));
  for (size_t i = 0; i < setup.cache.size(); ++i) {
    const auto k = static_cast<int>(i % static_cast<size_t>(setup.values()));
    const int in_part = k < setup.shape.latent ? k : k - setup.shape.latent;
    setup.cache[i] = static_cast<float>(in_part % kKvQ8Group == 0 ? 127 : random.index(255) - 127) / 64;
  }
}

Setup make_setup(const Contexts& contexts, const MlaShape& shape, KvType type, const WeightSpec& weight) {
  Setup setup;
  setup.contexts = contexts;
  setup.shape = shape;
  setup.type = type;
  WeightSpec spec = weight;
  spec.out_features = int64_t{shape.heads} * (shape.nope + shape.value);
  spec.in_features = shape.latent;
  setup.kv_b = random_weight(spec, 72);
  fill_cache(setup);
  const int64_t rows = setup.queries() * shape.heads;
  setup.q = Random(73).activations(rows * setup.key());
  setup.q_latent = Random(74).activations(rows * shape.latent);
  return setup;
}

/// The same with a NaN in a cached latent, in a cached rotated key and in a query.
Setup with_nan(Setup setup) {
  const auto at = [&](int slot, int position, int k) {
    return static_cast<size_t>((int64_t{slot} * setup.contexts.longest() + position) * setup.values() + k);
  };
  setup.cache[at(2, 70, 3)] = NAN;
  setup.cache[at(1, 63, setup.shape.latent)] = NAN;
  setup.q_latent[1] = NAN;
  return setup;
}

/// The same with queries of other roles.
Setup with_roles(Setup setup, Queries queries) {
  setup.queries_of = queries;
  return setup;
}

/// The same with scores so far apart that the largest one keeps being exceeded.
Setup with_far_scores(Setup setup) {
  for (float& q : setup.q_latent) q *= 12;
  return setup;
}

/// Writes every slot's whole context.
KvView write_cache(Rig& rig, const Setup& setup) {
  const std::vector<Token> tokens = setup.contexts.tokens();
  KvView kv;
  kv.layout = {rig.device().kv_type(setup.type), setup.shape.latent, setup.shape.rope, kLayers};
  kv.layer = kLayer;
  kv.pool = rig.allocate(kv.layout.block_bytes() * static_cast<size_t>(setup.contexts.blocks() + 1));
  std::vector<float> rows;
  for (const Token& token : tokens) {
    const float* row = setup.row(token);
    rows.insert(rows.end(), row, row + setup.values());
    rows.push_back(0);  // a stride larger than the row
  }
  const TokenBatch batch = make_batch(rig, setup.contexts, tokens);
  KvWriteArgs args;
  args.batch = &batch;
  args.kv = kv;
  args.latent = rig.act(rows);
  args.latent_stride = setup.values() + 1;
  args.rope = rig.offset(args.latent, setup.shape.latent);
  args.rope_stride = setup.values() + 1;
  rig.stream().kv_write(args);
  return kv;
}

std::vector<Token> query_range(const Setup& setup, RowRange range) {
  const std::vector<Token> tokens = setup.contexts.queries();
  return {tokens.begin() + range.first, tokens.begin() + range.first + range.count};
}

std::vector<float> slice(const std::vector<float>& values, RowRange range, int64_t width) {
  const auto begin = values.begin() + range.first * width;
  return {begin, begin + range.count * width};
}

double root(int64_t n) {
  return std::sqrt(static_cast<double>(n));
}

/// A score with absolute sum A errs by kSlack sqrt(D) u A, which multiplies a softmax weight by 1 + that, twice (itself
/// and the normalisation); the weighted sum adds kSlack sqrt(n) u. All relative to the largest value.
double softmax_tolerance(double score_error, int64_t n, double u, double largest_value) {
  return (2 * score_error + kSlack * (root(n) + 4) * u) * largest_value;
}

constexpr double kScale = 0.0625;

/// Query `head` of the row, [latent | rope].
std::vector<double> query_of(const Setup& setup, int64_t head) {
  const MlaShape& s = setup.shape;
  std::vector<double> q;
  q.reserve(static_cast<size_t>(setup.values()));
  for (int k = 0; k < s.latent; ++k) q.push_back(setup.q_latent[static_cast<size_t>(head * s.latent + k)]);
  for (int k = 0; k < s.rope; ++k) q.push_back(setup.q[static_cast<size_t>(head * setup.key() + s.nope + k)]);
  return q;
}

constexpr double kLargestValue = 127.0 / 64;  // in the cache

/// The largest integers of integer attention and of their sums (backend/cpu/kernels/kv_panel.h).
struct IntegerSteps {
  double cache;
  double query;
  double weight;
  double sum;
};

/// What integers add to the errors of a token's attention, in standard deviations of sums of uniform roundings.
class IntegerErrors {
 public:
  IntegerErrors(const Setup& setup, const IntegerSteps& steps) : setup_(setup), steps_(steps) {}

  /// Variance of a score: each factor is off by up to half a step of its group. A Q8 cache gives its own integers.
  double score_variance(const std::vector<double>& q, const float* row) const {
    double variance = 0;
    for (size_t k = 0; k < q.size(); ++k) {
      variance += std::pow(row[k] * query_step(q, k), 2);
      if (setup_.type != KvType::kQ8) variance += std::pow(q[k] * kLargestValue / steps_.cache, 2);
    }
    return variance * kScale * kScale / 12;
  }

  /// Of a sum over positions whose softmax scores are given: the values' half steps, and the weights' half steps of
  /// the largest weight in each block.
  double sum_error(const std::vector<double>& scores) const {
    const double top = *std::max_element(scores.begin(), scores.end());
    double total = 0;
    double squares = 0;
    for (size_t begin = 0; begin < scores.size(); begin += kKvBlockTokens) {
      double largest = 0;
      double sum = 0;
      const size_t end = std::min(begin + kKvBlockTokens, scores.size());
      for (size_t p = begin; p < end; ++p) {
        sum += std::exp(scores[p] - top);
        largest = std::max(largest, std::exp(scores[p] - top));
      }
      total += sum;
      squares += static_cast<double>(end - begin) * std::pow(std::max(largest / steps_.weight, sum / steps_.sum), 2);
    }
    const double values = setup_.type == KvType::kQ8 ? 0 : 0.5 * kLargestValue / steps_.cache;
    return values + 6 * kLargestValue / std::sqrt(12.0) * std::sqrt(squares) / total;
  }

 private:
  double query_step(const std::vector<double>& q, size_t k) const {
    const auto latent = static_cast<size_t>(setup_.shape.latent);
    const size_t part = k < latent ? 0 : latent;
    const size_t begin = part + (k - part) / kKvQ8Group * kKvQ8Group;
    const size_t end = std::min(begin + kKvQ8Group, k < latent ? latent : q.size());
    double largest = 0;
    double sum = 0;
    for (size_t i = begin; i < end; ++i) {
      largest = std::max(largest, std::fabs(q[i]));
      sum += std::fabs(q[i]);
    }
    return std::max(largest / steps_.query, sum / steps_.sum);
  }

  const Setup& setup_;
  IntegerSteps steps_;
};

/// Empty where the device attends to this cache in floating point.
std::optional<IntegerSteps> integer_steps(Rig& rig, KvType type) {
  if (!rig.device().info().integer_attention || (type != KvType::kF16 && type != KvType::kQ8)) return {};
  if (type == KvType::kQ8) return IntegerSteps{127, 127, 255, 1e9};
  return IntegerSteps{16383, 32767, 32767, 131000};
}

/// Where prompts are attended to in half: variance of a score, whose query and cached row are each off by a uniform
/// error of at most 2^-11 of themselves.
double half_score_variance(const std::vector<double>& q, const float* row) {
  double variance = 0;
  for (size_t k = 0; k < q.size(); ++k) variance += 2 * std::pow(q[k] * row[k] * kScale * 0x1p-11, 2) / 3;
  return variance;
}

std::vector<double> attend_tolerance(const Setup& setup, RowRange range, Rig& rig) {
  const MlaShape& s = setup.shape;
  const double u = rig.roundoff();
  const std::vector<Token> tokens = query_range(setup, range);
  std::vector<double> tolerance;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const int64_t query_row = range.first + static_cast<int64_t>(t);
    const std::optional<IntegerSteps> steps = integer_steps(rig, setup.type);
    const IntegerErrors integers(setup, steps.value_or(IntegerSteps{}));
    const bool half = query_role(setup.queries_of, query_row) == Role::kPrompt && rig.device().info().half_prompts;
    for (int h = 0; h < s.heads; ++h) {
      const std::vector<double> q = query_of(setup, query_row * s.heads + h);
      std::vector<double> scores;
      double largest = 0;
      double variance = 0;
      for (int32_t p = 0; p <= tokens[t].position; ++p) {
        const float* row = setup.row({tokens[t].slot, p});
        double sum = 0;
        double score = 0;
        for (size_t k = 0; k < q.size(); ++k) {
          sum += std::fabs(q[k] * row[k]);
          score += q[k] * row[k];
        }
        scores.push_back(score * kScale);
        largest = std::max(largest, sum * kScale);
        if (steps) variance = std::max(variance, integers.score_variance(q, row));
        if (half) variance = std::max(variance, half_score_variance(q, row));
      }
      const double score_error = kSlack * root(setup.values()) * u * largest + 6 * std::sqrt(variance);
      const double bound = softmax_tolerance(score_error, tokens[t].position + 1, u, kLargestValue) +
                           (steps ? integers.sum_error(scores) : 0) + (half ? kLargestValue * 0x1p-10 : 0);
      tolerance.insert(tolerance.end(), static_cast<size_t>(s.latent), bound);
    }
  }
  return tolerance;
}

OpCase attend_case(const std::string& name, const Setup& setup) {
  const auto run = [setup](Rig& rig, RowRange range) -> std::vector<Output> {
    const MlaShape& s = setup.shape;
    TokenBatch batch = make_batch(rig, setup.contexts, query_range(setup, range));
    batch.roles = query_roles(rig, setup.queries_of, range);
    const View q = rig.act(slice(setup.q, range, s.heads * setup.key()));
    MlaAttendArgs args;
    args.batch = &batch;
    args.kv = write_cache(rig, setup);
    args.shape = s;
    args.scale = kScale;
    args.q_latent = rig.act(slice(setup.q_latent, range, int64_t{s.heads} * s.latent));
    args.q_rope = rig.offset(q, s.nope);
    args.q_row_stride = s.heads * setup.key();
    args.q_head_stride = setup.key();
    const int64_t width = int64_t{s.heads} * s.latent;
    args.out = rig.act_out(range.count * width);
    rig.stream().mla_attend(args);
    return {{"out", width, rig.read_act(args.out, range.count * width), attend_tolerance(setup, range, rig)}};
  };
  return {"MlaAttend" + name, setup.queries(), run};
}

/// Sums of absolute products along the whole chain of the expanded form, for one head.
struct ExpandedBound {
  double score = 0;  // scale * (|q_nope| |W_UK| |c| + |q_rope| |k_rope|), largest over the context
  double value = 0;  // |W_UV| |c|, largest over the context
};

/// |W_n| |c| of every row of kv_b at one position.
std::vector<double> absolute_expansion(const Setup& setup, const float* row) {
  std::vector<double> sums;
  for (int64_t n = 0; n < setup.kv_b->layout.out_features; ++n) {
    double sum = 0;
    for (int k = 0; k < setup.shape.latent; ++k) sum += std::fabs(setup.kv_b->at(n, k) * static_cast<double>(row[k]));
    sums.push_back(sum);
  }
  return sums;
}

std::vector<double> expanded_tolerance(const Setup& setup, RowRange range, double u) {
  const MlaShape& s = setup.shape;
  const std::vector<Token> tokens = query_range(setup, range);
  // The largest over all positions of all slots bounds every context, and costs one expansion a position.
  std::vector<double> largest(static_cast<size_t>(setup.kv_b->layout.out_features));
  for (const Token& token : setup.contexts.tokens()) {
    const std::vector<double> sums = absolute_expansion(setup, setup.row(token));
    for (size_t n = 0; n < sums.size(); ++n) largest[n] = std::max(largest[n], sums[n]);
  }
  std::vector<double> tolerance;
  for (size_t t = 0; t < tokens.size(); ++t) {
    for (int h = 0; h < s.heads; ++h) {
      const auto head = (range.first + static_cast<int64_t>(t)) * s.heads + h;
      const size_t first = static_cast<size_t>(h) * static_cast<size_t>(s.nope + s.value);
      ExpandedBound bound;
      for (int64_t n = 0; n < setup.key(); ++n) {
        const double q = std::fabs(static_cast<double>(setup.q[static_cast<size_t>(head * setup.key() + n)]));
        bound.score += kScale * q * (n < s.nope ? largest[first + static_cast<size_t>(n)] : kLargestValue);
      }
      for (int v = 0; v < s.value; ++v)
        bound.value = std::max(bound.value, largest[first + static_cast<size_t>(s.nope + v)]);
      const double score_error = kSlack * (root(s.latent) + root(setup.key())) * u * bound.score;
      const double error = softmax_tolerance(score_error, tokens[t].position + s.latent, u, bound.value);
      tolerance.insert(tolerance.end(), static_cast<size_t>(s.value), error);
    }
  }
  return tolerance;
}

OpCase expanded_case(const std::string& name, const Setup& setup) {
  const auto run = [setup](Rig& rig, RowRange range) -> std::vector<Output> {
    const MlaShape& s = setup.shape;
    const TokenBatch batch = make_batch(rig, setup.contexts, query_range(setup, range));
    MlaExpandedArgs args;
    args.batch = &batch;
    args.kv = write_cache(rig, setup);
    args.shape = s;
    args.kv_b = rig.weight(setup.kv_b);
    args.scale = kScale;
    args.q = rig.act(slice(setup.q, range, s.heads * setup.key()));
    const int64_t width = int64_t{s.heads} * s.value;
    args.out = rig.act_out(range.count * width);
    rig.stream().mla_expanded(args);
    return {
        {"out", width, rig.read_act(args.out, range.count * width), expanded_tolerance(setup, range, rig.roundoff())}};
  };
  return {"MlaExpanded" + name, setup.queries(), run};
}

OpCase absorb_case(const std::string& name, const Setup& setup) {
  const auto run = [setup](Rig& rig, RowRange range) -> std::vector<Output> {
    const MlaShape& s = setup.shape;
    MlaAbsorbArgs args;
    args.rows = static_cast<int>(range.count);
    args.shape = s;
    args.kv_b = rig.weight(setup.kv_b);
    args.q = rig.act(slice(setup.q, range, s.heads * setup.key()));
    args.q_row_stride = s.heads * setup.key();
    args.q_head_stride = setup.key();
    const int64_t width = int64_t{s.heads} * s.latent;
    args.out = rig.act_out(range.count * width);
    rig.stream().mla_absorb(args);
    Output out = exact("out", width, rig.read_act(args.out, range.count * width));
    for (int64_t i = 0; i < range.count * width; ++i) {
      const int64_t h = i % width / s.latent;
      const int64_t head = (range.first + i / width) * s.heads + h;
      double sum = 0;
      for (int64_t n = 0; n < s.nope; ++n) {
        const double q = static_cast<double>(setup.q[static_cast<size_t>(head * setup.key() + n)]);
        sum += std::fabs(q * setup.kv_b->at(h * (s.nope + s.value) + n, i % s.latent));
      }
      out.tolerance[static_cast<size_t>(i)] = kSlack * root(s.nope) * rig.roundoff() * sum;
    }
    return {out};
  };
  return {"MlaAbsorb" + name, setup.queries(), run};
}

OpCase unabsorb_case(const std::string& name, const Setup& setup) {
  const auto run = [setup](Rig& rig, RowRange range) -> std::vector<Output> {
    const MlaShape& s = setup.shape;
    MlaUnabsorbArgs args;
    args.rows = static_cast<int>(range.count);
    args.shape = s;
    args.kv_b = rig.weight(setup.kv_b);
    args.o_latent = rig.act(slice(setup.q_latent, range, int64_t{s.heads} * s.latent));
    args.roles = roles(rig, range);
    const int64_t width = int64_t{s.heads} * s.value;
    args.out = rig.act_out(range.count * width);
    rig.stream().mla_unabsorb(args);
    Output out = exact("out", width, rig.read_act(args.out, range.count * width));
    for (int64_t i = 0; i < range.count * width; ++i) {
      const int64_t h = i % width / s.value;
      const int64_t head = (range.first + i / width) * s.heads + h;
      double sum = 0;
      for (int64_t k = 0; k < s.latent; ++k) {
        const double x = static_cast<double>(setup.q_latent[static_cast<size_t>(head * s.latent + k)]);
        sum += std::fabs(x * setup.kv_b->at(h * (s.nope + s.value) + s.nope + i % s.value, k));
      }
      const float* latent = setup.q_latent.data() + head * s.latent;
      out.tolerance[static_cast<size_t>(i)] =
          kSlack * root(s.latent) * rig.roundoff() * sum +
          rig.factor_error(*setup.kv_b, h * (s.nope + s.value) + s.nope + i % s.value, latent,
                           role_of(range.first + i / width));
    }
    return {out};
  };
  return {"MlaUnabsorb" + name, setup.queries(), run};
}

/// What the cache type makes of arbitrary values: attention over a single position returns its latent.
OpCase rounding_case(const std::string& name, KvType type, Queries queries) {
  const MlaShape shape{1, 8, 16, 8, 100};
  const int64_t rows = 6;
  const std::vector<float> latents = Random(81).activations(rows * (shape.latent + shape.rope));
  const auto run = [=](Rig& rig, RowRange range) -> std::vector<Output> {
    const int64_t values = shape.latent + shape.rope;
    std::vector<Token> tokens;
    for (int64_t t = 0; t < range.count; ++t) tokens.push_back({static_cast<int32_t>(range.first + t), 0});
    TokenBatch batch = make_batch(rig, kShort, tokens);
    batch.roles = query_roles(rig, queries, range);
    KvView kv;
    kv.layout = {rig.device().kv_type(type), shape.latent, shape.rope, kLayers};
    kv.layer = kLayer;
    kv.pool = rig.allocate(kv.layout.block_bytes() * static_cast<size_t>(kShort.blocks() + 1));
    const std::vector<float> part = slice(latents, range, values);
    const View x = rig.act(part);
    rig.stream().kv_write({&batch, kv, x, values, rig.offset(x, shape.latent), values});
    MlaAttendArgs args;
    args.batch = &batch;
    args.kv = kv;
    args.shape = shape;
    args.scale = kScale;
    args.q_rope = x;  // any: one position has the weight 1 whatever its score
    args.q_latent = rig.act(std::vector<float>(static_cast<size_t>(range.count * shape.latent), 0.5f));
    args.q_row_stride = values;
    args.q_head_stride = values;
    args.out = rig.act_out(range.count * shape.latent);
    rig.stream().mla_attend(args);
    Output out = exact("out", shape.latent, rig.read_act(args.out, range.count * shape.latent));
    for (int64_t i = 0; i < range.count * shape.latent; ++i) {
      const int64_t begin = i / shape.latent * values + i % shape.latent / kKvQ8Group * kKvQ8Group;
      const int64_t end = std::min<int64_t>(begin + kKvQ8Group, i / shape.latent * values + shape.latent);
      const std::optional<IntegerSteps> steps = integer_steps(rig, type);
      double largest = 0;
      for (int64_t k = begin; k < end; ++k) {
        largest = std::max(largest, std::fabs(static_cast<double>(part[static_cast<size_t>(k)])));
      }
      // F16: half a unit in the last place. Q8: half a step, and the scale's own rounding to F16.
      const double q8 = largest * (0.5 / 127 + 0x1p-10);
      const double integers = steps ? largest * 0.5 / steps->cache : 0;
      out.tolerance[static_cast<size_t>(i)] = type == KvType::kQ8 ? q8 : largest * 0x1p-11 + integers;
    }
    return {out};
  };
  return {"KvRounding" + name, rows, run};
}

}  // namespace

std::vector<OpCase> attention_cases() {
  const WeightSpec bf16{0, 0, DType::kBF16, {}, false, DType::kF32};
  const WeightSpec g32{0, 0, DType::kBF16, {32}, false, DType::kF32};
  const WeightSpec planes{0, 0, DType::kBF16, {32, 32}, false, DType::kF32};
  const WeightSpec g128{0, 0, DType::kBF16, {128}, false, DType::kF32};
  // heads, nope, rope, value, latent
  const Setup f32 = make_setup(kShort, {3, 12, 6, 10, 100}, KvType::kF32, bf16);
  const Setup f16 = make_setup(kShort, {3, 12, 16, 20, 160}, KvType::kF16, g32);
  const Setup q8 = make_setup(kShort, {2, 24, 16, 17, 96}, KvType::kQ8, planes);
  const Setup one_head = make_setup(kShort, {1, 16, 8, 16, 128}, KvType::kF16, g128);
  const Setup long_context = make_setup(kLong, {3, 8, 8, 16, 64}, KvType::kF16, bf16);
  std::vector<OpCase> cases;
  for (const auto& [name, setup] : {std::pair<std::string, const Setup&>{"F32PlainBF16", f32},
                                    {"F16Fp4G32", f16},
                                    {"Q8TwoPlanes", q8},
                                    {"F16Fp4G128OneHead", one_head}}) {
    cases.push_back(absorb_case(name, setup));
    cases.push_back(attend_case(name, setup));
    cases.push_back(unabsorb_case(name, setup));
    cases.push_back(expanded_case(name, setup));
  }
  cases.push_back(attend_case("LongContexts", long_context));
  // More heads than a tile of any kernel, latents and rope parts as wide as those of real models and more.
  const Setup wide = make_setup({{16, 17, 70}, true}, {26, 4, 72, 4, 512}, KvType::kF16, bf16);
  cases.push_back(attend_case("Wide", wide));
  const auto odd = [&](KvType type) { return make_setup({{66, 17, 5}, true}, {9, 4, 6, 5, 77}, type, bf16); };
  cases.push_back(attend_case("WideFarScores", with_far_scores(wide)));
  cases.push_back(attend_case("LongFarScores", with_far_scores(long_context)));
  cases.push_back(attend_case("MixedLongContexts", with_roles(long_context, Queries::kMixed)));
  for (const auto& [name, setup] : {std::pair<std::string, Setup>{"F32", f32},
                                    {"F16", f16},
                                    {"Q8", q8},
                                    {"Wide", wide},
                                    {"WideFarScores", with_far_scores(wide)},
                                    {"LongFarScores", with_far_scores(long_context)},
                                    {"OddF32", odd(KvType::kF32)},
                                    {"OddF16", odd(KvType::kF16)},
                                    {"OddQ8", odd(KvType::kQ8)},
                                    {"F16Nan", with_nan(f16)},
                                    {"Q8Nan", with_nan(q8)}}) {
    cases.push_back(attend_case("Prompt" + name, with_roles(setup, Queries::kPrompt)));
  }
  cases.push_back(attend_case("F16Nan", with_nan(f16)));
  cases.push_back(attend_case("Q8Nan", with_nan(q8)));
  cases.push_back(expanded_case("LongContexts", long_context));
  for (const auto& [role, queries] :
       {std::pair<std::string, Queries>{"", Queries::kDecode}, {"Prompt", Queries::kPrompt}}) {
    cases.push_back(rounding_case(role + "F32", KvType::kF32, queries));
    cases.push_back(rounding_case(role + "F16", KvType::kF16, queries));
    cases.push_back(rounding_case(role + "Q8", KvType::kQ8, queries));
  }
  return cases;
}

std::vector<OpCase> real_attention_cases() {
  std::vector<OpCase> cases;
  const auto add = [&](const std::string& name, KvType type, Queries role, auto make) {
    const Contexts contexts{{300, 129}, true};
    const auto queries = static_cast<int64_t>(contexts.queries().size());
    cases.push_back(lazy_case(name, queries, [=] {
      const WeightSpec g32{0, 0, DType::kBF16, {32}, false, DType::kF32};
      Setup setup = make_setup(contexts, {20, 192, 64, 256, 512}, type, g32);
      setup.queries_of = role;
      return make(setup);
    }));
  };
  for (const auto& [name, type] : {std::pair<std::string, KvType>{"F16", KvType::kF16}, {"Q8", KvType::kQ8}}) {
    for (const Queries role : {Queries::kDecode, Queries::kPrompt}) {
      add(fmt::format("RealMlaAttend{}{}", name, role == Queries::kPrompt ? "Prompt" : ""), type, role,
          [](const Setup& setup) { return attend_case("", setup); });
    }
  }
  add("RealMlaAbsorb", KvType::kF16, Queries::kDecode, [](const Setup& setup) { return absorb_case("", setup); });
  add("RealMlaUnabsorb", KvType::kF16, Queries::kDecode, [](const Setup& setup) { return unabsorb_case("", setup); });
  add("RealMlaExpanded", KvType::kF16, Queries::kDecode, [](const Setup& setup) { return expanded_case("", setup); });
  return cases;
}

}  // namespace marlin::op_test
