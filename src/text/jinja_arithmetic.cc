#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja_eval.h"

namespace marlin::jinja {
namespace {

std::string_view symbol(Operator op) {
  switch (op) {
    case Operator::kAdd:
      return "+";
    case Operator::kSubtract:
      return "-";
    case Operator::kMultiply:
      return "*";
    case Operator::kDivide:
      return "/";
    case Operator::kFloorDivide:
      return "//";
    case Operator::kModulo:
      return "%";
    default:
      return "**";
  }
}

[[noreturn]] void overflow() {
  throw Failure("a whole number is too large");
}

Int floor_divide(Int a, Int b) {
  if (b == -1) {  // the quotient of the smallest number does not fit
    Int negated = 0;
    if (__builtin_sub_overflow(Int{0}, a, &negated)) overflow();
    return negated;
  }
  const Int quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

Int power(Int base, Int exponent) {
  Int result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return result;
}

Value on_integers(Operator op, Int a, Int b, bool data) {
  Int result = 0;
  bool fits = true;
  switch (op) {
    case Operator::kAdd:
      fits = !__builtin_add_overflow(a, b, &result);
      break;
    case Operator::kSubtract:
      fits = !__builtin_sub_overflow(a, b, &result);
      break;
    case Operator::kMultiply:
      fits = !__builtin_mul_overflow(a, b, &result);
      break;
    case Operator::kDivide:
      return Value::number(static_cast<double>(a) / static_cast<double>(b), data);
    case Operator::kFloorDivide:
      result = floor_divide(a, b);
      break;
    case Operator::kModulo:
      result = b == -1 ? 0 : a - floor_divide(a, b) * b;
      break;
    default:
      if (b < 0) return Value::number(std::pow(static_cast<double>(a), static_cast<double>(b)), data);
      result = power(a, b);
  }
  if (!fits) overflow();
  return Value::integer(result, data);
}

Value on_floats(Operator op, double a, double b, bool data) {
  switch (op) {
    case Operator::kAdd:
      return Value::number(a + b, data);
    case Operator::kSubtract:
      return Value::number(a - b, data);
    case Operator::kMultiply:
      return Value::number(a * b, data);
    case Operator::kDivide:
      return Value::number(a / b, data);
    case Operator::kFloorDivide:
      return Value::number(std::floor(a / b), data);
    case Operator::kModulo: {
      const double rest = std::fmod(a, b);
      return Value::number(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest, data);
    }
    default:
      return Value::number(std::pow(a, b), data);
  }
}

Value repeat(Budget& budget, const Value& value, Int count) {
  count = std::max<Int>(count, 0);
  const Text* text = value.as_string();
  const size_t size = text != nullptr ? text->size() : value.as_list()->items.size();
  const size_t most = text != nullptr ? budget.limits().text : kMaxWeight;
  if (size > 0 && count > static_cast<Int>(most / size)) throw Failure("a repetition grows beyond the size limit");
  const size_t times = size > 0 ? static_cast<size_t>(count) : 0;
  budget.step(times);
  if (text != nullptr) {
    budget.text(size * times);
    Text out;
    for (size_t i = 0; i < times; ++i) out.append(*text);
    return Value::string(std::move(out));
  }
  budget.step(size * times);
  std::vector<Value> items;
  for (size_t i = 0; i < times; ++i) {
    items.insert(items.end(), value.as_list()->items.begin(), value.as_list()->items.end());
  }
  return Value::list(std::move(items), value.as_list()->tuple);
}

Value join_lists(Budget& budget, const List& left, const List& right) {
  budget.step(left.items.size() + right.items.size());
  std::vector<Value> items = left.items;
  items.insert(items.end(), right.items.begin(), right.items.end());
  return Value::list(std::move(items), left.tuple);
}

}  // namespace

Value arithmetic(Budget& budget, Operator op, const Value& left, const Value& right) {
  if (left.is_undefined()) throw Failure(left.why_undefined());
  if (right.is_undefined()) throw Failure(right.why_undefined());
  const bool data = left.has_data() || right.has_data();
  const auto a = left.numeric();
  const auto b = right.numeric();
  if (a && b) {
    const bool divides = op == Operator::kDivide || op == Operator::kFloorDivide || op == Operator::kModulo;
    if ((divides && *b == 0) || (op == Operator::kPower && *a == 0 && *b < 0)) throw Failure("division by zero");
    const auto x = left.index();
    const auto y = right.index();
    return x && y ? on_integers(op, *x, *y, data) : on_floats(op, *a, *b, data);
  }
  if (op == Operator::kAdd && left.as_string() != nullptr && right.as_string() != nullptr) {
    budget.text(left.as_string()->size() + right.as_string()->size());
    Text out = *left.as_string();
    out.append(*right.as_string());
    return Value::string(std::move(out));
  }
  const List* x = left.as_list();
  const List* y = right.as_list();
  if (op == Operator::kAdd && x != nullptr && y != nullptr && x->tuple == y->tuple) return join_lists(budget, *x, *y);
  if (op == Operator::kMultiply) {
    if (right.index() && (left.as_string() != nullptr || x != nullptr)) return repeat(budget, left, *right.index());
    if (left.index() && (right.as_string() != nullptr || y != nullptr)) return repeat(budget, right, *left.index());
  }
  throw Failure(
      fmt::format("unsupported operand types for {}: '{}' and '{}'", symbol(op), left.type_name(), right.type_name()));
}

}  // namespace marlin::jinja
