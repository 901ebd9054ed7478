#include "text/jinja_eval.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <exception>
#include <utility>

#include "marlin/error.h"
#include "text/jinja_builtins.h"

namespace marlin::jinja {
namespace {

enum class Flow : uint8_t { kNext, kBreak, kContinue };

constexpr Int kMaxRange = 100'000;  // of Jinja's sandbox

class Evaluator {
 public:
  Evaluator(std::string_view name, const Dict& context, const Limits& limits)
      : name_(name), context_(context), budget_(limits) {}

  Text run(const Block& block) {
    try {
      Scope root;
      root_ = scope_ = &root;
      exec(block);
      return std::move(out_);
    } catch (const Failure& failure) {
      throw Error(ErrorCode::kUsage, fmt::format("{}:{}: {}", name_, line_, failure.what()));
    }
  }

 private:
  // The variables of the template, of a macro call or of one turn of a loop.
  struct Scope {
    Scope* parent = nullptr;
    std::vector<std::pair<std::string_view, Value>> variables;

    const Value* find(std::string_view name) const {
      for (const auto& [known, value] : variables) {
        if (known == name) return &value;
      }
      return nullptr;
    }
    void set(std::string_view name, Value value) {
      for (auto& [known, old] : variables) {
        if (known == name) {
          old = std::move(value);
          return;
        }
      }
      variables.emplace_back(name, std::move(value));
    }
  };

  class ScopeGuard {
   public:
    ScopeGuard(Evaluator& evaluator, Scope& inner, Scope* parent) : evaluator_(evaluator), outer_(evaluator.scope_) {
      inner.parent = parent;
      evaluator.scope_ = &inner;
    }
    ~ScopeGuard() { evaluator_.scope_ = outer_; }
    ScopeGuard(const ScopeGuard&) = delete;
    ScopeGuard& operator=(const ScopeGuard&) = delete;

   private:
    Evaluator& evaluator_;
    Scope* outer_;
  };

  // Counts depth and keeps the current line; a failure leaves the line where it happened.
  class Frame {
   public:
    Frame(Evaluator& evaluator, int line)
        : evaluator_(evaluator), outer_line_(evaluator.line_), exceptions_(std::uncaught_exceptions()) {
      evaluator.line_ = line;
      evaluator.budget_.step();
      if (++evaluator.depth_ > evaluator.budget_.limits().depth) {
        --evaluator.depth_;
        throw Failure("macro calls and expressions are nested too deeply");
      }
    }
    ~Frame() {
      --evaluator_.depth_;
      if (std::uncaught_exceptions() == exceptions_) evaluator_.line_ = outer_line_;
    }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Evaluator& evaluator_;
    int outer_line_;
    int exceptions_;
  };

  // Statements.

  Flow exec(const Block& block) {
    for (const auto& statement : block) {
      const Flow flow = exec(*statement);
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  Flow exec(const Stmt& statement) {
    const Frame frame(*this, statement.line);
    switch (statement.kind) {
      case StmtKind::kText:
        print(statement.text);
        break;
      case StmtKind::kPrint:
        print(eval(*statement.expr));
        break;
      case StmtKind::kIf:
        return exec_if(statement);
      case StmtKind::kFor:
        exec_for(statement);
        break;
      case StmtKind::kSet:
        exec_set(statement);
        break;
      case StmtKind::kSetBlock:
        exec_set_block(statement);
        break;
      case StmtKind::kMacro:
        scope_->set(statement.targets.front(), Value::macro(&statement));
        break;
      case StmtKind::kBreak:
        return Flow::kBreak;
      case StmtKind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNext;
  }

  void print(const Value& value) {
    if (const Text* text = value.as_string()) {
      out_.append(*text);
      budget_.step(text->size() / 64);
    } else {
      out_.append(to_text(budget_, value));
    }
    if (out_.size() > budget_.limits().text) throw Failure("the output grows beyond the size limit");
  }

  // What `block` prints, in a scope of its own.
  Text capture(const Block& block, Scope& inner, Scope* parent) {
    const ScopeGuard guard(*this, inner, parent);
    Text outer = std::exchange(out_, Text());
    exec(block);
    return std::exchange(out_, std::move(outer));
  }

  Flow exec_if(const Stmt& statement) {
    for (const Branch& branch : statement.branches) {
      if (!branch.condition || eval(*branch.condition).truthy()) return exec(branch.body);
    }
    return Flow::kNext;
  }

  void bind(Scope& scope, const std::vector<std::string>& targets, Value value) {
    if (targets.size() == 1) {
      scope.set(targets.front(), std::move(value));
      return;
    }
    std::vector<Value> items = iterate(budget_, value);
    if (items.size() != targets.size()) {
      throw Failure(fmt::format("expected {} values to unpack, found {}", targets.size(), items.size()));
    }
    for (size_t i = 0; i < targets.size(); ++i) scope.set(targets[i], std::move(items[i]));
  }

  void exec_for(const Stmt& statement) {
    std::vector<Value> items = iterate(budget_, eval(*statement.expr));
    if (statement.filter) {
      std::vector<Value> kept;
      for (Value& item : items) {
        Scope scope;
        const ScopeGuard guard(*this, scope, scope_);
        bind(scope, statement.targets, item);
        if (eval(*statement.filter).truthy()) kept.push_back(std::move(item));
      }
      items = std::move(kept);
    }
    if (items.empty()) {
      Scope scope;
      const ScopeGuard guard(*this, scope, scope_);
      exec(statement.otherwise);
      return;
    }
    auto loop = std::make_shared<Loop>();
    loop->items = Value::list(std::move(items));
    loop->depth = ++loop_depth_;
    const std::vector<Value>& values = loop->items.as_list()->items;
    const Value loop_value = Value::loop(loop);
    for (size_t i = 0; i < values.size(); ++i) {
      loop->index = i;
      Scope scope;
      const ScopeGuard guard(*this, scope, scope_);
      scope.set("loop", loop_value);
      bind(scope, statement.targets, values[i]);
      if (exec(statement.body) == Flow::kBreak) break;
    }
    --loop_depth_;
  }

  void assign(const Stmt& statement, Value value) {
    if (statement.attribute.empty()) return bind(*scope_, statement.targets, std::move(value));
    Namespace* target = lookup(statement.targets.front()).as_namespace();
    if (target == nullptr) {
      throw Failure(fmt::format("cannot assign '{}.{}': only a namespace's attributes can be set",
                                statement.targets.front(), statement.attribute));
    }
    for (auto& [name, old] : target->attributes) {
      if (name == statement.attribute) {
        old = std::move(value);
        return;
      }
    }
    target->attributes.emplace_back(statement.attribute, std::move(value));
  }

  void exec_set(const Stmt& statement) { assign(statement, eval(*statement.expr)); }

  void exec_set_block(const Stmt& statement) {
    Scope scope;
    assign(statement, Value::string(capture(statement.body, scope, scope_)));
    if (statement.expr) assign(statement, eval(*statement.expr));
  }

  // Expressions.

  Value lookup(const std::string& name) {
    for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
      if (const Value* value = scope->find(name)) return *value;
    }
    if (const Value* value = context_.find(name)) return *value;
    static constexpr std::array<std::string_view, 5> kGlobals = {"range", "dict", "namespace", "raise_exception",
                                                                 "strftime_now"};
    const auto global = std::find(kGlobals.begin(), kGlobals.end(), name);
    if (global != kGlobals.end()) return Value::global(*global);
    return Value::undefined(fmt::format("'{}' is undefined", name));
  }

  Value eval(const Expr& expr) {
    const Frame frame(*this, expr.line);
    switch (expr.kind) {
      case ExprKind::kLiteral:
        return expr.literal;
      case ExprKind::kName:
        return lookup(expr.name);
      case ExprKind::kAttribute:
        return get_attribute(eval(*expr.items[0]), expr.name);
      case ExprKind::kSubscript:
      case ExprKind::kSlice:
        return eval_subscript(expr);
      case ExprKind::kCall:
        return eval_call(expr);
      case ExprKind::kFilter:
        return eval_filter(expr);
      case ExprKind::kTest:
        return Value::boolean(eval_test(expr));
      case ExprKind::kUnary:
        return eval_unary(expr);
      case ExprKind::kBinary:
        return eval_binary(expr);
      case ExprKind::kCompare:
        return eval_compare(expr);
      case ExprKind::kAnd:
      case ExprKind::kOr:
        return eval_logic(expr);
      case ExprKind::kConcat:
        return eval_concat(expr);
      case ExprKind::kConditional:
        return eval_conditional(expr);
      default:
        return eval_container(expr);
    }
  }

  Value eval_subscript(const Expr& expr) {
    const Value object = eval(*expr.items[0]);
    if (expr.kind == ExprKind::kSubscript) return get_item(budget_, object, eval(*expr.items[1]));
    std::array<Value, 3> bounds;
    for (size_t i = 0; i < bounds.size(); ++i) {
      if (expr.items[i + 1]) bounds[i] = eval(*expr.items[i + 1]);
    }
    return get_slice(budget_, object, bounds[0], bounds[1], bounds[2]);
  }

  Arguments eval_arguments(const Expr& expr) {
    Arguments arguments;
    for (const Argument& argument : expr.args) {
      if (argument.name.empty()) {
        arguments.positional.push_back(eval(*argument.value));
      } else {
        arguments.named.emplace_back(argument.name, eval(*argument.value));
      }
    }
    return arguments;
  }

  Value eval_filter(const Expr& expr) {
    const Value value = eval(*expr.items[0]);
    return apply_filter(budget_, expr.name, value, eval_arguments(expr));
  }

  bool eval_test(const Expr& expr) {
    const Value value = eval(*expr.items[0]);
    return apply_test(budget_, expr.name, value, eval_arguments(expr));
  }

  Value eval_unary(const Expr& expr) {
    const Value value = eval(*expr.items[0]);
    if (expr.ops[0] == Operator::kNot) return Value::boolean(!value.truthy());
    if (!value.numeric()) {
      if (value.is_undefined()) throw Failure(value.why_undefined());
      throw Failure(fmt::format("bad operand type for a sign: '{}'", value.type_name()));
    }
    // 0.0 has a sign of its own.
    if (const double* number = value.as_float()) {
      return Value::number(expr.ops[0] == Operator::kNegate ? -*number : *number, value.has_data());
    }
    return arithmetic(budget_, expr.ops[0] == Operator::kNegate ? Operator::kSubtract : Operator::kAdd,
                      Value::integer(0), value);
  }

  Value eval_binary(const Expr& expr) {
    const Value left = eval(*expr.items[0]);
    return arithmetic(budget_, expr.ops[0], left, eval(*expr.items[1]));
  }

  bool compare_pair(Operator op, const Value& left, const Value& right) {
    switch (op) {
      case Operator::kEqual:
        return equals(budget_, left, right);
      case Operator::kNotEqual:
        return !equals(budget_, left, right);
      case Operator::kIn:
        return contains(budget_, right, left);
      case Operator::kNotIn:
        return !contains(budget_, right, left);
      case Operator::kLess:
        return compare(budget_, left, right, "<") < 0;
      case Operator::kLessEqual:
        return compare(budget_, left, right, "<=") <= 0;
      case Operator::kGreater:
        return compare(budget_, left, right, ">") > 0;
      default:
        return compare(budget_, left, right, ">=") >= 0;
    }
  }

  Value eval_compare(const Expr& expr) {
    Value left = eval(*expr.items[0]);
    for (size_t i = 0; i < expr.ops.size(); ++i) {
      Value right = eval(*expr.items[i + 1]);
      if (!compare_pair(expr.ops[i], left, right)) return Value::boolean(false);
      left = std::move(right);
    }
    return Value::boolean(true);
  }

  Value eval_logic(const Expr& expr) {
    Value left = eval(*expr.items[0]);
    if (left.truthy() == (expr.kind == ExprKind::kOr)) return left;
    return eval(*expr.items[1]);
  }

  Value eval_concat(const Expr& expr) {
    Text out;
    for (const ExprPtr& item : expr.items) {
      out.append(to_text(budget_, eval(*item)));
      budget_.text(out.size());
    }
    return Value::string(std::move(out));
  }

  Value eval_conditional(const Expr& expr) {
    if (eval(*expr.items[1]).truthy()) return eval(*expr.items[0]);
    if (expr.items[2]) return eval(*expr.items[2]);
    return Value::undefined("the inline if is false and has no else");
  }

  Value eval_container(const Expr& expr) {
    if (expr.kind == ExprKind::kDict) {
      Dict dict;
      for (size_t i = 0; i < expr.items.size(); i += 2) {
        Value key = eval(*expr.items[i]);
        dict.set(std::move(key), eval(*expr.items[i + 1]));
      }
      return Value::dict(std::move(dict));
    }
    std::vector<Value> items;
    items.reserve(expr.items.size());
    for (const ExprPtr& item : expr.items) items.push_back(eval(*item));
    return Value::list(std::move(items), expr.kind == ExprKind::kTuple);
  }

  // Calls.

  Value eval_call(const Expr& expr) {
    const Value callee = eval(*expr.items[0]);
    if (callee.is_undefined()) throw Failure(callee.why_undefined());
    Arguments arguments = eval_arguments(expr);
    if (const Bound* method = callee.as_method()) return call_method(budget_, *method, std::move(arguments));
    if (const Macro* macro = callee.as_macro()) return call_macro(*macro->definition, std::move(arguments));
    if (const Global* global = callee.as_global()) return call_global(global->name, std::move(arguments));
    throw Failure(fmt::format("'{}' object is not callable", callee.type_name()));
  }

  Value call_macro(const Stmt& macro, Arguments arguments) {
    const std::string& name = macro.targets.front();
    if (arguments.positional.size() > macro.params.size()) {
      throw Failure(fmt::format("macro '{}' takes at most {} arguments, not {}", name, macro.params.size(),
                                arguments.positional.size()));
    }
    Scope scope;
    for (size_t i = 0; i < arguments.positional.size(); ++i) {
      scope.set(macro.params[i].name, std::move(arguments.positional[i]));
    }
    for (auto& [given, value] : arguments.named) {
      const auto param = std::find_if(macro.params.begin(), macro.params.end(),
                                      [&, &key = given](const Argument& candidate) { return candidate.name == key; });
      if (param == macro.params.end()) throw Failure(fmt::format("macro '{}' has no argument '{}'", name, given));
      if (scope.find(given) != nullptr) throw Failure(fmt::format("macro '{}' got '{}' twice", name, given));
      scope.set(param->name, std::move(value));
    }
    bind_defaults(macro, scope);
    const int outer_loops = std::exchange(loop_depth_, 0);
    Text text = capture(macro.body, scope, root_);
    loop_depth_ = outer_loops;
    return Value::string(std::move(text));
  }

  void bind_defaults(const Stmt& macro, Scope& scope) {
    const ScopeGuard guard(*this, scope, root_);
    for (const Argument& param : macro.params) {
      if (scope.find(param.name) != nullptr) continue;
      scope.set(param.name, param.value ? eval(*param.value)
                                        : Value::undefined(fmt::format("parameter '{}' was not provided", param.name)));
    }
  }

  Value call_global(std::string_view global, Arguments arguments) {
    if (global == "range") return make_range(std::move(arguments));
    if (global == "dict") return make_dict(std::move(arguments));
    if (global == "namespace") return make_namespace(std::move(arguments));
    if (global == "raise_exception") {
      const Bindings bound(global, std::move(arguments), {"message"});
      throw Failure("the template refuses the request: " + one_line(to_text(budget_, bound.required(0)).str()));
    }
    throw Failure(fmt::format("'{}' is not supported: a prompt must not depend on the time", global));
  }

  static std::string one_line(std::string text) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
  }

  Value make_range(Arguments arguments) {
    const Bindings bound("range", std::move(arguments), {"start", "stop", "step"});
    bound.required(0);
    const Int start = bound.has(1) ? bound.integer(0, 0) : 0;
    const Int stop = bound.has(1) ? bound.integer(1, 0) : bound.integer(0, 0);
    const Int step = bound.integer(2, 1);
    if (step == 0) throw Failure("'range' cannot have a step of zero");
    const double count = (static_cast<double>(stop) - static_cast<double>(start)) / static_cast<double>(step);
    if (count > static_cast<double>(kMaxRange)) {
      throw Failure(fmt::format("'range' is limited to {} values", static_cast<int64_t>(kMaxRange)));
    }
    const bool data = bound.at(0).has_data() || bound.at(1).has_data() || bound.at(2).has_data();
    std::vector<Value> items;
    for (Int i = start; count > 0 && (step > 0 ? i < stop : i > stop);) {
      items.push_back(Value::integer(i, data));
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    budget_.step(items.size());
    return Value::list(std::move(items));
  }

  Value make_dict(Arguments arguments) {
    if (arguments.positional.size() > 1) throw Failure("'dict' takes at most 1 positional argument");
    Dict dict;
    if (!arguments.positional.empty()) {
      const Value& source = arguments.positional.front();
      budget_.step(length(source).value_or(0));
      if (const Dict* other = source.as_dict()) {
        dict = *other;
      } else {
        for (const Value& entry : iterate(budget_, source)) {
          const std::vector<Value> pair = iterate(budget_, entry);
          if (pair.size() != 2) throw Failure("'dict' expects pairs");
          dict.set(pair[0], pair[1]);
        }
      }
    }
    for (auto& [name, value] : arguments.named) dict.set(Value::string(name, true), std::move(value));
    return Value::dict(std::move(dict));
  }

  Value make_namespace(Arguments arguments) {
    const Value attributes = make_dict(std::move(arguments));
    auto created = std::make_unique<Namespace>();
    for (const auto& [key, value] : attributes.as_dict()->entries()) {
      if (key.as_string() == nullptr) throw Failure("'namespace' expects names as keys");
      created->attributes.emplace_back(key.as_string()->str(), value);
    }
    namespaces_.push_back(std::move(created));
    return Value::name_space(namespaces_.back().get());
  }

  std::string_view name_;
  const Dict& context_;
  Budget budget_;
  Text out_;
  // Namespaces can refer to each other, so no value owns them.
  std::vector<std::unique_ptr<Namespace>> namespaces_;
  Scope* root_ = nullptr;
  Scope* scope_ = nullptr;
  int line_ = 0;
  int depth_ = 0;
  int loop_depth_ = 0;
};

}  // namespace

Text evaluate(const Block& block, std::string_view name, const Value& context, const Limits& limits) {
  static const Dict kEmpty;
  const Dict* variables = context.as_dict();
  return Evaluator(name, variables != nullptr ? *variables : kEmpty, limits).run(block);
}

}  // namespace marlin::jinja
