#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "models.h"

namespace marlin {
namespace {

using testing::ElementsAre;
using testing_files::expect_error;
using testing_files::files_in;
using testing_files::TempDir;

struct Produced {
  std::vector<std::string> names;  // in the order of the calls
  std::string fail_at;
};

std::string bytes_for(const TensorSpec& spec) {
  std::string bytes(spec.bytes(), '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(spec.name[i % spec.name.size()]);
  return bytes;
}

OutputTensor output(Produced& log, std::string name, DType dtype, std::vector<int64_t> shape, int layer) {
  OutputTensor tensor;
  tensor.spec = {std::move(name), dtype, std::move(shape)};
  tensor.layer = layer;
  tensor.produce = [&log, spec = tensor.spec](const std::function<void(std::span<const std::byte>)>& sink) {
    if (spec.name == log.fail_at) throw Error(ErrorCode::kCancelled, "stopped at " + spec.name);
    log.names.push_back(spec.name);
    const std::string bytes = bytes_for(spec);
    const auto all = std::as_bytes(std::span(bytes.data(), bytes.size()));
    sink(all.first(bytes.size() / 2));
    sink(all.subspan(bytes.size() / 2));
  };
  return tensor;
}

// Two layers with 11 experts, given in an unhelpful order.
std::vector<OutputTensor> model(Produced& log) {
  std::vector<OutputTensor> tensors;
  tensors.push_back(output(log, "lm_head.weight", DType::kF16, {4, 64}, 3));
  tensors.push_back(output(log, "model.norm.weight", DType::kF32, {64}, 3));
  for (const int layer : {1, 0}) {
    const std::string prefix = "model.layers." + std::to_string(layer);
    tensors.push_back(output(log, prefix + ".input_layernorm.weight", DType::kBF16, {64}, layer));
    for (int expert = 10; expert >= 0; --expert) {
      for (const char* kind : {"up_proj", "down_proj", "gate_proj"}) {
        const std::string base = prefix + ".mlp.experts." + std::to_string(expert) + "." + kind;
        tensors.push_back(output(log, base + ".scales", DType::kF16, {16, 2}, layer));
        tensors.push_back(output(log, base + ".weight", DType::kU32, {16, 8}, layer));
      }
    }
    tensors.push_back(output(log, prefix + ".self_attn.o_proj.weight", DType::kU32, {16, 8}, layer));
    tensors.push_back(output(log, prefix + ".self_attn.o_proj.scales", DType::kF16, {16, 2}, layer));
  }
  tensors.push_back(output(log, "model.embed_tokens.weight", DType::kF16, {4, 64}, -1));
  return tensors;
}

void make_config(const TempDir& dir) {
  testing_files::write(dir / "config.json", "{}");
}

TEST(CheckpointWriter, OrderWithinAShard) {
  const TempDir dir;
  Produced log;
  write_checkpoint(dir.path(), model(log), {});
  EXPECT_EQ(files_in(dir.path()),
            (std::vector<std::string>{"model-00001-of-00001.safetensors", "model.safetensors.index.json"}));
  const SafetensorsFile file = SafetensorsFile::open(dir / "model-00001-of-00001.safetensors");
  EXPECT_EQ(file.data_start() % 16384, 0u);
  std::vector<std::string> expected;
  const auto add_layers = [&](const std::string& suffix) {
    for (const char* layer : {"model.layers.0", "model.layers.1"}) {
      expected.push_back(std::string(layer) + ".self_attn.o_proj" + suffix);
      for (const char* kind : {"gate_proj", "up_proj", "down_proj"}) {
        for (int expert = 0; expert < 11; ++expert) {
          expected.push_back(std::string(layer) + ".mlp.experts." + std::to_string(expert) + "." + kind + suffix);
        }
      }
    }
  };
  add_layers(".weight");
  expected.emplace_back("model.embed_tokens.weight");
  add_layers(".scales");
  expected.emplace_back("lm_head.weight");
  for (const char* name :
       {"model.layers.0.input_layernorm.weight", "model.layers.1.input_layernorm.weight", "model.norm.weight"}) {
    expected.emplace_back(name);
  }
  std::vector<std::string> found;
  for (const TensorView& view : file.tensors()) {
    found.push_back(view.name);
    const std::string bytes = bytes_for({view.name, view.dtype, view.shape});
    EXPECT_EQ(std::memcmp(view.data.data(), bytes.data(), bytes.size()), 0) << view.name;
  }
  EXPECT_EQ(found, expected);
  EXPECT_EQ(log.names, expected);  // each produced once, when its turn comes
  const auto* first = file.find("model.layers.1.mlp.experts.0.up_proj.weight")->data.data();
  for (int expert = 0; expert < 11; ++expert) {
    const std::string name = "model.layers.1.mlp.experts." + std::to_string(expert) + ".up_proj.weight";
    EXPECT_EQ(file.find(name)->data.data(), first + expert * 512);
  }
}

TEST(CheckpointWriter, ShardsEndBetweenLayers) {
  const TempDir dir;
  make_config(dir);
  Produced log;
  WriteOptions options;
  options.max_shard_bytes = 48'000;  // less than one layer with its header
  std::vector<std::pair<uint64_t, uint64_t>> progress;
  options.progress = [&](uint64_t done, uint64_t total, const std::string&) { progress.emplace_back(done, total); };
  write_checkpoint(dir.path(), model(log), options);
  EXPECT_EQ(files_in(dir.path()).size(), 4u + 2u);
  const auto shard = [&](int i) {
    return SafetensorsFile::open(dir / ("model-0000" + std::to_string(i) + "-of-00004.safetensors"));
  };
  EXPECT_NE(shard(1).find("model.embed_tokens.weight"), nullptr);
  EXPECT_NE(shard(2).find("model.layers.0.mlp.experts.10.up_proj.weight"), nullptr);
  EXPECT_NE(shard(3).find("model.layers.1.input_layernorm.weight"), nullptr);
  EXPECT_NE(shard(4).find("lm_head.weight"), nullptr);
  ASSERT_FALSE(progress.empty());
  EXPECT_EQ(progress.back().first, progress.back().second);
  EXPECT_TRUE(std::is_sorted(progress.begin(), progress.end()));

  const Checkpoint checkpoint = Checkpoint::open(dir.path(), {.check_scales = false});
  EXPECT_EQ(checkpoint.writer(), Writer::kOurs);
  EXPECT_EQ(checkpoint.files().size(), 4u);
  EXPECT_EQ(checkpoint.experts("model.layers.1.mlp", "down_proj", 11, 16, 64)[3].planes[0].group_size, 32);
  const auto index = nlohmann::json::parse(testing_files::read(dir / "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], progress.back().second);
  EXPECT_EQ(index["weight_map"].size(), 2u * (2 * 33 + 3) + 3);
}

TEST(CheckpointWriter, ShardsStayBelowTheLimit) {
  for (const uint64_t limit : {60'000u, 90'000u, 120'000u, 1'000'000u}) {
    const TempDir dir;
    Produced log;
    WriteOptions options;
    options.max_shard_bytes = limit;
    write_checkpoint(dir.path(), model(log), options);
    for (const std::string& name : files_in(dir.path())) {
      if (name.starts_with("model-")) {
        EXPECT_LE(std::filesystem::file_size(dir / name), limit) << name;
      }
    }
  }
}

TEST(CheckpointWriter, ResumeKeepsWholeShards) {
  const TempDir dir;
  make_config(dir);
  Produced log;
  WriteOptions options;
  options.max_shard_bytes = 48'000;
  options.metadata = {{"recipe", "a"}};
  log.fail_at = "model.layers.1.mlp.experts.7.down_proj.weight";
  expect_error(ErrorCode::kCancelled, {log.fail_at}, [&] { write_checkpoint(dir.path(), model(log), options); });
  EXPECT_THAT(files_in(dir.path()),
              ElementsAre("config.json", "model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"));
  expect_error(ErrorCode::kNotFound, {"--resume"}, [&] { Checkpoint::open(dir.path()); });

  log = {};
  options.resume = true;
  write_checkpoint(dir.path(), model(log), options);
  EXPECT_EQ(log.names.front(), "model.layers.1.self_attn.o_proj.weight");
  EXPECT_EQ(log.names.size(), 69u + 2u);

  const TempDir fresh;
  Produced other;
  options.resume = false;
  write_checkpoint(fresh.path(), model(other), options);
  for (const std::string& name : files_in(fresh.path())) {
    EXPECT_EQ(testing_files::read(fresh / name), testing_files::read(dir / name)) << name;
  }

  // Other metadata is another conversion: nothing is kept.
  log = {};
  options.resume = true;
  options.metadata = {{"recipe", "b"}};
  write_checkpoint(dir.path(), model(log), options);
  EXPECT_EQ(log.names.size(), other.names.size());
  // A truncated shard is not kept either.
  std::filesystem::resize_file(dir / "model-00001-of-00004.safetensors", 16384 + 100);
  log = {};
  write_checkpoint(dir.path(), model(log), options);
  EXPECT_THAT(log.names, ElementsAre("model.embed_tokens.weight"));
}

TEST(CheckpointWriter, RefusesToOverwrite) {
  const TempDir dir;
  Produced log;
  write_checkpoint(dir.path(), model(log), {});
  expect_error(ErrorCode::kUsage, {"model.safetensors.index.json", "--resume"},
               [&] { write_checkpoint(dir.path(), model(log), {}); });
  const TempDir single;
  testing_files::write(single / "model.safetensors", "x");
  expect_error(ErrorCode::kUsage, {"model.safetensors"}, [&] { write_checkpoint(single.path(), model(log), {}); });
}

TEST(CheckpointWriter, RefusesBadRequests) {
  const TempDir dir;
  Produced log;
  expect_error(ErrorCode::kUsage, {"no tensors"}, [&] { write_checkpoint(dir.path(), {}, {}); });
  std::vector<OutputTensor> twice;
  twice.push_back(output(log, "x", DType::kU8, {1}, 0));
  twice.push_back(output(log, "x", DType::kU8, {1}, 1));
  expect_error(ErrorCode::kUsage, {"'x'", "twice"}, [&] { write_checkpoint(dir.path(), twice, {}); });
  std::vector<OutputTensor> wrong;
  wrong.push_back(output(log, "short", DType::kU8, {5}, 0));
  wrong[0].spec.shape = {6};
  expect_error(ErrorCode::kUsage, {"short", "5", "6"}, [&] { write_checkpoint(dir.path(), wrong, {}); });
  wrong[0].spec.shape = {4};
  expect_error(ErrorCode::kUsage, {"short", "5", "4"}, [&] { write_checkpoint(dir.path(), wrong, {}); });
  EXPECT_TRUE(files_in(dir.path()).empty());
}

TEST(CheckpointWriter, DiskFullLeavesNoCheckpoint) {
  const TempDir dir;
  make_config(dir);
  Produced log;
  WriteOptions options;
  options.max_shard_bytes = 30'000;
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  rlimit small = old;
  small.rlim_cur = 30'000;  // the embeddings fit, a layer does not
  setrlimit(RLIMIT_FSIZE, &small);
  expect_error(ErrorCode::kIo, {"model-00002", "free some space"},
               [&] { write_checkpoint(dir.path(), model(log), options); });
  setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_THAT(files_in(dir.path()), ElementsAre("config.json", "model-00001-of-00004.safetensors"));
  expect_error(ErrorCode::kNotFound, {"--resume"}, [&] { Checkpoint::open(dir.path()); });
}

TEST(CheckpointWriter, MakesItsDirectory) {
  const TempDir dir;
  Produced log;
  write_checkpoint(dir / "deep" / "er", model(log), {});
  EXPECT_TRUE(std::filesystem::exists(dir.path() / "deep/er/model.safetensors.index.json"));
}

}  // namespace
}  // namespace marlin
