// Every tokenizer.json that cannot be used is refused with one line that names the field.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "marlin/error.h"
#include "tokenizer_fixture.h"

namespace marlin {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

struct BadFile {
  const char* field;  // the message goes on with it after the file's name
  ErrorCode code;
  std::function<void(Json&)> change;
};

constexpr ErrorCode kBad = ErrorCode::kBadFile;
constexpr ErrorCode kNo = ErrorCode::kUnsupported;

Json& step(Json& json, int index) {
  return json["pre_tokenizer"]["pretokenizers"][static_cast<size_t>(index)];
}

std::vector<BadFile> bad_models() {
  return {
      {"model: found nothing", kBad, [](Json& j) { j.erase("model"); }},
      {"model: found an array", kBad, [](Json& j) { j["model"] = Json::array(); }},
      {"model.type: found nothing", kBad, [](Json& j) { j["model"].erase("type"); }},
      {"model.type: found \"Unigram\"", kNo, [](Json& j) { j["model"]["type"] = "Unigram"; }},
      {"model.dropout: found 0.1", kNo, [](Json& j) { j["model"]["dropout"] = 0.1; }},
      {"model.unk_token: found \"<unk>\"", kNo, [](Json& j) { j["model"]["unk_token"] = "<unk>"; }},
      {"model.continuing_subword_prefix: ", kNo, [](Json& j) { j["model"]["continuing_subword_prefix"] = "##"; }},
      {"model.end_of_word_suffix: ", kNo, [](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }},
      {"model.byte_fallback: found true", kNo, [](Json& j) { j["model"]["byte_fallback"] = true; }},
      {"model.invented: found {\"x\":1}", kNo,
       [](Json& j) {
         j["model"]["invented"] = {{"x", 1}};
       }},
      {"model.ignore_merges: found a string", kBad, [](Json& j) { j["model"]["ignore_merges"] = "yes"; }},
      {"model.vocab: found an array", kBad, [](Json& j) { j["model"]["vocab"] = Json::array(); }},
      {"model.vocab: found no token for the byte 0x71", kBad, [](Json& j) { j["model"]["vocab"].erase("q"); }},
      {"model.vocab: found the id 97 for \"a\" and \"zz\"", kBad, [](Json& j) { j["model"]["vocab"]["zz"] = 97; }},
      {"model.vocab[\"zz\"]: found -1", kBad, [](Json& j) { j["model"]["vocab"]["zz"] = -1; }},
      {"model.vocab[\"zz\"]: found 4194304", kBad, [](Json& j) { j["model"]["vocab"]["zz"] = 4194304; }},
      {"model.vocab[\"zz\"]: found 1.5", kBad, [](Json& j) { j["model"]["vocab"]["zz"] = 1.5; }},
      {"model.vocab[\"zz\"]: found \"1\"", kBad, [](Json& j) { j["model"]["vocab"]["zz"] = "1"; }},
      {"model.merges: found nothing", kBad, [](Json& j) { j["model"].erase("merges"); }},
      {"model.merges[1]: found \"ab\"", kBad, [](Json& j) { j["model"]["merges"].push_back("ab"); }},
      {"model.merges[1]: found \"a b c\"", kBad, [](Json& j) { j["model"]["merges"].push_back("a b c"); }},
      {"model.merges[1]: found [\"a\"]", kBad, [](Json& j) { j["model"]["merges"].push_back({"a"}); }},
      {"model.merges[1]: found [\"a\",1]", kBad,
       [](Json& j) {
         j["model"]["merges"].push_back({"a", 1});
       }},
      {"model.merges[1]: found 7", kBad, [](Json& j) { j["model"]["merges"].push_back(7); }},
      {"model.merges[1]: found \"zz\"", kBad, [](Json& j) { j["model"]["merges"].push_back("zz a"); }},
      {"model.merges[1]: found \"ac\"", kBad, [](Json& j) { j["model"]["merges"].push_back("a c"); }},
  };
}

std::vector<BadFile> bad_pipelines() {
  return {
      {"normalizer: found {\"type\":\"NFC\"}", kNo,
       [](Json& j) {
         j["normalizer"] = {{"type", "NFC"}};
       }},
      {"truncation: ", kNo,
       [](Json& j) {
         j["truncation"] = {{"max_length", 5}};
       }},
      {"padding: ", kNo,
       [](Json& j) {
         j["padding"] = {{"pad_id", 5}};
       }},
      {"pre_tokenizer: found null", kBad, [](Json& j) { j["pre_tokenizer"] = nullptr; }},
      {"pre_tokenizer.type: found \"Metaspace\"", kNo, [](Json& j) { j["pre_tokenizer"]["type"] = "Metaspace"; }},
      {"pre_tokenizer.pretokenizers: found an empty array", kBad,
       [](Json& j) { j["pre_tokenizer"]["pretokenizers"] = Json::array(); }},
      {"pre_tokenizer.pretokenizers[0].type: found \"Digits\"", kNo, [](Json& j) { step(j, 0)["type"] = "Digits"; }},
      {"pre_tokenizer.pretokenizers[0].behavior: found \"Removed\"", kNo,
       [](Json& j) { step(j, 0)["behavior"] = "Removed"; }},
      {"pre_tokenizer.pretokenizers[0].invert: found true", kNo, [](Json& j) { step(j, 0)["invert"] = true; }},
      {"pre_tokenizer.pretokenizers[0].pattern.String: found \"x\"", kNo,
       [](Json& j) {
         step(j, 0)["pattern"] = {{"String", "x"}};
       }},
      {"pre_tokenizer.pretokenizers[0].pattern.Regex: the regular expression does not compile: ", kBad,
       [](Json& j) { step(j, 0)["pattern"]["Regex"] = "(a"; }},
      {"pre_tokenizer.pretokenizers[0].pattern.Regex: the regular expression has \\w at byte 1", kNo,
       [](Json& j) { step(j, 0)["pattern"]["Regex"] = "a\\w"; }},
      {"pre_tokenizer.pretokenizers[1].type: found \"Split\"", kNo, [](Json& j) { step(j, 1) = step(j, 0); }},
      {"pre_tokenizer.pretokenizers[1].add_prefix_space: found true", kNo,
       [](Json& j) { step(j, 1)["add_prefix_space"] = true; }},
      {"decoder: found null", kBad, [](Json& j) { j["decoder"] = nullptr; }},
      {"decoder.type: found \"Metaspace\"", kNo,
       [](Json& j) {
         j["decoder"] = {{"type", "Metaspace"}};
       }},
      {"post_processor.type: found \"TemplateProcessing\"", kNo,
       [](Json& j) {
         j["post_processor"] = {{"type", "TemplateProcessing"}};
       }},
      {"invented: found true", kNo, [](Json& j) { j["invented"] = true; }},
  };
}

std::vector<BadFile> bad_added_tokens() {
  return {
      {"added_tokens: found an object", kBad, [](Json& j) { j["added_tokens"] = Json::object(); }},
      {"added_tokens[0]: found a string", kBad, [](Json& j) { j["added_tokens"][0] = "x"; }},
      {"added_tokens[0].id: found nothing", kBad, [](Json& j) { j["added_tokens"][0].erase("id"); }},
      {"added_tokens[0].id: found -3", kBad, [](Json& j) { j["added_tokens"][0]["id"] = -3; }},
      {"added_tokens[0].id: found the id 97", kBad, [](Json& j) { j["added_tokens"][0]["id"] = 97; }},
      {"added_tokens[0].id: found 257 for \"a\"", kBad, [](Json& j) { j["added_tokens"][0]["content"] = "a"; }},
      {"added_tokens[0].content: found an empty", kBad, [](Json& j) { j["added_tokens"][0]["content"] = ""; }},
      {"added_tokens[1].content: found \"<x>\" twice", kBad, [](Json& j) { j["added_tokens"][1]["content"] = "<x>"; }},
      {"added_tokens[1].lstrip: found true", kNo, [](Json& j) { j["added_tokens"][1]["lstrip"] = true; }},
      {"added_tokens[1].rstrip: found true", kNo, [](Json& j) { j["added_tokens"][1]["rstrip"] = true; }},
      {"added_tokens[1].single_word: found true", kNo, [](Json& j) { j["added_tokens"][1]["single_word"] = true; }},
      {"added_tokens[1].special: found a number", kBad, [](Json& j) { j["added_tokens"][1]["special"] = 1; }},
  };
}

void expect_refused(const std::string& json, const std::string& start, ErrorCode code) {
  try {
    Tokenizer::parse(json, "dir/tokenizer.json");
    ADD_FAILURE() << "accepted: " << start;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(error.what(), StartsWith("dir/tokenizer.json: " + start));
    EXPECT_THAT(error.what(), HasSubstr("; "));  // what to do
    EXPECT_THAT(error.what(), Not(HasSubstr("\n")));
  }
}

void expect_all_refused(const std::vector<BadFile>& files) {
  const Json good = small_tokenizer({{"a", "b"}}, {"<x>", "<y>"});
  EXPECT_NO_THROW(parse(good));
  for (const BadFile& file : files) {
    Json json = good;
    file.change(json);
    expect_refused(json.dump(), file.field, file.code);
  }
}

TEST(TokenizerBadFile, Model) {
  expect_all_refused(bad_models());
}
TEST(TokenizerBadFile, Pipeline) {
  expect_all_refused(bad_pipelines());
}
TEST(TokenizerBadFile, AddedTokens) {
  expect_all_refused(bad_added_tokens());
}

TEST(TokenizerBadFile, NotJson) {
  const std::string good = small_tokenizer({{"a", "b"}}).dump();
  for (const std::string& text : {std::string(), std::string("{"), std::string("\xFF"), good.substr(0, 500),
                                  good.substr(0, good.size() - 1), good + "}", std::string(5000, '[')}) {
    expect_refused(text, "not valid JSON: ", kBad);
  }
  expect_refused("[]", "the document: found an array, expected an object", kBad);
  std::string twice = good;
  twice.insert(twice.find("\"a\":"), "\"a\":300,");
  expect_refused(twice, "model.vocab: found the token \"a\" twice", kBad);
}

TEST(TokenizerBadFile, Absent) {
  try {
    Tokenizer::load("no/such/tokenizer.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_THAT(error.what(), HasSubstr("no/such/tokenizer.json"));
  }
}

TEST(TokenizerBadFile, UnusedFeaturesMayBeWrittenDown) {
  Json json = small_tokenizer({{"a", "b"}});
  json["model"]["dropout"] = 0.0;
  json["model"]["continuing_subword_prefix"] = "";
  json["model"]["fuse_unk"] = true;
  json["model"]["later_feature"] = nullptr;
  json["post_processor"] = {{"type", "ByteLevel"}, {"trim_offsets", true}};
  json.erase("normalizer");
  json.erase("added_tokens");
  EXPECT_EQ(parse(json).encode("ab"), std::vector<int32_t>{256});
}

}  // namespace
}  // namespace marlin
