// Broken invariants: print the expression with its values and abort. Never for bad input (marlin::Error).
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

#define MARLIN_CHECK(condition, ...)                                                                               \
  do {                                                                                                             \
    if (!(condition)) [[unlikely]] {                                                                               \
      std::fputs(                                                                                                  \
          fmt::format("{}:{}: {} failed: {}\n", __FILE__, __LINE__, #condition, fmt::format(__VA_ARGS__)).c_str(), \
          stderr);                                                                                                 \
      std::abort();                                                                                                \
    }                                                                                                              \
  } while (false)
