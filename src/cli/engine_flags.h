// The flags that choose and load a model, shared by generate and chat.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "marlin/engine.h"

namespace marlin::cli {

struct EngineFlags {
  std::string model;
  std::string device = "auto";
  std::string kv = "f16";
  int context = 0;
  int threads = 0;
  bool deterministic = false;
  bool check_numerics = false;
  bool no_fused_moe = false;
  std::string weights = "auto";
  bool mlock = false;
  bool verbose = false;

  void add_to(CLI::App& app);
  /// Loads the model, with a progress bar on a terminal. `max_parallel`: sequences decoding together.
  std::unique_ptr<Engine> load(int max_parallel) const;
};

/// On stderr: what was loaded, in one line, and with `verbose` the remarks of loading.
void print_model(const ModelInfo& info, bool verbose);

}  // namespace marlin::cli
