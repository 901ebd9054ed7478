#include "text/jinja.h"

#include <fmt/format.h>

#include "marlin/error.h"
#include "text/jinja_eval.h"
#include "text/jinja_parser.h"

namespace marlin::jinja {

struct Template::Impl {
  std::string name;
  Block block;
};

Template::Template(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Template::~Template() = default;
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;

Template Template::compile(std::string_view source, std::string_view name) {
  return Template(std::make_unique<const Impl>(Impl{std::string(name), parse_template(source, name)}));
}

std::vector<Segment> Template::render(const Json& context, const Limits& limits) const {
  try {
    return render(Value::from_json(context), limits);
  } catch (const Failure& failure) {
    throw Error(ErrorCode::kUsage, fmt::format("{}: {}", impl_->name, failure.what()));
  }
}

std::vector<Segment> Template::render(const Value& context, const Limits& limits) const {
  const Text text = evaluate(impl_->block, impl_->name, context, limits);
  std::vector<Segment> segments;
  segments.reserve(text.runs().size());
  size_t begin = 0;
  for (const Text::Run& run : text.runs()) {
    segments.push_back({text.str().substr(begin, run.end - begin), run.from_template});
    begin = run.end;
  }
  return segments;
}

}  // namespace marlin::jinja
