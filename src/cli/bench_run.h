// Runs the tests of `mmfp4 bench` through the public engine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench_plan.h"
#include "marlin/engine.h"

namespace marlin::cli {

struct BenchOptions {
  EngineOptions engine;  // what depends on the tests is set by run_bench
  std::vector<BenchTest> tests;
  int repetitions = 5;
  bool roofline = false;
};

struct BenchRow {
  BenchTest test;
  Spread tps;
  double ttft_ms = 0;                  // median over repetitions and sequences
  double step_bytes = 0;               // of generation: weights that a decode step reads; expected when batch > 1
  std::optional<double> gbps = {};     // of generation: step_bytes at the median rate
  std::optional<double> percent = {};  // of the bandwidth measured, on the CPU
};

struct BenchReport {
  ModelInfo info;
  EngineOptions options;
  int repetitions = 0;
  uint64_t file_bytes = 0;                 // of the checkpoint's tensors
  double first_token_s = 0;                // from the start of loading to the first token of the warm-up
  std::optional<uint64_t> peak_rss_bytes;  // the roofline's buffer left out; absent when that cannot be told apart
  std::optional<Spread> bandwidth;         // GB/s of all passes
  size_t bandwidth_passes = 0;
  std::vector<BenchRow> rows;
  std::vector<std::string> notes;
};

/// Throws Error: what cannot fit in memory is refused before it is loaded.
BenchReport run_bench(const BenchOptions& options);

}  // namespace marlin::cli
