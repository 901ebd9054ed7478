// A Jinja template engine for chat templates: the language as Hugging Face's transformers sets it up (trim_blocks,
// lstrip_blocks, json.dumps for tojson, break and continue), without other files, without the clock, and with bounds on
// time, depth and size. Values do not change, as in the sandbox of transformers; namespaces do.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "marlin/text.h"
#include "text/jinja_value.h"

namespace marlin::jinja {

class Template {
 public:
  /// Throws Error{kBadFile} "name:LINE: …".
  static Template compile(std::string_view source, std::string_view name);
  ~Template();
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;

  /// Renders with the members of `context`, all of which is data. Thread-safe. Throws Error{kUsage} "name:LINE: …".
  std::vector<Segment> render(const Json& context, const Limits& limits = {}) const;
  std::vector<Segment> render(const Value& context, const Limits& limits = {}) const;

 private:
  struct Impl;
  explicit Template(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace marlin::jinja
