#include "format/safetensors.h"

#include <gtest/gtest.h>

#include "files.h"

namespace marlin {
namespace {

using testing_files::expect_error;
using testing_files::file_bytes;
using testing_files::TempDir;

SafetensorsFile parse(const std::string& bytes) {
  return SafetensorsFile::parse(std::as_bytes(std::span(bytes.data(), bytes.size())), "test.safetensors");
}

void expect_bad(const std::string& bytes, const std::vector<std::string>& parts) {
  std::vector<std::string> all = parts;
  all.emplace_back("test.safetensors");
  expect_error(ErrorCode::kBadFile, all, [&] { parse(bytes); });
}

// A header with one tensor "t" and these fields, over `data` zero bytes.
std::string one(const std::string& fields, size_t data) {
  return file_bytes("{\"t\":{" + fields + "}}", std::string(data, '\0'));
}

TEST(SafetensorsReader, ReadsTensorsMetadataAndOrder) {
  const std::string bytes = file_bytes(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[1,2],"data_offsets":[4,12]},)"
      R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"s":{"dtype":"BF16","shape":[],"data_offsets":[12,14]}}   )",
      "abcd12345678xy");
  const SafetensorsFile file = parse(bytes);
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors()[0].name, "a");
  EXPECT_EQ(file.tensors()[1].name, "b");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.data_start(), bytes.size() - 14);
  const TensorView* b = file.find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->describe(), "F32 [1, 2]");
  EXPECT_EQ(b->elements(), 2);
  EXPECT_EQ(std::memcmp(b->data.data(), "12345678", 8), 0);
  EXPECT_EQ(file.find("s")->elements(), 1);
  EXPECT_EQ(file.find("c"), nullptr);
}

TEST(SafetensorsReader, EmptyTensorsAndEmptyFiles) {
  EXPECT_TRUE(parse(file_bytes("{}", "")).tensors().empty());
  const SafetensorsFile file = parse(file_bytes(R"({"e":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},)"
                                                R"("t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
                                                "ab"));
  EXPECT_TRUE(file.find("e")->data.empty());
  EXPECT_EQ(file.find("t")->data.size(), 2u);
}

TEST(SafetensorsReader, EscapedNames) {
  const SafetensorsFile file =
      parse(file_bytes(R"({"a\u0062\"c":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x"));
  EXPECT_NE(file.find("ab\"c"), nullptr);
}

TEST(SafetensorsReader, MissingFile) {
  expect_error(ErrorCode::kNotFound, {"absent.safetensors"},
               [] { SafetensorsFile::open("/nonexistent/absent.safetensors"); });
}

TEST(SafetensorsReader, EveryTruncationIsRefused) {
  const std::string whole = one(R"("dtype":"F32","shape":[4],"data_offsets":[0,16])", 16);
  EXPECT_EQ(parse(whole).tensors().size(), 1u);
  for (size_t size = 0; size < whole.size(); ++size) expect_bad(whole.substr(0, size), {});
  expect_bad(whole + "x", {"16", "17"});
}

TEST(SafetensorsReader, HeaderLength) {
  std::string bytes = one(R"("dtype":"U8","shape":[1],"data_offsets":[0,1])", 1);
  for (const uint64_t length :
       {uint64_t{1} << 63, ~uint64_t{0}, uint64_t{100'000'001}, uint64_t{10'000}, uint64_t{0}}) {
    for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>((length >> (8 * i)) & 0xff);
    expect_bad(bytes, {"header"});
  }
}

TEST(SafetensorsReader, HeaderIsNotAnObject) {
  for (const char* header : {"[]", "{", "{\"t\":", "null", " {}", "{}{}", "{\"t\":1}", "{\"t\":[]}", "{\"\xff\":1}"}) {
    expect_bad(file_bytes(header, ""), {});
  }
}

TEST(SafetensorsReader, DeepNestingDoesNotOverflowTheStack) {
  expect_bad(file_bytes("{\"t\":" + std::string(100000, '[') + std::string(100000, ']') + "}", ""), {});
}

TEST(SafetensorsReader, TensorPastTheEnd) {
  expect_bad(one(R"("dtype":"F32","shape":[4],"data_offsets":[0,16])", 15), {"tensor t", "16", "15"});
  expect_bad(one(R"("dtype":"U8","shape":[1],"data_offsets":[9223372036854775806,9223372036854775807])", 4),
             {"tensor t"});
}

TEST(SafetensorsReader, OverlapsAndHoles) {
  const auto two = [](int begin, int end, size_t size) {
    return file_bytes(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[)" +
                          std::to_string(end - begin) + R"(],"data_offsets":[)" + std::to_string(begin) + "," +
                          std::to_string(end) + "]}}",
                      std::string(size, '\0'));
  };
  EXPECT_EQ(parse(two(8, 12, 12)).tensors().size(), 2u);
  expect_bad(two(4, 12, 12), {"overlap", "tensor b"});
  expect_bad(two(0, 8, 8), {"overlap", "tensor b"});
  expect_bad(two(9, 12, 12), {"hole", "tensor b"});
  expect_bad(one(R"("dtype":"U8","shape":[1],"data_offsets":[1,2])", 2), {"hole", "tensor t"});
}

TEST(SafetensorsReader, DuplicateNames) {
  expect_bad(file_bytes(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                        R"("t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                        "ab"),
             {"tensor t", "repeated"});
  expect_bad(file_bytes(R"({"__metadata__":{},"__metadata__":{}})", ""), {"__metadata__", "repeated"});
}

TEST(SafetensorsReader, DTypes) {
  expect_bad(one(R"("dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1])", 1), {"tensor t", "F8_E4M3"});
  expect_bad(one(R"("dtype":"f32","shape":[1],"data_offsets":[0,4])", 4), {"tensor t", "f32"});
  expect_bad(one(R"("dtype":7,"shape":[1],"data_offsets":[0,4])", 4), {"tensor t", "dtype"});
  expect_bad(one(R"("dtype":"F32","shape":[1],"data_offsets":[0,2])", 2), {"tensor t", "F32 [1] needs 4"});
}

TEST(SafetensorsReader, Shapes) {
  for (const char* shape : {"[-1]", "[1.0]", "[1e3]", "[\"1\"]", "1", "null", "[[1]]", "[true]"}) {
    expect_bad(one(R"("dtype":"U8","data_offsets":[0,1],"shape":)" + std::string(shape), 1), {"tensor t", "shape"});
  }
  expect_bad(one(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1])", 1), {"tensor t", "shape"});
  expect_bad(one(R"("dtype":"F32","shape":[4611686018427387904,4611686018427387904],"data_offsets":[0,0])", 0),
             {"tensor t", "overflows"});
  expect_bad(one(R"("dtype":"F32","shape":[2305843009213693952],"data_offsets":[0,0])", 0), {"tensor t", "overflows"});
  // A product that wraps around to the right size is still refused.
  expect_bad(one(R"("dtype":"U8","shape":[4294967296,4294967296,1],"data_offsets":[0,0])", 0),
             {"tensor t", "overflows"});
}

TEST(SafetensorsReader, Fields) {
  expect_bad(one(R"("dtype":"U8","shape":[1])", 1), {"tensor t", "data_offsets"});
  expect_bad(one(R"("dtype":"U8","data_offsets":[0,1])", 1), {"tensor t", "shape"});
  expect_bad(one(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"data_offsets":[0,1])", 1), {"repeated"});
  expect_bad(one(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"more":1)", 1), {"more"});
  expect_bad(one(R"("dtype":"U8","shape":[1],"data_offsets":[1,0])", 1), {"data_offsets"});
  expect_bad(one(R"("dtype":"U8","shape":[1],"data_offsets":[0])", 1), {"data_offsets"});
  expect_bad(one(R"("dtype":"U8","shape":[1],"data_offsets":[-1,0])", 1), {"data_offsets"});
  expect_bad(file_bytes(R"({"__metadata__":{"a":1}})", ""), {"__metadata__"});
  expect_bad(file_bytes(R"({"__metadata__":[]})", ""), {"__metadata__"});
}

TEST(SafetensorsReader, MessagesStayOnOneShortLine) {
  const std::string name(100000, 'n');
  expect_error(ErrorCode::kBadFile, {"nnn..."}, [&] { parse(file_bytes("{\"" + name + "\":1}", "")); });
  expect_error(ErrorCode::kBadFile, {"a?b"}, [&] { parse(file_bytes("{\"a\\nb\":1}", "")); });
}

TEST(SafetensorsReader, ViewsOutliveTheFileObject) {
  const TempDir dir;
  testing_files::write(dir / "t.safetensors", one(R"("dtype":"U8","shape":[3],"data_offsets":[0,3])", 3));
  const TensorView view = SafetensorsFile::open(dir / "t.safetensors").tensors().at(0);
  ASSERT_NE(view.file, nullptr);
  EXPECT_EQ(view.data[2], std::byte{0});
}

TEST(TextFiles, ReadAndRefuse) {
  const TempDir dir;
  testing_files::write(dir / "a.json", "{}");
  EXPECT_EQ(read_text_file(dir / "a.json"), "{}");
  expect_error(ErrorCode::kBadFile, {"a.json", "2 bytes"}, [&] { read_text_file(dir / "a.json", 1); });
  expect_error(ErrorCode::kNotFound, {"b.json"}, [&] { read_text_file(dir / "b.json"); });
}

}  // namespace
}  // namespace marlin
