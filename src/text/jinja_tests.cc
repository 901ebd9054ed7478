#include <fmt/format.h>

#include <unordered_map>

#include "text/jinja_builtins.h"

namespace marlin::jinja {
namespace {

using Test = bool (*)(Budget&, const Value&, const Value&);

struct TestEntry {
  Test test;
  bool has_operand = false;
};

Int whole(const Value& value) {
  if (const auto number = value.index()) return *number;
  throw Failure(fmt::format("the test expects a whole number, not {}", value.type_name()));
}

template <bool expected>
bool is_bool(Budget&, const Value& value, const Value&) {
  return value.as_bool() != nullptr && *value.as_bool() == expected;
}

bool is_callable(Budget&, const Value& value, const Value&) {
  return value.as_macro() != nullptr || value.as_global() != nullptr || value.as_method() != nullptr;
}

bool is_divisible(Budget&, const Value& value, const Value& by) {
  if (whole(by) == 0) throw Failure("'divisibleby' zero");
  return whole(value) % whole(by) == 0;
}

const std::unordered_map<std::string_view, TestEntry>& tests() {
  using B = Budget;
  using V = Value;
  static const TestEntry kEqual{[](B& b, const V& v, const V& o) { return equals(b, v, o); }, true};
  static const TestEntry kNotEqual{[](B& b, const V& v, const V& o) { return !equals(b, v, o); }, true};
  static const TestEntry kLess{[](B& b, const V& v, const V& o) { return compare(b, v, o, "<") < 0; }, true};
  static const TestEntry kLessEqual{[](B& b, const V& v, const V& o) { return compare(b, v, o, "<=") <= 0; }, true};
  static const TestEntry kGreater{[](B& b, const V& v, const V& o) { return compare(b, v, o, ">") > 0; }, true};
  static const TestEntry kGreaterEqual{[](B& b, const V& v, const V& o) { return compare(b, v, o, ">=") >= 0; }, true};
  static const std::unordered_map<std::string_view, TestEntry> kTests = {
      {"defined", {[](B&, const V& v, const V&) { return !v.is_undefined(); }}},
      {"undefined", {[](B&, const V& v, const V&) { return v.is_undefined(); }}},
      {"none", {[](B&, const V& v, const V&) { return v.is_none(); }}},
      {"string", {[](B&, const V& v, const V&) { return v.as_string() != nullptr; }}},
      {"mapping", {[](B&, const V& v, const V&) { return v.as_dict() != nullptr; }}},
      // Python's dicts and Jinja's Undefined also have a length and __getitem__.
      {"sequence", {[](B&, const V& v, const V&) { return length(v).has_value(); }}},
      {"iterable", {[](B&, const V& v, const V&) { return length(v).has_value(); }}},
      {"number", {[](B&, const V& v, const V&) { return v.numeric().has_value(); }}},
      {"integer", {[](B&, const V& v, const V&) { return v.as_int() != nullptr; }}},
      {"float", {[](B&, const V& v, const V&) { return v.as_float() != nullptr; }}},
      {"boolean", {[](B&, const V& v, const V&) { return v.as_bool() != nullptr; }}},
      {"true", {is_bool<true>}},
      {"false", {is_bool<false>}},
      {"callable", {is_callable}},
      {"odd", {[](B&, const V& v, const V&) { return whole(v) % 2 != 0; }}},
      {"even", {[](B&, const V& v, const V&) { return whole(v) % 2 == 0; }}},
      {"divisibleby", {is_divisible, true}},
      {"in", {[](B& b, const V& v, const V& o) { return contains(b, o, v); }, true}},
      {"equalto", kEqual},
      {"eq", kEqual},
      {"==", kEqual},
      {"ne", kNotEqual},
      {"!=", kNotEqual},
      {"lt", kLess},
      {"lessthan", kLess},
      {"<", kLess},
      {"le", kLessEqual},
      {"<=", kLessEqual},
      {"gt", kGreater},
      {"greaterthan", kGreater},
      {">", kGreater},
      {"ge", kGreaterEqual},
      {">=", kGreaterEqual},
  };
  return kTests;
}

}  // namespace

bool is_test(std::string_view name) {
  return tests().contains(name);
}

bool apply_test(Budget& budget, std::string_view name, const Value& value, Arguments arguments) {
  budget.step();
  const TestEntry& entry = tests().at(name);
  if (!entry.has_operand) {
    const Bindings bound(name, std::move(arguments), {});
    return entry.test(budget, value, Value());
  }
  const Bindings bound(name, std::move(arguments), {"other"});
  return entry.test(budget, value, bound.required(0));
}

}  // namespace marlin::jinja
