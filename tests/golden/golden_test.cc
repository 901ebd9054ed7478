// Every backend against the double-precision oracle on the bundled MMFP4 model. Needs nothing outside the repository.
#include "golden.h"

#include "marlin/error.h"

namespace marlin::testing {
namespace {

// FP32 arithmetic with an f32 cache stays within 1e-4 in logits (reference_test.cc derives it). A rounded cache flips
// an expert choice now and then, which moves single logits by whole units; what it must not do is move the typical
// token, so f16 and q8 are judged by the median over tokens and by the mean KL divergence of the stored rows.
struct Case {
  const char* device;
  KvType kv;
  double median_hidden;  // relative L2 of a token's final hidden state
  double mean_kl;        // nats
  const char* kernels = "portable";
};

/// What an f32 cache allows. FP32 arithmetic, and FP4 products of activations in two int8 planes: a step of 3e-5 of the
/// largest value of each 128 moves logits by 2.6e-3 and the mean KL divergence by 7e-8, measured.
struct Bounds {
  double logits;
  double hidden;  // relative L2
};
constexpr Bounds kFp32Bounds{1e-4, 2.5e-6};
constexpr Bounds kPlaneBounds{1e-2, 4e-4};

bool has_kernels(const std::string& kernels) {
  try {
    return make_device("cpu", {.threads = 1, .deterministic = true, .kernels = kernels}) != nullptr;
  } catch (const Error&) {
    return false;
  }
}

double median_row_error(std::span<const float> a, std::span<const float> b, size_t width) {
  std::vector<double> errors;
  for (size_t at = 0; at < a.size(); at += width) {
    errors.push_back(relative_l2(a.subspan(at, width), b.subspan(at, width)));
  }
  std::ranges::sort(errors);
  return errors[errors.size() / 2];
}

std::string case_name(const ::testing::TestParamInfo<Case>& test) {
  const char* kv[] = {"F32", "F16", "Q8", "F64"};
  return std::string(test.param.device) + "_" + test.param.kernels + kv[static_cast<int>(test.param.kv)];
}

class Golden : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    MARLIN_SKIP_WITHOUT(mmfp4_demo() / "config.json");
    if (!has_kernels(GetParam().kernels)) GTEST_SKIP() << "this processor cannot run " << GetParam().kernels;
  }
  DemoOptions options() const { return golden_options(GetParam().device, GetParam().kv, GetParam().kernels); }

  template <typename T>
  std::vector<T> golden(const std::string& name) {
    const TensorView* tensor = file_.find(name);
    if (tensor == nullptr) throw Error(ErrorCode::kNotFound, name);
    return tensor_values<T>(*tensor);
  }

  SafetensorsFile file_ = SafetensorsFile::open(golden_file());
};

TEST_P(Golden, LogitsHiddenStatesAndMtpLogitsMatchTheOracle) {
  DemoModel demo(options());
  for (const std::string name : {"prose", "chat"}) {
    const GoldenPassage passage = run_passage(demo, golden<int32_t>(name + ".ids"));
    const auto logits = golden<float>(name + ".logits");
    const auto mtp = golden<float>(name + ".mtp_logits");
    const auto hidden = golden<float>(name + ".hidden");
    const double logit_error = max_difference(passage.logits, logits);
    const double mtp_error = max_difference(passage.mtp_logits, mtp);
    const size_t last_layer = hidden.size() / static_cast<size_t>(demo.model().config().n_layers + 1);
    const double median = median_row_error(std::span(passage.hidden).last(last_layer),
                                           std::span(hidden).last(last_layer), static_cast<size_t>(demo.hidden()));
    const double kl = mean_kl(passage.logits, logits, static_cast<size_t>(demo.vocab()));
    std::printf("%s: logits %.2e, MTP logits %.2e, median hidden %.2e, KL %.2e\n", name.c_str(), logit_error, mtp_error,
                median, kl);
    EXPECT_LT(median, GetParam().median_hidden);
    EXPECT_LT(kl, GetParam().mean_kl);
    if (GetParam().kv == KvType::kF32) {
      const Bounds bounds = demo.device().info().int8_planes ? kPlaneBounds : kFp32Bounds;
      EXPECT_LT(logit_error, bounds.logits);
      EXPECT_LT(mtp_error, bounds.logits);
      EXPECT_LT(relative_l2(passage.hidden, hidden), bounds.hidden);
    }
  }
}

// Only for caches that do not move the choice at the small margins of these texts: a q8 cache may.
class GoldenGreedy : public Golden {};

TEST_P(GoldenGreedy, TextsMatchTheOracle) {
  DemoModel demo(options());
  for (int n = 0; n < kGreedyPrompts; ++n) {
    const std::string name = "greedy." + std::to_string(n);
    EXPECT_EQ(greedy(demo, golden<int32_t>(name + ".prompt"), 160), golden<int32_t>(name + ".ids")) << name;
  }
}

constexpr Case kCpuF32{"cpu", KvType::kF32, 2.5e-6, 1e-8};
constexpr Case kCpuF16{"cpu", KvType::kF16, 1e-3, 1e-3};
constexpr Case kCpuQ8{"cpu", KvType::kQ8, 5e-2, 0.15};

constexpr Case kAvx2F32{"cpu", KvType::kF32, 4e-4, 1e-6, "avx2"};
constexpr Case kAvx2F16{"cpu", KvType::kF16, 1e-3, 1e-3, "avx2"};
constexpr Case kAvx2Q8{"cpu", KvType::kQ8, 5e-2, 0.15, "avx2"};
constexpr Case kAvx512F32{"cpu", KvType::kF32, 4e-4, 1e-6, "avx512vnni"};
constexpr Case kAvx512F16{"cpu", KvType::kF16, 1e-3, 1e-3, "avx512vnni"};
constexpr Case kAvx512Q8{"cpu", KvType::kQ8, 5e-2, 0.15, "avx512vnni"};

INSTANTIATE_TEST_SUITE_P(Backends, Golden,
                         ::testing::Values(kCpuF32, kCpuF16, kCpuQ8, kAvx2F32, kAvx2F16, kAvx2Q8, kAvx512F32,
                                           kAvx512F16, kAvx512Q8),
                         case_name);
INSTANTIATE_TEST_SUITE_P(Backends, GoldenGreedy, ::testing::Values(kCpuF32, kCpuF16, kAvx512F32, kAvx512F16),
                         case_name);

}  // namespace
}  // namespace marlin::testing
