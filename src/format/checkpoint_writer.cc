// Writing a checkpoint: which tensor goes into which shard and where, and how an interrupted conversion continues.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <tuple>

#include "format/checkpoint.h"
#include "format/checkpoint_names.h"
#include "marlin/error.h"

namespace marlin {
namespace {

constexpr const char* kIndexName = "model.safetensors.index.json";

struct Item {
  OutputTensor* tensor = nullptr;
  size_t order = 0;  // as given
};

struct Shard {
  std::filesystem::path path;
  std::vector<OutputTensor*> tensors;  // in file order
  uint64_t bytes = 0;
};

int type_rank(DType type) {
  return type == DType::kU32 ? 0 : type == DType::kF16 ? 1 : 2;
}

int kind_rank(std::string_view kind) {
  if (kind == "gate_proj") return 0;
  if (kind == "up_proj") return 1;
  return kind == "down_proj" ? 2 : 3;
}

// The order within a shard: by type, by layer; the experts of a kind contiguous and in numeric order, so that expert e
// lies at base + e * stride; everything else as given.
auto place(const Item& item) {
  const OutputTensor& tensor = *item.tensor;
  const int type = type_rank(tensor.spec.dtype);
  const std::optional<ExpertName> expert = parse_expert_name(tensor.spec.name);
  if (!expert) return std::tuple(type, tensor.layer, -1, std::string_view(), int64_t{0}, item.order);
  return std::tuple(type, tensor.layer, kind_rank(expert->kind), expert->suffix, expert->expert, item.order);
}

// At most what the tensor adds to a shard, its header entry included.
uint64_t footprint(const TensorSpec& spec) {
  constexpr uint64_t kEntry = 160;  // quotes, field names, offsets and shape
  return spec.bytes() + spec.name.size() + kEntry;
}

// Layers are never cut: a new shard begins where the next layer would not fit.
std::vector<std::vector<Item>> split(std::vector<Item> items, uint64_t max_bytes) {
  constexpr uint64_t kFileOverhead = 16384;  // padding and metadata of the header
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.tensor->layer < b.tensor->layer; });
  std::vector<std::vector<Item>> shards;
  uint64_t used = 0;
  for (auto begin = items.begin(); begin != items.end();) {
    uint64_t layer_bytes = 0;
    auto end = begin;
    while (end != items.end() && end->tensor->layer == begin->tensor->layer) {
      layer_bytes += footprint(end->tensor->spec);
      ++end;
    }
    if (shards.empty() || used + layer_bytes > max_bytes) {
      shards.emplace_back();
      used = kFileOverhead;
    }
    used += layer_bytes;
    shards.back().insert(shards.back().end(), begin, end);
    begin = end;
  }
  return shards;
}

std::vector<Shard> plan(const std::filesystem::path& directory, std::vector<OutputTensor>& tensors,
                        uint64_t max_bytes) {
  std::vector<Item> items;
  for (size_t i = 0; i < tensors.size(); ++i) items.push_back({&tensors[i], i});
  std::vector<std::vector<Item>> parts = split(std::move(items), max_bytes);
  std::vector<Shard> shards;
  for (std::vector<Item>& part : parts) {
    std::sort(part.begin(), part.end(), [](const Item& a, const Item& b) { return place(a) < place(b); });
    Shard shard;
    shard.path = directory / fmt::format("model-{:05}-of-{:05}.safetensors", shards.size() + 1, parts.size());
    for (const Item& item : part) {
      shard.tensors.push_back(item.tensor);
      shard.bytes += item.tensor->spec.bytes();
    }
    shards.push_back(std::move(shard));
  }
  return shards;
}

std::vector<TensorSpec> specs_of(const Shard& shard) {
  std::vector<TensorSpec> specs;
  specs.reserve(shard.tensors.size());
  for (const OutputTensor* tensor : shard.tensors) specs.push_back(tensor->spec);
  return specs;
}

// A shard gets its name only when it is whole, so the same header and the same size mean the same conversion.
bool already_written(const Shard& shard, const std::map<std::string, std::string>& metadata) {
  std::error_code unreadable;  // writing it will say why
  if (!std::filesystem::is_regular_file(shard.path, unreadable)) return false;
  const std::string header = safetensors_header(specs_of(shard), metadata);
  const std::shared_ptr<const MappedFile> file = MappedFile::open(shard.path);
  const std::span<const std::byte> bytes = file->bytes();
  return bytes.size() == header.size() + shard.bytes && std::memcmp(bytes.data(), header.data(), header.size()) == 0;
}

// Without an index no reader takes the directory for a checkpoint, until all shards are there.
void prepare(const std::filesystem::path& directory, bool resume) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    throw Error(ErrorCode::kIo,
                fmt::format("cannot create {}: {}; choose another directory", directory.string(), error.message()));
  }
  const std::filesystem::path index = directory / kIndexName;
  for (const std::filesystem::path& found : {index, directory / "model.safetensors"}) {
    if (!std::filesystem::exists(found, error) || (resume && found == index)) continue;
    throw Error(ErrorCode::kUsage,
                fmt::format("{} is already there; choose an empty directory, or --resume to continue "
                            "a conversion",
                            found.string()));
  }
  std::filesystem::remove(index, error);
  if (error) throw Error(ErrorCode::kIo, fmt::format("cannot remove {}: {}", index.string(), error.message()));
}

void write_index(const std::filesystem::path& directory, const std::vector<Shard>& shards) {
  uint64_t total = 0;
  nlohmann::json weight_map = nlohmann::json::object();
  for (const Shard& shard : shards) {
    total += shard.bytes;
    for (const OutputTensor* tensor : shard.tensors) weight_map[tensor->spec.name] = shard.path.filename().string();
  }
  const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", std::move(weight_map)}};
  write_file_atomically(directory / kIndexName, index.dump(2) + "\n");
}

class ShardWriter {
 public:
  ShardWriter(const WriteOptions& options, uint64_t total) : options_(options), total_(total) {}

  void write(const Shard& shard) {
    SafetensorsWriter writer(shard.path, specs_of(shard), options_.metadata);
    for (const OutputTensor* tensor : shard.tensors) {
      report(tensor->spec.name);
      const uint64_t expected = tensor->spec.bytes();
      uint64_t produced = 0;
      tensor->produce([&](std::span<const std::byte> bytes) {
        produced += bytes.size();
        if (produced <= expected) writer.append(bytes);
      });
      if (produced != expected) {
        throw Error(ErrorCode::kUsage, fmt::format("tensor {}: {} bytes were produced, expected {}", tensor->spec.name,
                                                   produced, expected));
      }
      done_ += expected;
    }
    if (options_.shard_made) options_.shard_made();
    writer.finish();
  }

  void keep(const Shard& shard) {
    done_ += shard.bytes;
    report(shard.path.filename().string());
  }

  void report(const std::string& item) const {
    if (options_.progress) options_.progress(done_, total_, item);
  }

 private:
  const WriteOptions& options_;
  uint64_t total_;
  uint64_t done_ = 0;
};

}  // namespace

void write_checkpoint(const std::filesystem::path& directory, std::vector<OutputTensor> tensors,
                      const WriteOptions& options) {
  std::vector<TensorSpec> all;
  uint64_t total = 0;
  for (const OutputTensor& tensor : tensors) {
    all.push_back(tensor.spec);
    total += tensor.spec.bytes();
  }
  if (all.empty()) throw Error(ErrorCode::kUsage, fmt::format("{}: no tensors to write", directory.string()));
  safetensors_header(all, options.metadata);  // refuses repeated names, which the shards one by one would not see
  const std::vector<Shard> shards = plan(directory, tensors, options.max_shard_bytes);
  prepare(directory, options.resume);
  ShardWriter writer(options, total);
  for (const Shard& shard : shards) {
    if (options.resume && already_written(shard, options.metadata)) {
      writer.keep(shard);
    } else {
      writer.write(shard);
    }
  }
  if (options.before_index) options.before_index();
  write_index(directory, shards);
  writer.report(kIndexName);
}

}  // namespace marlin
