#include "quantize/destination.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "format/checkpoint.h"
#include "format/json.h"
#include "marlin/error.h"

namespace marlin {
namespace {

namespace fs = std::filesystem;

bool is_shard(const std::string& name) {
  return name.starts_with("model-") && name.ends_with(".safetensors");
}

void remove_file(const fs::path& path) {
  std::error_code error;
  fs::remove(path, error);
  if (error) {
    throw Error(ErrorCode::kIo,
                fmt::format("cannot remove {}: {}; check its permissions", path.string(), error.message()));
  }
}

/// The values of a recipe by their names, those of nested objects by theirs.
std::map<std::string, std::string> values_of(const Json& recipe) {
  std::map<std::string, std::string> out;
  for (const auto& [key, value] : recipe.items()) {
    if (value.is_object()) {
      for (const auto& [inner, nested] : value.items()) {
        out[inner] = nested.is_string() ? nested.get<std::string>() : nested.dump();
      }
    } else {
      out[key] = value.is_string() ? value.get<std::string>() : value.dump();
    }
  }
  return out;
}

/// "group_size was 128, is 64; …": what two recipes do not share.
std::string differences(const Json& before, const Json& now) {
  constexpr size_t kShown = 3;
  const std::map<std::string, std::string> old_values = values_of(before);
  const std::map<std::string, std::string> new_values = values_of(now);
  std::map<std::string, std::string> all = new_values;
  all.insert(old_values.begin(), old_values.end());
  const auto find = [](const std::map<std::string, std::string>& values, const std::string& name) {
    const auto it = values.find(name);
    return it == values.end() ? std::string("absent") : it->second;
  };
  std::vector<std::string> out;
  for (const auto& [name, unused] : all) {
    const std::string was = find(old_values, name);
    const std::string is = find(new_values, name);
    if (was != is) out.push_back(fmt::format("{} was {}, is {}", printable(name), printable(was), printable(is)));
  }
  const size_t more = out.size() - std::min(out.size(), kShown);
  out.resize(out.size() - more);
  return fmt::format("{}{}", fmt::join(out, "; "), more == 0 ? "" : fmt::format("; and {} more", more));
}

}  // namespace

Destination::Destination(fs::path directory, std::string command, Json recipe, Interrupted interrupted)
    : directory_(std::move(directory)),
      command_(std::move(command)),
      recipe_(std::move(recipe)),
      interrupted_(interrupted) {}

fs::path Destination::mark() const {
  return directory_ / kUnfinishedName;
}

void Destination::check(uint64_t needed, std::optional<uint64_t> free_bytes) {
  try {
    if (fs::exists(directory_)) look_around();
  } catch (const fs::filesystem_error& error) {
    throw Error(ErrorCode::kIo, fmt::format("cannot read {}: {}; check its permissions, or choose another directory",
                                            directory_.string(), error.code().message()));
  }
  const uint64_t free = (free_bytes ? *free_bytes : free_space()) + stale_bytes_;
  const uint64_t missing = needed - std::min(needed, kept_bytes_);
  if (missing <= free) return;
  throw Error(ErrorCode::kIo, fmt::format("{}: the checkpoint needs {} bytes ({:.1f} GB) more and {} ({:.1f} GB) are "
                                          "free; free some space, or choose another disk",
                                          directory_.string(), missing, static_cast<double>(missing) / 1e9, free,
                                          static_cast<double>(free) / 1e9));
}

void Destination::begin() const {
  std::error_code error;
  fs::create_directories(directory_, error);
  if (error) {
    throw Error(ErrorCode::kIo,
                fmt::format("cannot create {}: {}; choose another directory", directory_.string(), error.message()));
  }
  write_mark();
  for (const fs::path& path : stale_) remove_file(path);
}

void Destination::keep_note(Json note) {
  note_ = std::move(note);
  write_mark();
}

void Destination::write_mark() const {
  const Json content = {{"unfinished", command_}, {"recipe", recipe_}, {"note", note_}};
  write_file_atomically(mark(), content.dump(2) + "\n");
}

void Destination::finish() const {
  remove_file(mark());
}

void Destination::look_around() {
  if (!fs::is_directory(directory_)) {
    throw Error(ErrorCode::kUsage, fmt::format("{} is a file; give a directory to write", directory_.string()));
  }
  const bool interrupted = fs::exists(mark());
  if (interrupted) look_at_mark();
  for (const auto& entry : fs::directory_iterator(directory_)) {
    const std::string name = entry.path().filename().string();
    if (!interrupted) refuse_other_files(name);
    if (continues_ && is_shard(name)) {
      kept_bytes_ += entry.file_size();
    } else if (is_shard(name) || name.ends_with(".partial")) {
      stale_.push_back(entry.path());
      stale_bytes_ += entry.file_size();
    }
  }
}

void Destination::look_at_mark() {
  const Json content = Json::parse(read_text_file(mark()), nullptr, /*allow_exceptions=*/false);
  const bool known = content.is_object() && content.contains("unfinished") && content["unfinished"].is_string() &&
                     content.contains("recipe") && content["recipe"].is_object();
  if (!known || content["unfinished"] != command_) {
    const std::string found =
        known ? fmt::format("`{}`", printable(content["unfinished"].get<std::string>())) : "another program";
    throw Error(ErrorCode::kUsage,
                fmt::format("{} was left by {}, not by `{}`; remove the directory, or choose another one",
                            mark().string(), found, command_));
  }
  if (interrupted_ == Interrupted::kRefuse) {
    throw Error(ErrorCode::kUsage, fmt::format("{} holds an interrupted `{}`; continue it with --resume, or choose "
                                               "another directory",
                                               directory_.string(), command_));
  }
  continues_ = content["recipe"] == recipe_;
  if (continues_ && content.contains("note")) note_ = content["note"];
  if (continues_ || interrupted_ == Interrupted::kReplace) return;
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: the interrupted run was another one: {}; give the same source and options, or choose "
                          "another directory",
                          mark().string(), differences(content["recipe"], recipe_)));
}

void Destination::refuse_other_files(const std::string& name) const {
  throw Error(ErrorCode::kUsage, fmt::format("{} is not empty: it holds {}, and no interrupted `{}`; choose another "
                                             "directory",
                                             directory_.string(), printable(name), command_));
}

/// Of the disk that the directory is or will be on.
uint64_t Destination::free_space() const {
  fs::path existing = fs::absolute(directory_).lexically_normal();
  std::error_code error;
  while (!fs::exists(existing, error) && existing.has_relative_path()) existing = existing.parent_path();
  const fs::space_info info = fs::space(existing, error);
  if (!error) return info.available;
  throw Error(ErrorCode::kIo, fmt::format("cannot find the free space of {}: {}; choose another directory",
                                          existing.string(), error.message()));
}

}  // namespace marlin
