#include "base/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "marlin/error.h"

namespace marlin {
namespace {

std::filesystem::path scratch(const std::string& name) {
  return std::filesystem::path(testing::TempDir()) / ("marlin_base_" + std::to_string(getpid()) + "_" + name);
}

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // whose mlock does nothing
#define MARLIN_SEES_LOCKED_MEMORY
/// What the kernel counts as locked of this process; -1 when it does not tell.
int locked_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    int kib = -1;
    if (word == "VmLck:" && status >> kib) return kib;
  }
  return -1;
}
#endif

ErrorCode code_of_opening(const std::filesystem::path& path) {
  try {
    MappedFile::open(path);
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos) << error.what();
    return error.code();
  }
  ADD_FAILURE() << path << " was opened";
  return ErrorCode::kCancelled;
}

TEST(MappedFile, HoldsTheBytesAfterTheFileIsRemoved) {
  const std::filesystem::path path = scratch("bytes");
  std::ofstream(path, std::ios::binary) << "metal marlin";
  const auto file = MappedFile::open(path);
  std::filesystem::remove(path);
  ASSERT_EQ(file->bytes().size(), 12u);
  EXPECT_EQ(std::memcmp(file->bytes().data(), "metal marlin", 12), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file->bytes().data()) % 4096, 0u);
  EXPECT_EQ(file->path(), path);
}

TEST(MappedFile, EmptyFileGivesAnEmptySpan) {
  const std::filesystem::path path = scratch("empty");
  std::ofstream(path).close();
  EXPECT_TRUE(MappedFile::open(path)->bytes().empty());
  std::filesystem::remove(path);
}

TEST(MappedFile, ReadAheadTakesAnyLength) {
  const std::filesystem::path path = scratch("ahead");
  std::ofstream(path, std::ios::binary) << std::string(10000, 'x');
  const auto file = MappedFile::open(path);
  std::filesystem::remove(path);
  file->read_ahead(0, size_t{1} << 40);
  file->read_ahead(8192, 4096);   // beyond the end of the file
  file->read_ahead(1 << 20, 10);  // wholly outside
  std::vector<unsigned char> resident(3);
  void* data = const_cast<std::byte*>(file->bytes().data());
#if defined(__linux__)
  ASSERT_EQ(mincore(data, 10000, resident.data()), 0);
  for (const unsigned char page : resident) EXPECT_EQ(page & 1, 1);
#else
  EXPECT_NE(data, nullptr);
#endif
}

TEST(MappedFile, ACopyIsAlignedAndIndependentOfTheFile) {
  const std::filesystem::path path = scratch("copy");
  std::string text(3'000'000, 'x');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * i >> 7);
  std::ofstream(path, std::ios::binary) << text;
  const auto file = MappedFile::open(path, Placement::kCopied);
  std::ofstream(path, std::ios::binary) << "something else";
  std::filesystem::remove(path);
  ASSERT_EQ(file->bytes().size(), text.size());
  EXPECT_EQ(std::memcmp(file->bytes().data(), text.data(), text.size()), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file->bytes().data()) % (size_t{2} << 20), 0u);
}

TEST(MappedFile, LocksOrSaysWhatTheLimitIs) {
  const std::filesystem::path path = scratch("lock");
  std::ofstream(path, std::ios::binary) << std::string(100'000, 'x');
  const auto file = MappedFile::open(path);
  std::filesystem::remove(path);
  try {
    file->lock();
#if defined(MARLIN_SEES_LOCKED_MEMORY)
    EXPECT_GE(locked_kib(), 97);
#endif
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNoMemory);
    EXPECT_NE(std::string(error.what()).find("ulimit -l"), std::string::npos) << error.what();
  }
}

TEST(MappedFile, NamesWhatCannotBeOpened) {
  EXPECT_EQ(code_of_opening(scratch("absent")), ErrorCode::kNotFound);
  EXPECT_EQ(code_of_opening(testing::TempDir()), ErrorCode::kIo);
}

}  // namespace
}  // namespace marlin
