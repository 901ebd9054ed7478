// The small files beside the shards that a conversion copies as they are: tokenizer, template, generation defaults.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace marlin {

/// Names of those that `directory` has. Throws Error{kBadFile} for one that is no regular file.
std::vector<std::string> side_files(const std::filesystem::path& directory);

/// Throws Error{kIo}.
void copy_side_file(const std::string& name, const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace marlin
