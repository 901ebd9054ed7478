// With this file the tests of ops (tests/ops/op_test.cc) and of the fused layer (tests/metal/fused_layer_test.cc) run
// on the device metal-on-cuda alone. Here are the shapes of the real model.
#include <gtest/gtest.h>

#include "metal/cuda/cuda_device.h"
#include "ops/op_test_util.h"

namespace marlin::op_test {
namespace {

std::unique_ptr<Device> make() {
  return metal_on_cuda::why_not().empty() ? metal_on_cuda::make_cuda_device({}) : nullptr;
}

const OnlyBackend kDevice(metal_on_cuda::kName, make);

std::vector<OpCase> real_cases() {
  std::vector<OpCase> cases = real_dense_cases();
  for (const auto& more : {real_attention_cases(), real_moe_cases(), real_sample_cases()}) {
    cases.insert(cases.end(), more.begin(), more.end());
  }
  return cases;
}

class RealShapeTest : public testing::TestWithParam<OpCase> {};

TEST_P(RealShapeTest, MatchesOracle) {
  const std::unique_ptr<Device> device = make();
  if (!device) GTEST_SKIP() << metal_on_cuda::why_not();
  const std::unique_ptr<Device> oracle = make_device("reference", {});
  Rig rig(*device);
  Rig expected(*oracle);
  const RowRange all{0, GetParam().rows};
  EXPECT_EQ(compare(GetParam().run(rig, all), GetParam().run(expected, all)), "");
}

INSTANTIATE_TEST_SUITE_P(Real, RealShapeTest, testing::ValuesIn(real_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace marlin::op_test
