#include "quantize/fingerprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace marlin {
namespace {

constexpr size_t kSampleBytes = 4096;  // of each tensor

uint64_t fnv1a(std::span<const std::byte> bytes, uint64_t hash = 0xcbf29ce484222325u) {
  for (const std::byte byte : bytes) hash = (hash ^ static_cast<uint64_t>(byte)) * 0x100000001b3u;
  return hash;
}

std::string describe(const MappedFile& file) {
  const SafetensorsFile tensors = SafetensorsFile::parse(file.bytes(), file.path().string());
  uint64_t hash = fnv1a(file.bytes().first(tensors.data_start()));
  for (const TensorView& tensor : tensors.tensors()) {
    const size_t length = std::min(kSampleBytes, tensor.data.size());
    hash = fnv1a(tensor.data.subspan((tensor.data.size() - length) / 2, length), hash);
  }
  return fmt::format("{} bytes with hash {:016x}", file.bytes().size(), hash);
}

}  // namespace

Json checkpoint_fingerprint(const Checkpoint& checkpoint) {
  const std::string config = checkpoint.config().dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  Json out = {{"config.json", fmt::format("{:016x}", fnv1a(std::as_bytes(std::span(config))))}};
  for (const auto& file : checkpoint.files()) out[file->path().filename().string()] = describe(*file);
  return out;
}

}  // namespace marlin
