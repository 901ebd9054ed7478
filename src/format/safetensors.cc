#include "format/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <simdjson.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>

#include "format/json.h"
#include "marlin/error.h"

namespace marlin {
namespace {

constexpr size_t kMaxHeader = 100'000'000;

// One entry of the header before its place in the file has been checked.
struct HeaderEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

[[noreturn]] void fail(std::string_view file, const std::string& what) {
  throw Error(ErrorCode::kBadFile,
              fmt::format("{}: {}; the file is damaged or not safetensors, copy or download it again", file, what));
}

[[noreturn]] void fail_tensor(std::string_view file, std::string_view tensor, const std::string& what) {
  fail(file, fmt::format("tensor {}: {}", printable(tensor), what));
}

uint64_t read_length(std::span<const std::byte> bytes, std::string_view file) {
  if (bytes.size() < 8) {
    fail(file, fmt::format("found {} bytes, expected at least the 8 of the header length", bytes.size()));
  }
  uint64_t length = 0;
  for (size_t i = 0; i < 8; ++i) length |= static_cast<uint64_t>(bytes[i]) << (8 * i);
  if (length > kMaxHeader) fail(file, fmt::format("header length is {}, expected at most {}", length, kMaxHeader));
  if (length > bytes.size() - 8) {
    fail(file, fmt::format("header length is {}, but only {} bytes follow it", length, bytes.size() - 8));
  }
  if (length == 0 || bytes[8] != std::byte{'{'}) fail(file, "the header does not begin with '{'");
  return length;
}

// Bytes of a tensor, or nothing when that overflows 63 bits.
std::optional<uint64_t> byte_size(const std::vector<int64_t>& shape, DType dtype) {
  constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  uint64_t size = dtype_size(dtype);
  for (const int64_t dim : shape) {
    const auto n = static_cast<uint64_t>(dim);
    if (n != 0 && size > kMax / n) return std::nullopt;
    size *= n;
  }
  return size;
}

std::vector<uint64_t> read_integers(const simdjson::dom::element& value, std::string_view file, std::string_view tensor,
                                    std::string_view field) {
  simdjson::dom::array array;
  if (value.get_array().get(array) != simdjson::SUCCESS) {
    fail_tensor(file, tensor, fmt::format("{} is not an array", field));
  }
  std::vector<uint64_t> out;
  for (const simdjson::dom::element item : array) {
    uint64_t number = 0;
    if (item.get_uint64().get(number) != simdjson::SUCCESS ||
        number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      fail_tensor(
          file, tensor,
          fmt::format("{} holds {}, expected integers from 0 to 2^63 - 1", field, printable(simdjson::minify(item))));
    }
    out.push_back(number);
  }
  return out;
}

void read_dtype(const simdjson::dom::element& value, std::string_view file, HeaderEntry& entry) {
  std::string_view text;
  if (value.get_string().get(text) != simdjson::SUCCESS) fail_tensor(file, entry.name, "dtype is not a string");
  if (!parse_dtype(text, entry.dtype)) {
    throw Error(ErrorCode::kBadFile,
                fmt::format("{}: tensor {}: dtype is {}, expected F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, "
                            "U16, U8 or BOOL; convert the checkpoint to one of these",
                            file, printable(entry.name), printable(text)));
  }
}

HeaderEntry read_entry(std::string_view name, const simdjson::dom::element& value, std::string_view file) {
  HeaderEntry entry;
  entry.name = name;
  simdjson::dom::object object;
  if (value.get_object().get(object) != simdjson::SUCCESS) fail_tensor(file, name, "its entry is not an object");
  bool has_dtype = false;
  bool has_shape = false;
  bool has_offsets = false;
  for (const simdjson::dom::key_value_pair field : object) {
    bool* seen = nullptr;
    if (field.key == "dtype") seen = &has_dtype;
    if (field.key == "shape") seen = &has_shape;
    if (field.key == "data_offsets") seen = &has_offsets;
    if (seen == nullptr || *seen) {
      fail_tensor(file, name, fmt::format("field {} is unknown or repeated", printable(field.key)));
    }
    *seen = true;
    if (seen == &has_dtype) {
      read_dtype(field.value, file, entry);
    } else if (seen == &has_shape) {
      for (const uint64_t dim : read_integers(field.value, file, name, "shape")) {
        entry.shape.push_back(static_cast<int64_t>(dim));
      }
    } else {
      const std::vector<uint64_t> offsets = read_integers(field.value, file, name, "data_offsets");
      if (offsets.size() != 2 || offsets[0] > offsets[1]) {
        fail_tensor(file, name, fmt::format("data_offsets are {}, expected [begin, end]", offsets));
      }
      entry.begin = offsets[0];
      entry.end = offsets[1];
    }
  }
  if (!has_dtype || !has_shape || !has_offsets) {
    fail_tensor(file, name, "its entry lacks one of dtype, shape and data_offsets");
  }
  return entry;
}

void read_metadata(const simdjson::dom::element& value, std::string_view file,
                   std::map<std::string, std::string>& metadata) {
  simdjson::dom::object object;
  if (value.get_object().get(object) != simdjson::SUCCESS) fail(file, "__metadata__ is not an object");
  for (const simdjson::dom::key_value_pair field : object) {
    std::string_view text;
    if (field.value.get_string().get(text) != simdjson::SUCCESS) {
      fail(file, fmt::format("__metadata__ field {} is not a string", printable(field.key)));
    }
    metadata.insert_or_assign(std::string(field.key), std::string(text));
  }
}

// Every tensor has the size of its shape, and together they cover [0, data_size) without holes or overlaps.
void check_places(std::vector<HeaderEntry>& entries, uint64_t data_size, std::string_view file) {
  std::sort(entries.begin(), entries.end(), [](const HeaderEntry& a, const HeaderEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t position = 0;
  for (const HeaderEntry& entry : entries) {
    const std::optional<uint64_t> size = byte_size(entry.shape, entry.dtype);
    if (!size) fail_tensor(file, entry.name, fmt::format("the size of shape {} overflows", entry.shape));
    if (*size != entry.end - entry.begin) {
      fail_tensor(file, entry.name,
                  fmt::format("data_offsets [{}, {}] hold {} bytes, but {} {} needs {}", entry.begin, entry.end,
                              entry.end - entry.begin, dtype_name(entry.dtype), entry.shape, *size));
    }
    if (entry.end > data_size) {
      fail_tensor(file, entry.name,
                  fmt::format("ends at byte {} of the data, but the file holds {}", entry.end, data_size));
    }
    if (entry.begin != position) {
      fail_tensor(file, entry.name,
                  fmt::format("begins at byte {} of the data, expected {}: tensors {}", entry.begin, position,
                              entry.begin < position ? "overlap" : "leave a hole"));
    }
    position = entry.end;
  }
  if (position != data_size) {
    fail(file, fmt::format("the tensors end at byte {} of the data, but the file holds {}", position, data_size));
  }
}

}  // namespace

int64_t TensorView::elements() const {
  int64_t n = 1;
  for (const int64_t dim : shape) n *= dim;
  return n;
}

std::string TensorView::describe() const {
  return fmt::format("{} [{}]", dtype_name(dtype), fmt::join(shape, ", "));
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, std::string_view name) {
  const uint64_t length = read_length(bytes, name);
  simdjson::dom::parser parser(kMaxHeader);
  simdjson::dom::element root;
  // simdjson needs readable bytes behind its input, so it gets a padded copy of the header.
  const simdjson::padded_string header(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  const simdjson::error_code parsed = parser.parse(header).get(root);
  simdjson::dom::object object;
  if (parsed != simdjson::SUCCESS || root.get_object().get(object) != simdjson::SUCCESS) {
    fail(name, fmt::format("the header is not a JSON object: {}", simdjson::error_message(parsed)));
  }

  SafetensorsFile file;
  file.data_start_ = 8 + static_cast<size_t>(length);
  std::vector<HeaderEntry> entries;
  bool has_metadata = false;
  for (const simdjson::dom::key_value_pair field : object) {
    if (field.key == "__metadata__") {
      if (has_metadata) fail(name, "__metadata__ is repeated");
      has_metadata = true;
      read_metadata(field.value, name, file.metadata_);
    } else {
      if (!file.by_name_.emplace(field.key, 0).second) fail_tensor(name, field.key, "the name is repeated");
      entries.push_back(read_entry(field.key, field.value, name));
    }
  }
  check_places(entries, bytes.size() - file.data_start_, name);

  file.tensors_.reserve(entries.size());
  for (HeaderEntry& entry : entries) {
    file.by_name_[entry.name] = file.tensors_.size();
    TensorView view;
    view.name = std::move(entry.name);
    view.dtype = entry.dtype;
    view.shape = std::move(entry.shape);
    view.data = bytes.subspan(file.data_start_ + entry.begin, entry.end - entry.begin);
    file.tensors_.push_back(std::move(view));
  }
  return file;
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  std::shared_ptr<const MappedFile> mapping = MappedFile::open(path);
  SafetensorsFile file = parse(mapping->bytes(), path.string());
  for (TensorView& view : file.tensors_) view.file = mapping;
  return file;
}

const TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

}  // namespace marlin
