// The commands. Each adds itself to the command line; main runs the one that was chosen, once everything has parsed.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace marlin::cli {

enum ExitCode : int { kOk = 0, kFailed = 1, kUsage = 2, kInterrupted = 130 };

/// Set by the chosen command's parse; returns the exit code. Throws marlin::Error or BrokenPipe (output.h).
using Action = std::function<int()>;

void add_generate(CLI::App& parent, Action& action);
void add_chat(CLI::App& parent, Action& action);
void add_quantize(CLI::App& parent, Action& action);
void add_synth(CLI::App& parent, Action& action);
void add_repair(CLI::App& parent, Action& action);
void add_inspect(CLI::App& parent, Action& action);
void add_eval(CLI::App& parent, Action& action);
void add_bench(CLI::App& parent, Action& action);
void add_doctor(CLI::App& parent, Action& action);

}  // namespace marlin::cli
