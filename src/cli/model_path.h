// Where `-m NAME` is looked up.
#pragma once

#include <filesystem>
#include <string>

namespace marlin::cli {

/// The directory of the model `name`: a path, else the name of a folder in models/ of the working directory, of a
/// folder above the program (a source tree) or in its share/metal-marlin/models (an installed program). Throws
/// Error{kNotFound} that lists the models there are, Error{kUsage} for a file.
std::filesystem::path find_model(const std::string& name);

}  // namespace marlin::cli
