// What `mmfp4 bench` prints.
#pragma once

#include <string>

#include "cli/bench_run.h"

namespace marlin::cli {

/// The whole report as "md", "json", "jsonl" or "csv", ending with a newline.
std::string format_report(const BenchReport& report, const std::string& format);

}  // namespace marlin::cli
