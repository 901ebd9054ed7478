#include "text/jinja.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "marlin/error.h"

namespace marlin::jinja {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

Json context() {
  return Json::parse(R"({"s": "data", "n": 5, "f": 1.5, "t": true, "z": null, "l": [1, "two", [3]],
    "d": {"a": 1, "b": "x"}, "users": [{"name": "bob", "age": 30}, {"name": "Al", "age": 25}, {"name": "cy"}]})");
}

std::vector<Segment> segments(const std::string& source, const Limits& limits = {}) {
  return Template::compile(source, "t").render(context(), limits);
}

std::string render(const std::string& source) {
  std::string text;
  for (const Segment& segment : segments(source)) text += segment.text;
  return text;
}

// Template text plain, data in «».
std::string marked(const std::string& source) {
  std::string text;
  for (const Segment& segment : segments(source)) {
    text += segment.from_template ? segment.text : "«" + segment.text + "»";
  }
  return text;
}

std::string error(const std::string& source, ErrorCode code, const Limits& limits = {}) {
  try {
    segments(source, limits);
  } catch (const Error& failure) {
    EXPECT_EQ(failure.code(), code) << failure.what();
    EXPECT_EQ(std::string(failure.what()).find('\n'), std::string::npos);
    return failure.what();
  }
  return "no error";
}
std::string failure(const std::string& source) {
  return error(source, ErrorCode::kUsage);
}
std::string syntax(const std::string& source) {
  return error(source, ErrorCode::kBadFile);
}

// Expected texts were rendered by Python's jinja2 as transformers sets it up.
TEST(Jinja, AgreesWithPython) {
  std::ifstream file(MARLIN_SOURCE_DIR "/tests/text/jinja_cases.json");
  const Json cases = Json::parse(file);
  EXPECT_GT(cases.at("cases").size(), 300U);
  for (const Json& entry : cases.at("cases")) {
    const auto source = entry.at(0).get<std::string>();
    SCOPED_TRACE(source);
    std::string text;
    try {
      for (const Segment& segment : Template::compile(source, "t").render(cases.at("context"))) text += segment.text;
    } catch (const Error& failure) {
      EXPECT_TRUE(entry.at(1).is_null()) << failure.what();
      EXPECT_THAT(failure.what(), StartsWith("t:"));
      continue;
    }
    EXPECT_EQ(Json(text), entry.at(1));
  }
}

TEST(Jinja, Provenance) {
  EXPECT_EQ(marked("a{{ s }}b"), "a«data»b");
  EXPECT_EQ(marked("{{ '<' + s + '>' }}"), "<«data»>");
  EXPECT_EQ(marked("{{ '<' ~ s ~ n ~ '>' }}"), "<«data5»>");
  EXPECT_EQ(marked("{{ ('<' + s)[0:3] }}"), "<«da»");
  EXPECT_EQ(marked("{{ ('  ' + s + ' ').strip() }}"), "«data»");
  EXPECT_EQ(marked("{{ ('x' + s)|upper }}{{ s|upper }}"), "X«DATADATA»");
  EXPECT_EQ(marked("{{ (s + '|' + s).split('|')|join(',') }}"), "«data»,«data»");
  EXPECT_EQ(marked("{{ s.replace('t', 'T') }}{{ 'abc'.replace('b', s) }}"), "«da»T«a»a«data»c");
  EXPECT_EQ(marked("{{ {'k': s}|tojson }}{{ {'k': 'v'}|tojson }}"), "«{\"k\": \"data\"}»{\"k\": \"v\"}");
  EXPECT_EQ(marked("{{ n }}{{ n + 1 }}{{ 1 + 1 }}{{ -n }}"), "«56»2«-5»");
  EXPECT_EQ(marked("{{ [s] }}{{ ['x'] }}"), "«['data']»['x']");
  EXPECT_EQ(marked("{{ [s, 'x'][1] }}{{ [s, 'x'][0] }}"), "x«data»");
  EXPECT_EQ(marked("{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}"), "«a»=«1»;«b»=«x»;");
  EXPECT_EQ(marked("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(s)|upper }}"), "[«DATA»]");
  EXPECT_EQ(marked("{% set x %}<{{ s }}>{% endset %}{{ x }}"), "<«data»>");
  EXPECT_EQ(marked("{{ 'a\nb'|indent }}{{ s|indent(first=true) }}"), "a\n    b    «data»");
  EXPECT_EQ(marked("{{ s[0] }}{{ s[::-2] }}{{ s|title }}{{ s|string }}{{ s|int }}{{ '7'|int }}"), "«daaDatadata»07");
  EXPECT_EQ(marked("{{ z }}{{ t }}{{ missing }}{{ none }}"), "«NoneTrue»None");
}

TEST(Jinja, ErrorsNameTheLine) {
  EXPECT_EQ(failure("a\n{{ x.y }}"), "t:2: 'x' is undefined");
  EXPECT_EQ(failure("\n\n{{ d.q.r }}"), "t:3: 'dict object' has no attribute 'q'");
  EXPECT_EQ(failure("{% macro m(x) %}\n{{ x + 1 }}\n{% endmacro %}\n{{ m('a') }}"),
            "t:2: unsupported operand types for +: 'str' and 'int'");
  EXPECT_EQ(failure("{{ raise_exception('two\nlines') }}"), "t:1: the template refuses the request: two lines");
  EXPECT_THAT(failure("{% if t %}\n{{ strftime_now('%Y') }}{% endif %}"), StartsWith("t:2: 'strftime_now' is not"));
  EXPECT_THAT(failure("{{ l.append(1) }}"), HasSubstr("values do not change"));
  EXPECT_EQ(syntax("\n{{ 1 "), "t:2: a tag is not closed: expected '}}'");
  EXPECT_EQ(syntax("\n{% if t %}\n\n"),
            "t:3: expected 'endif' for the block opened in line 2, found the end of the "
            "template");
  EXPECT_EQ(syntax("{{ a|nothing }}"), "t:1: there is no filter 'nothing'");
  EXPECT_EQ(syntax("{{ a is nothing }}"), "t:1: there is no test 'nothing'");
  EXPECT_EQ(syntax("{% include 'x' %}"), "t:1: the tag 'include' is not supported");
  EXPECT_EQ(syntax("{{ 99999999999999999999999999999999999999999 }}"),
            "t:1: the number 99999999999999999999999999999999999999999 is too large");
  EXPECT_EQ(syntax("{{ 1e999 }}"), "t:1: the number 1e999 is too large");
}

TEST(Jinja, FloatsMayBeginWithZeros) {
  EXPECT_EQ(render("{{ 00.5 }} {{ 007.25e1 }} {{ 0.5 }} {{ 0e1 }} {{ 00e1 }}"), "0.5 72.5 0.5 0.0 0.0");
}

TEST(Jinja, Limits) {
  Limits limits;
  limits.steps = 10'000;
  limits.text = 10'000;
  const auto limited = [&](const std::string& source) { return error(source, ErrorCode::kUsage, limits); };
  const std::string nested = "{% for a in range(100) %}{% for b in range(100) %}{% for c in range(100) %}";
  EXPECT_THAT(limited(nested + "{% endfor %}{% endfor %}{% endfor %}"), HasSubstr("step limit"));
  EXPECT_THAT(limited("{% for a in range(100) %}{{ 'xxxxx' * 40 }}{% endfor %}"), HasSubstr("size limit"));
  EXPECT_THAT(limited("{{ 'x' * 1000000000 }}"), HasSubstr("size limit"));
  EXPECT_THAT(
      limited("{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"),
      HasSubstr("size limit"));
  EXPECT_THAT(limited("{{ ('x' * 200).replace('x', 'y' * 200) }}"), HasSubstr("size limit"));
  EXPECT_THAT(failure("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), HasSubstr("nested too deeply"));
  EXPECT_THAT(failure("{% set ns = namespace(l=[]) %}{% for a in range(999) %}{% set ns.l = [ns.l] %}{% endfor %}"),
              HasSubstr("nested more than 200 deep"));
  EXPECT_THAT(
      failure("{% set ns = namespace(l=[1]) %}{% for a in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}"),
      HasSubstr("holds more than"));
  EXPECT_THAT(failure("{{ range(1000000) }}"), HasSubstr("limited to 100000"));
  EXPECT_THAT(failure("{{ 10 ** 100 }}"), HasSubstr("too large"));
}

std::string repeat(const std::string& text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

TEST(Jinja, DeepTemplatesAreRefused) {
  EXPECT_THAT(syntax("{{ " + repeat("(", 5000) + "1" + repeat(")", 5000) + " }}"), HasSubstr("nested more than"));
  EXPECT_THAT(syntax("{{ " + repeat("[", 5000)), HasSubstr("t:1: "));
  EXPECT_THAT(syntax("{{ " + repeat("not ", 5000) + "1 }}"), HasSubstr("nested more than"));
  EXPECT_THAT(syntax("{{ " + repeat("-", 5000) + "1 }}"), HasSubstr("nested more than"));
  EXPECT_THAT(syntax("{{ 1" + repeat("+1", 5000) + " }}"), HasSubstr("nested more than"));
  EXPECT_THAT(syntax("{{ s" + repeat(".a", 5000) + " }}"), HasSubstr("nested more than"));
  EXPECT_THAT(syntax("{{ s" + repeat("|trim", 5000) + " }}"), HasSubstr("nested more than"));
  EXPECT_THAT(syntax(repeat("{% if t %}", 5000)), HasSubstr("nested more than"));
  EXPECT_EQ(render("{{ 'a'" + repeat("~'a'", 5000) + " }}").size(), 5001U);
}

TEST(Jinja, NamespacesMayReferToThemselves) {
  EXPECT_EQ(render("{% set ns = namespace() %}{% set ns.self = [ns] %}{{ ns.self[0] == ns }}"), "True");
}

TEST(Jinja, WhatPythonPrintsDifferently) {
  EXPECT_EQ(render("{{ d.items() }}"), "[('a', 1), ('b', 'x')]");  // Python: dict_items([…])
  EXPECT_THAT(failure("{{ d.get }}"), HasSubstr("cannot be printed"));
  EXPECT_THAT(failure("{{ namespace() }}"), HasSubstr("cannot be printed"));
}

}  // namespace
}  // namespace marlin::jinja
