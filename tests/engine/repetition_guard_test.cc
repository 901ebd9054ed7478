#include "engine/repetition_guard.h"

#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <vector>

namespace marlin {
namespace {

/// The number of tokens at which the guard speaks up.
std::optional<int> trips_at(const std::vector<int32_t>& ids) {
  RepetitionGuard guard;
  for (size_t n = 1; n <= ids.size(); ++n) {
    if (guard.push(std::span(ids).first(n))) return static_cast<int>(n);
  }
  return std::nullopt;
}

std::vector<int32_t> cycle(int period, int tokens, int32_t first = 0) {
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(tokens));
  for (int i = 0; i < tokens; ++i) ids.push_back(first + i % period);
  return ids;
}

TEST(RepetitionGuard, TripsExactlyAtTheRule) {
  EXPECT_EQ(trips_at(cycle(1, 600)), 512);
  EXPECT_EQ(trips_at(cycle(7, 600)), 512);
  EXPECT_EQ(trips_at(cycle(64, 600)), 512);
  EXPECT_EQ(trips_at(cycle(100, 900)), 800);
  EXPECT_EQ(trips_at(cycle(128, 1100)), 1024);
  EXPECT_EQ(trips_at(cycle(129, 3000)), std::nullopt);
  EXPECT_EQ(trips_at(cycle(1, 511)), std::nullopt);
}

TEST(RepetitionGuard, CountsFromWhereTheLoopBegins) {
  std::vector<int32_t> ids = cycle(1000, 300, 5000);
  const auto loop = cycle(10, 600);
  ids.insert(ids.end(), loop.begin(), loop.end());
  EXPECT_EQ(trips_at(ids), 300 + 512);
}

TEST(RepetitionGuard, LeavesTablesWithChangingCellsAlone) {
  std::mt19937 random(7);
  std::vector<int32_t> ids;
  for (int row = 0; row < 400; ++row) {
    for (int column = 0; column < 6; ++column) {
      ids.push_back(1);                                 // |
      ids.push_back(column == 3 ? 100 + row % 90 : 2);  // a number that changes, or 0
      ids.push_back(column == 5 ? 3 : static_cast<int32_t>(random() % 2) + 4);
    }
  }
  EXPECT_EQ(trips_at(ids), std::nullopt);
}

}  // namespace
}  // namespace marlin
