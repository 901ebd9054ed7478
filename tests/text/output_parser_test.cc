#include "text/output_parser.h"

#include <gtest/gtest.h>

#include <random>

namespace marlin {
namespace {

// What the deltas of a stream add up to.
struct Stream {
  std::string reasoning;
  std::string content;
  std::vector<std::string> names;
  std::vector<std::string> arguments;

  void add(const OutputDelta& delta) {
    reasoning += delta.reasoning;
    content += delta.content;
    for (const auto& call : delta.tool_calls) {
      const auto index = static_cast<size_t>(call.index);
      if (!call.name.empty()) {
        ASSERT_EQ(index, names.size()) << "a name comes once, in the order of the calls";
        names.push_back(call.name);
        arguments.emplace_back();
      }
      ASSERT_EQ(index + 1, names.size()) << "only the last call grows";
      arguments[index] += call.arguments;
    }
  }
};

Json schema_tools() {
  return Json::parse(R"([
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {
      "s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"}, "b": {"type": "boolean"},
      "a": {"type": "array"}, "o": {"type": "object"}, "any": {}, "null_or_s": {"type": ["string", "null"]},
      "i_or_s": {"anyOf": [{"type": "integer"}, {"type": "string"}]}, "one": {"oneOf": [{"type": "boolean"}]},
      "ref": {"$ref": "#/$defs/Id"}, "loop": {"$ref": "#/$defs/Loop"}, "bad_ref": {"$ref": "#/nowhere"},
      "all": {"allOf": [{"$ref": "#/$defs/Id"}, {"description": "x"}]},
      "digits": {"enum": ["1", "2"]}, "mixed": {"enum": ["1", 1]}, "constant": {"const": "7"}},
      "$defs": {"Id": {"type": "string"}, "Loop": {"$ref": "#/$defs/Loop"}}}}},
    {"name": "g"}, {"name": "get_weather"}])");
}

OutputParser::Options options(bool reasoning = false) {
  return {reasoning, schema_tools(), true};
}

void expect_same(const ParsedOutput& actual, const ParsedOutput& expected) {
  EXPECT_EQ(actual.reasoning, expected.reasoning);
  EXPECT_EQ(actual.content, expected.content);
  ASSERT_EQ(actual.tool_calls.size(), expected.tool_calls.size());
  for (size_t i = 0; i < actual.tool_calls.size(); ++i) {
    EXPECT_EQ(actual.tool_calls[i].name, expected.tool_calls[i].name);
    EXPECT_EQ(actual.tool_calls[i].arguments.dump(), expected.tool_calls[i].arguments.dump());
  }
}

// Feeds `text` cut at `cuts` (ascending) and checks that deltas and result agree.
ParsedOutput parse_cut(const std::string& text, const OutputParser::Options& how, const std::vector<size_t>& cuts) {
  OutputParser parser(how);
  Stream stream;
  size_t begin = 0;
  for (const size_t cut : cuts) {
    stream.add(parser.feed(text.substr(begin, cut - begin)));
    begin = cut;
  }
  stream.add(parser.feed(text.substr(begin)));
  stream.add(parser.finish());
  const ParsedOutput& output = parser.output();
  EXPECT_EQ(stream.reasoning, output.reasoning);
  EXPECT_EQ(stream.content, output.content);
  EXPECT_EQ(stream.names.size(), output.tool_calls.size());
  for (size_t i = 0; i < std::min(stream.names.size(), output.tool_calls.size()); ++i) {
    EXPECT_EQ(stream.names[i], output.tool_calls[i].name);
    EXPECT_EQ(stream.arguments[i], output.tool_calls[i].arguments.dump());
  }
  return output;
}

// Whole, byte by byte and cut once or twice anywhere: all must agree.
ParsedOutput parse(const std::string& text, const OutputParser::Options& how = options()) {
  ParsedOutput whole = parse_cut(text, how, {});
  std::vector<size_t> every;
  for (size_t i = 1; i < text.size(); ++i) every.push_back(i);
  expect_same(parse_cut(text, how, every), whole);
  for (size_t i = 1; i < text.size(); ++i) expect_same(parse_cut(text, how, {i}), whole);
  return whole;
}

std::string arguments_of(const std::string& text) {
  const ParsedOutput output = parse(text);
  EXPECT_EQ(output.tool_calls.size(), 1U);
  return output.tool_calls.empty() ? "" : output.tool_calls[0].arguments.dump();
}

std::string argument(const std::string& key, const std::string& value) {
  return arguments_of("<tool_call>f<arg_key>" + key + "</arg_key><arg_value>" + value + "</arg_value></tool_call>");
}

TEST(OutputParser, SplitsReasoningAndContent) {
  const ParsedOutput output = parse("I think\n</think>\nHello", options(true));
  EXPECT_EQ(output.reasoning, "I think\n");
  EXPECT_EQ(output.content, "\nHello");
}

TEST(OutputParser, KeepsUnfinishedReasoning) {
  EXPECT_EQ(parse("I think </thi", options(true)).reasoning, "I think </thi");
}

TEST(OutputParser, SwallowsStrayTags) {
  const ParsedOutput output = parse("<think>a<think>b</think>c</think>d<think>", options(true));
  EXPECT_EQ(output.reasoning, "ab");
  EXPECT_EQ(output.content, "cd<think>");
}

TEST(OutputParser, CallInsideReasoningEndsIt) {
  const ParsedOutput output = parse("hm<tool_call>g</tool_call>", options(true));
  EXPECT_EQ(output.reasoning, "hm");
  ASSERT_EQ(output.tool_calls.size(), 1U);
  EXPECT_EQ(output.tool_calls[0].name, "g");
}

TEST(OutputParser, TracksReasoning) {
  OutputParser parser(options(true));
  parser.feed("a</thin");
  EXPECT_TRUE(parser.in_reasoning());
  parser.feed("k>b");
  EXPECT_FALSE(parser.in_reasoning());
}

TEST(OutputParser, HoldsBackOnlyPossibleTags) {
  OutputParser parser(options());
  EXPECT_EQ(parser.feed("a <").content, "a ");
  EXPECT_EQ(parser.feed("b").content, "<b");
  EXPECT_EQ(parser.feed("<tool_cal").content, "");
  EXPECT_EQ(parser.feed("m").content, "<tool_calm");
  EXPECT_EQ(parser.feed("x</th").content, "x");
  EXPECT_EQ(parser.finish().content, "</th");
}

TEST(OutputParser, CallWithoutArguments) {
  EXPECT_EQ(arguments_of("<tool_call>g</tool_call>"), "{}");
  EXPECT_EQ(arguments_of("<tool_call>\n g \n</tool_call>"), "{}");
}

TEST(OutputParser, NameComesOnceAndWhole) {
  OutputParser parser(options());
  EXPECT_TRUE(parser.feed("<tool_call>get_").empty());
  EXPECT_TRUE(parser.feed("weather<arg_").empty());
  const OutputDelta delta = parser.feed("key>");
  ASSERT_EQ(delta.tool_calls.size(), 1U);
  EXPECT_EQ(delta.tool_calls[0].name, "get_weather");
  EXPECT_EQ(delta.tool_calls[0].arguments, "");
}

TEST(OutputParser, SeveralCallsInOneDeltaWithTextBetween) {
  const std::string text =
      "A<tool_call>f<arg_key>i</arg_key><arg_value>1</arg_value></tool_call>\nB<tool_call>g</tool_call>"
      "<tool_call>f<arg_key>i</arg_key><arg_value>2</arg_value><arg_key>s</arg_key><arg_value>x</arg_value></"
      "tool_call>C";
  const ParsedOutput output = parse(text);
  EXPECT_EQ(output.content, "A\nBC");
  ASSERT_EQ(output.tool_calls.size(), 3U);
  EXPECT_EQ(output.tool_calls[0].arguments.dump(), R"({"i":1})");
  EXPECT_EQ(output.tool_calls[1].arguments.dump(), "{}");
  EXPECT_EQ(output.tool_calls[2].arguments.dump(), R"({"i":2,"s":"x"})");
  OutputParser parser(options());
  const OutputDelta delta = parser.feed(text);
  ASSERT_EQ(delta.tool_calls.size(), 3U);
  EXPECT_EQ(delta.tool_calls[2].index, 2);
}

TEST(OutputParser, StringsAreVerbatim) {
  EXPECT_EQ(argument("s", "123"), R"({"s":"123"})");
  EXPECT_EQ(argument("s", " {\"a\": 1}\n"), R"({"s":" {\"a\": 1}\n"})");
  EXPECT_EQ(argument("s", ""), R"({"s":""})");
  EXPECT_EQ(argument("s", "true"), R"({"s":"true"})");
  EXPECT_EQ(argument("s", "é😀\t\\\"\x01"), "{\"s\":\"é😀\\t\\\\\\\"\\u0001\"}");
}

TEST(OutputParser, OtherTypesAreJsonWhenTheyParse) {
  EXPECT_EQ(argument("i", " 5\n"), R"({"i":5})");
  EXPECT_EQ(argument("i", "5.5"), R"({"i":5.5})");
  EXPECT_EQ(argument("i", "five"), R"({"i":"five"})");
  EXPECT_EQ(argument("i", ""), R"({"i":""})");
  EXPECT_EQ(argument("n", "1e3"), R"({"n":1000.0})");
  EXPECT_EQ(argument("b", "true"), R"({"b":true})");
  EXPECT_EQ(argument("b", "True"), R"({"b":"True"})");
  EXPECT_EQ(argument("a", "[1, \"é\", null]"), R"({"a":[1,"é",null]})");
  EXPECT_EQ(argument("o", "{\"k\": 1.5}"), R"({"o":{"k":1.5}})");
  EXPECT_EQ(argument("any", "null"), R"({"any":null})");
  EXPECT_EQ(argument("unknown", "Paris"), R"({"unknown":"Paris"})");
  EXPECT_EQ(argument("unknown", "\"Paris\""), R"({"unknown":"Paris"})");
}

TEST(OutputParser, NumbersKeepTheirDigits) {
  EXPECT_EQ(argument("any", "123_456"), R"({"any":"123_456"})");
  EXPECT_EQ(argument("i", "9223372036854775807"), R"({"i":9223372036854775807})");
  EXPECT_EQ(argument("i", "18446744073709551615"), R"({"i":18446744073709551615})");
  EXPECT_EQ(argument("i", "18446744073709551616"), R"({"i":"18446744073709551616"})");
  EXPECT_EQ(argument("a", "[123456789012345678901234567890]"), R"({"a":"[123456789012345678901234567890]"})");
  EXPECT_EQ(argument("n", "1e999"), R"({"n":"1e999"})");
  EXPECT_EQ(argument("n", "1.0"), R"({"n":1.0})");
  EXPECT_EQ(argument("i", "007"), R"({"i":"007"})");
}

TEST(OutputParser, SchemasAreResolved) {
  EXPECT_EQ(argument("null_or_s", "null"), R"({"null_or_s":null})");
  EXPECT_EQ(argument("null_or_s", "nullify"), R"({"null_or_s":"nullify"})");
  EXPECT_EQ(argument("null_or_s", "12"), R"({"null_or_s":"12"})");
  EXPECT_EQ(argument("i_or_s", "12"), R"({"i_or_s":12})");
  EXPECT_EQ(argument("i_or_s", "1.5"), R"({"i_or_s":"1.5"})");
  EXPECT_EQ(argument("i_or_s", "true"), R"({"i_or_s":"true"})");
  EXPECT_EQ(argument("one", "true"), R"({"one":true})");
  EXPECT_EQ(argument("ref", "12"), R"({"ref":"12"})");
  EXPECT_EQ(argument("all", "12"), R"({"all":"12"})");
  EXPECT_EQ(argument("loop", "12"), R"({"loop":12})");
  EXPECT_EQ(argument("bad_ref", "12"), R"({"bad_ref":12})");
  EXPECT_EQ(argument("digits", "1"), R"({"digits":"1"})");
  EXPECT_EQ(argument("mixed", "1"), R"({"mixed":1})");
  EXPECT_EQ(argument("constant", "7"), R"({"constant":"7"})");
}

TEST(OutputParser, StringsStreamBeforeTheyEnd) {
  for (const char* key : {"s", "null_or_s"}) {
    OutputParser parser(options());
    Stream stream;
    stream.add(parser.feed(std::string("<tool_call>f<arg_key>") + key + "</arg_key><arg_value>Once\nupon"));
    ASSERT_EQ(stream.arguments.size(), 1U);
    EXPECT_EQ(stream.arguments[0], std::string("{\"") + key + "\":\"Once\\nupon");
    stream.add(parser.feed(" a</arg_value></tool_call>"));
    EXPECT_EQ(stream.arguments[0], std::string("{\"") + key + "\":\"Once\\nupon a\"}");
  }
}

TEST(OutputParser, ValuesMayHoldTags) {
  EXPECT_EQ(argument("s", "<tool_call>g"), R"({"s":"<tool_call>g"})");
  EXPECT_EQ(argument("s", "a</tool_call> b"), R"({"s":"a</tool_call> b"})");
  EXPECT_EQ(argument("s", "split(\"</arg_value>\")"), R"x({"s":"split(\"</arg_value>\")"})x");
  EXPECT_EQ(argument("s", "</arg_value> <arg_kez>"), R"({"s":"</arg_value> <arg_kez>"})");
  EXPECT_EQ(argument("s", "a < b </arg_"), R"({"s":"a < b </arg_"})");
  EXPECT_EQ(argument("s", "<arg_key>x</arg_key><arg_value>"), R"({"s":"<arg_key>x</arg_key><arg_value>"})");
  EXPECT_EQ(argument("s", "</think><think>"), R"({"s":"</think><think>"})");
}

TEST(OutputParser, MissingTagsLoseNothing) {
  const std::string open = "<tool_call>f<arg_key>s</arg_key><arg_value>Par";
  EXPECT_EQ(arguments_of(open), R"({"s":"Par"})");
  EXPECT_EQ(arguments_of(open + "</arg_val"), R"({"s":"Par</arg_val"})");
  EXPECT_EQ(arguments_of(open + "</arg_value>"), R"({"s":"Par"})");
  EXPECT_EQ(arguments_of(open + "</arg_value>\n</tool_c"), R"({"s":"Par"})");
  EXPECT_EQ(arguments_of(open + "</tool_call>"), R"({"s":"Par"})");
  EXPECT_EQ(arguments_of(open + "</tool_call>\n"), R"({"s":"Par"})");
  EXPECT_EQ(arguments_of("<tool_call>f<arg_key>i</arg_key><arg_value>12"), R"({"i":12})");
  EXPECT_EQ(arguments_of("<tool_call>f<arg_key>s</arg_key>Paris</arg_value></tool_call>"), R"({"s":"Paris"})");
  EXPECT_EQ(arguments_of("<tool_call>f<arg_key>s<arg_value>Paris</arg_value></tool_call>"), R"({"s":"Paris"})");
  EXPECT_EQ(arguments_of("<tool_call>f<arg_key>s</arg_key></tool_call>"), "{}");
  EXPECT_EQ(arguments_of("<tool_call>f<arg_ke"), "{}");
  EXPECT_EQ(arguments_of("<tool_call>f"), "{}");
  const ParsedOutput output = parse("<tool_call>f<arg_key>i</arg_key><arg_value>1</arg_value><tool_call>g<tool_call>g");
  EXPECT_EQ(output.tool_calls.size(), 3U);
  EXPECT_EQ(output.content, "");
}

TEST(OutputParser, WhatIsNoCallStaysContent) {
  for (const std::string text : {"<tool_call></tool_call>", "Write <tool_call> and then a name", "<tool_call>unknow",
                                 "<tool_call><arg_key>a</arg_key>", "<tool_call>", "<tool_call>f</think>",
                                 "</tool_call>", "<tool_call>f<arg_value>1"}) {
    const ParsedOutput output = parse(text);
    EXPECT_TRUE(output.tool_calls.empty()) << text;
    EXPECT_EQ(output.content, text == "<tool_call>f</think>" ? "<tool_call>f" : text);
  }
  const std::string long_name(1000, 'x');
  EXPECT_EQ(parse("<tool_call>" + long_name + "<arg_key>").content, "<tool_call>" + long_name + "<arg_key>");
}

TEST(OutputParser, UndeclaredToolsAreDelivered) {
  EXPECT_EQ(parse("<tool_call>other</tool_call>").tool_calls.size(), 1U);
  EXPECT_EQ(parse("<tool_call>other", {false, Json::array(), true}).tool_calls.size(), 1U);
}

TEST(OutputParser, FirstOfRepeatedKeysCounts) {
  const std::string text =
      "<tool_call>f<arg_key>s</arg_key><arg_value>a</arg_value><arg_key> s\n</arg_key><arg_value>b</arg_value>"
      "<arg_key>i</arg_key><arg_value>1</arg_value></tool_call>";
  EXPECT_EQ(arguments_of(text), R"({"s":"a","i":1})");
}

TEST(OutputParser, LineBreaksBetweenTagsAreIgnored) {
  EXPECT_EQ(arguments_of("<tool_call>f\n<arg_key>s</arg_key>\n<arg_value> x </arg_value>\n<arg_key>i</arg_key>\n"
                         "<arg_value>2</arg_value>\n</tool_call>"),
            R"({"s":" x ","i":2})");
}

TEST(OutputParser, WithoutToolCallsEverythingIsContent) {
  OutputParser::Options how = options(true);
  how.parse_tool_calls = false;
  const std::string text = "<tool_call>g</tool_call></think>";
  const ParsedOutput output = parse("r<tool_call></think>" + text, how);
  EXPECT_EQ(output.reasoning, "r<tool_call>");
  EXPECT_EQ(output.content, text);
}

TEST(OutputParser, DeepValuesStayText) {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  const ParsedOutput output =
      parse_cut("<tool_call>f<arg_key>a</arg_key><arg_value>" + deep + "</arg_value></tool_call>", options(), {});
  ASSERT_EQ(output.tool_calls.size(), 1U);
  EXPECT_EQ(output.tool_calls[0].arguments["a"], deep);
}

TEST(OutputParser, InvalidUtf8IsReplaced) {
  EXPECT_EQ(parse("a\xff\xe2\x82").content, "a\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(argument("s", "\xc3"), "{\"s\":\"\xef\xbf\xbd\"}");
}

TEST(OutputParser, RandomTextSplitsAlike) {
  const std::vector<std::string> pieces = {"<think>",
                                           "</think>",
                                           "<tool_call>",
                                           "</tool_call>",
                                           "<arg_key>",
                                           "</arg_key>",
                                           "<arg_value>",
                                           "</arg_value>",
                                           "f",
                                           "g",
                                           "s",
                                           "i",
                                           "any",
                                           "\n",
                                           " ",
                                           "12",
                                           "null",
                                           "\"q\"",
                                           "é",
                                           "<",
                                           "</",
                                           "<arg_",
                                           "{\"a\":1}",
                                           "x y",
                                           "<tool_call>f<arg_key>s</arg_key><arg_value>"};
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (size_t i = 0, count = random() % 20; i < count; ++i) text += pieces[random() % pieces.size()];
    OutputParser::Options how = options(random() % 2 == 0);
    how.parse_tool_calls = random() % 8 != 0;
    const ParsedOutput whole = parse_cut(text, how, {});
    for (int split = 0; split < 3; ++split) {
      std::vector<size_t> cuts;
      for (size_t at = random() % 12; at < text.size(); at += 1 + random() % 12) cuts.push_back(at);
      expect_same(parse_cut(text, how, cuts), whole);
    }
    ASSERT_FALSE(HasFailure()) << text;
  }
}

}  // namespace
}  // namespace marlin
