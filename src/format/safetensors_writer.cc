#include <fmt/format.h>
#include <fmt/ranges.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "format/atomic_file.h"
#include "format/json.h"
#include "format/safetensors.h"
#include "marlin/error.h"

namespace marlin {
namespace {

constexpr size_t kDataAlignment = 16384;  // Apple's page, so that a mapped shard can be a GPU buffer as it is
constexpr size_t kBufferSize = size_t{4} << 20;

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

size_t TensorSpec::bytes() const {
  constexpr auto kMax = static_cast<size_t>(std::numeric_limits<int64_t>::max());
  size_t size = dtype_size(dtype);
  for (const int64_t dim : shape) {
    const auto n = static_cast<size_t>(dim);
    if (dim < 0 || (n != 0 && size > kMax / n)) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("tensor {}: shape {} is negative or its size overflows; expected non-negative "
                              "dimensions of less than 2^63 bytes in all",
                              name, shape));
    }
    size *= n;
  }
  return size;
}

std::string safetensors_header(const std::vector<TensorSpec>& specs,
                               const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json::object_t header;
  if (!metadata.empty()) header.push_back({"__metadata__", nlohmann::ordered_json(metadata)});
  std::set<std::string_view> names;
  size_t offset = 0;
  for (const TensorSpec& spec : specs) {
    if (spec.name.empty() || spec.name == "__metadata__" || !names.insert(spec.name).second) {
      throw Error(ErrorCode::kUsage, fmt::format("tensor name '{}' is empty, reserved or given twice; expected one "
                                                 "distinct name a tensor",
                                                 printable(spec.name)));
    }
    const size_t end = offset + spec.bytes();
    nlohmann::ordered_json entry;
    entry["dtype"] = dtype_name(spec.dtype);
    entry["shape"] = spec.shape;
    entry["data_offsets"] = {offset, end};
    header.push_back({spec.name, std::move(entry)});
    offset = end;
  }
  std::string json;
  try {
    json = nlohmann::ordered_json(std::move(header)).dump();
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::kUsage,
                fmt::format("a tensor name or metadata value is not UTF-8: {}", printable(error.what())));
  }
  json.resize((8 + json.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment - 8, ' ');
  std::string out(8, '\0');
  for (size_t i = 0; i < 8; ++i) out[i] = static_cast<char>((json.size() >> (8 * i)) & 0xff);
  return out + json;
}

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, const std::vector<TensorSpec>& specs,
                                     const std::map<std::string, std::string>& metadata)
    : path_(std::move(path)) {
  for (const TensorSpec& spec : specs) expected_ += spec.bytes();
  const std::string header = safetensors_header(specs, metadata);
  buffer_.assign(as_bytes(header).begin(), as_bytes(header).end());
  file_ = std::make_unique<AtomicFile>(path_);
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  if (bytes.size() > expected_ - written_) {
    throw Error(ErrorCode::kUsage, fmt::format("{}: {} bytes of tensors were appended, expected {}", path_.string(),
                                               written_ + bytes.size(), expected_));
  }
  written_ += bytes.size();
  if (buffer_.size() + bytes.size() > kBufferSize) flush();
  if (bytes.size() >= kBufferSize) {
    file_->write(bytes);
  } else {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
}

void SafetensorsWriter::flush() {
  file_->write(buffer_);
  buffer_.clear();
}

void SafetensorsWriter::finish() {
  if (written_ != expected_) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: {} bytes of tensors were appended, expected {}", path_.string(), written_, expected_));
  }
  flush();
  file_->commit();
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(as_bytes(text));
  file.commit();
}

std::string read_text_file(const std::filesystem::path& path, size_t max_bytes) {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  const std::span<const std::byte> bytes = file->bytes();
  if (bytes.size() > max_bytes) {
    throw Error(ErrorCode::kBadFile, fmt::format("{} has {} bytes, expected at most {}; is it the right file?",
                                                 path.string(), bytes.size(), max_bytes));
  }
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace marlin
