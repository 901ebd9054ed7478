// The bounds of reference_test.cc are only worth something if the classic mistakes of this architecture break them.
// Each mutation makes one such mistake on the way to the device; the comparison must then fail.
#include <cmath>

#include "backend/forwarding_stream.h"
#include "demo_model.h"

namespace marlin::testing {
namespace {

constexpr double kLogitBound = 1e-4;
constexpr double kHiddenBound = 2.5e-6;

enum class Mistake {
  kNone,
  kInnerEps,        // eps 1e-5 in q_a_layernorm and kv_a_layernorm
  kSoftmaxGating,   // softmax instead of sigmoid scores
  kBiasInWeights,   // the correction bias left in the experts' weights
  kHalfSplitRope,   // pairs (x_i, x_{i + dims/2}) instead of neighbours
  kUnnormedLatent,  // the cached latent without its norm
  kMtpBeforeNorm,   // the MTP layer fed the residual stream instead of the final norm's output
};

class MutatedStream : public ForwardingStream {
 public:
  MutatedStream(Device& device, Stream& inner, Mistake mistake)
      : ForwardingStream(inner), device_(device), mistake_(mistake) {}

  void mark(int layer, std::string_view part) override {
    part_ = part;
    ForwardingStream::mark(layer, part);
  }

  void rms_norm(const RmsNormArgs& args) override {
    RmsNormArgs changed = args;
    if (mistake_ == Mistake::kInnerEps && args.eps == 1e-6) changed.eps = 1e-5;
    if (mistake_ == Mistake::kMtpBeforeNorm && part_ == "norm") {
      before_norm_ = fetch(args.x, args.rows * args.x_stride);
    }
    if (mistake_ == Mistake::kMtpBeforeNorm && part_ == "hnorm") put(args.x, before_norm_);
    ForwardingStream::rms_norm(changed);
    if (mistake_ == Mistake::kUnnormedLatent && part_ == "self_attn.kv_a_layernorm") {
      const std::vector<float> x = fetch(args.x, args.rows * args.x_stride);
      std::vector<float> out(static_cast<size_t>(args.rows * args.out_stride));
      for (int64_t row = 0; row < args.rows; ++row) {
        std::copy_n(x.begin() + row * args.x_stride, args.gain->size, out.begin() + row * args.out_stride);
      }
      put(args.out, out);
    }
  }

  void rope(const RopeArgs& args) override {
    if (mistake_ != Mistake::kHalfSplitRope) {
      ForwardingStream::rope(args);
      return;
    }
    // Shuffle halves into pairs, rotate, shuffle back.
    reorder(args, [](int i, int dims) { return i % 2 == 0 ? i / 2 : dims / 2 + i / 2; });
    ForwardingStream::rope(args);
    reorder(args, [](int i, int dims) { return i < dims / 2 ? 2 * i : 2 * (i - dims / 2) + 1; });
  }

  void route(const RouteArgs& args) override {
    const bool softmax = mistake_ == Mistake::kSoftmaxGating;
    if (!softmax && mistake_ != Mistake::kBiasInWeights) {
      ForwardingStream::route(args);
      return;
    }
    const std::vector<float> logits = fetch(args.logits, int64_t{args.rows} * args.n_experts);
    const std::vector<float> bias = fetch(args.bias, args.n_experts);
    std::vector<int32_t> ids;
    std::vector<float> weights;
    for (int row = 0; row < args.rows; ++row) {
      route_row(args, std::span(logits).subspan(static_cast<size_t>(row) * bias.size(), bias.size()), bias, ids,
                weights);
    }
    upload(args.ids, std::as_bytes(std::span(ids)));
    put(args.weights, weights);
  }

 private:
  std::vector<float> fetch(View from, int64_t elements) {
    return read_activations(*this, device_, wait(submit()), from, elements);
  }
  void put(View to, std::span<const float> values) { upload_activations(*this, device_, to, values); }

  template <typename Source>
  void reorder(const RopeArgs& args, Source source) {
    for (int row = 0; row < args.rows; ++row) {
      for (int head = 0; head < args.heads; ++head) {
        const View at = args.x.at(activation_bytes(device_, row * args.row_stride + head * args.head_stride));
        const std::vector<float> x = fetch(at, args.dims);
        std::vector<float> y(x.size());
        for (int i = 0; i < args.dims; ++i) y[static_cast<size_t>(i)] = x[static_cast<size_t>(source(i, args.dims))];
        put(at, y);
      }
    }
  }

  void route_row(const RouteArgs& args, std::span<const float> logits, std::span<const float> bias,
                 std::vector<int32_t>& ids, std::vector<float>& weights) const {
    std::vector<double> scores(logits.size());
    double total = 0;
    for (size_t e = 0; e < scores.size(); ++e) total += std::exp(static_cast<double>(logits[e]));
    for (size_t e = 0; e < scores.size(); ++e) {
      const double x = std::exp(static_cast<double>(logits[e]));
      scores[e] = mistake_ == Mistake::kSoftmaxGating ? x / total : x / (1 + x);
    }
    std::vector<int32_t> order(scores.size());
    for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int32_t>(e);
    const auto rank = [&](int32_t e) { return scores[static_cast<size_t>(e)] + bias[static_cast<size_t>(e)]; };
    std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return rank(a) > rank(b); });
    double sum = 1e-20;
    const auto weight = [&](int32_t e) {
      return mistake_ == Mistake::kBiasInWeights ? rank(e) : scores[static_cast<size_t>(e)];
    };
    for (int j = 0; j < args.top_k; ++j) sum += weight(order[static_cast<size_t>(j)]);
    for (int j = 0; j < args.top_k; ++j) {
      const int32_t e = order[static_cast<size_t>(j)];
      ids.push_back(e);
      weights.push_back(static_cast<float>(weight(e) / sum * args.scale));
    }
  }

  Device& device_;
  Mistake mistake_;
  std::string part_;
  std::vector<float> before_norm_;
};

Deviation deviation_with(Mistake mistake) {
  DemoOptions options;
  options.wrap = [mistake](Device& device, Stream& inner) {
    return std::make_unique<MutatedStream>(device, inner, mistake);
  };
  DemoModel demo(options);
  return measure(demo, read_passage("chat"));
}

bool within_bounds(const Deviation& deviation) {
  return deviation.logits < kLogitBound && deviation.mtp_logits < kLogitBound && deviation.hidden < kHiddenBound;
}

// The decorator itself must be innocent, or the tests below would prove nothing.
TEST(NoMutation, StaysWithinTheBounds) {
  MARLIN_SKIP_WITHOUT(reference_vectors());
  EXPECT_TRUE(within_bounds(deviation_with(Mistake::kNone)));
}

struct Named {
  const char* name;
  Mistake mistake;
};

class Mutation : public ::testing::TestWithParam<Named> {};

TEST_P(Mutation, BreaksTheBounds) {
  MARLIN_SKIP_WITHOUT(reference_vectors());
  const Deviation deviation = deviation_with(GetParam().mistake);
  std::printf("%s: logits %.2e, MTP logits %.2e, hidden %.2e\n", GetParam().name, deviation.logits,
              deviation.mtp_logits, deviation.hidden);
  EXPECT_FALSE(within_bounds(deviation));
}

INSTANTIATE_TEST_SUITE_P(Mistakes, Mutation,
                         ::testing::Values(Named{"InnerEps", Mistake::kInnerEps},
                                           Named{"SoftmaxGating", Mistake::kSoftmaxGating},
                                           Named{"BiasInWeights", Mistake::kBiasInWeights},
                                           Named{"HalfSplitRope", Mistake::kHalfSplitRope},
                                           Named{"UnnormedLatent", Mistake::kUnnormedLatent},
                                           Named{"MtpBeforeNorm", Mistake::kMtpBeforeNorm}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace marlin::testing
