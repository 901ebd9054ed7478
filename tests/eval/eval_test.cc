#include "eval/eval.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "eval/windows.h"
#include "format/safetensors.h"
#include "marlin/error.h"

namespace marlin {
namespace {

using ::testing::HasSubstr;

std::filesystem::path shared() {
  return std::filesystem::path(MARLIN_SHARED_DIR) / "demo-model";
}
std::filesystem::path demo() {
  return std::filesystem::path(MARLIN_SOURCE_DIR) / "models/GLM-4.7-Flash-Demo-MMFP4";
}

#define SKIP_WITHOUT(path) \
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "needs " << (path).string() << ", which is not on this machine"

std::filesystem::path write_rows(const std::string& text) {
  auto path = std::filesystem::path(::testing::TempDir()) / "eval_rows.jsonl";
  std::ofstream(path) << text;
  return path;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kHeldOutWindows = 1;  // instrumented code is an order of magnitude slower
#else
constexpr int kHeldOutWindows = 0;
#endif

// The protocol and the arithmetic together: transformers' FP32 figure is 107.230 over all 50 windows.
TEST(Perplexity, OfTheBf16DemoIsTheReferences) {
  SKIP_WITHOUT(shared());
  const EvalResult result = evaluate({.model = shared() / "bf16",
                                      .text = shared() / "reference/heldout.jsonl",
                                      .windows = kHeldOutWindows,
                                      .device = "cpu",
                                      .kv_type = "f32"});
  if (kHeldOutWindows != 0) {
    EXPECT_EQ(result.predictions, 1024 * kHeldOutWindows);
    EXPECT_TRUE(std::isfinite(result.perplexity));
    return;
  }
  EXPECT_EQ(result.predictions, 51200);
  EXPECT_NEAR(result.perplexity, 107.230, 0.107);
}

TEST(Divergence, OfAModelFromItselfIsZero) {
  const auto text =
      write_rows(R"({"messages":[{"role":"user","content":"Hello"},{"role":"assistant","content":"Hi!"}]})");
  const EvalResult result = evaluate(
      {.model = demo(), .text = text, .reference = demo(), .device = "cpu", .kv_type = "f32", .deterministic = true});
  ASSERT_TRUE(result.divergence.has_value());
  EXPECT_NEAR(result.divergence->kl_mean, 0, 1e-12);
  EXPECT_EQ(result.divergence->top1_agreement, 1);
  EXPECT_DOUBLE_EQ(result.reference_perplexity, result.perplexity);
}

TEST(Divergence, OfTheQuantizedDemoIsSmallAndNotZero) {
  SKIP_WITHOUT(shared());
  const EvalResult result = evaluate({.model = demo(),
                                      .text = shared() / "reference/heldout.jsonl",
                                      .reference = shared() / "bf16",
                                      .windows = 1,
                                      .device = "cpu"});
  ASSERT_TRUE(result.divergence.has_value());
  EXPECT_GT(result.divergence->kl_mean, 0.05);
  EXPECT_LT(result.divergence->kl_mean, 0.6);
  EXPECT_GT(result.divergence->kl_p99, result.divergence->kl_mean);
  EXPECT_GT(result.divergence->top1_agreement, 0.55);
}

TEST(Windows, ChatRowsScoreWhatTheAssistantSaidAndItsStop) {
  const auto text =
      write_rows(R"({"messages":[{"role":"user","content":"Hello"},{"role":"assistant","content":"Hi!"}]})");
  const std::vector<Window> windows = read_windows(text, demo(), 0);
  ASSERT_EQ(windows.size(), 1U);
  const Window& window = windows.front();
  // [gMASK] <sop> <|user|> Hello <|assistant|> </think> Hi ! <|user|>: from </think> on, the stop included.
  const auto assistant = std::ranges::find(window.ids, 8168) - window.ids.begin();
  ASSERT_LT(assistant, static_cast<std::ptrdiff_t>(window.ids.size()));
  EXPECT_EQ(window.ids.back(), 8167);
  for (size_t i = 0; i < window.scored.size(); ++i) {
    EXPECT_EQ(window.scored[i], static_cast<std::ptrdiff_t>(i) >= assistant) << i;
  }
}

TEST(Windows, BadRowsAreNamedByLine) {
  EXPECT_THAT(message_of([] { read_windows(write_rows("{\"text\":\"a\"}\nnonsense\n"), demo(), 0); }), HasSubstr(":2"));
  EXPECT_THAT(message_of([] { read_windows(write_rows("{\"text\":\"a\"}\n{\"messages\":[]}\n"), demo(), 0); }),
              HasSubstr("one kind"));
  EXPECT_THAT(message_of([] { read_windows(write_rows("{\"text\":\"too short\"}\n"), demo(), 0); }),
              HasSubstr("too short"));
  EXPECT_THAT(message_of([] { read_windows("absent.jsonl", demo(), 0); }), HasSubstr("absent.jsonl"));
  EXPECT_THAT(message_of([] { read_windows(write_rows("\n\n"), demo(), 0); }), HasSubstr("holds no rows"));
  EXPECT_THAT(message_of([] { read_windows(::testing::TempDir(), demo(), 0); }), HasSubstr("is a directory"));
}

TEST(Windows, SomethingMustBeScored) {
  const std::string question = R"({"messages":[{"role":"user","content":"Hello"}]})";
  const std::string answer = R"({"messages":[{"role":"user","content":"Hello"},{"role":"assistant","content":"Hi!"}]})";
  EXPECT_THAT(message_of([&] { read_windows(write_rows(question), demo(), 0); }), HasSubstr("nothing to score in 1"));
  EXPECT_THAT(message_of([&] { read_windows(write_rows(question + "\n" + answer), demo(), 1); }),
              HasSubstr("nothing to score"));
  EXPECT_EQ(read_windows(write_rows(question + "\n" + answer), demo(), 0).size(), 2U);
}

TEST(Logits, AreWrittenForAnIdsFile) {
  const auto directory = std::filesystem::path(::testing::TempDir());
  std::ofstream(directory / "ids.json") << "[8162, 8164, 8167, 39, 420]";
  write_logits({.model = demo(), .device = "cpu"}, directory / "ids.json", directory / "logits.safetensors");
  const SafetensorsFile file = SafetensorsFile::open(directory / "logits.safetensors");
  ASSERT_NE(file.find("logits"), nullptr);
  EXPECT_EQ(file.find("logits")->shape, (std::vector<int64_t>{5, 8192}));
  EXPECT_EQ(file.find("ids")->shape, (std::vector<int64_t>{5}));
  // The file it wrote is an ids file too, and gives the same logits again.
  write_logits({.model = demo(), .device = "cpu"}, directory / "logits.safetensors", directory / "again.safetensors");
  EXPECT_TRUE(std::ranges::equal(SafetensorsFile::open(directory / "again.safetensors").find("logits")->data,
                                 file.find("logits")->data));

  std::ofstream(directory / "bad.json") << "[1, 8192]";
  EXPECT_THAT(message_of([&] {
                write_logits({.model = demo(), .device = "cpu"}, directory / "bad.json", directory / "x.safetensors");
              }),
              HasSubstr("8192"));
  EXPECT_FALSE(std::filesystem::exists(directory / "x.safetensors"));
}

}  // namespace
}  // namespace marlin
