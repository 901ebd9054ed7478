#include "text/output_parser_types.h"

#include <array>
#include <utility>

namespace marlin {
namespace {

constexpr int kMaxSchemaDepth = 16;  // of $ref and anyOf, which may go in circles
constexpr int kMaxValueDepth = 200;  // of a value's lists and objects; writing it again is recursive
constexpr TypeSet kAllTypes = 127;

const Json* member(const Json* object, const char* key) {
  if (object == nullptr || !object->is_object()) return nullptr;
  const auto found = object->find(key);
  return found != object->end() ? &*found : nullptr;
}

TypeSet types_of_value(const Json& value) {
  switch (value.type()) {
    case Json::value_t::string:
      return kTypeString;
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return kTypeInteger;
    case Json::value_t::number_float:
      return kTypeNumber;
    case Json::value_t::boolean:
      return kTypeBoolean;
    case Json::value_t::array:
      return kTypeArray;
    case Json::value_t::object:
      return kTypeObject;
    default:
      return kTypeNull;
  }
}

TypeSet types_of_name(const Json& name) {
  static constexpr std::array<std::pair<std::string_view, TypeSet>, 7> kNames = {{
      {"string", kTypeString},
      {"integer", kTypeInteger},
      {"number", kTypeInteger | kTypeNumber},
      {"boolean", kTypeBoolean},
      {"null", kTypeNull},
      {"array", kTypeArray},
      {"object", kTypeObject},
  }};
  if (!name.is_string()) return 0;
  for (const auto& [text, types] : kNames) {
    if (name.get_ref<const std::string&>() == text) return types;
  }
  return 0;
}

std::optional<TypeSet> known(TypeSet types) {
  return types != 0 ? std::optional<TypeSet>(types) : std::nullopt;
}

class Resolver {
 public:
  explicit Resolver(const Json& root) : root_(root) {}

  // The schema at the end of a chain of $ref.
  const Json* follow(const Json* schema) const {
    for (int i = 0; i < kMaxSchemaDepth; ++i) {
      const Json* reference = member(schema, "$ref");
      if (reference == nullptr || !reference->is_string()) return schema;
      const std::string& pointer = reference->get_ref<const std::string&>();
      schema = pointer.starts_with("#") ? at(pointer.substr(1)) : nullptr;
    }
    return nullptr;
  }

  std::optional<TypeSet> types(const Json* schema, int depth = 0) const {
    schema = follow(schema);
    if (schema == nullptr || !schema->is_object() || depth >= kMaxSchemaDepth) return std::nullopt;
    TypeSet result = kAllTypes;
    bool any = false;
    const auto narrow = [&](std::optional<TypeSet> more) {
      if (!more) return;
      any = true;
      result &= *more;
    };
    narrow(named_types(*schema));
    if (const Json* constant = member(schema, "const")) narrow(types_of_value(*constant));
    if (const Json* values = member(schema, "enum"); values != nullptr && values->is_array()) {
      TypeSet found = 0;
      for (const Json& value : *values) found |= types_of_value(value);
      narrow(known(found));
    }
    for (const char* choice : {"anyOf", "oneOf"}) narrow(union_of(member(schema, choice), depth));
    if (const Json* parts = member(schema, "allOf"); parts != nullptr && parts->is_array()) {
      for (const Json& part : *parts) narrow(types(&part, depth + 1));
    }
    return any ? known(result) : std::nullopt;
  }

 private:
  const Json* at(const std::string& pointer) const {
    try {
      const Json::json_pointer path(pointer);
      return root_.contains(path) ? &root_.at(path) : nullptr;
    } catch (const Json::exception&) {  // not a pointer
      return nullptr;
    }
  }

  static std::optional<TypeSet> named_types(const Json& schema) {
    const Json* type = member(&schema, "type");
    if (type == nullptr) return std::nullopt;
    if (!type->is_array()) return known(types_of_name(*type));
    TypeSet found = 0;
    for (const Json& name : *type) found |= types_of_name(name);
    return known(found);
  }

  // One choice of unknown type makes the union unknown.
  std::optional<TypeSet> union_of(const Json* choices, int depth) const {
    if (choices == nullptr || !choices->is_array()) return std::nullopt;
    TypeSet found = 0;
    for (const Json& choice : *choices) {
      const auto more = types(&choice, depth + 1);
      if (!more) return std::nullopt;
      found |= *more;
    }
    return known(found);
  }

  const Json& root_;
};

// Accepts JSON that can be held without loss: whole numbers fit 64 bits, and the nesting is bounded.
class ExactnessCheck : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t& text) override {
    return text.find_first_of(".eE") != std::string::npos;
  }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return ++depth_ <= kMaxValueDepth; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return --depth_ >= 0; }
  bool start_array(size_t) override { return ++depth_ <= kMaxValueDepth; }
  bool end_array() override { return --depth_ >= 0; }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

 private:
  int depth_ = 0;
};

}  // namespace

const Json* ArgumentTypes::find(std::string_view tool) const {
  if (!tools_.is_array()) return nullptr;
  for (const Json& entry : tools_) {
    const Json* function = member(&entry, "function");
    const Json* candidate = function != nullptr ? function : &entry;
    const Json* name = member(candidate, "name");
    if (name != nullptr && name->is_string() && name->get_ref<const std::string&>() == tool) return candidate;
  }
  return nullptr;
}

std::optional<TypeSet> ArgumentTypes::types_of(std::string_view tool, const std::string& key) const {
  const Json* parameters = member(find(tool), "parameters");
  if (parameters == nullptr) return std::nullopt;
  const Resolver resolver(*parameters);
  const Json* root = resolver.follow(parameters);
  const Json* schema = member(member(root, "properties"), key.c_str());
  if (schema == nullptr) schema = member(root, "additionalProperties");
  return resolver.types(schema);
}

Json argument_value(const std::string& text, std::optional<TypeSet> types) {
  if (types == kTypeString) return text;
  ExactnessCheck check;
  if (!Json::sax_parse(text, &check)) return text;
  Json parsed = Json::parse(text, nullptr, false);
  if (parsed.is_discarded()) return text;
  const bool may_be_string = types && (*types & kTypeString) != 0;
  if (may_be_string && (types_of_value(parsed) & *types & ~kTypeString) == 0) return text;
  return parsed;
}

bool surely_string(std::string_view text, std::optional<TypeSet> types) {
  if (!types || (*types & kTypeString) == 0) return false;
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return *types == kTypeString;
  TypeSet possible = 0;
  switch (text[first]) {
    case 'n':
      possible = kTypeNull;
      break;
    case 't':
    case 'f':
      possible = kTypeBoolean;
      break;
    case '[':
      possible = kTypeArray;
      break;
    case '{':
      possible = kTypeObject;
      break;
    default:
      if (text[first] == '-' || (text[first] >= '0' && text[first] <= '9')) possible = kTypeInteger | kTypeNumber;
  }
  return (possible & *types) == 0;
}

}  // namespace marlin
