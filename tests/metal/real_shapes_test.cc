// The kernels at the shapes of GLM-4.7-Flash: its first two layers, MTP layer and head with random weights, in FP4, and
// attention of 20 heads behind 4,097 positions. Prints what each kernel of a decode step reads and writes (PERF.md).
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "demo_model.h"
#include "metal/fake/fake_metal.h"
#include "ops/op_test_util.h"
#include "quantize/synth.h"

namespace marlin::testing {
namespace {

constexpr int kLayers = 2;  // one dense, one of experts

/// The checkpoint, written once for all tests of this program.
const std::filesystem::path& checkpoint() {
  static const std::filesystem::path directory = [] {
    const auto path = std::filesystem::temp_directory_path() / "marlin_metal_real_shapes";
    std::filesystem::remove_all(path);
    synthesize_checkpoint(synth_config("glm-4.7-flash", kLayers), path, {});
    return path;
  }();
  return directory;
}

DemoOptions options(const std::string& device, bool deterministic) {
  DemoOptions options;
  options.directory = checkpoint();
  options.device = device;
  options.kernels = device == "cpu" ? "portable" : "";
  options.deterministic = deterministic;
  options.model.max_tokens = 8;
  options.model.max_logit_rows = 8;
  options.model.kv_type = KvType::kF32;
  return options;
}

struct Logits {
  std::vector<float> prompt, decode, mtp;
};

/// Logits of a prompt's last token, of a generated one, and of the MTP layer behind it; with `count` the generated
/// token's step runs checked, which counts bytes, and the MTP layer does not run.
Logits run(DemoModel& demo, bool count) {
  Logits logits;
  KvSequence sequence(demo.cache());
  const std::vector<float> rows = demo.feed(sequence, std::vector<int32_t>{5, 900, 77});
  logits.prompt.assign(rows.end() - demo.vocab(), rows.end());
  EXPECT_TRUE(sequence.extend(demo.stream(), 1));
  Step step;
  step.sequences = {&sequence};
  step.tokens.push_back({1234, 0, 3, Role::kDecode, true});
  if (count) {
    fake_metal::Options checked;
    checked.execution.checked = true;
    fake_metal::set_options(checked);
    fake_metal::take_counts();
  }
  const Model::Outputs out = demo.model().forward(demo.stream(), step, demo.cache());
  logits.decode = demo.read(out.logits, demo.vocab());
  if (!count) {
    logits.mtp = demo.read(demo.model().mtp(demo.stream(), out, std::vector<int32_t>{42}, demo.cache()), demo.vocab());
  }
  return logits;
}

class RealShapes : public ::testing::Test {
 protected:
  static void TearDownTestSuite() { std::filesystem::remove_all(checkpoint()); }
};

TEST_F(RealShapes, TheFirstLayersMatchTheCpu) {
  DemoModel cpu(options("cpu", true));
  const Logits expected = run(cpu, false);
  for (const bool deterministic : {true, false}) {
    DemoModel metal(options(metal_device(), deterministic));
    const Logits logits = run(metal, false);
    // FP32 sums in another order; and for the prompt both factors as half, of which the decoded token sees the cache.
    const double bound = deterministic ? 1e-5 : 5e-3;
    EXPECT_LT(relative_l2(logits.prompt, expected.prompt), bound);
    EXPECT_LT(relative_l2(logits.decode, expected.decode), bound);
    EXPECT_LT(relative_l2(logits.mtp, expected.mtp), bound);
  }
}

// Every byte that a dispatch touches counts once.
TEST_F(RealShapes, ADecodeStepReadsItsWeightsAndLittleElse) {
  uint64_t read = 0;
  {
    DemoModel demo(options(metal_device(), true));
    run(demo, true);
    std::printf("%-16s %10s %14s %14s %12s\n", "kernel", "dispatches", "bytes read", "written", "threadgroup");
    for (const auto& [kernel, count] : fake_metal::take_counts()) {
      std::printf("%-16s %10llu %14llu %14llu %12zu\n", kernel.c_str(),
                  static_cast<unsigned long long>(count.dispatches), static_cast<unsigned long long>(count.bytes_read),
                  static_cast<unsigned long long>(count.bytes_written), count.threadgroup_bytes);
      read += count.bytes_read;
    }
    const ModelConfig& c = demo.model().config();
    // FP4 with a scale of 2 bytes for 128 weights.
    const auto weights = [](int64_t n) { return static_cast<double>(n) * (0.5 + 2.0 / 128); };
    const int64_t attention = int64_t{c.hidden_size} * (c.q_lora_rank + c.kv_lora_rank + c.qk_rope_head_dim) +
                              int64_t{c.q_lora_rank} * c.n_heads * c.qk_head_dim() +
                              int64_t{c.kv_lora_rank} * c.n_heads * (c.qk_nope_head_dim + c.v_head_dim) +
                              int64_t{c.n_heads} * c.v_head_dim * c.hidden_size;
    const int64_t dense = 3 * int64_t{c.hidden_size} * c.intermediate_size;
    const int64_t experts = 3 * int64_t{c.hidden_size} * c.moe_intermediate_size * (c.top_k + c.n_shared_experts);
    const int64_t router = int64_t{c.hidden_size} * c.n_routed_experts;  // BF16
    const double expected = weights(2 * attention + dense + experts + int64_t{c.hidden_size} * c.vocab_size) +
                            2.0 * static_cast<double>(router);
    EXPECT_GT(static_cast<double>(read), expected);
    EXPECT_LT(static_cast<double>(read), 1.02 * expected) << "more than the weights of a step";
  }
  EXPECT_THAT(fake_metal::take_reports(), ::testing::IsEmpty());
  fake_metal::set_options({});
}

// 20 heads, 512 + 64 values, a context that ends one position into a split.
TEST(RealAttention, FourThousandPositionsMatchTheOracle) {
  constexpr int kContext = 4097;
  const MlaShape shape{20, 192, 64, 256, 512};
  const int64_t values = shape.latent + shape.rope;
  const std::vector<float> rows = op_test::Random(1).activations(kContext * values);
  const std::vector<float> latent = op_test::Random(2).activations(int64_t{shape.heads} * shape.latent);
  const std::vector<float> rope = op_test::Random(3).activations(int64_t{shape.heads} * shape.rope);
  const auto attend = [&](const std::string& name, Role role) {
    const std::unique_ptr<Device> device = make_device(name, {});
    op_test::Rig rig(*device);
    std::vector<int32_t> positions(kContext);
    for (int p = 0; p < kContext; ++p) positions[static_cast<size_t>(p)] = p;
    constexpr int kBlocks = kContext / kKvBlockTokens + 1;
    std::vector<int32_t> table(kBlocks);
    for (int b = 0; b < kBlocks; ++b) table[static_cast<size_t>(b)] = (b * 7 + 3) % kBlocks;
    TokenBatch batch;
    batch.n_tokens = kContext;
    batch.ids = rig.array(positions);
    batch.positions = rig.array(positions);
    batch.slots = rig.array(std::vector<int32_t>(kContext));
    batch.roles = rig.array(std::vector<uint8_t>(kContext, static_cast<uint8_t>(role)));
    batch.block_tables = rig.array(table);
    batch.n_slots = 1;
    batch.blocks_per_slot = kBlocks;
    KvView kv;
    kv.layout = {device->kv_type(KvType::kF16), shape.latent, shape.rope, 1};
    kv.pool = rig.allocate(kv.layout.block_bytes() * kBlocks);
    const View x = rig.act(rows);
    rig.stream().kv_write({&batch, kv, x, values, rig.offset(x, shape.latent), values});
    TokenBatch last = batch;
    last.n_tokens = 1;
    last.positions = batch.positions.at(size_t{4} * (kContext - 1));
    last.roles = RoleView(batch.roles, role == Role::kPrompt, role == Role::kDecode);
    MlaAttendArgs args;
    args.batch = &last;
    args.kv = kv;
    args.shape = shape;
    args.scale = 0.0625;
    args.q_latent = rig.act(latent);
    args.q_rope = rig.act(rope);
    args.q_row_stride = int64_t{shape.heads} * shape.rope;
    args.q_head_stride = shape.rope;
    args.out = rig.act_out(int64_t{shape.heads} * shape.latent);
    rig.stream().mla_attend(args);
    const std::vector<double> out = rig.read_act(args.out, int64_t{shape.heads} * shape.latent);
    return std::vector<float>(out.begin(), out.end());
  };
  const std::vector<float> expected = attend("reference", Role::kDecode);
  EXPECT_LT(relative_l2(attend(metal_device(), Role::kDecode), expected), 1e-3);  // the cache's halves
  EXPECT_LT(relative_l2(attend(metal_device(), Role::kPrompt), expected), 5e-3);
}

}  // namespace
}  // namespace marlin::testing
