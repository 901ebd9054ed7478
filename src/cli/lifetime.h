// A program that must not outlive the one that started it.
#pragma once

namespace marlin::cli {

/// From here on this process ends when its parent does: at once by a signal on Linux, within a fraction of a second
/// elsewhere. Call it once, early, on the main thread.
void end_with_parent();

}  // namespace marlin::cli
