#include "cli/sampling_flags.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdlib>

#include "cli/flags.h"
#include "cli/input.h"
#include "marlin/error.h"

namespace marlin::cli {
namespace {

std::pair<int32_t, float> parse_logit_bias(const std::string& text) {
  const size_t equals = text.find('=');
  int32_t id = 0;
  const char* end = text.data() + std::min(equals, text.size());
  const auto [stop, error] = std::from_chars(text.data(), end, id);
  if (equals != std::string::npos && error == std::errc() && stop == end && id >= 0) {
    const std::string value = text.substr(equals + 1);
    char* rest = nullptr;
    const float bias = std::strtof(value.c_str(), &rest);
    if (!value.empty() && *rest == '\0' && !std::isnan(bias) && bias <= 100) return {id, bias};
  }
  throw Error(ErrorCode::kUsage,
              fmt::format("--logit-bias: '{}' is not ID=V, e.g. 198=-5, with V up to 100 or -inf", text));
}

}  // namespace

void SamplingFlags::add_to(CLI::App& app) {
  app.add_option("--max-tokens", max_tokens,
                 "Most tokens to generate; default: until the model ends or the context is full")
      ->transform(whole_number(1))
      ->type_name("N");
  app.add_option("--temperature", temperature, "0 (greedy) to 2; default: the model's")
      ->check(number(0, 2, "a number from 0 (greedy) to 2"))
      ->type_name("T");
  app.add_option("--top-p", top_p, "Sample from the most likely tokens that add up to P; 1 = off")
      ->check(number(0, 1, "a number above 0 and at most 1", true))
      ->type_name("P");
  app.add_option("--top-k", top_k, "Sample from the K most likely tokens; 0 = off")
      ->transform(whole_number(0))
      ->type_name("K");
  app.add_option("--min-p", min_p, "Leave out tokens less likely than P times the likeliest; 0 = off")
      ->check(number(0, 1, "a number from 0 to 1"))
      ->type_name("P");
  app.add_option("--repetition-penalty", repetition_penalty, "Divide logits of tokens seen before; 1 = off")
      ->check(number(0, 2, "a number above 0 and at most 2", true))
      ->type_name("F");
  app.add_option("--presence-penalty", presence_penalty, "Taken off the logit of every token generated before, -2 to 2")
      ->check(number(-2, 2, "a number from -2 to 2"))
      ->type_name("F");
  app.add_option("--frequency-penalty", frequency_penalty, "The same, for each time it was generated, -2 to 2")
      ->check(number(-2, 2, "a number from -2 to 2"))
      ->type_name("F");
  app.add_option("--logit-bias", logit_bias, "Add V to the logit of token ID; may be repeated")
      ->allow_extra_args(false)
      ->type_name("ID=V");
  app.add_option("--seed", seed, "Seed of the random choices; default: drawn, and printed")
      ->transform(unsigned_number())
      ->type_name("S");
  app.add_option("--stop", stop, "End when the output contains STR, which is left out; may be repeated")
      ->allow_extra_args(false)
      ->check(not_empty())
      ->type_name("STR");
  app.add_option("--max-thinking-tokens", max_thinking_tokens, "End the reasoning after N tokens and answer")
      ->transform(whole_number(0))
      ->type_name("N");
  app.add_flag("--ignore-eos", ignore_eos, "Go on when the model ends its turn");
}

void SamplingFlags::check() const {
  for (const std::string& text : logit_bias) parse_logit_bias(text);
  for (const std::string& text : stop) require_utf8(text, "--stop");
}

SamplingParams SamplingFlags::over(const SamplingParams& defaults) const {
  SamplingParams sampling = defaults;
  const auto set = [](const auto& flag, auto& value) {
    if (flag) value = *flag;
  };
  set(temperature, sampling.temperature);
  set(top_p, sampling.top_p);
  set(min_p, sampling.min_p);
  set(top_k, sampling.top_k);
  set(repetition_penalty, sampling.repetition_penalty);
  set(presence_penalty, sampling.presence_penalty);
  set(frequency_penalty, sampling.frequency_penalty);
  for (const std::string& text : logit_bias) sampling.logit_bias.push_back(parse_logit_bias(text));
  if (seed) sampling.seed = seed;
  return sampling;
}

void SamplingFlags::apply(const ModelInfo& info, Request& request) const {
  request.sampling = over(info.default_sampling);
  request.max_tokens = max_tokens;
  request.stop = stop;
  request.ignore_eos = ignore_eos;
  if (request.starts_in_reasoning) request.max_thinking_tokens = max_thinking_tokens;
}

std::string describe(const SamplingParams& s) {
  return fmt::format(
      "temperature {}, top-p {}, top-k {}, min-p {}, penalties: repetition {}, presence {}, frequency {}; {} biases",
      s.temperature, s.top_p, s.top_k, s.min_p, s.repetition_penalty, s.presence_penalty, s.frequency_penalty,
      s.logit_bias.size());
}

}  // namespace marlin::cli
