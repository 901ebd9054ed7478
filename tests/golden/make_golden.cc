// Writes tests/golden/mmfp4.safetensors: build the target make_golden and run it after the bundled model was re-made.
#include <cstdio>

#include "golden.h"
#include "marlin/error.h"

namespace marlin::testing {
namespace {

struct Output {
  std::vector<TensorSpec> specs;
  std::vector<std::vector<std::byte>> data;

  template <typename T>
  void add(const std::string& name, DType type, std::vector<int64_t> shape, const std::vector<T>& values) {
    specs.push_back({name, type, std::move(shape)});
    const auto bytes = std::as_bytes(std::span(values));
    data.emplace_back(bytes.begin(), bytes.end());
  }
};

void add_passage(Output& out, DemoModel& oracle, const std::string& name, const std::vector<int32_t>& ids) {
  const GoldenPassage passage = run_passage(oracle, ids);
  const auto n = static_cast<int64_t>(ids.size());
  out.add(name + ".ids", DType::kI32, {n}, passage.ids);
  out.add(name + ".hidden", DType::kF32, {oracle.model().config().n_layers + 1, n, oracle.hidden()}, passage.hidden);
  out.add(name + ".logits", DType::kF32, {kGoldenLogitRows, oracle.vocab()}, passage.logits);
  out.add(name + ".mtp_logits", DType::kF32, {kGoldenMtpRows, oracle.vocab()}, passage.mtp_logits);
}

int run() {
  DemoModel oracle(golden_options("reference", KvType::kF32));
  Output out;
  for (const char* name : {"prose", "chat"}) add_passage(out, oracle, name, read_passage(name).ids);
  int number = 0;
  const nlohmann::json reference = reference_json();
  for (const auto& generation : reference.at("generations")) {
    const auto prompt = generation.at("prompt_ids").get<std::vector<int32_t>>();
    const std::vector<int32_t> ids = greedy(oracle, prompt, 160);
    const std::string name = "greedy." + std::to_string(number++);
    out.add(name + ".prompt", DType::kI32, {static_cast<int64_t>(prompt.size())}, prompt);
    out.add(name + ".ids", DType::kI32, {static_cast<int64_t>(ids.size())}, ids);
    std::printf("%s: %zu ids\n", name.c_str(), ids.size());
  }
  SafetensorsWriter writer(golden_file(), out.specs, {{"made_by", "make_golden, double-precision oracle"}});
  for (const auto& bytes : out.data) writer.append(bytes);
  writer.finish();
  return 0;
}

}  // namespace
}  // namespace marlin::testing

int main() {
  try {
    return marlin::testing::run();
  } catch (const marlin::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
