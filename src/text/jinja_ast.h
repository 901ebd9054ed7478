// A template as parsed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "text/jinja_value.h"

namespace marlin::jinja {

enum class Operator : uint8_t {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn,
  kNot,
  kNegate,
  kPlus
};

enum class ExprKind : uint8_t {
  kLiteral,      // literal
  kName,         // name
  kAttribute,    // items[0] . name
  kSubscript,    // items[0] [ items[1] ]
  kSlice,        // items[0] [ items[1] : items[2] : items[3] ], nullptr where left out
  kCall,         // items[0] ( args )
  kFilter,       // items[0] | name ( args )
  kTest,         // items[0] is name ( args )
  kUnary,        // ops[0] items[0]
  kBinary,       // items[0] ops[0] items[1]
  kCompare,      // items[0] ops[0] items[1] ops[1] items[2] …
  kAnd,          // items[0] and items[1]
  kOr,           // items[0] or items[1]
  kConcat,       // items joined by ~
  kConditional,  // items[0] if items[1] else items[2], which may be nullptr
  kList,
  kTuple,
  kDict  // items: key, value, key, value …
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Argument {
  std::string name;  // empty: positional
  ExprPtr value;
};

struct Expr {
  ExprKind kind = ExprKind::kLiteral;
  int line = 0;
  int depth = 1;  // of the tree from here down
  std::string name;
  Value literal;
  std::vector<Operator> ops;
  std::vector<ExprPtr> items;
  std::vector<Argument> args;
};

enum class StmtKind : uint8_t {
  kText,      // text
  kPrint,     // expr
  kIf,        // branches; one without a condition is "else"
  kFor,       // targets in expr if filter: body, otherwise
  kSet,       // targets, or targets[0].attribute, = expr
  kSetBlock,  // the same from body, then expr (filters) where there is one
  kMacro,     // targets[0] (params): body
  kBreak,
  kContinue
};

struct Stmt;
using Block = std::vector<std::unique_ptr<Stmt>>;

struct Branch {
  ExprPtr condition;
  Block body;
};

struct Stmt {
  StmtKind kind = StmtKind::kText;
  int line = 0;
  Value text;
  ExprPtr expr;
  ExprPtr filter;
  std::vector<std::string> targets;
  std::string attribute;
  std::vector<Argument> params;  // value: the default, or nullptr
  std::vector<Branch> branches;
  Block body;
  Block otherwise;
};

}  // namespace marlin::jinja
