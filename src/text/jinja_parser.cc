#include "text/jinja_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <optional>
#include <utility>

#include "marlin/error.h"
#include "text/jinja_builtins.h"
#include "text/jinja_lexer.h"

namespace marlin::jinja {
namespace {

constexpr int kMaxParserDepth = 100;  // nested brackets, operators and statements
constexpr int kMaxTreeDepth = 200;    // also counts chains such as a + b + c

class Parser {
 public:
  Parser(std::string_view source, std::string_view name) : name_(name), tokens_(tokenize(source, name)) {}

  Block run() { return parse_block({}, 1); }

 private:
  // Refuses input that would exhaust the stack of this parser or of the evaluator.
  class Nesting {
   public:
    explicit Nesting(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMaxParserDepth) {
        parser_.fail(fmt::format("the template is nested more than {} deep", kMaxParserDepth));
      }
    }
    ~Nesting() { --parser_.depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    Parser& parser_;
  };

  [[noreturn]] void fail(const std::string& message) const { fail_at(peek().line, message); }
  [[noreturn]] void fail_at(int line, const std::string& message) const {
    throw Error(ErrorCode::kBadFile, fmt::format("{}:{}: {}", name_, line, message));
  }

  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  Token next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool is(TokenKind kind) const { return peek().kind == kind; }
  bool is_operator(std::string_view text, size_t ahead = 0) const {
    return peek(ahead).kind == TokenKind::kOperator && peek(ahead).text == text;
  }
  bool is_name(std::string_view text, size_t ahead = 0) const {
    return peek(ahead).kind == TokenKind::kName && peek(ahead).text == text;
  }
  bool skip_operator(std::string_view text) {
    if (!is_operator(text)) return false;
    next();
    return true;
  }
  bool skip_name(std::string_view text) {
    if (!is_name(text)) return false;
    next();
    return true;
  }
  std::string describe() const {
    switch (peek().kind) {
      case TokenKind::kEnd:
        return "the end of the template";
      case TokenKind::kText:
      case TokenKind::kVariableBegin:
      case TokenKind::kBlockBegin:
        return "text";
      case TokenKind::kVariableEnd:
      case TokenKind::kBlockEnd:
        return "the end of the tag";
      case TokenKind::kString:
        return "a string";
      default:
        return fmt::format("'{}'", peek().text);
    }
  }
  void expect_operator(std::string_view text) {
    if (!skip_operator(text)) fail(fmt::format("expected '{}', found {}", text, describe()));
  }
  std::string expect_name(std::string_view what) {
    if (!is(TokenKind::kName)) fail(fmt::format("expected {}, found {}", what, describe()));
    return next().text;
  }
  void expect_block_end() {
    if (!is(TokenKind::kBlockEnd)) fail(fmt::format("expected '%}}', found {}", describe()));
    next();
  }

  ExprPtr make(ExprKind kind, int line) const {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->line = line;
    return expr;
  }
  void adopt(Expr& parent, ExprPtr child) const {
    if (child) count_depth(parent, *child);
    parent.items.push_back(std::move(child));
  }
  void count_depth(Expr& parent, const Expr& child) const {
    parent.depth = std::max(parent.depth, child.depth + 1);
    if (parent.depth > kMaxTreeDepth) {
      fail_at(parent.line, fmt::format("an expression is nested more than {} deep", kMaxTreeDepth));
    }
  }
  ExprPtr make_binary(ExprKind kind, int line, ExprPtr left, ExprPtr right) const {
    ExprPtr expr = make(kind, line);
    adopt(*expr, std::move(left));
    adopt(*expr, std::move(right));
    return expr;
  }
  std::optional<Operator> take_operator(std::initializer_list<std::pair<std::string_view, Operator>> choices) {
    for (const auto& [text, op] : choices) {
      if (skip_operator(text)) return op;
    }
    return std::nullopt;
  }

  // Expressions, from the loosest to the tightest binding.

  ExprPtr parse_expression(bool with_conditional = true) {
    const Nesting nesting(*this);
    ExprPtr value = parse_or();
    while (with_conditional && is_name("if")) {
      ExprPtr expr = make(ExprKind::kConditional, next().line);
      adopt(*expr, std::move(value));
      adopt(*expr, parse_or());
      adopt(*expr, skip_name("else") ? parse_expression() : nullptr);
      value = std::move(expr);
    }
    return value;
  }

  ExprPtr parse_or() {
    ExprPtr left = parse_and();
    while (is_name("or")) {
      const int line = next().line;
      left = make_binary(ExprKind::kOr, line, std::move(left), parse_and());
    }
    return left;
  }

  ExprPtr parse_and() {
    ExprPtr left = parse_not();
    while (is_name("and")) {
      const int line = next().line;
      left = make_binary(ExprKind::kAnd, line, std::move(left), parse_not());
    }
    return left;
  }

  ExprPtr parse_not() {
    if (!is_name("not")) return parse_compare();
    const Nesting nesting(*this);
    ExprPtr expr = make(ExprKind::kUnary, next().line);
    expr->ops.push_back(Operator::kNot);
    adopt(*expr, parse_not());
    return expr;
  }

  std::optional<Operator> take_comparison() {
    if (skip_name("in")) return Operator::kIn;
    if (is_name("not") && is_name("in", 1)) {
      next();
      next();
      return Operator::kNotIn;
    }
    return take_operator({{"==", Operator::kEqual},
                          {"!=", Operator::kNotEqual},
                          {"<", Operator::kLess},
                          {"<=", Operator::kLessEqual},
                          {">", Operator::kGreater},
                          {">=", Operator::kGreaterEqual}});
  }

  ExprPtr parse_compare() {
    ExprPtr left = parse_sum();
    auto op = take_comparison();
    if (!op) return left;
    ExprPtr chain = make(ExprKind::kCompare, left->line);
    adopt(*chain, std::move(left));
    for (; op; op = take_comparison()) {
      chain->ops.push_back(*op);
      adopt(*chain, parse_sum());
    }
    return chain;
  }

  ExprPtr with_operator(Operator op, ExprPtr left, ExprPtr right) const {
    const int line = left->line;
    ExprPtr expr = make_binary(ExprKind::kBinary, line, std::move(left), std::move(right));
    expr->ops.push_back(op);
    return expr;
  }

  ExprPtr parse_sum() {
    ExprPtr left = parse_concat();
    while (const auto op = take_operator({{"+", Operator::kAdd}, {"-", Operator::kSubtract}})) {
      left = with_operator(*op, std::move(left), parse_concat());
    }
    return left;
  }

  ExprPtr parse_concat() {
    ExprPtr left = parse_product();
    if (!is_operator("~")) return left;
    ExprPtr expr = make(ExprKind::kConcat, left->line);
    adopt(*expr, std::move(left));
    while (skip_operator("~")) adopt(*expr, parse_product());
    return expr;
  }

  ExprPtr parse_product() {
    ExprPtr left = parse_power();
    while (const auto op = take_operator({{"*", Operator::kMultiply},
                                          {"/", Operator::kDivide},
                                          {"//", Operator::kFloorDivide},
                                          {"%", Operator::kModulo}})) {
      left = with_operator(*op, std::move(left), parse_power());
    }
    return left;
  }

  ExprPtr parse_power() {
    ExprPtr left = parse_unary(true);
    while (skip_operator("**")) left = with_operator(Operator::kPower, std::move(left), parse_unary(true));
    return left;
  }

  ExprPtr parse_unary(bool with_filter) {
    ExprPtr expr;
    if (is_operator("-") || is_operator("+")) {
      const Nesting nesting(*this);
      expr = make(ExprKind::kUnary, peek().line);
      expr->ops.push_back(next().text == "-" ? Operator::kNegate : Operator::kPlus);
      adopt(*expr, parse_unary(false));
    } else {
      expr = parse_primary();
    }
    expr = parse_postfix(std::move(expr));
    if (!with_filter) return expr;
    return parse_filters(std::move(expr));
  }

  ExprPtr parse_primary() {
    const int line = peek().line;
    if (is(TokenKind::kString)) {
      std::string text;
      while (is(TokenKind::kString)) text += next().text;
      return literal(line, Value::string(text, true));
    }
    if (is(TokenKind::kInteger)) return literal(line, parse_integer(next().text));
    if (is(TokenKind::kFloat)) return literal(line, parse_float(next().text));
    if (is(TokenKind::kName)) return parse_name();
    if (skip_operator("(")) {
      ExprPtr expr = parse_tuple(true, true);
      expect_operator(")");
      return expr;
    }
    if (skip_operator("[")) return parse_list(line);
    if (skip_operator("{")) return parse_dict(line);
    fail(fmt::format("expected an expression, found {}", describe()));
  }

  ExprPtr literal(int line, Value value) const {
    ExprPtr expr = make(ExprKind::kLiteral, line);
    expr->literal = std::move(value);
    return expr;
  }

  Value parse_integer(const std::string& digits) const {
    Int value = 0;
    for (const char digit : digits) {
      if (__builtin_mul_overflow(value, Int{10}, &value) || __builtin_add_overflow(value, Int{digit - '0'}, &value)) {
        fail(fmt::format("the number {} is too large", digits));
      }
    }
    return Value::integer(value);
  }

  // JSON knows no leading zeros, and no number beyond a double's range.
  Value parse_float(const std::string& text) const {
    size_t begin = 0;
    while (text[begin] == '0' && begin + 1 < text.size() && text[begin + 1] >= '0' && text[begin + 1] <= '9') ++begin;
    const Json value = Json::parse(text.substr(begin), nullptr, false);
    if (!value.is_number()) fail(fmt::format("the number {} is too large", text));
    return Value::number(value.get<double>());
  }

  ExprPtr parse_name() {
    static constexpr std::array<std::string_view, 8> kReserved = {"and", "or", "not", "if", "else", "elif", "in", "is"};
    if (std::find(kReserved.begin(), kReserved.end(), peek().text) != kReserved.end()) {
      fail(fmt::format("expected an expression, found {}", describe()));
    }
    const Token token = next();
    if (token.text == "true" || token.text == "True") return literal(token.line, Value::boolean(true));
    if (token.text == "false" || token.text == "False") return literal(token.line, Value::boolean(false));
    if (token.text == "none" || token.text == "None") return literal(token.line, Value::none());
    ExprPtr expr = make(ExprKind::kName, token.line);
    expr->name = token.text;
    return expr;
  }

  ExprPtr parse_list(int line) {
    ExprPtr expr = make(ExprKind::kList, line);
    while (!is_operator("]")) {
      if (!expr->items.empty()) expect_operator(",");
      if (is_operator("]")) break;
      adopt(*expr, parse_expression());
    }
    next();
    return expr;
  }

  ExprPtr parse_dict(int line) {
    ExprPtr expr = make(ExprKind::kDict, line);
    while (!is_operator("}")) {
      if (!expr->items.empty()) expect_operator(",");
      if (is_operator("}")) break;
      adopt(*expr, parse_expression());
      expect_operator(":");
      adopt(*expr, parse_expression());
    }
    next();
    return expr;
  }

  // One expression, or a tuple where a comma follows.
  ExprPtr parse_tuple(bool with_conditional, bool may_be_empty) {
    const int line = peek().line;
    const auto ends = [this] { return is(TokenKind::kVariableEnd) || is(TokenKind::kBlockEnd) || is_operator(")"); };
    ExprPtr first;
    if (!(may_be_empty && ends())) {
      first = parse_expression(with_conditional);
      if (!is_operator(",")) return first;
    }
    ExprPtr expr = make(ExprKind::kTuple, line);
    if (first) adopt(*expr, std::move(first));
    while (skip_operator(",") && !ends()) adopt(*expr, parse_expression(with_conditional));
    return expr;
  }

  ExprPtr parse_postfix(ExprPtr expr) {
    while (true) {
      if (is_operator(".")) {
        expr = parse_attribute(std::move(expr));
      } else if (is_operator("[")) {
        expr = parse_subscript(std::move(expr));
      } else if (is_operator("(")) {
        expr = parse_call(std::move(expr));
      } else {
        return expr;
      }
    }
  }

  ExprPtr parse_attribute(ExprPtr object) {
    const int line = next().line;
    if (is(TokenKind::kInteger)) {
      ExprPtr index = literal(line, parse_integer(next().text));
      return make_binary(ExprKind::kSubscript, line, std::move(object), std::move(index));
    }
    ExprPtr expr = make(ExprKind::kAttribute, line);
    adopt(*expr, std::move(object));
    expr->name = expect_name("an attribute's name after '.'");
    return expr;
  }

  ExprPtr parse_subscript(ExprPtr object) {
    const int line = next().line;
    ExprPtr expr = make(ExprKind::kSubscript, line);
    adopt(*expr, std::move(object));
    for (int part = 0; part < 3; ++part) {
      const bool absent = is_operator(":") || is_operator("]");
      if (absent && part == 0 && is_operator("]")) fail("expected an index between '[' and ']'");
      adopt(*expr, absent ? nullptr : parse_expression());
      if (!skip_operator(":")) break;
      expr->kind = ExprKind::kSlice;
    }
    expect_operator("]");
    if (expr->kind == ExprKind::kSlice) expr->items.resize(4);
    return expr;
  }

  ExprPtr parse_call(ExprPtr callee) {
    ExprPtr expr = make(ExprKind::kCall, peek().line);
    adopt(*expr, std::move(callee));
    parse_arguments(*expr);
    return expr;
  }

  void parse_arguments(Expr& expr) {
    expect_operator("(");
    while (!is_operator(")")) {
      if (!expr.args.empty()) expect_operator(",");
      if (is_operator(")")) break;
      if (is_operator("*") || is_operator("**")) fail("'*' and '**' arguments are not supported");
      Argument argument;
      if (is(TokenKind::kName) && is_operator("=", 1)) {
        argument.name = next().text;
        next();
      } else if (!expr.args.empty() && !expr.args.back().name.empty()) {
        fail("a positional argument follows a named one");
      }
      argument.value = parse_expression();
      count_depth(expr, *argument.value);
      expr.args.push_back(std::move(argument));
    }
    next();
  }

  ExprPtr parse_filters(ExprPtr expr) {
    while (true) {
      if (is_operator("|")) {
        expr = parse_filter(std::move(expr));
      } else if (is_name("is")) {
        expr = parse_test(std::move(expr));
      } else if (is_operator("(")) {
        expr = parse_call(std::move(expr));
      } else {
        return expr;
      }
    }
  }

  ExprPtr parse_filter(ExprPtr value) {
    ExprPtr expr = make(ExprKind::kFilter, next().line);
    adopt(*expr, std::move(value));
    expr->name = expect_name("a filter's name after '|'");
    if (!is_filter(expr->name)) fail_at(expr->line, fmt::format("there is no filter '{}'", expr->name));
    if (is_operator("(")) parse_arguments(*expr);
    return expr;
  }

  ExprPtr parse_test(ExprPtr value) {
    ExprPtr expr = make(ExprKind::kTest, next().line);
    adopt(*expr, std::move(value));
    const bool negated = skip_name("not");
    expr->name = expect_name("a test's name after 'is'");
    if (!is_test(expr->name)) fail_at(expr->line, fmt::format("there is no test '{}'", expr->name));
    if (is_operator("(")) {
      parse_arguments(*expr);
    } else if (is(TokenKind::kString) || is(TokenKind::kInteger) || is(TokenKind::kFloat) || is_operator("[") ||
               is_operator("{") || (is(TokenKind::kName) && !ends_test())) {
      Argument argument;
      argument.value = parse_postfix(parse_primary());
      count_depth(*expr, *argument.value);
      expr->args.push_back(std::move(argument));
    }
    if (!negated) return expr;
    ExprPtr outer = make(ExprKind::kUnary, expr->line);
    outer->ops.push_back(Operator::kNot);
    adopt(*outer, std::move(expr));
    return outer;
  }

  bool ends_test() const {
    if (is_name("is")) fail("tests cannot be chained with 'is'");
    return is_name("else") || is_name("or") || is_name("and") || is_name("if") || is_name("in") || is_name("not");
  }

  // Statements.

  bool at_end_tag(const std::vector<std::string_view>& ends) const {
    return is(TokenKind::kBlockBegin) &&
           std::any_of(ends.begin(), ends.end(), [this](std::string_view end) { return is_name(end, 1); });
  }

  // Up to one of the `ends` tags, whose name is the next token afterwards; without ends, all of the template.
  Block parse_block(const std::vector<std::string_view>& ends, int opened) {
    Block block;
    while (!at_end_tag(ends)) {
      if (is(TokenKind::kEnd)) {
        if (ends.empty()) return block;
        fail(fmt::format("expected '{}' for the block opened in line {}, found the end of the template", ends.back(),
                         opened));
      }
      parse_statement(block);
    }
    next();
    return block;
  }

  Block parse_body(const std::vector<std::string_view>& ends) {
    const int opened = peek().line;
    expect_block_end();
    return parse_block(ends, opened);
  }

  void end_tag(std::string_view name) {
    if (!skip_name(name)) fail(fmt::format("expected '{}', found {}", name, describe()));
    expect_block_end();
  }

  std::unique_ptr<Stmt> make_statement(StmtKind kind, int line) const {
    auto statement = std::make_unique<Stmt>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }

  void parse_statement(Block& block) {
    const Nesting nesting(*this);
    const Token token = next();
    if (token.kind == TokenKind::kText) {
      auto statement = make_statement(StmtKind::kText, token.line);
      statement->text = Value::string(token.text, true);
      block.push_back(std::move(statement));
    } else if (token.kind == TokenKind::kVariableBegin) {
      auto statement = make_statement(StmtKind::kPrint, token.line);
      statement->expr = parse_tuple(true, false);
      if (!is(TokenKind::kVariableEnd)) fail(fmt::format("expected '}}}}', found {}", describe()));
      next();
      block.push_back(std::move(statement));
    } else {
      parse_tag(block);
    }
  }

  void parse_tag(Block& block) {
    const int line = peek().line;
    const std::string tag = expect_name("a tag's name");
    if (tag == "if") {
      block.push_back(parse_if(line));
    } else if (tag == "for") {
      block.push_back(parse_for(line));
    } else if (tag == "set") {
      block.push_back(parse_set(line));
    } else if (tag == "macro") {
      block.push_back(parse_macro(line));
    } else if (tag == "break" || tag == "continue") {
      if (loops_ == 0) fail_at(line, fmt::format("'{}' outside of a loop", tag));
      expect_block_end();
      block.push_back(make_statement(tag == "break" ? StmtKind::kBreak : StmtKind::kContinue, line));
    } else if (tag == "generation") {  // marks what the assistant wrote, for training; it prints its body
      for (auto& statement : parse_body({"endgeneration"})) block.push_back(std::move(statement));
      end_tag("endgeneration");
    } else if (tag.starts_with("end") || tag == "else" || tag == "elif") {
      fail_at(line, fmt::format("'{}' closes or continues a block that is not open", tag));
    } else {
      fail_at(line, fmt::format("the tag '{}' is not supported", tag));
    }
  }

  std::unique_ptr<Stmt> parse_if(int line) {
    auto statement = make_statement(StmtKind::kIf, line);
    bool more = true;
    while (more) {
      Branch branch;
      branch.condition = parse_tuple(false, false);
      branch.body = parse_body({"elif", "else", "endif"});
      statement->branches.push_back(std::move(branch));
      more = skip_name("elif");
    }
    if (skip_name("else")) {
      Branch branch;
      branch.body = parse_body({"endif"});
      statement->branches.push_back(std::move(branch));
    }
    end_tag("endif");
    return statement;
  }

  std::vector<std::string> parse_targets() {
    const bool parenthesized = skip_operator("(");
    std::vector<std::string> targets;
    do {
      if (!targets.empty() && !is(TokenKind::kName)) break;
      if (is_name("true") || is_name("True") || is_name("false") || is_name("False") || is_name("none") ||
          is_name("None")) {
        fail(fmt::format("cannot assign to {}", describe()));
      }
      targets.push_back(expect_name("a variable's name"));
    } while (skip_operator(","));
    if (parenthesized) expect_operator(")");
    return targets;
  }

  std::unique_ptr<Stmt> parse_for(int line) {
    auto statement = make_statement(StmtKind::kFor, line);
    statement->targets = parse_targets();
    if (!skip_name("in")) fail(fmt::format("expected 'in', found {}", describe()));
    statement->expr = parse_tuple(false, false);
    if (skip_name("if")) statement->filter = parse_expression();
    if (is_name("recursive")) fail("recursive loops are not supported");
    ++loops_;
    ++scopes_;
    statement->body = parse_body({"else", "endfor"});
    --scopes_;
    --loops_;
    if (skip_name("else")) statement->otherwise = parse_body({"endfor"});
    end_tag("endfor");
    return statement;
  }

  std::unique_ptr<Stmt> parse_set(int line) {
    auto statement = make_statement(StmtKind::kSet, line);
    statement->targets = parse_targets();
    if (statement->targets.size() == 1 && skip_operator(".")) {
      statement->attribute = expect_name("an attribute's name after '.'");
    }
    if (skip_operator("=")) {
      statement->expr = parse_tuple(true, false);
      expect_block_end();
      return statement;
    }
    statement->kind = StmtKind::kSetBlock;
    if (statement->targets.size() != 1) fail(fmt::format("expected '=', found {}", describe()));
    if (is_operator("|")) {
      ExprPtr captured = make(ExprKind::kName, line);
      captured->name = statement->targets.front();
      if (!statement->attribute.empty()) {
        ExprPtr attribute = make(ExprKind::kAttribute, line);
        attribute->name = statement->attribute;
        adopt(*attribute, std::move(captured));
        captured = std::move(attribute);
      }
      statement->expr = parse_filters(std::move(captured));
    }
    statement->body = parse_scope({"endset"});
    end_tag("endset");
    return statement;
  }

  // A body that a break or continue cannot leave.
  Block parse_scope(const std::vector<std::string_view>& ends) {
    const int outer = std::exchange(loops_, 0);
    ++scopes_;
    Block body = parse_body(ends);
    --scopes_;
    loops_ = outer;
    return body;
  }

  std::unique_ptr<Stmt> parse_macro(int line) {
    if (scopes_ > 0) fail_at(line, "a macro inside a loop, macro or set block is not supported");
    auto statement = make_statement(StmtKind::kMacro, line);
    statement->targets.push_back(expect_name("the macro's name"));
    expect_operator("(");
    while (!is_operator(")")) {
      if (!statement->params.empty()) expect_operator(",");
      if (is_operator(")")) break;
      Argument param;
      param.name = expect_name("a parameter's name");
      if (skip_operator("=")) {
        param.value = parse_expression();
      } else if (!statement->params.empty() && statement->params.back().value) {
        fail("a parameter without default follows one with a default");
      }
      statement->params.push_back(std::move(param));
    }
    next();
    statement->body = parse_scope({"endmacro"});
    end_tag("endmacro");
    return statement;
  }

  std::string_view name_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;   // that a break could leave
  int scopes_ = 0;  // bodies with variables of their own
};

}  // namespace

Block parse_template(std::string_view source, std::string_view name) {
  return Parser(source, name).run();
}

}  // namespace marlin::jinja
