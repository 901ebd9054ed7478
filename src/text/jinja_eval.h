// Runs a parsed template.
#pragma once

#include "text/jinja_ast.h"
#include "text/jinja_value.h"

namespace marlin::jinja {

/// Renders `block` with the variables of `context`, a dict. Throws Error{kUsage} "name:LINE: …".
Text evaluate(const Block& block, std::string_view name, const Value& context, const Limits& limits);

/// `left op right` for the operators of numbers, strings and lists. Throws Failure.
Value arithmetic(Budget& budget, Operator op, const Value& left, const Value& right);

}  // namespace marlin::jinja
