#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <limits>

#include "files.h"
#include "format/safetensors.h"

namespace marlin {
namespace {

using testing_files::expect_error;
using testing_files::files_in;
using testing_files::TempDir;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// Lets no file of this process grow beyond `bytes`, as a full disk would.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old_);
    rlimit limit = old_;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &old_); }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit old_{};
};

TEST(SafetensorsWriter, RoundTrip) {
  const TempDir dir;
  const std::string codes(64 * 32 * 4, 'c');
  const std::string scales(64 * 2 * 2, 's');
  SafetensorsWriter writer(dir / "m.safetensors",
                           {{"a.weight", DType::kU32, {64, 32}},
                            {"a.scales", DType::kF16, {64, 2}},
                            {"empty", DType::kF32, {0, 3}},
                            {"\"q\"", DType::kBool, {}}},
                           {{"producer", "test"}});
  writer.append(bytes_of(codes.substr(0, 1000)));
  writer.append(bytes_of(codes.substr(1000) + scales));
  writer.append(bytes_of("b"));
  EXPECT_FALSE(std::filesystem::exists(dir / "m.safetensors"));
  writer.finish();
  EXPECT_EQ(files_in(dir.path()), std::vector<std::string>{"m.safetensors"});

  const SafetensorsFile file = SafetensorsFile::open(dir / "m.safetensors");
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.metadata().at("producer"), "test");
  EXPECT_EQ(file.data_start(), 16384u);
  EXPECT_EQ(file.find("a.weight")->describe(), "U32 [64, 32]");
  EXPECT_EQ(std::memcmp(file.find("a.scales")->data.data(), scales.data(), scales.size()), 0);
  EXPECT_EQ(file.find("\"q\"")->data[0], std::byte{'b'});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file.find("a.weight")->data.data()) % 4096, 0u);
}

TEST(SafetensorsWriter, DataStartsOnAPageForEveryHeaderSize) {
  for (size_t length = 16200; length < 16420; ++length) {
    const std::string header = safetensors_header({{std::string(length, 'n'), DType::kU8, {1}}});
    ASSERT_EQ(header.size() % 16384, 0u);
    ASSERT_EQ(header[8], '{');
  }
}

TEST(SafetensorsWriter, TensorsLargerThanTheBuffer) {
  const TempDir dir;
  const int64_t n = 9'000'001;
  std::string big(static_cast<size_t>(n), '\0');
  for (size_t i = 0; i < big.size(); ++i) big[i] = static_cast<char>(i * 31 >> 3);
  SafetensorsWriter writer(dir / "m.safetensors", {{"x", DType::kU8, {3}}, {"big", DType::kU8, {n}}});
  writer.append(bytes_of("xyz"));
  writer.append(bytes_of(big));
  writer.finish();
  const SafetensorsFile file = SafetensorsFile::open(dir / "m.safetensors");
  EXPECT_EQ(std::memcmp(file.find("big")->data.data(), big.data(), big.size()), 0);
}

TEST(SafetensorsWriter, InterruptedWriteLeavesNothing) {
  const TempDir dir;
  {
    SafetensorsWriter writer(dir / "m.safetensors", {{"x", DType::kU8, {3}}});
    writer.append(bytes_of("xy"));
    EXPECT_EQ(files_in(dir.path()), std::vector<std::string>{"m.safetensors.partial"});
  }
  EXPECT_TRUE(files_in(dir.path()).empty());
}

TEST(SafetensorsWriter, WrongNumberOfBytes) {
  const TempDir dir;
  SafetensorsWriter writer(dir / "m.safetensors", {{"x", DType::kU8, {3}}});
  writer.append(bytes_of("xy"));
  expect_error(ErrorCode::kUsage, {"m.safetensors", "2", "3"}, [&] { writer.finish(); });
  expect_error(ErrorCode::kUsage, {"m.safetensors", "4", "3"}, [&] { writer.append(bytes_of("zz")); });
}

TEST(SafetensorsWriter, RefusesBadSpecs) {
  const TempDir dir;
  const auto make = [&](const std::vector<TensorSpec>& specs) {
    return [&dir, specs] { const SafetensorsWriter writer(dir / "m.safetensors", specs); };
  };
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  expect_error(ErrorCode::kUsage, {"twice"}, make({{"x", DType::kU8, {3}}, {"x", DType::kU8, {3}}}));
  expect_error(ErrorCode::kUsage, {"__metadata__"}, make({{"__metadata__", DType::kU8, {3}}}));
  expect_error(ErrorCode::kUsage, {"tensor x"}, make({{"x", DType::kU8, {-3}}}));
  expect_error(ErrorCode::kUsage, {"tensor x"}, make({{"x", DType::kF32, {kHuge, 2}}}));
  expect_error(ErrorCode::kUsage, {"UTF-8"}, make({{"\xff", DType::kU8, {1}}}));
  EXPECT_TRUE(files_in(dir.path()).empty());
}

TEST(SafetensorsWriter, DirectoryThatIsNotThere) {
  expect_error(ErrorCode::kIo, {"/nonexistent/m.safetensors"}, [] {
    const SafetensorsWriter writer("/nonexistent/m.safetensors", {{"x", DType::kU8, {3}}});
  });
}

TEST(SafetensorsWriter, DiskFullLeavesNothing) {
  const TempDir dir;
  const FileSizeLimit limit(100'000);
  const std::string big(200'000, 'x');
  expect_error(ErrorCode::kIo, {"m.safetensors", "free some space"}, [&] {
    SafetensorsWriter writer(dir / "m.safetensors", {{"x", DType::kU8, {200'000}}});
    writer.append(bytes_of(big));
    writer.finish();
  });
  EXPECT_TRUE(files_in(dir.path()).empty());
}

TEST(AtomicText, ReplacesWholeOrNotAtAll) {
  const TempDir dir;
  write_file_atomically(dir / "c.json", "{\"a\":1}");
  {
    const FileSizeLimit limit(10);
    expect_error(ErrorCode::kIo, {"c.json"}, [&] { write_file_atomically(dir / "c.json", std::string(100, 'x')); });
  }
  EXPECT_EQ(files_in(dir.path()), std::vector<std::string>{"c.json"});
  EXPECT_EQ(testing_files::read(dir / "c.json"), "{\"a\":1}");
  write_file_atomically(dir / "c.json", "");
  EXPECT_EQ(read_text_file(dir / "c.json"), "");
}

TEST(AtomicText, LinksStayAndOtherThingsAreNotReplaced) {
  namespace fs = std::filesystem;
  const TempDir dir;
  testing_files::write(dir / "target", "old");
  fs::create_symlink("target", dir / "link");
  write_file_atomically(dir / "link", "new");
  EXPECT_TRUE(fs::is_symlink(dir / "link"));
  EXPECT_EQ(testing_files::read(dir / "target"), "new");
  fs::create_symlink("not-there-yet", dir / "dangling");
  write_file_atomically(dir / "dangling", "new");
  EXPECT_EQ(testing_files::read(dir / "not-there-yet"), "new");
  write_file_atomically("/dev/null", "gone");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  expect_error(ErrorCode::kUsage, {"is a directory"}, [&] { write_file_atomically(dir.path(), "x"); });
  EXPECT_EQ(files_in(dir.path()), (std::vector<std::string>{"dangling", "link", "not-there-yet", "target"}));
}

}  // namespace
}  // namespace marlin
