// Every case of every op on the Metal backend against the oracle, whatever the order in which the GPU's threads run,
// and with each load and store watched.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "metal/fake/fake_metal.h"
#include "ops/op_test_util.h"

namespace marlin::op_test {
namespace {

using emulator::Schedule;

struct Mode {
  std::string name;
  Schedule schedule;
  bool checked;

  friend void PrintTo(const Mode& mode, std::ostream* out) { *out << mode.name; }
};

std::vector<Mode> modes() {
  return {{"forward", Schedule::kForward, false},
          {"reverse", Schedule::kReverse, false},
          {"random", Schedule::kRandom, false},
          {"checked_forward", Schedule::kForward, true},
          {"checked_random", Schedule::kRandom, true}};
}

std::vector<Output> run_on(const std::string& device_name, const OpCase& op_case) {
  const std::unique_ptr<Device> device = make_device(device_name, {});
  Rig rig(*device);
  return op_case.run(rig, {0, op_case.rows});
}

using Param = std::tuple<Mode, OpCase>;

class MetalOpsTest : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    const Mode& mode = std::get<0>(GetParam());
    fake_metal::Options options;
    options.execution = {mode.schedule, 1, mode.checked, 1};
    options.most_delay_us = 0;
    fake_metal::set_options(options);
    fake_metal::take_reports();
    fake_metal::take_notes();
  }
  void TearDown() override {
    fake_metal::set_options({});
    EXPECT_THAT(fake_metal::take_reports(), testing::IsEmpty());
    EXPECT_THAT(fake_metal::take_notes(), testing::IsEmpty());
  }
};

TEST_P(MetalOpsTest, MatchesOracle) {
  const OpCase& op_case = std::get<1>(GetParam());
  EXPECT_EQ(compare(run_on("metal-emulated", op_case), run_on("reference", op_case)), "");
}

INSTANTIATE_TEST_SUITE_P(Ops, MetalOpsTest,
                         testing::Combine(testing::ValuesIn(modes()), testing::ValuesIn(all_cases())),
                         [](const testing::TestParamInfo<Param>& test) {
                           std::string name = std::get<0>(test.param).name + "_" + std::get<1>(test.param).name;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace marlin::op_test
