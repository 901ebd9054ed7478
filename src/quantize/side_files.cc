#include "quantize/side_files.h"

#include <fmt/format.h>

#include "format/safetensors.h"
#include "marlin/error.h"

namespace marlin {

std::vector<std::string> side_files(const std::filesystem::path& directory) {
  std::vector<std::string> found;
  for (const char* name :
       {"generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}) {
    std::error_code error;
    const std::filesystem::file_status status = std::filesystem::status(directory / name, error);
    if (!std::filesystem::exists(status)) continue;
    if (!std::filesystem::is_regular_file(status)) {
      throw Error(ErrorCode::kBadFile,
                  fmt::format("{} is not a regular file; download the checkpoint again", (directory / name).string()));
    }
    found.emplace_back(name);
  }
  return found;
}

void copy_side_file(const std::string& name, const std::filesystem::path& from, const std::filesystem::path& to) {
  constexpr size_t kMaxBytes = size_t{256} << 20;
  write_file_atomically(to / name, read_text_file(from / name, kMaxBytes));
}

}  // namespace marlin
