#include "cli/model_path.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>
#include <vector>

#include "format/json.h"
#include "marlin/error.h"

#if defined(__APPLE__)
#include <mach-o/dyld.h>

#include <array>
#endif

namespace marlin::cli {
namespace {

namespace fs = std::filesystem;

/// Empty where the system does not tell.
fs::path program_path() {
  std::error_code error;
#if defined(__APPLE__)
  std::array<char, 4096> buffer{};
  auto size = static_cast<uint32_t>(buffer.size());
  if (_NSGetExecutablePath(buffer.data(), &size) != 0) return {};
  return fs::canonical(buffer.data(), error);
#else
  return fs::read_symlink("/proc/self/exe", error);
#endif
}

std::vector<fs::path> model_folders() {
  std::vector<fs::path> folders = {"models"};
  constexpr int kLevels = 5;  // build/PRESET/src/cli/metal-marlin is four below the root
  fs::path folder = program_path().parent_path();
  for (int level = 0; level < kLevels && !folder.empty() && folder != folder.root_path(); ++level) {
    folders.push_back(folder / "models");
    folders.push_back(folder / "share" / "metal-marlin" / "models");
    folder = folder.parent_path();
  }
  return folders;
}

std::set<std::string> known_models(const std::vector<fs::path>& folders) {
  std::set<std::string> names;
  for (const fs::path& folder : folders) {
    std::error_code error;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
      if (fs::exists(it->path() / "config.json", error)) names.insert(printable(it->path().filename().string()));
    }
  }
  return names;
}

}  // namespace

fs::path find_model(const std::string& name) {
  std::error_code error;
  if (name.empty()) throw Error(ErrorCode::kUsage, "-m is empty; give a model's directory or its name");
  if (fs::is_directory(name, error)) return name;
  if (fs::exists(name, error)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{} is a file; give the directory that holds config.json and the shards", printable(name)));
  }
  const std::vector<fs::path> folders = model_folders();
  for (const fs::path& folder : folders) {
    if (fs::is_directory(folder / name, error)) return folder / name;
  }
  const std::set<std::string> known = known_models(folders);
  throw Error(ErrorCode::kNotFound,
              fmt::format("no model '{}': neither a directory nor in models/; {}", printable(name),
                          known.empty() ? "give the path of a model's directory with -m"
                                        : fmt::format("models there: {}", fmt::join(known, ", "))));
}

}  // namespace marlin::cli
