#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <unordered_map>

#include "text/jinja_builtins.h"

namespace marlin::jinja {

Bindings::Bindings(std::string_view callee, Arguments arguments, std::initializer_list<std::string_view> names)
    : callee_(callee), names_(names), values_(names.size()), given_(names.size()) {
  if (arguments.positional.size() > names_.size()) {
    throw Failure(
        fmt::format("'{}' takes at most {} arguments, not {}", callee, names_.size(), arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    values_[i] = std::move(arguments.positional[i]);
    given_[i] = true;
  }
  for (auto& [name, value] : arguments.named) {
    const auto at = static_cast<size_t>(std::find(names_.begin(), names_.end(), name) - names_.begin());
    if (at == names_.size()) throw Failure(fmt::format("'{}' has no argument '{}'", callee, name));
    if (given_[at]) throw Failure(fmt::format("'{}' got its argument '{}' twice", callee, name));
    values_[at] = std::move(value);
    given_[at] = true;
  }
}

const Value& Bindings::required(size_t index) const {
  if (!has(index)) throw Failure(fmt::format("'{}' needs its argument '{}'", callee_, names_[index]));
  return at(index);
}

Int Bindings::integer(size_t index, Int otherwise) const {
  if (!has(index)) return otherwise;
  const auto value = at(index).index();
  if (!value) {
    throw Failure(
        fmt::format("'{}' expects a whole number as '{}', not {}", callee_, names_[index], at(index).type_name()));
  }
  return *value;
}

const Text* Bindings::text(size_t index) const {
  if (!has(index) || at(index).is_none()) return nullptr;
  const Text* value = at(index).as_string();
  if (value == nullptr) {
    throw Failure(fmt::format("'{}' expects a string as '{}', not {}", callee_, names_[index], at(index).type_name()));
  }
  return value;
}

namespace {

using StringMethod = Value (*)(Budget&, const Text&, Arguments);

std::optional<std::string_view> view(const Text* text) {
  if (text == nullptr) return std::nullopt;
  return std::string_view(text->str());
}

int64_t clamp_limit(Int limit) {
  return static_cast<int64_t>(std::clamp<Int>(limit, -1, INT64_MAX));
}

template <bool left, bool right>
Value method_strip(Budget&, const Text& text, Arguments arguments) {
  const Bindings bound("strip", std::move(arguments), {"chars"});
  return Value::string(strip(text, view(bound.text(0)), left, right));
}

template <Case mode>
Value method_case(Budget&, const Text& text, Arguments arguments) {
  const Bindings bound("upper/lower/title", std::move(arguments), {});
  return Value::string(change_case(text, mode));
}

Value to_list(Budget& budget, std::vector<Text> parts) {
  budget.step(parts.size());
  std::vector<Value> items;
  items.reserve(parts.size());
  for (Text& part : parts) items.push_back(Value::string(std::move(part)));
  return Value::list(std::move(items));
}

Value method_split(Budget& budget, const Text& text, Arguments arguments) {
  const Bindings bound("split", std::move(arguments), {"sep", "maxsplit"});
  const auto separator = view(bound.text(0));
  if (separator && separator->empty()) throw Failure("empty separator");
  return to_list(budget, split(text, separator, clamp_limit(bound.integer(1, -1))));
}

Value method_splitlines(Budget& budget, const Text& text, Arguments arguments) {
  const Bindings bound("splitlines", std::move(arguments), {});
  return to_list(budget, split_lines(text));
}

template <bool prefix>
bool matches(std::string_view text, const Value& candidate) {
  if (const Text* affix = candidate.as_string()) {
    return prefix ? text.starts_with(affix->str()) : text.ends_with(affix->str());
  }
  const List* list = candidate.as_list();
  if (list == nullptr || !list->tuple) {
    throw Failure(
        fmt::format("startswith and endswith expect a string or a tuple of them, not {}", candidate.type_name()));
  }
  return std::any_of(list->items.begin(), list->items.end(), [&](const Value& item) {
    if (item.as_string() == nullptr) throw Failure("startswith and endswith expect a tuple of strings");
    return matches<prefix>(text, item);
  });
}

template <bool prefix>
Value method_affix(Budget&, const Text& text, Arguments arguments) {
  const Bindings bound(prefix ? "startswith" : "endswith", std::move(arguments), {"affix"});
  return Value::boolean(matches<prefix>(text.str(), bound.required(0)));
}

Value method_replace(Budget& budget, const Text& text, Arguments arguments) {
  Bindings bound("replace", std::move(arguments), {"old", "new", "count"});
  bound.required(1);
  return apply_filter(budget, "replace", Value::string(text),
                      {{bound.required(0), bound.at(1), Value::integer(bound.integer(2, -1))}, {}});
}

Value method_find(Budget&, const Text& text, Arguments arguments) {
  const Bindings bound("find", std::move(arguments), {"sub"});
  bound.required(0);
  const Text* needle = bound.text(0);
  if (needle == nullptr) throw Failure("'find' expects a string");
  const size_t at = text.str().find(needle->str());
  if (at == std::string::npos) return Value::integer(-1);
  return Value::integer(static_cast<Int>(count_chars(std::string_view(text.str()).substr(0, at))));
}

Value method_count(Budget&, const Text& text, Arguments arguments) {
  const Bindings bound("count", std::move(arguments), {"sub"});
  bound.required(0);
  const Text* needle = bound.text(0);
  if (needle == nullptr || needle->empty()) throw Failure("'count' expects a string that is not empty");
  return Value::integer(static_cast<Int>(count_occurrences(text.str(), needle->str(), -1)));
}

Value method_join(Budget& budget, const Text& text, Arguments arguments) {
  const Bindings bound("join", std::move(arguments), {"iterable"});
  for (const Value& item : iterate(budget, bound.required(0))) {
    if (item.as_string() == nullptr) {
      throw Failure(fmt::format("'join' expects strings, found {}", item.type_name()));
    }
  }
  return apply_filter(budget, "join", bound.at(0), {{Value::string(text)}, {}});
}

template <bool prefix>
Value method_remove(Budget&, const Text& text, Arguments arguments) {
  const Bindings bound(prefix ? "removeprefix" : "removesuffix", std::move(arguments), {"affix"});
  bound.required(0);
  const Text* affix = bound.text(0);
  if (affix == nullptr || !matches<prefix>(text.str(), bound.at(0))) return Value::string(text);
  return Value::string(prefix ? text.slice(affix->size(), text.size()) : text.slice(0, text.size() - affix->size()));
}

const std::unordered_map<std::string_view, StringMethod>& string_methods() {
  static const std::unordered_map<std::string_view, StringMethod> kMethods = {
      {"strip", method_strip<true, true>},
      {"lstrip", method_strip<true, false>},
      {"rstrip", method_strip<false, true>},
      {"upper", method_case<Case::kUpper>},
      {"lower", method_case<Case::kLower>},
      {"title", method_case<Case::kTitle>},
      {"capitalize", method_case<Case::kCapitalize>},
      {"split", method_split},
      {"splitlines", method_splitlines},
      {"startswith", method_affix<true>},
      {"endswith", method_affix<false>},
      {"removeprefix", method_remove<true>},
      {"removesuffix", method_remove<false>},
      {"replace", method_replace},
      {"find", method_find},
      {"count", method_count},
      {"join", method_join},
  };
  return kMethods;
}

// All of Python's, because `dict.name` is the method even where the dict has such a key.
constexpr std::array<std::string_view, 11> kDictMethods = {
    "items", "keys", "values", "get", "copy", "clear", "fromkeys", "pop", "popitem", "setdefault", "update"};
constexpr std::array<std::string_view, 11> kListMethods = {"index",  "count", "copy",   "append",  "clear", "extend",
                                                           "insert", "pop",   "remove", "reverse", "sort"};

template <size_t size>
bool is_in(const std::array<std::string_view, size>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

[[noreturn]] void refuse_method(std::string_view type, const std::string& name) {
  throw Failure(fmt::format("'{}.{}' is not supported: values do not change inside a template", type, name));
}

Value call_dict_method(const Value& receiver, const Dict& dict, const std::string& name, Arguments arguments) {
  if (name == "get") {
    const Bindings bound(name, std::move(arguments), {"key", "default"});
    const Value* found = dict.find(bound.required(0));
    if (found != nullptr) return *found;
    return bound.has(1) ? bound.at(1) : Value::none();
  }
  if (name != "items" && name != "keys" && name != "values" && name != "copy") refuse_method("dict", name);
  const Bindings bound(name, std::move(arguments), {});
  if (name == "copy") return receiver;
  std::vector<Value> items;
  items.reserve(dict.entries().size());
  for (const auto& [key, value] : dict.entries()) {
    items.push_back(name == "keys" ? key : (name == "values" ? value : Value::list({key, value}, true)));
  }
  return Value::list(std::move(items));
}

Value call_list_method(Budget& budget, const Value& receiver, const List& list, const std::string& name,
                       Arguments arguments) {
  if (name == "copy") return receiver;
  if (name != "index" && name != "count") refuse_method("list", name);
  const Bindings bound(name, std::move(arguments), {"value"});
  Int count = 0;
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (!equals(budget, list.items[i], bound.required(0))) continue;
    if (name == "index") return Value::integer(static_cast<Int>(i));
    ++count;
  }
  if (name == "index") throw Failure("the value is not in the list");
  return Value::integer(count);
}

Value loop_attribute(const Value& object, const Loop& loop, const std::string& name) {
  const List& list = *loop.items.as_list();
  const auto size = static_cast<Int>(list.items.size());
  const auto index = static_cast<Int>(loop.index);
  if (name == "index0") return Value::integer(index);
  if (name == "index") return Value::integer(index + 1);
  if (name == "revindex") return Value::integer(size - index);
  if (name == "revindex0") return Value::integer(size - index - 1);
  if (name == "length") return Value::integer(size);
  if (name == "first") return Value::boolean(index == 0);
  if (name == "last") return Value::boolean(index + 1 == size);
  if (name == "depth") return Value::integer(loop.depth);
  if (name == "depth0") return Value::integer(loop.depth - 1);
  if (name == "cycle") return Value::method(object, name);
  if (name == "previtem") {
    return index > 0 ? list.items[loop.index - 1] : Value::undefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index + 1 < size ? list.items[loop.index + 1] : Value::undefined("there is no next item");
  }
  return Value::undefined(fmt::format("'loop' has no attribute '{}'", name));
}

std::optional<size_t> wrap_index(Int index, size_t size) {
  if (index < 0) index += static_cast<Int>(size);
  if (index < 0 || index >= static_cast<Int>(size)) return std::nullopt;
  return static_cast<size_t>(index);
}

bool has_method(const Value& object, const std::string& name) {
  if (object.as_dict() != nullptr) return is_in(kDictMethods, name);
  if (object.as_string() != nullptr) return string_methods().contains(name);
  return object.as_list() != nullptr && is_in(kListMethods, name);
}

// Attributes that are neither methods nor items.
Value own_attribute(const Value& object, const std::string& name) {
  if (const Loop* loop = object.as_loop()) return loop_attribute(object, *loop, name);
  if (const Namespace* target = object.as_namespace()) {
    for (const auto& [attribute, value] : target->attributes) {
      if (attribute == name) return value;
    }
  }
  return Value::undefined(fmt::format("'{} object' has no attribute '{}'", object.type_name(), name));
}

}  // namespace

Value get_attribute(const Value& object, const std::string& name) {
  if (object.is_undefined()) throw Failure(object.why_undefined());
  if (has_method(object, name)) return Value::method(object, name);
  if (const Dict* dict = object.as_dict()) {
    if (const Value* found = dict->find(name)) return *found;
  }
  return own_attribute(object, name);
}

Value get_item(Budget& budget, const Value& object, const Value& key) {
  if (object.is_undefined()) throw Failure(object.why_undefined());
  if (const Dict* dict = object.as_dict()) {
    if (const Value* found = dict->find(key)) return *found;
  }
  if (const auto index = key.index()) {
    if (const List* list = object.as_list()) {
      if (const auto at = wrap_index(*index, list->items.size())) return list->items[*at];
    } else if (const Text* text = object.as_string()) {
      budget.text(text->size());
      const std::vector<size_t> offsets = char_offsets(text->str());
      if (const auto at = wrap_index(*index, offsets.size() - 1)) {
        return Value::string(text->slice(offsets[*at], offsets[*at + 1]));
      }
    }
    return Value::undefined(fmt::format("'{} object' has no element {}", object.type_name(), format_integer(*index)));
  }
  const Text* name = key.as_string();
  if (name == nullptr) {
    return Value::undefined(fmt::format("'{} object' has no such element", object.type_name()));
  }
  if (has_method(object, name->str())) return Value::method(object, name->str());
  return own_attribute(object, name->str());
}

Value get_slice(Budget& budget, const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (object.is_undefined()) throw Failure(object.why_undefined());
  const auto size_or_none = length(object);
  if (!size_or_none || object.as_dict() != nullptr) {
    throw Failure(fmt::format("'{}' object cannot be sliced", object.type_name()));
  }
  const auto size = static_cast<Int>(*size_or_none);
  const auto bound = [](const Value& value, Int otherwise) {
    if (value.is_undefined() || value.is_none()) return otherwise;
    if (const auto index = value.index()) return *index;
    throw Failure("slice indices must be whole numbers");
  };
  const Int by = bound(step, 1);
  if (by == 0) throw Failure("slice step cannot be zero");
  const Int low = by > 0 ? 0 : -1;
  const Int high = by > 0 ? size : size - 1;
  const auto place = [&](const Value& value, Int otherwise) {
    const Int index = bound(value, otherwise);
    const bool given = !value.is_undefined() && !value.is_none();
    return std::clamp(given && index < 0 ? index + size : index, low, high);
  };
  const Int first = place(start, by > 0 ? low : high);
  const Int last = place(stop, by > 0 ? high : low);
  budget.step(*size_or_none);
  const Text* text = object.as_string();
  const std::vector<size_t> offsets = text != nullptr ? char_offsets(text->str()) : std::vector<size_t>();
  Text out;
  std::vector<Value> items;
  if (text != nullptr && by == 1) {
    if (first < last) out = text->slice(offsets[static_cast<size_t>(first)], offsets[static_cast<size_t>(last)]);
    return Value::string(std::move(out));
  }
  for (Int i = first; by > 0 ? i < last : i > last; i += std::clamp(by, -size - 1, size + 1)) {
    const auto at = static_cast<size_t>(i);
    if (text != nullptr) {
      out.append(*text, offsets[at], offsets[at + 1]);
    } else {
      items.push_back(object.as_list()->items[at]);
    }
  }
  if (text != nullptr) return Value::string(std::move(out));
  return Value::list(std::move(items), object.as_list()->tuple);
}

Value call_method(Budget& budget, const Bound& method, Arguments arguments) {
  if (const Text* text = method.receiver.as_string()) {
    budget.text(text->size());
    return string_methods().at(method.name)(budget, *text, std::move(arguments));
  }
  if (const Dict* dict = method.receiver.as_dict()) {
    budget.step(dict->entries().size());
    return call_dict_method(method.receiver, *dict, method.name, std::move(arguments));
  }
  if (const List* list = method.receiver.as_list()) {
    return call_list_method(budget, method.receiver, *list, method.name, std::move(arguments));
  }
  const Loop& loop = *method.receiver.as_loop();
  if (arguments.positional.empty()) throw Failure("'loop.cycle' needs values");
  return arguments.positional[loop.index % arguments.positional.size()];
}

}  // namespace marlin::jinja
