// Linked into a test of the Metal backend, it runs all kernels checked, in a random order, and fails if anything was
// found.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "metal/fake/fake_metal.h"

namespace marlin {
namespace {

class CheckedRun : public testing::Environment {
 public:
  void SetUp() override {
    fake_metal::Options options;
    options.execution = {emulator::Schedule::kRandom, 1, true, 1};
    fake_metal::set_options(options);
  }
  void TearDown() override {
    EXPECT_THAT(fake_metal::take_reports(), testing::IsEmpty());
    EXPECT_THAT(fake_metal::take_notes(), testing::IsEmpty());
  }
};

[[maybe_unused]] const testing::Environment* const environment = testing::AddGlobalTestEnvironment(new CheckedRun);

}  // namespace
}  // namespace marlin
