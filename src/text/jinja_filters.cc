#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "text/jinja_builtins.h"

namespace marlin::jinja {
namespace {

using Filter = Value (*)(Budget&, const Value&, Arguments);

Text text_of(Budget& budget, const Value& value) {
  Text text = to_text(budget, value);
  budget.text(text.size());
  return text;
}

Value filter_tojson(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("tojson", std::move(arguments), {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ascii = bound.flag(0, false);
  if (bound.has(1) && !bound.at(1).is_none()) {
    const Text* text = bound.at(1).as_string();
    const Int width = text == nullptr ? bound.integer(1, 0) : 0;
    if (width > 64) throw Failure("'tojson' indents by at most 64");
    style.indent = text != nullptr ? text->str() : std::string(static_cast<size_t>(std::max<Int>(width, 0)), ' ');
    style.item_separator = ",";
  }
  if (bound.has(2) && !bound.at(2).is_none()) {
    const List* pair = bound.at(2).as_list();
    if (pair == nullptr || pair->items.size() != 2 || pair->items[0].as_string() == nullptr ||
        pair->items[1].as_string() == nullptr) {
      throw Failure("'tojson' expects two strings as 'separators'");
    }
    style.item_separator = pair->items[0].as_string()->str();
    style.key_separator = pair->items[1].as_string()->str();
  }
  style.sort_keys = bound.flag(3, false);
  return Value::string(to_json(budget, value, style));
}

Value filter_trim(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("trim", std::move(arguments), {"chars"});
  const Text* chars = bound.text(0);
  return Value::string(strip(text_of(budget, value),
                             chars != nullptr ? std::optional<std::string_view>(chars->str()) : std::nullopt, true,
                             true));
}

template <Case mode>
Value filter_case(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("upper/lower/title/capitalize", std::move(arguments), {});
  return Value::string(change_case(text_of(budget, value), mode));
}

Value filter_length(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("length", std::move(arguments), {});
  if (const Text* text = value.as_string()) budget.text(text->size());
  const auto size = length(value);
  if (!size) throw Failure(fmt::format("object of type '{}' has no length", value.type_name()));
  return Value::integer(static_cast<Int>(*size), value.has_data());
}

// The item of a path such as "function.name" or 0.
Value follow(Budget& budget, const Value& value, const Value& path) {
  const Text* text = path.as_string();
  if (text == nullptr) return get_item(budget, value, path);
  Value current = value;
  for (const Text& part : split(*text, ".", -1)) {
    const std::string& name = part.str();
    const bool is_index =
        !name.empty() && name.size() < 10 && name.find_first_not_of("0123456789") == std::string::npos;
    current = get_item(budget, current, is_index ? Value::integer(std::stoi(name)) : Value::string(part));
  }
  return current;
}

Value filter_join(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("join", std::move(arguments), {"d", "attribute"});
  const Text separator = bound.has(0) ? text_of(budget, bound.at(0)) : Text();
  Text out;
  bool first = true;
  for (const Value& item : iterate(budget, value)) {
    if (!first) out.append(separator);
    first = false;
    out.append(to_text(budget, bound.has(1) ? follow(budget, item, bound.at(1)) : item));
    budget.step(separator.size() / 64);
    if (out.size() > budget.limits().text) budget.text(out.size());
  }
  budget.text(out.size());
  return Value::string(std::move(out));
}

template <bool first>
Value filter_end(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound(first ? "first" : "last", std::move(arguments), {});
  const std::vector<Value> items = iterate(budget, value);
  if (items.empty()) return Value::undefined(fmt::format("an empty sequence has no {} item", first ? "first" : "last"));
  return first ? items.front() : items.back();
}

Value filter_default(Budget&, const Value& value, Arguments arguments) {
  const Bindings bound("default", std::move(arguments), {"default_value", "boolean"});
  const bool replaced = value.is_undefined() || (bound.flag(1, false) && !value.truthy());
  if (!replaced) return value;
  return bound.has(0) ? bound.at(0) : Value::string("", true);
}

Value filter_string(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("string", std::move(arguments), {});
  return Value::string(text_of(budget, value));
}

// A decimal number as Python's int() and float() read it.
std::optional<Value> parse_number(const Text& text) {
  const bool data = text.any_data();
  std::string digits = strip(text, std::nullopt, true, true).str();
  const bool negative = digits.starts_with('-');
  if (negative || digits.starts_with('+')) digits.erase(0, 1);
  if (digits.empty() || digits.front() < '0' || digits.front() > '9') return std::nullopt;
  digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size() - 1));
  if (digits.front() == '.' || digits.front() == 'e' || digits.front() == 'E') digits.insert(0, "0");
  if (digits.find_first_not_of("0123456789") == std::string::npos) {
    Int value = 0;
    for (const char digit : digits) {
      if (__builtin_mul_overflow(value, Int{10}, &value) || __builtin_add_overflow(value, Int{digit - '0'}, &value)) {
        throw Failure(fmt::format("the number {} is too large", digits));
      }
    }
    return Value::integer(negative ? -value : value, data);
  }
  const Json parsed = Json::parse(digits, nullptr, false);
  if (!parsed.is_number()) return std::nullopt;
  return Value::number(negative ? -parsed.get<double>() : parsed.get<double>(), data);
}

std::optional<Value> to_number(const Value& value) {
  if (value.is_undefined()) throw Failure(value.why_undefined());
  if (const auto number = value.index()) return Value::integer(*number, value.has_data());
  if (value.as_float() != nullptr) return value;
  if (const Text* text = value.as_string()) return parse_number(*text);
  return std::nullopt;
}

Value filter_int(Budget&, const Value& value, Arguments arguments) {
  const Bindings bound("int", std::move(arguments), {"default"});
  const auto number = to_number(value);
  const auto otherwise = [&] { return bound.has(0) ? bound.at(0) : Value::integer(0); };
  if (!number) return otherwise();
  const double* fraction = number->as_float();
  if (fraction == nullptr) return *number;
  if (!(std::abs(*fraction) < 1e38)) return otherwise();
  return Value::integer(static_cast<Int>(*fraction), value.has_data());
}

Value filter_float(Budget&, const Value& value, Arguments arguments) {
  const Bindings bound("float", std::move(arguments), {"default"});
  const auto number = to_number(value);
  if (!number) return bound.has(0) ? bound.at(0) : Value::number(0.0);
  return Value::number(*number->numeric(), value.has_data());
}

Value filter_abs(Budget&, const Value& value, Arguments arguments) {
  const Bindings bound("abs", std::move(arguments), {});
  if (const double* number = value.as_float()) return Value::number(std::abs(*number), value.has_data());
  const auto number = value.index();
  Int result = 0;
  if (!number || (*number < 0 && __builtin_sub_overflow(Int{0}, *number, &result))) {
    throw Failure(fmt::format("'abs' cannot be taken of this {}", value.type_name()));
  }
  return Value::integer(*number < 0 ? result : *number, value.has_data());
}

Value filter_list(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("list", std::move(arguments), {});
  return Value::list(iterate(budget, value));
}

Value filter_items(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("items", std::move(arguments), {});
  if (value.is_undefined()) return Value::list({});
  if (value.as_dict() == nullptr) throw Failure(fmt::format("'items' expects a mapping, not {}", value.type_name()));
  return call_method(budget, {value, "items"}, {});
}

Value filter_replace(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("replace", std::move(arguments), {"old", "new", "count"});
  const Text text = text_of(budget, value);
  const Text needle = text_of(budget, bound.required(0));
  const Text replacement = text_of(budget, bound.required(1));
  const bool limited = bound.has(2) && !bound.at(2).is_none();
  const auto limit = static_cast<int64_t>(std::clamp<Int>(limited ? bound.integer(2, -1) : -1, -1, INT64_MAX));
  if (needle.empty()) throw Failure("'replace' of an empty string is not supported");
  const size_t count = count_occurrences(text.str(), needle.str(), limit);
  budget.step(count);
  budget.text(text.size() + count * replacement.size());
  return Value::string(replace(text, needle.str(), replacement, limit));
}

Value filter_safe(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("safe", std::move(arguments), {});
  return Value::string(text_of(budget, value));
}

Value filter_indent(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("indent", std::move(arguments), {"width", "first", "blank"});
  Text indention("    ", true);
  if (bound.has(0)) {
    const Text* text = bound.at(0).as_string();
    const Int width = text == nullptr ? bound.integer(0, 4) : 0;
    if (width > 1000) throw Failure("'indent' indents by at most 1000");
    indention = text != nullptr ? *text : Text(std::string(static_cast<size_t>(std::max<Int>(width, 0)), ' '), true);
  }
  const bool blank = bound.flag(2, false);
  Text text = text_of(budget, value);
  text.append("\n", true);
  const std::vector<Text> lines = split_lines(text);
  budget.text(text.size() + lines.size() * indention.size());
  budget.step(lines.size());
  Text out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.append("\n", true);
    if (i == 0 ? bound.flag(1, false) : blank || !lines[i].empty()) out.append(indention);
    out.append(lines[i]);
  }
  return Value::string(std::move(out));
}

Value filter_reverse(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("reverse", std::move(arguments), {});
  if (value.as_string() != nullptr) return get_slice(budget, value, Value(), Value(), Value::integer(-1));
  std::vector<Value> items = iterate(budget, value);
  std::reverse(items.begin(), items.end());
  return Value::list(std::move(items));
}

// What an item is sorted or told apart by.
Value sort_key(Budget& budget, const Value& item, const Value* attribute, bool case_sensitive) {
  Value key = attribute != nullptr ? follow(budget, item, *attribute) : item;
  if (key.as_string() != nullptr && !case_sensitive) key = Value::string(change_case(*key.as_string(), Case::kLower));
  return key;
}

std::vector<Value> sort_by(Budget& budget, const std::vector<Value>& items, const std::vector<Value>& keys,
                           bool reverse) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return reverse ? compare(budget, keys[b], keys[a], "<") < 0 : compare(budget, keys[a], keys[b], "<") < 0;
  });
  std::vector<Value> sorted;
  sorted.reserve(items.size());
  for (const size_t at : order) sorted.push_back(items[at]);
  return sorted;
}

Value filter_sort(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("sort", std::move(arguments), {"reverse", "case_sensitive", "attribute"});
  const std::vector<Value> items = iterate(budget, value);
  const Value* attribute = bound.has(2) && !bound.at(2).is_none() ? &bound.at(2) : nullptr;
  std::vector<Value> keys;
  keys.reserve(items.size());
  for (const Value& item : items) keys.push_back(sort_key(budget, item, attribute, bound.flag(1, false)));
  return Value::list(sort_by(budget, items, keys, bound.flag(0, false)));
}

Value filter_dictsort(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("dictsort", std::move(arguments), {"case_sensitive", "by", "reverse"});
  const Text* by = bound.text(1);
  if (by != nullptr && by->str() != "key" && by->str() != "value") throw Failure("'dictsort' sorts by key or value");
  const Value position = Value::integer(by != nullptr && by->str() == "value" ? 1 : 0);
  const Value items = filter_items(budget, value, {});
  std::vector<Value> keys;
  keys.reserve(items.as_list()->items.size());
  for (const Value& item : items.as_list()->items) {
    keys.push_back(sort_key(budget, item, &position, bound.flag(0, false)));
  }
  return Value::list(sort_by(budget, items.as_list()->items, keys, bound.flag(2, false)));
}

Value filter_unique(Budget& budget, const Value& value, Arguments arguments) {
  const Bindings bound("unique", std::move(arguments), {"case_sensitive", "attribute"});
  const Value* attribute = bound.has(1) && !bound.at(1).is_none() ? &bound.at(1) : nullptr;
  std::vector<Value> kept;
  std::vector<Value> keys;
  for (const Value& item : iterate(budget, value)) {
    Value key = sort_key(budget, item, attribute, bound.flag(0, false));
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& known) { return equals(budget, known, key); })) continue;
    keys.push_back(std::move(key));
    kept.push_back(item);
  }
  return Value::list(std::move(kept));
}

// The name given first, and what is left of the arguments.
std::string take_name(std::string_view filter, Arguments& arguments) {
  const Text* name = arguments.positional.empty() ? nullptr : arguments.positional.front().as_string();
  if (name == nullptr) throw Failure(fmt::format("'{}' expects a name as its first argument", filter));
  std::string text = name->str();
  arguments.positional.erase(arguments.positional.begin());
  return text;
}

Value filter_map(Budget& budget, const Value& value, Arguments arguments) {
  std::vector<Value> out;
  if (arguments.positional.empty()) {
    const Bindings bound("map", std::move(arguments), {"attribute", "default"});
    for (const Value& item : iterate(budget, value)) {
      const Value found = follow(budget, item, bound.required(0));
      out.push_back(found.is_undefined() && bound.has(1) ? bound.at(1) : found);
    }
    return Value::list(std::move(out));
  }
  const std::string name = take_name("map", arguments);
  if (!is_filter(name)) throw Failure(fmt::format("there is no filter '{}'", name));
  if (name == "map") throw Failure("'map' cannot be mapped");  // would nest as deep as there are arguments
  for (const Value& item : iterate(budget, value)) out.push_back(apply_filter(budget, name, item, arguments));
  return Value::list(std::move(out));
}

template <bool keep, bool by_attribute>
Value filter_select(Budget& budget, const Value& value, Arguments arguments) {
  const Value attribute =
      by_attribute ? Value::string(take_name(keep ? "selectattr" : "rejectattr", arguments), true) : Value();
  std::string test;
  if (!arguments.positional.empty()) test = take_name(keep ? "select" : "reject", arguments);
  if (!test.empty() && !is_test(test)) throw Failure(fmt::format("there is no test '{}'", test));
  std::vector<Value> out;
  for (const Value& item : iterate(budget, value)) {
    const Value subject = by_attribute ? follow(budget, item, attribute) : item;
    const bool passes = test.empty() ? subject.truthy() : apply_test(budget, test, subject, arguments);
    if (passes == keep) out.push_back(item);
  }
  return Value::list(std::move(out));
}

const std::unordered_map<std::string_view, Filter>& filters() {
  static const std::unordered_map<std::string_view, Filter> kFilters = {
      {"tojson", filter_tojson},
      {"trim", filter_trim},
      {"upper", filter_case<Case::kUpper>},
      {"lower", filter_case<Case::kLower>},
      {"title", filter_case<Case::kWords>},
      {"capitalize", filter_case<Case::kCapitalize>},
      {"length", filter_length},
      {"count", filter_length},
      {"join", filter_join},
      {"first", filter_end<true>},
      {"last", filter_end<false>},
      {"default", filter_default},
      {"d", filter_default},
      {"string", filter_string},
      {"int", filter_int},
      {"float", filter_float},
      {"abs", filter_abs},
      {"list", filter_list},
      {"items", filter_items},
      {"replace", filter_replace},
      {"safe", filter_safe},
      {"indent", filter_indent},
      {"reverse", filter_reverse},
      {"sort", filter_sort},
      {"dictsort", filter_dictsort},
      {"unique", filter_unique},
      {"map", filter_map},
      {"select", filter_select<true, false>},
      {"reject", filter_select<false, false>},
      {"selectattr", filter_select<true, true>},
      {"rejectattr", filter_select<false, true>},
  };
  return kFilters;
}

}  // namespace

bool is_filter(std::string_view name) {
  return filters().contains(name);
}

Value apply_filter(Budget& budget, std::string_view name, const Value& value, Arguments arguments) {
  budget.step();
  return filters().at(name)(budget, value, std::move(arguments));
}

}  // namespace marlin::jinja
