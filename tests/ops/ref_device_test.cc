// The registry, the checked stream, and the reference device as a validation layer.
#include <gmock/gmock.h>

#include <limits>
#include <string>

#include "marlin/error.h"
#include "ref_fixture.h"

namespace marlin {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string error_of(ErrorCode code, const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

TEST(Registry, ListsAllDevicesWithReasons) {
  std::vector<std::string> names;
  for (const DeviceEntry& entry : device_registry()) {
    names.push_back(entry.name);
    EXPECT_EQ(static_cast<bool>(entry.make), entry.why_not.empty()) << entry.name;
  }
  EXPECT_EQ(names, (std::vector<std::string>{"metal", "cuda", "cpu", "reference"}));
}

TEST(Registry, AutoIsNeverTheOracle) {
  EXPECT_EQ(make_device("auto", {})->info().name, "cpu");
}

TEST(Registry, UnknownAndUnusableDevicesAreRefusedWithTheList) {
  const auto list = AllOf(HasSubstr("metal (not built in this version)"), HasSubstr("cpu"), HasSubstr("reference"));
  EXPECT_THAT(error_of(ErrorCode::kUnsupported, [] { make_device("tpu", {}); }), AllOf(HasSubstr("'tpu'"), list));
  EXPECT_THAT(error_of(ErrorCode::kUnsupported, [] { make_device("metal", {}); }),
              AllOf(HasSubstr("device metal"), list));
}

class RefDevice : public RefTest {};

TEST_F(RefDevice, ActivationsRoundTrip) {
  const View x = make_acts(3);
  upload_activations(stream(), device(), x, std::vector<float>{1, -0.1F, 3e38F});
  EXPECT_EQ(activation_bytes(device(), 3), 24U);
  const Completed done = stream().wait(stream().submit());
  EXPECT_EQ(read_activations(stream(), device(), done, x, 3), (std::vector<float>{1, -0.1F, 3e38F}));
  EXPECT_EQ(read_activations_f64(stream(), device(), done, x, 3)[1], static_cast<double>(-0.1F));
  EXPECT_EQ(device().kv_type(KvType::kQ8), KvType::kF64);
}

TEST_F(RefDevice, CheckedStreamNamesTheFirstBadOp) {
  const auto checked = make_checked_stream(device(), stream());
  LinearWeight good = f32_linear(2, 2, {1, 0, 0, 1});
  LinearWeight bad = f32_linear(2, 2, {1, 0, 0, std::numeric_limits<float>::infinity()});
  const View x = put<double>({1, 1, 2, 0.5, 4, 1, 1, 1});
  const View y = make_acts(8);
  checked->mark(3, "self_attn.q_a_proj");
  checked->linear({4, x, 2, &good, {}, y, 2});
  checked->mark(3, "self_attn.o_proj");
  const std::string message = error_of(ErrorCode::kNumeric, [&] { checked->linear({4, y, 2, &bad, {}, x, 2}); });
  EXPECT_THAT(message, HasSubstr("layer 3, self_attn.o_proj (linear): NaN or Inf in the output, rows 0..3;"));
}

TEST_F(RefDevice, CheckedStreamNamesTheRows) {
  const auto checked = make_checked_stream(device(), stream());
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const View x = put<double>({nan, 0, 1, 0, nan, 0, nan, 0});
  checked->mark(-1, "lm_head");
  EXPECT_THAT(error_of(ErrorCode::kNumeric,
                       [&] {
                         checked->add({4, 1, x, 2, put<double>({0, 0, 0, 0}), 1});
                       }),
              HasSubstr("outside the layers, lm_head (add): NaN or Inf in the output, rows 0, 2..3;"));
}

TEST_F(RefDevice, CheckedStreamLooksAtEveryRotatedHeadAndAtWhatTheCacheGets) {
  const auto checked = make_checked_stream(device(), stream());
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const View positions = put<int32_t>({0});
  checked->mark(0, "self_attn.rope");
  const View gap = put<double>({1, 2, nan, 1, 2, nan});  // the gaps between heads are nobody's
  checked->rope({1, 2, 2, gap, 6, 3, positions, 1e4, {}});
  const View second = put<double>({1, 2, 0, nan, 2, 0});
  EXPECT_THAT(error_of(ErrorCode::kNumeric,
                       [&] {
                         checked->rope({1, 2, 2, second, 6, 3, positions, 1e4, {}});
                       }),
              HasSubstr("self_attn.rope (rope)"));

  const KvLayout layout = {KvType::kF64, 2, 2, 1};
  const TokenBatch batch = {1, {}, positions, put<int32_t>({0}), {}, put<int32_t>({0}), 1, 1};
  const View latent = put<double>({1, 2});
  const View rope = put<double>({1, nan});
  EXPECT_THAT(error_of(ErrorCode::kNumeric,
                       [&] {
                         checked->kv_write({&batch, {make(layout.block_bytes()), layout, 0}, latent, 2, rope, 2});
                       }),
              HasSubstr("(kv_write): NaN or Inf in the rope input, rows 0;"));
}

using RefDeviceDeathTest = RefDevice;

TEST_F(RefDeviceDeathTest, ReadNeedsAFenceAfterTheWrite) {
  const View x = put<double>({1});
  const Completed early = stream().wait(stream().submit());
  stream().add({1, 1, x, 1, put<double>({1}), 1});
  double value = 0;
  EXPECT_DEATH(stream().read(early, x, std::as_writable_bytes(std::span(&value, 1))), "the fence covers");
  EXPECT_DEATH(stream().wait(Fence{99}), "never submitted");
}

TEST_F(RefDeviceDeathTest, BoundsAreChecked) {
  const View x = put<double>({1, 2, 3});
  const LinearWeight weight = f32_linear(1, 2, {1, 1});
  const View out = make_acts(2);
  EXPECT_DEATH(stream().linear({2, x, 2, &weight, {}, out, 1}), "linear x: 32 bytes at offset 0 of a buffer of 24");
  EXPECT_DEATH(stream().linear({1, x, 2, &weight, {}, out.at(16), 1}), "linear out");
  EXPECT_DEATH(stream().linear({2, x, 1, &weight, {}, out, 1}), "stride 1 with rows of 2");
  EXPECT_DEATH(stream().embed({1, put<int32_t>({-1}), &weight, out, 2}), "id -1");
  EXPECT_DEATH(stream().copy({x, x.at(8), 16}), "overlap");
}

TEST_F(RefDeviceDeathTest, BoundMemoryIsReadOnly) {
  const auto values = std::make_shared<std::vector<double>>(2, 1.0);
  const auto bound = device().bind(std::as_bytes(std::span(*values)), values);
  EXPECT_EQ(get_acts({bound.get(), 8}, 1), std::vector<double>{1});
  EXPECT_DEATH(stream().add({1, 1, {bound.get(), 0}, 1, put<double>({1}), 1}), "read-only");
}

TEST_F(RefDeviceDeathTest, BuffersOfOtherDevicesAreRefused) {
  const auto other = make_device("cpu", {.threads = 1});
  const auto buffer = other->allocate(64);
  EXPECT_DEATH(stream().copy({{buffer.get(), 0}, make_acts(1), 8}), "belongs to another device");
}

}  // namespace
}  // namespace marlin
