#include "text/jinja_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace marlin::jinja {

Value Value::undefined(std::string why) {
  return {Undefined{std::make_shared<const std::string>(std::move(why))}, false};
}

Value Value::string(Text text) {
  const bool data = text.any_data();
  return {std::make_shared<const Text>(std::move(text)), data};
}

Value Value::list(std::vector<Value> items, bool tuple, bool data) {
  int nesting = 0;
  size_t weight = 1;
  for (const Value& item : items) {
    nesting = std::max(nesting, item.nesting_);
    weight += item.weight_;
    data = data || item.from_data_;
    if (weight > kMaxWeight) throw Failure(fmt::format("a list holds more than {} values", kMaxWeight));
  }
  if (nesting >= kMaxNesting) throw Failure(fmt::format("lists are nested more than {} deep", kMaxNesting));
  Value value(std::shared_ptr<const List>(std::make_shared<List>(List{std::move(items), tuple})), data);
  value.nesting_ = nesting + 1;
  value.weight_ = weight;
  return value;
}

Value Value::dict(Dict dict, bool data) {
  int nesting = 0;
  size_t weight = 1;
  for (const auto& [key, item] : dict.entries()) {
    nesting = std::max(nesting, item.nesting_);
    weight += item.weight_ + 1;
    data = data || item.from_data_ || key.from_data_;
    if (weight > kMaxWeight) throw Failure(fmt::format("a dict holds more than {} values", kMaxWeight));
  }
  if (nesting >= kMaxNesting) throw Failure(fmt::format("dicts are nested more than {} deep", kMaxNesting));
  Value value(std::shared_ptr<const Dict>(std::make_shared<Dict>(std::move(dict))), data);
  value.nesting_ = nesting + 1;
  value.weight_ = weight;
  return value;
}

Value Value::loop(std::shared_ptr<Loop> loop) {
  const int nesting = loop->items.nesting_ + 1;
  if (nesting > kMaxNesting) throw Failure(fmt::format("loops are nested more than {} deep", kMaxNesting));
  Value value(std::move(loop), false);
  value.nesting_ = nesting;
  return value;
}

Value Value::method(Value receiver, std::string name) {
  const int nesting = receiver.nesting_ + 1;
  if (nesting > kMaxNesting) throw Failure(fmt::format("values are nested more than {} deep", kMaxNesting));
  Value value(std::shared_ptr<const Bound>(std::make_shared<Bound>(Bound{std::move(receiver), std::move(name)})),
              false);
  value.nesting_ = nesting;
  return value;
}

Value Value::from_json(const Json& json, int depth) {
  if (depth >= kMaxNesting) throw Failure(fmt::format("JSON is nested more than {} deep", kMaxNesting));
  switch (json.type()) {
    case Json::value_t::string:
      return string(json.get_ref<const std::string&>(), false);
    case Json::value_t::boolean:
      return boolean(json.get<bool>(), true);
    case Json::value_t::number_integer:
      return integer(json.get<int64_t>(), true);
    case Json::value_t::number_unsigned:
      return integer(json.get<uint64_t>(), true);
    case Json::value_t::number_float:
      return number(json.get<double>(), true);
    case Json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& item : json) items.push_back(from_json(item, depth + 1));
      return list(std::move(items), false, true);
    }
    case Json::value_t::object: {
      Dict entries;
      for (const auto& [key, item] : json.items()) entries.set(string(key, false), from_json(item, depth + 1));
      return dict(std::move(entries), true);
    }
    default:
      return none(true);
  }
}

const Text* Value::as_string() const {
  const auto* pointer = std::get_if<std::shared_ptr<const Text>>(&data_);
  return pointer != nullptr ? pointer->get() : nullptr;
}

const List* Value::as_list() const {
  const auto* pointer = std::get_if<std::shared_ptr<const List>>(&data_);
  return pointer != nullptr ? pointer->get() : nullptr;
}

const Dict* Value::as_dict() const {
  const auto* pointer = std::get_if<std::shared_ptr<const Dict>>(&data_);
  return pointer != nullptr ? pointer->get() : nullptr;
}

Namespace* Value::as_namespace() const {
  const auto* pointer = std::get_if<Namespace*>(&data_);
  return pointer != nullptr ? *pointer : nullptr;
}

Loop* Value::as_loop() const {
  const auto* pointer = std::get_if<std::shared_ptr<Loop>>(&data_);
  return pointer != nullptr ? pointer->get() : nullptr;
}

const Bound* Value::as_method() const {
  const auto* pointer = std::get_if<std::shared_ptr<const Bound>>(&data_);
  return pointer != nullptr ? pointer->get() : nullptr;
}

std::string Value::why_undefined() const {
  const auto* undefined = std::get_if<Undefined>(&data_);
  return undefined != nullptr && undefined->why ? *undefined->why : "the value is undefined";
}

std::optional<Int> Value::index() const {
  if (const Int* value = as_int()) return *value;
  if (const bool* value = as_bool()) return Int{*value ? 1 : 0};
  return std::nullopt;
}

std::optional<double> Value::numeric() const {
  if (const double* value = as_float()) return *value;
  if (const auto value = index()) return static_cast<double>(*value);
  return std::nullopt;
}

bool Value::truthy() const {
  if (is_undefined() || is_none()) return false;
  if (const auto value = numeric()) return *value != 0;
  if (const Text* text = as_string()) return !text->empty();
  if (const auto size = length(*this)) return *size > 0;
  return true;
}

int Value::nesting() const {
  return nesting_;
}

size_t Value::weight() const {
  return weight_;
}

std::string_view Value::type_name() const {
  static constexpr std::array<std::string_view, 13> kNames = {"Undefined",
                                                              "NoneType",
                                                              "bool",
                                                              "int",
                                                              "float",
                                                              "str",
                                                              "list",
                                                              "dict",
                                                              "Namespace",
                                                              "LoopContext",
                                                              "Macro",
                                                              "function",
                                                              "builtin_function_or_method"};
  const List* list = as_list();
  return list != nullptr && list->tuple ? "tuple" : kNames.at(data_.index());
}

std::optional<size_t> Dict::position(std::string_view key) const {
  const auto found = strings_.find(key);
  if (found == strings_.end()) return std::nullopt;
  return found->second;
}

std::optional<size_t> Dict::position(const Value& key) const {
  if (const Text* text = key.as_string()) return position(text->str());
  if (strings_.size() == entries_.size()) return std::nullopt;
  const auto number = key.numeric();
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Value& other = entries_[i].first;
    if (number ? other.numeric() == number : key.is_none() && other.is_none()) return i;
  }
  return std::nullopt;
}

const Value* Dict::find(std::string_view key) const {
  const auto at = position(key);
  return at ? &entries_[*at].second : nullptr;
}

const Value* Dict::find(const Value& key) const {
  const auto at = position(key);
  return at ? &entries_[*at].second : nullptr;
}

void Dict::set(Value key, Value value) {
  if (key.as_string() == nullptr && !key.numeric() && !key.is_none()) {
    throw Failure(fmt::format("unsupported type of a dict key: '{}'", key.type_name()));
  }
  if (const auto at = position(key)) {
    entries_[*at].second = std::move(value);
    return;
  }
  if (const Text* text = key.as_string()) strings_.emplace(text->str(), entries_.size());
  entries_.emplace_back(std::move(key), std::move(value));
}

bool equals(Budget& budget, const Value& left, const Value& right) {
  budget.step();
  if (const Text* text = left.as_string()) {
    const Text* other = right.as_string();
    return other != nullptr && text->str() == other->str();
  }
  if (const auto a = left.index(), b = right.index(); a && b) return *a == *b;
  if (const auto a = left.numeric(), b = right.numeric(); a && b) return *a == *b;
  if (const List* a = left.as_list()) {
    const List* b = right.as_list();
    if (b == nullptr || a->tuple != b->tuple || a->items.size() != b->items.size()) return false;
    return std::equal(a->items.begin(), a->items.end(), b->items.begin(),
                      [&](const Value& x, const Value& y) { return equals(budget, x, y); });
  }
  if (const Dict* a = left.as_dict()) {
    const Dict* b = right.as_dict();
    if (b == nullptr || a->entries().size() != b->entries().size()) return false;
    return std::all_of(a->entries().begin(), a->entries().end(), [&](const Dict::Entry& entry) {
      const Value* other = b->find(entry.first);
      return other != nullptr && equals(budget, entry.second, *other);
    });
  }
  if (left.as_namespace() != nullptr) return left.as_namespace() == right.as_namespace();
  return (left.is_none() && right.is_none()) || (left.is_undefined() && right.is_undefined());
}

int compare(Budget& budget, const Value& left, const Value& right, std::string_view operation) {
  budget.step();
  const auto sign = [](const auto& a, const auto& b) { return a < b ? -1 : (b < a ? 1 : 0); };
  if (left.is_undefined()) throw Failure(left.why_undefined());
  if (right.is_undefined()) throw Failure(right.why_undefined());
  if (const auto a = left.index(), b = right.index(); a && b) return sign(*a, *b);
  if (const auto a = left.numeric(), b = right.numeric(); a && b) return sign(*a, *b);
  const Text* a = left.as_string();
  const Text* b = right.as_string();
  if (a != nullptr && b != nullptr) return sign(a->str(), b->str());
  const List* x = left.as_list();
  const List* y = right.as_list();
  if (x != nullptr && y != nullptr && x->tuple == y->tuple) {
    for (size_t i = 0; i < std::min(x->items.size(), y->items.size()); ++i) {
      if (!equals(budget, x->items[i], y->items[i])) return compare(budget, x->items[i], y->items[i], operation);
    }
    return sign(x->items.size(), y->items.size());
  }
  throw Failure(fmt::format("'{}' not supported between instances of '{}' and '{}'", operation, left.type_name(),
                            right.type_name()));
}

bool contains(Budget& budget, const Value& container, const Value& item) {
  if (const Text* text = container.as_string()) {
    const Text* needle = item.as_string();
    if (item.is_undefined()) throw Failure(item.why_undefined());
    if (needle == nullptr) {
      throw Failure(fmt::format("'in <string>' requires string as left operand, not {}", item.type_name()));
    }
    budget.text(text->size());
    return text->str().find(needle->str()) != std::string::npos;
  }
  if (const Dict* dict = container.as_dict()) return dict->find(item) != nullptr;
  if (const List* list = container.as_list()) {
    return std::any_of(list->items.begin(), list->items.end(),
                       [&](const Value& member) { return equals(budget, item, member); });
  }
  if (container.is_undefined()) return false;
  throw Failure(fmt::format("argument of type '{}' is not iterable", container.type_name()));
}

std::vector<Value> iterate(Budget& budget, const Value& value) {
  budget.step(length(value).value_or(0));
  if (const List* list = value.as_list()) return list->items;
  std::vector<Value> items;
  if (const Dict* dict = value.as_dict()) {
    for (const auto& [key, item] : dict->entries()) items.push_back(key);
    return items;
  }
  if (const Text* text = value.as_string()) {
    const std::vector<size_t> offsets = char_offsets(text->str());
    for (size_t i = 0; i + 1 < offsets.size(); ++i) {
      items.push_back(Value::string(text->slice(offsets[i], offsets[i + 1])));
    }
    return items;
  }
  if (value.is_undefined()) return items;
  throw Failure(fmt::format("'{}' object is not iterable", value.type_name()));
}

std::optional<size_t> length(const Value& value) {
  if (const Text* text = value.as_string()) return count_chars(text->str());
  if (const List* list = value.as_list()) return list->items.size();
  if (const Dict* dict = value.as_dict()) return dict->entries().size();
  if (value.is_undefined()) return 0;
  return std::nullopt;
}

std::string format_integer(Int value) {
  if (value == static_cast<int64_t>(value)) return fmt::format("{}", static_cast<int64_t>(value));
  std::string digits;
  for (Int rest = value; rest != 0; rest /= 10) {
    const Int digit = rest % 10;
    digits.insert(digits.begin(), static_cast<char>('0' + static_cast<int>(digit < 0 ? -digit : digit)));
  }
  return value < 0 ? "-" + digits : digits;
}

std::string format_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", value);  // the shortest that reads back the same, laid out like Python's
  if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
  return text;
}

namespace {

void repr_string(std::string& out, std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  out += quote;
  for (size_t at = 0; at < text.size();) {
    const Char c = decode_char(text, at);
    if (c.code == static_cast<unsigned char>(quote) || c.code == '\\') {
      out += '\\';
      out += static_cast<char>(c.code);
    } else if (c.code == '\n' || c.code == '\r' || c.code == '\t') {
      out += c.code == '\n' ? "\\n" : (c.code == '\r' ? "\\r" : "\\t");
    } else if (is_printable(c.code)) {
      out += text.substr(at, c.size);
    } else if (c.code < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<uint32_t>(c.code));
    } else if (c.code < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c.code));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<uint32_t>(c.code));
    }
    at += c.size;
  }
  out += quote;
}

void repr(Budget& budget, std::string& out, const Value& value) {
  budget.step();
  if (const Text* text = value.as_string()) {
    repr_string(out, text->str());
  } else if (const bool* boolean = value.as_bool()) {
    out += *boolean ? "True" : "False";
  } else if (const Int* integer = value.as_int()) {
    out += format_integer(*integer);
  } else if (const double* number = value.as_float()) {
    out += format_float(*number);
  } else if (value.is_none()) {
    out += "None";
  } else if (value.is_undefined()) {
    out += "Undefined";
  } else if (const List* list = value.as_list()) {
    out += list->tuple ? '(' : '[';
    for (size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) out += ", ";
      repr(budget, out, list->items[i]);
    }
    if (list->tuple && list->items.size() == 1) out += ',';
    out += list->tuple ? ')' : ']';
  } else if (const Dict* dict = value.as_dict()) {
    out += '{';
    for (bool first = true; const auto& [key, item] : dict->entries()) {
      if (!first) out += ", ";
      first = false;
      repr(budget, out, key);
      out += ": ";
      repr(budget, out, item);
    }
    out += '}';
  } else {
    throw Failure(fmt::format("a value of type '{}' cannot be printed", value.type_name()));
  }
  budget.text(out.size());
}

void json_string(std::string& out, std::string_view text, bool ascii) {
  const auto escape = [&out](uint32_t unit) { out += fmt::format("\\u{:04x}", unit); };
  out += '"';
  for (size_t at = 0; at < text.size();) {
    const Char c = decode_char(text, at);
    static constexpr std::string_view kPlain = "\"\\\n\r\t\b\f";
    static constexpr std::string_view kEscaped = "\"\\nrtbf";
    const size_t special = c.code < 0x80 ? kPlain.find(static_cast<char>(c.code)) : std::string_view::npos;
    if (special != std::string_view::npos) {
      out += '\\';
      out += kEscaped[special];
    } else if (c.code < 0x20 || (ascii && c.code >= 0x7f && c.code < 0x10000)) {
      escape(c.code);
    } else if (ascii && c.code >= 0x10000) {
      escape(0xd800 + ((c.code - 0x10000) >> 10));
      escape(0xdc00 + ((c.code - 0x10000) & 0x3ff));
    } else {
      out += text.substr(at, c.size);
    }
    at += c.size;
  }
  out += '"';
}

class JsonWriter {
 public:
  JsonWriter(Budget& budget, const JsonStyle& style) : budget_(budget), style_(style) {}
  std::string take() { return std::move(out_); }

  void write(const Value& value) {
    budget_.step();
    if (const Text* text = value.as_string()) {
      json_string(out_, text->str(), style_.ascii);
    } else if (const bool* boolean = value.as_bool()) {
      out_ += *boolean ? "true" : "false";
    } else if (const Int* integer = value.as_int()) {
      out_ += format_integer(*integer);
    } else if (const double* number = value.as_float()) {
      write_float(*number);
    } else if (value.is_none()) {
      out_ += "null";
    } else if (const List* list = value.as_list()) {
      write_list(*list);
    } else if (const Dict* dict = value.as_dict()) {
      write_dict(*dict);
    } else {
      throw Failure(fmt::format("Object of type {} is not JSON serializable", value.type_name()));
    }
    budget_.text(out_.size());
  }

 private:
  void write_float(double value) {
    if (std::isfinite(value)) {
      out_ += format_float(value);
    } else {
      out_ += std::isnan(value) ? "NaN" : (value < 0 ? "-Infinity" : "Infinity");
    }
  }
  void new_line() {
    if (!style_.indent) return;
    out_ += '\n';
    for (int i = 0; i < depth_; ++i) out_ += *style_.indent;
  }
  void write_list(const List& list) {
    out_ += '[';
    ++depth_;
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line();
      write(list.items[i]);
    }
    --depth_;
    if (!list.items.empty()) new_line();
    out_ += ']';
  }
  void write_dict(const Dict& dict) {
    std::vector<const Dict::Entry*> entries;
    for (const Dict::Entry& entry : dict.entries()) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [this](const Dict::Entry* a, const Dict::Entry* b) {
        return compare(budget_, a->first, b->first, "<") < 0;
      });
    }
    out_ += '{';
    ++depth_;
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line();
      const bool quoted = entries[i]->first.as_string() == nullptr;
      if (quoted) out_ += '"';
      write(entries[i]->first);
      if (quoted) out_ += '"';
      out_ += style_.key_separator;
      write(entries[i]->second);
    }
    --depth_;
    if (!entries.empty()) new_line();
    out_ += '}';
  }

  Budget& budget_;
  const JsonStyle& style_;
  std::string out_;
  int depth_ = 0;
};

}  // namespace

Text to_text(Budget& budget, const Value& value) {
  if (const Text* text = value.as_string()) return *text;
  if (value.is_undefined()) return {};
  std::string out;
  repr(budget, out, value);
  return {out, !value.has_data()};
}

Text to_json(Budget& budget, const Value& value, const JsonStyle& style) {
  JsonWriter writer(budget, style);
  writer.write(value);
  return {writer.take(), !value.has_data()};
}

}  // namespace marlin::jinja
