// Values of the template engine: Python's types as far as templates see them. Containers never change once built,
// which keeps them free of cycles; their nesting and size are bounded when they are built.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "marlin/text.h"
#include "text/jinja_text.h"

namespace marlin::jinja {

/// Something a template did that cannot be done; the evaluator adds the template's name and line.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Bounds of one rendering. The defaults fit prompts of millions of tokens and end within seconds.
struct Limits {
  size_t steps = 20'000'000;       // evaluated nodes, list items and 64-byte pieces of text
  size_t text = size_t{64} << 20;  // bytes of the output and of any one string
  int depth = 400;                 // nested evaluations: expressions, statements, macro calls
};
inline constexpr int kMaxNesting = 200;          // of lists and dicts
inline constexpr size_t kMaxWeight = 4'000'000;  // values inside one value

/// Counts down the work of one rendering.
class Budget {
 public:
  explicit Budget(const Limits& limits) : limits_(limits), steps_left_(limits.steps) {}
  void step(size_t count = 1) {
    if (count > steps_left_) throw Failure("the template does too much work: the step limit is reached");
    steps_left_ -= count;
  }
  /// Call before (or right after) text of this size is made.
  void text(size_t bytes) {
    if (bytes > limits_.text) throw Failure("the text grows beyond the size limit");
    step(bytes / 64);
  }
  const Limits& limits() const { return limits_; }

 private:
  Limits limits_;
  size_t steps_left_;
};

// Wide enough for every 64-bit id, signed or not.
__extension__ typedef __int128 Int;

class Value;
class Dict;
struct Namespace;
struct Loop;
struct Bound;
struct Stmt;

struct List {
  std::vector<Value> items;
  bool tuple = false;
};

struct Undefined {
  std::shared_ptr<const std::string> why;
};
struct None {};
struct Macro {
  const Stmt* definition = nullptr;
};
struct Global {
  std::string_view name;  // of a static string
};

class Value {
 public:
  Value() = default;
  static Value undefined(std::string why);
  static Value none(bool data = false) { return {None{}, data}; }
  static Value boolean(bool value, bool data = false) { return {value, data}; }
  static Value integer(Int value, bool data = false) { return {value, data}; }
  static Value number(double value, bool data = false) { return {value, data}; }
  static Value string(Text text);
  static Value string(std::string_view bytes, bool from_template) { return string(Text(bytes, from_template)); }
  static Value list(std::vector<Value> items, bool tuple = false, bool data = false);
  static Value dict(Dict dict, bool data = false);
  static Value name_space(Namespace* target) { return {target, false}; }
  static Value loop(std::shared_ptr<Loop> loop);
  static Value macro(const Stmt* definition) { return {Macro{definition}, false}; }
  static Value global(std::string_view name) { return {Global{name}, false}; }
  static Value method(Value receiver, std::string name);
  /// Everything inside is data. Throws Failure when nested too deeply.
  static Value from_json(const Json& json, int depth = 0);

  bool is_undefined() const { return holds<Undefined>(); }
  bool is_none() const { return holds<None>(); }
  const bool* as_bool() const { return std::get_if<bool>(&data_); }
  const Int* as_int() const { return std::get_if<Int>(&data_); }
  const double* as_float() const { return std::get_if<double>(&data_); }
  const Text* as_string() const;
  const List* as_list() const;
  const Dict* as_dict() const;
  Namespace* as_namespace() const;
  Loop* as_loop() const;
  const Macro* as_macro() const { return std::get_if<Macro>(&data_); }
  const Global* as_global() const { return std::get_if<Global>(&data_); }
  const Bound* as_method() const;

  /// Why an undefined value is undefined: "'x' is undefined".
  std::string why_undefined() const;
  /// int and bool as Python's int.
  std::optional<Int> index() const;
  /// int, bool and float as a number.
  std::optional<double> numeric() const;
  bool truthy() const;
  /// Whether any part came with the request.
  bool has_data() const { return from_data_; }
  int nesting() const;
  size_t weight() const;
  /// Python's name of the type.
  std::string_view type_name() const;

 private:
  using Storage = std::variant<Undefined, None, bool, Int, double, std::shared_ptr<const Text>,
                               std::shared_ptr<const List>, std::shared_ptr<const Dict>, Namespace*,
                               std::shared_ptr<Loop>, Macro, Global, std::shared_ptr<const Bound>>;
  template <typename T>
  Value(T value, bool data) : data_(std::move(value)), from_data_(data) {}
  template <typename T>
  bool holds() const {
    return std::holds_alternative<T>(data_);
  }

  Storage data_;
  bool from_data_ = false;
  int nesting_ = 0;
  size_t weight_ = 1;
};

class Dict {
 public:
  using Entry = std::pair<Value, Value>;
  const std::vector<Entry>& entries() const { return entries_; }
  const Value* find(std::string_view key) const;
  /// nullptr too for keys that Python could not hash.
  const Value* find(const Value& key) const;
  /// Replaces the value of a key that is there. Throws Failure for keys that Python could not hash.
  void set(Value key, Value value);

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  std::optional<size_t> position(const Value& key) const;
  std::optional<size_t> position(std::string_view key) const;

  std::vector<Entry> entries_;
  std::unordered_map<std::string, size_t, Hash, std::equal_to<>> strings_;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
};

struct Loop {
  Value items;  // a list
  size_t index = 0;
  int depth = 1;
};

/// A method taken from a value: `text.strip`.
struct Bound {
  Value receiver;
  std::string name;
};

bool equals(Budget& budget, const Value& left, const Value& right);
/// Negative, 0 or positive; Failure for values that have no order.
int compare(Budget& budget, const Value& left, const Value& right, std::string_view operation);
/// Python's `item in container`.
bool contains(Budget& budget, const Value& container, const Value& item);
/// What a for loop sees; Failure for values that cannot be iterated.
std::vector<Value> iterate(Budget& budget, const Value& value);
std::optional<size_t> length(const Value& value);

/// Python's str() and repr().
Text to_text(Budget& budget, const Value& value);
std::string format_integer(Int value);
std::string format_float(double value);

struct JsonStyle {
  bool ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // one level of it
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
/// Python's json.dumps; all of it is data when any of the value is.
Text to_json(Budget& budget, const Value& value, const JsonStyle& style);

}  // namespace marlin::jinja
