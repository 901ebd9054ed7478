// What a tool's JSON schema says about the types of its arguments.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "marlin/text.h"

namespace marlin {

/// A set of JSON types.
using TypeSet = uint8_t;
inline constexpr TypeSet kTypeString = 1;
inline constexpr TypeSet kTypeInteger = 2;
inline constexpr TypeSet kTypeNumber = 4;  // with a fraction; a schema's "number" is both
inline constexpr TypeSet kTypeBoolean = 8;
inline constexpr TypeSet kTypeNull = 16;
inline constexpr TypeSet kTypeArray = 32;
inline constexpr TypeSet kTypeObject = 64;

class ArgumentTypes {
 public:
  /// `tools` as in a request: [{type, function: {name, parameters}}] or [{name, parameters}].
  explicit ArgumentTypes(Json tools) : tools_(std::move(tools)) {}

  bool any_declared() const { return tools_.is_array() && !tools_.empty(); }
  bool declares(std::string_view tool) const { return find(tool) != nullptr; }
  /// The types that `tool` accepts as `key`; nothing when its schema does not say. Follows $ref into the tool's own
  /// schema, anyOf, oneOf, allOf, enum, const and lists of types.
  std::optional<TypeSet> types_of(std::string_view tool, const std::string& key) const;

 private:
  const Json* find(std::string_view tool) const;

  Json tools_;
};

/// The value that `text` stands for: the text itself where only strings are accepted; else the JSON it spells, if it
/// does so wholly, loses no digit of a whole number, and is no string's only alternative reading; else the text.
Json argument_value(const std::string& text, std::optional<TypeSet> types);

/// Whether every text that starts with `text` stands for a string under `types`.
bool surely_string(std::string_view text, std::optional<TypeSet> types);

}  // namespace marlin
