#include "base/mapped_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>

#include "marlin/error.h"

namespace marlin {
namespace {

std::filesystem::path scratch(const std::string& name) {
  return std::filesystem::path(testing::TempDir()) / ("marlin_base_" + std::to_string(getpid()) + "_" + name);
}

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

TEST(MappedFile, NamesWhatCannotBeOpened) {
  EXPECT_EQ(code_of_opening(scratch("absent")), ErrorCode::kNotFound);
  EXPECT_EQ(code_of_opening(testing::TempDir()), ErrorCode::kIo);
}

}  // namespace
}  // namespace marlin
