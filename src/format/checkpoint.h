// A model directory: config, shards and index, and the tensor naming of every MMFP4 writer resolved to one form.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "format/safetensors.h"

namespace marlin {

struct CheckpointContents;

/// In a directory with a file of this name a writer is at work or was interrupted: it is no checkpoint yet.
inline constexpr const char* kUnfinishedName = "INCOMPLETE";

/// One plane of MMFP4 weights in layout R: packed codes [out, in/8] U32 and scales [out, in/group_size] F16.
struct Fp4Plane {
  TensorView weight;
  TensorView scales;
  int group_size = 0;
};

/// One linear as stored: either plain (BF16, F16, F32 [out, in]) or one or two FP4 planes; bias optional.
struct LinearTensors {
  std::string name;  // without ".weight"
  int64_t out_features = 0;
  int64_t in_features = 0;
  std::optional<TensorView> plain;
  std::vector<Fp4Plane> planes;
  std::optional<TensorView> bias;
  bool quantized() const { return !planes.empty(); }
};

enum class Writer { kPlain, kOurs, kMrGptqScript, kRtnCli, kOlderNames };  // format.md's table: -, W2, W1, W3, older
std::string_view writer_name(Writer writer);

struct CheckpointOptions {
  /// Skip the check that every stored scale is finite (inspect on huge files).
  bool check_scales = true;
  /// For repair: tensors that the index names and no file holds become a note instead of an error.
  bool tolerate_missing = false;
  Placement placement = Placement::kMapped;
};

/// A checkpoint opened for reading. Names are canonical ("model.layers.3…", no "language_model."). All tensor names,
/// shapes, group sizes and orientations have been validated on their own; the model checks them against its config.
class Checkpoint {
 public:
  /// `directory` holds config.json and model.safetensors, or model.safetensors.index.json and its shards; also reads
  /// missing_norm.safetensors. Throws Error naming file and tensor. A rotated tensor (hadamard_block_size) is refused.
  static Checkpoint open(const std::filesystem::path& directory, const CheckpointOptions& options = {});

  const std::filesystem::path& directory() const { return directory_; }
  const nlohmann::json& config() const { return config_; }
  Writer writer() const { return writer_; }
  /// Shard files in the order of their names, then missing_norm.safetensors when it is there.
  const std::vector<std::shared_ptr<const MappedFile>>& files() const { return files_; }

  bool has_linear(const std::string& name) const;  // name without ".weight"
  bool has_tensor(const std::string& name) const;  // an unquantized tensor by its full canonical name
  /// The linear `name`, shapes checked: out and in must equal the stored ones. Throws Error{kBadFile|kNotFound}.
  LinearTensors linear(const std::string& name, int64_t out_features, int64_t in_features) const;
  /// A plain tensor with exactly this shape. Throws as above.
  TensorView tensor(const std::string& name, const std::vector<int64_t>& shape) const;
  /// The expert linears of one kind ("gate_proj", "up_proj", "down_proj") of a layer: per-expert tensors
  /// (`prefix`.experts.E.kind) or the fused experts.gate_up_proj / experts.down_proj cut into views.
  std::vector<LinearTensors> experts(const std::string& prefix, const std::string& kind, int n_experts,
                                     int64_t out_features, int64_t in_features) const;
  /// Canonical names of all stored tensors not yet returned by the calls above: what the model did not expect.
  std::vector<std::string> unclaimed() const;
  /// Every linear (without ".weight"; fused experts one by one) and every other plain tensor (full name), in file
  /// order.
  std::vector<std::string> names() const;
  /// Any stored tensor as it stands in the file (codes and scales included), by canonical stored name.
  const TensorView* stored(const std::string& name) const;
  /// Remarks for the user: tensors copied because of their layout or alignment, and the like.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  std::filesystem::path directory_;
  nlohmann::json config_;
  Writer writer_ = Writer::kPlain;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::vector<std::string> notes_;
  std::shared_ptr<CheckpointContents> contents_;  // also what has been claimed and copied so far; locks itself
};

/// One output tensor of a conversion: its spec and a function that produces the bytes when its turn comes.
struct OutputTensor {
  TensorSpec spec;
  int layer = 0;  // -1 embeddings, 0… layers, n_layers MTP, then norm and head: a shard ends only between layers
  std::function<void(const std::function<void(std::span<const std::byte>)>& sink)> produce;
};

/// Writes shards in our order (format.md), each to a temporary name and renamed, the index last. With `resume`, whole
/// shards that are already there with the same header (names, shapes and metadata: put the recipe there) are kept.
/// Without it, a directory that already holds a checkpoint is refused. Throws Error{kIo|kUsage}.
struct WriteOptions {
  uint64_t max_shard_bytes = uint64_t{4} << 30;
  bool resume = false;
  std::map<std::string, std::string> metadata;
  std::function<void()> shard_made = {};    // all bytes of a shard are there; it gets its name next
  std::function<void()> before_index = {};  // writes what else the directory needs to be whole
  std::function<void(uint64_t done, uint64_t total, const std::string& item)> progress;
};
void write_checkpoint(const std::filesystem::path& directory, std::vector<OutputTensor> tensors,
                      const WriteOptions& options);

}  // namespace marlin
