#include "cli/bench_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "marlin/error.h"

namespace marlin::cli {
namespace {

constexpr size_t kLongestList = 1000;

/// Sequences do not start in the same step; those that start early decode a little longer, so that the time in which
/// all decode has about the steps that were asked for.
int stagger(int batch) {
  return batch == 1 ? 0 : 4 + batch / 4;
}

/// Parses one list and keeps what its messages need.
class ListParser {
 public:
  ListParser(const std::string& text, int low, int high, const std::string& option)
      : text_(text), low_(low), high_(high), option_(option) {}

  std::vector<int> parse() {
    do {
      item();
    } while (take(','));
    if (at_ != text_.size()) fail();
    return values_;
  }

 private:
  bool take(char c) {
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  int number() {
    int value = 0;
    const char* begin = text_.data() + at_;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (error != std::errc() || *begin == '-') fail();
    at_ += static_cast<size_t>(end - begin);
    return value;
  }

  void item() {
    const int first = number();
    if (!take('-')) return add(first);
    const int last = number();
    const bool times = take('*');
    const int step = times || take('+') ? number() : 1;
    if (last < first || step < (times ? 2 : 1) || (times && first == 0)) fail();
    for (int64_t value = first; value <= last; value = times ? value * step : value + step) {
      add(static_cast<int>(value));
    }
  }

  void add(int value) {
    if (value < low_ || value > high_ || values_.size() == kLongestList) fail();
    values_.push_back(value);
  }

  [[noreturn]] void fail() const {
    throw Error(ErrorCode::kUsage, fmt::format("{}: '{}' is not a list of whole numbers from {} to {}, at most {} of "
                                               "them, such as 512, 128,512 or 128-512*2",
                                               option_, text_, low_, high_, kLongestList));
  }

  const std::string& text_;
  int low_, high_;
  const std::string& option_;
  size_t at_ = 0;
  std::vector<int> values_;
};

}  // namespace

std::vector<int> parse_list(const std::string& text, int low, int high, const std::string& option) {
  return ListParser(text, low, high, option).parse();
}

std::string BenchTest::kind() const {
  return fmt::format("{}{}", prompt ? "pp" : "tg", tokens);
}

std::string BenchTest::label() const {
  return depth == 0 ? kind() : fmt::format("{} @ d{}", kind(), depth);
}

int BenchTest::prompt_tokens() const {
  return prompt ? depth + tokens : std::max(1, depth);  // something must be there to continue
}

int BenchTest::new_tokens() const {
  return prompt ? 1 : 1 + tokens + stagger(batch);
}

std::vector<BenchTest> plan_tests(std::span<const int> prompts, std::span<const int> generations,
                                  std::span<const int> depths, std::span<const int> batches) {
  std::vector<BenchTest> tests;
  for (const int depth : depths) {
    for (const int batch : batches) {
      for (const int tokens : prompts) {
        if (tokens > 0) tests.push_back({.prompt = true, .tokens = tokens, .depth = depth, .batch = batch});
      }
      for (const int tokens : generations) {
        if (tokens > 0) tests.push_back({.prompt = false, .tokens = tokens, .depth = depth, .batch = batch});
      }
    }
  }
  return tests;
}

int longest_sequence(std::span<const BenchTest> tests) {
  int longest = 0;
  for (const BenchTest& test : tests) longest = std::max(longest, test.prompt_tokens() + test.new_tokens());
  return longest;
}

Spread spread_of(std::vector<double> values) {
  std::ranges::sort(values);
  const size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

double decode_rate(std::span<const std::vector<double>> times) {
  double begin = -std::numeric_limits<double>::infinity();
  double end = std::numeric_limits<double>::infinity();
  for (const std::vector<double>& moments : times) {
    if (moments.empty()) return 0;
    begin = std::max(begin, moments.front());
    end = std::min(end, moments.back());
  }
  double rate = 0;
  for (const std::vector<double>& moments : times) {
    const auto first = std::ranges::lower_bound(moments, begin);
    const auto last = std::ranges::upper_bound(moments, end);
    if (last - first < 2 || *(last - 1) <= *first) return 0;
    rate += static_cast<double>(last - first - 1) * 1000 / (*(last - 1) - *first);
  }
  return rate;
}

double expected_experts(int experts, int taken, int batch) {
  return experts * (1 - std::pow(1 - static_cast<double>(taken) / experts, batch));
}

double step_bytes(const ModelInfo& info, int batch) {
  const auto routed = static_cast<double>(info.expert_bytes_per_token);
  const double rest = static_cast<double>(info.weight_bytes_per_token) - routed;
  if (batch == 1 || info.n_experts == 0 || info.experts_per_token == 0) return rest + routed;
  const double each = routed / info.experts_per_token;
  return rest + each * expected_experts(info.n_experts, info.experts_per_token, batch);
}

}  // namespace marlin::cli
