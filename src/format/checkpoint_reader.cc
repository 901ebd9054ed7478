// Opening a checkpoint: which files, which tensors, and whether index and shards agree.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "format/checkpoint_contents.h"
#include "format/checkpoint_names.h"
#include "format/json.h"
#include "marlin/error.h"

namespace marlin {
namespace {

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kSingleName = "model.safetensors";
constexpr const char* kSideName = "missing_norm.safetensors";

// The first few of `names` for a message of one line.
std::string some_of(const std::vector<std::string>& names) {
  constexpr size_t kShown = 5;
  const auto shown = names.begin() + static_cast<std::ptrdiff_t>(std::min(names.size(), kShown));
  std::string text = fmt::format("{}", fmt::join(names.begin(), shown, ", "));
  if (names.size() > kShown) text += fmt::format(" and {} more", names.size() - kShown);
  return text;
}

// What cannot be looked at counts as absent: reading the directory's other files says why.
bool is_there(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

class CheckpointReader {
 public:
  CheckpointReader(const std::filesystem::path& directory, const CheckpointOptions& options)
      : directory_(directory), options_(options) {}

  void read_config();
  void read_tensors();
  void find_linears();
  Writer writer() const;

  nlohmann::json config;
  std::vector<std::shared_ptr<const MappedFile>> files;
  std::vector<std::string> notes;
  std::shared_ptr<CheckpointContents> contents = std::make_shared<CheckpointContents>();

 private:
  void merge_claims(const QuantizationClaims& claims, const std::string& source);
  void read_indexed(const ShardIndex& index);
  void check_index(const ShardIndex& index) const;
  std::vector<TensorView> read_file(const std::filesystem::path& path);
  void add_file(const std::filesystem::path& path);
  void add_side_file();
  void add(TensorView view, const std::string& file);
  void note_copies();

  std::filesystem::path directory_;
  const CheckpointOptions& options_;
  QuantizationClaims claims_;
  std::map<std::string, std::string> file_of_;  // stored name -> file name
  std::vector<std::string> missing_;            // named by the index, held by no shard
};

void CheckpointReader::read_config() {
  if (is_there(directory_ / kUnfinishedName)) {
    throw Error(
        ErrorCode::kBadFile,
        fmt::format("{} is unfinished: {} marks a `metal-marlin mmfp4 quantize` or `synth` that is running or was "
                    "interrupted; let it end, continue it (`quantize --resume`, or the same `synth` again), or remove "
                    "the directory",
                    directory_.string(), kUnfinishedName));
  }
  const std::filesystem::path path = directory_ / "config.json";
  config = parse_json_object(read_text_file(path), path.string());
  if (const auto it = config.find("quantization_config"); it != config.end() && !it->is_null()) {
    merge_claims(parse_quantization_claims(*it, path.string()), path.string());
  }
  const std::filesystem::path side = directory_ / "quantization_config.json";
  if (is_there(side)) {
    merge_claims(parse_quantization_claims(parse_json_object(read_text_file(side), side.string()), side.string()),
                 side.string());
  }
}

void CheckpointReader::merge_claims(const QuantizationClaims& claims, const std::string& source) {
  if (claims.hadamard) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: use_hadamard is true, so the weights are stored rotated, which this build does not "
                            "undo; quantize the BF16 checkpoint again without rotation",
                            source));
  }
  if (claims.group_size && claims_.group_size && *claims.group_size != *claims_.group_size) {
    throw Error(ErrorCode::kBadFile,
                fmt::format("{}: group_size is {}, but config.json says {}; remove the file that does not belong here",
                            source, *claims.group_size, *claims_.group_size));
  }
  if (claims.group_size) claims_.group_size = claims.group_size;
  if (claims.act_order) {
    notes.push_back(
        fmt::format("{}: quantized with actorder; the reference scripts are known to save codes and scales "
                    "that do not match then, so check the perplexity",
                    source));
  }
}

void CheckpointReader::read_tensors() {
  const std::filesystem::path index_path = directory_ / kIndexName;
  if (is_there(index_path)) {
    read_indexed(parse_shard_index(read_text_file(index_path), index_path.string()));
    return;
  }
  if (!is_there(directory_ / kSingleName)) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{} holds neither {} nor {}; give the directory of a whole checkpoint (an interrupted "
                            "conversion has no index: continue it with --resume)",
                            directory_.string(), kIndexName, kSingleName));
  }
  add_file(directory_ / kSingleName);
  add_side_file();
}

void CheckpointReader::read_indexed(const ShardIndex& index) {
  for (const std::string& shard : index.shards) {
    if (!is_there(directory_ / shard)) {
      throw Error(ErrorCode::kNotFound, fmt::format("{} names the shard {}, which is not there; download it again",
                                                    (directory_ / kIndexName).string(), shard));
    }
    add_file(directory_ / shard);
  }
  check_index(index);
  for (const auto& [name, shard] : index.weight_map) {
    if (!file_of_.contains(name)) missing_.push_back(name);
  }
  add_side_file();
  std::erase_if(missing_,
                [&](const std::string& name) { return contents->tensor_by_name.contains(canonical_name(name)); });
  if (missing_.empty()) return;
  const std::string what =
      fmt::format("{} names tensors that no shard holds: {}", (directory_ / kIndexName).string(), some_of(missing_));
  if (!options_.tolerate_missing) {
    const std::string_view hint = repair_hint(canonical_name(missing_.front()));
    throw Error(ErrorCode::kBadFile,
                fmt::format("{}{}", what, hint.empty() ? "; download the checkpoint again" : hint));
  }
  notes.push_back(what);
}

// Every tensor of a shard is in the index, under that shard.
void CheckpointReader::check_index(const ShardIndex& index) const {
  std::vector<std::string> extra;
  for (const auto& [name, file] : file_of_) {
    const auto it = index.weight_map.find(name);
    if (it == index.weight_map.end()) {
      extra.push_back(fmt::format("{} ({})", name, file));
    } else if (it->second != file) {
      throw Error(ErrorCode::kBadFile, fmt::format("{}: tensor {} is in {}, but the index says {}; download the index "
                                                   "again",
                                                   (directory_ / kIndexName).string(), name, file, it->second));
    }
  }
  if (!extra.empty()) {
    throw Error(ErrorCode::kBadFile, fmt::format("{} does not name these tensors of its shards: {}; download the index "
                                                 "again",
                                                 (directory_ / kIndexName).string(), some_of(extra)));
  }
}

std::vector<TensorView> CheckpointReader::read_file(const std::filesystem::path& path) {
  std::shared_ptr<const MappedFile> mapping = MappedFile::open(path, options_.placement);
  std::vector<TensorView> views = SafetensorsFile::parse(mapping->bytes(), path.string()).tensors();
  for (TensorView& view : views) view.file = mapping;
  files.push_back(std::move(mapping));
  return views;
}

void CheckpointReader::add_file(const std::filesystem::path& path) {
  for (TensorView& view : read_file(path)) add(std::move(view), path.filename().string());
}

// The published checkpoint's repair: a file with the tensors its shards lack. What the shards hold is not overridden.
void CheckpointReader::add_side_file() {
  const std::filesystem::path path = directory_ / kSideName;
  if (!is_there(path)) return;
  std::vector<std::string> used;
  for (TensorView& view : read_file(path)) {
    if (contents->tensor_by_name.contains(canonical_name(view.name))) continue;
    used.push_back(view.name);
    add(std::move(view), kSideName);
  }
  notes.push_back(fmt::format("{}: {} tensors read from it ({})", kSideName, used.size(), some_of(used)));
}

void CheckpointReader::add(TensorView view, const std::string& file) {
  std::string name = canonical_name(view.name);
  if (printable(name) != name) {
    throw Error(ErrorCode::kBadFile, fmt::format("{}: tensor name {} is longer than 120 characters or not plain ASCII; "
                                                 "download the checkpoint again",
                                                 file, printable(name)));
  }
  if (!contents->tensor_by_name.emplace(name, contents->tensors.size()).second) {
    throw Error(ErrorCode::kBadFile,
                fmt::format("tensor {} is stored twice, the second time in {}; remove the stale file", name, file));
  }
  file_of_.emplace(view.name, file);
  StoredTensor stored;
  stored.view = std::move(view);
  stored.view.name = std::move(name);
  contents->tensors.push_back(std::move(stored));
}

void CheckpointReader::find_linears() {
  marlin::find_linears(*contents, claims_, options_);
  note_copies();
  if (contents->writers.size() > 1) notes.emplace_back("the quantized tensors use the names of several writers");
}

void CheckpointReader::note_copies() {
  std::vector<std::string> transposed;
  std::vector<std::string> wide;
  std::vector<std::string> unaligned;
  for (const StoredLinear& linear : contents->linears) {
    for (const StoredPlane& plane : linear.planes) {
      const TensorView& weight = contents->tensors[plane.weight].view;
      if (plane.transposed) transposed.push_back(weight.name);
      if (weight.dtype == DType::kI64) wide.push_back(weight.name);
    }
  }
  for (const StoredTensor& tensor : contents->tensors) {
    if (misaligned(tensor.view)) unaligned.push_back(tensor.view.name);
  }
  const auto note = [&](const std::vector<std::string>& names, std::string_view what) {
    if (names.empty()) return;
    notes.push_back(
        fmt::format("{} tensors {} are copied in memory when used: {}", names.size(), what, some_of(names)));
  };
  note(transposed, "stored in layout K");
  note(wide, "with codes in I64");
  note(unaligned, "not aligned to their element size");
}

Writer CheckpointReader::writer() const {
  return contents->writers.empty() ? Writer::kPlain : *contents->writers.begin();
}

}  // namespace

Checkpoint Checkpoint::open(const std::filesystem::path& directory, const CheckpointOptions& options) {
  CheckpointReader reader(directory, options);
  reader.read_config();
  reader.read_tensors();
  reader.find_linears();
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  checkpoint.writer_ = reader.writer();
  checkpoint.config_ = std::move(reader.config);
  checkpoint.files_ = std::move(reader.files);
  checkpoint.notes_ = std::move(reader.notes);
  checkpoint.contents_ = std::move(reader.contents);
  return checkpoint;
}

}  // namespace marlin
