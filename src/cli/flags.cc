#include "cli/flags.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

namespace marlin::cli {
namespace {

template <typename T>
bool parse_whole(const std::string& text, T& value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end;
}

}  // namespace

CLI::Validator number(double low, double high, std::string expected, bool above_low) {
  const auto check = [low, high, expected = std::move(expected), above_low](const std::string& text) -> std::string {
    char* end = nullptr;
    const float value = std::strtof(text.c_str(), &end);  // as it will be used: 1e-60 is 0
    const bool whole = !text.empty() && *end == '\0' && std::isfinite(value);
    if (whole && value <= high && (above_low ? value > low : value >= low)) return {};
    return fmt::format("'{}' is not {}", text, expected);
  };
  return {check, ""};
}

// For Option::transform: CLI11 would read 010 as an octal number, so it is given the number that was meant.
CLI::Validator whole_number(int low, int high) {
  const auto check = [low, high](std::string& text) -> std::string {
    int value = 0;
    if (!parse_whole(text, value) || value < low || value > high) {
      return fmt::format("'{}' is not a whole number from {} to {}", text, low, high);
    }
    text = std::to_string(value);
    return {};
  };
  return {check, ""};
}

CLI::Validator unsigned_number() {
  const auto check = [](std::string& text) -> std::string {
    uint64_t value = 0;
    if (!parse_whole(text, value)) return fmt::format("'{}' is not a whole number from 0 to 2^64 - 1", text);
    text = std::to_string(value);
    return {};
  };
  return {check, ""};
}

CLI::Validator not_empty() {
  return {[](const std::string& text) -> std::string { return text.empty() ? "expected some text" : ""; }, ""};
}

CLI::Validator device_name() {
  const auto check = [](const std::string& text) -> std::string {
    std::vector<std::string> names = device_names();
    names.insert(names.begin(), "auto");
    if (std::ranges::find(names, text) != names.end()) return {};
    return fmt::format("'{}' is not one of {}", text, fmt::join(names, ", "));
  };
  return {check, ""};
}

}  // namespace marlin::cli
