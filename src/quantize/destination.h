// The directory that a conversion writes, from before it exists until it is whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "marlin/text.h"

namespace marlin {

/// What to do with the work of an interrupted run of the same command.
enum class Interrupted {
  kRefuse,    // it has to be asked for
  kContinue,  // keep its shards; refuse when it had another recipe
  kReplace,   // keep its shards, or make them again when it had another recipe
};

/// A checkpoint's directory: nobody else's files, enough space, and until everything is written the mark
/// (kUnfinishedName) that says so and holds the recipe.
class Destination {
 public:
  /// `command` as the user types it ("mmfp4 synth"). `recipe` is an object of everything that the bytes depend on: each
  /// field a value, or an object of values.
  Destination(std::filesystem::path directory, std::string command, Json recipe, Interrupted interrupted);

  /// Looks and refuses, writes nothing. `free_bytes`: instead of asking the file system. Throws Error{kUsage|kIo}.
  void check(uint64_t needed, std::optional<uint64_t> free_bytes = {});
  /// Makes the directory and the mark, and removes what an interrupted run left and this one cannot use.
  void begin() const;
  /// Keeps `note` in the mark, for a run that continues this one.
  void keep_note(Json note);
  /// Removes the mark: the checkpoint is whole.
  void finish() const;

  /// What the interrupted run that this one continues kept last; null otherwise.
  const Json& note() const { return note_; }
  /// Of shards that an interrupted run left whole.
  uint64_t kept_bytes() const { return kept_bytes_; }

 private:
  std::filesystem::path mark() const;
  void write_mark() const;
  void look_around();
  void look_at_mark();
  void refuse_other_files(const std::string& name) const;
  uint64_t free_space() const;

  std::filesystem::path directory_;
  std::string command_;
  Json recipe_;
  Json note_;
  Interrupted interrupted_;
  bool continues_ = false;  // the directory holds an interrupted run with this recipe
  std::vector<std::filesystem::path> stale_;
  uint64_t stale_bytes_ = 0;
  uint64_t kept_bytes_ = 0;
};

}  // namespace marlin
