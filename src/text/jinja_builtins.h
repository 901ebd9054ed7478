// Filters, tests, methods and attributes of the template engine.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace marlin::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

/// The arguments of a call under the names of its parameters.
class Bindings {
 public:
  /// Throws Failure for arguments that `callee` does not have.
  Bindings(std::string_view callee, Arguments arguments, std::initializer_list<std::string_view> names);
  bool has(size_t index) const { return given_[index]; }
  const Value& at(size_t index) const { return values_[index]; }
  /// Throws Failure when it is missing.
  const Value& required(size_t index) const;
  /// Throws Failure unless it is a whole number.
  Int integer(size_t index, Int otherwise) const;
  bool flag(size_t index, bool otherwise) const { return has(index) ? at(index).truthy() : otherwise; }
  /// Throws Failure unless it is a string; nullptr when it is missing or none.
  const Text* text(size_t index) const;

 private:
  std::string callee_;
  std::vector<std::string_view> names_;
  std::vector<Value> values_;
  std::vector<bool> given_;
};

bool is_filter(std::string_view name);
Value apply_filter(Budget& budget, std::string_view name, const Value& value, Arguments arguments);
bool is_test(std::string_view name);
bool apply_test(Budget& budget, std::string_view name, const Value& value, Arguments arguments);

/// `object.name`: a method before an item, as in Jinja.
Value get_attribute(const Value& object, const std::string& name);
/// `object[key]`: an item before a method.
Value get_item(Budget& budget, const Value& object, const Value& key);
/// `object[start:stop:step]`; undefined bounds are left out.
Value get_slice(Budget& budget, const Value& object, const Value& start, const Value& stop, const Value& step);
Value call_method(Budget& budget, const Bound& method, Arguments arguments);

}  // namespace marlin::jinja
