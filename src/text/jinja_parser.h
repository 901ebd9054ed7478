// Jinja's grammar without the tags that need other files (extends, include, import) and without call and filter blocks.
#pragma once

#include <string_view>

#include "text/jinja_ast.h"

namespace marlin::jinja {

/// Throws Error{kBadFile} "name:LINE: …", also for templates nested too deeply.
Block parse_template(std::string_view source, std::string_view name);

}  // namespace marlin::jinja
