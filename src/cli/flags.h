// Checks of flag values, with messages that say what was expected.
#pragma once

#include <CLI/CLI.hpp>
#include <limits>
#include <string>

#include "marlin/devices.h"

namespace marlin::cli {

/// A finite number from `low` (not included with `above_low`) to `high`. `expected` ends the message "'7' is not …".
CLI::Validator number(double low, double high, std::string expected, bool above_low = false);

/// A decimal whole number from `low` to `high`; give it to transform(), which takes leading zeros away.
CLI::Validator whole_number(int low, int high = std::numeric_limits<int>::max());

/// The same for a uint64_t.
CLI::Validator unsigned_number();

/// A text that is not empty.
CLI::Validator not_empty();

/// auto, or the name of a device this program knows, usable here or not.
CLI::Validator device_name();

}  // namespace marlin::cli
