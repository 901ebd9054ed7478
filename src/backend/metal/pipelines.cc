#include "backend/metal/pipelines.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "marlin/error.h"

namespace marlin::metal {

bool Pipelines::Key::operator==(const Key& other) const {
  if (name != other.name || n != other.n) return false;
  for (size_t i = 0; i < n; ++i) {
    if (constants[i].index != other.constants[i].index || constants[i].value != other.constants[i].value) return false;
  }
  return true;
}

size_t Pipelines::Hash::operator()(const Key& key) const {
  size_t hash = std::hash<const void*>()(key.name);
  for (size_t i = 0; i < key.n; ++i) {
    const uint64_t both = uint64_t{key.constants[i].value} << 8 | static_cast<uint64_t>(key.constants[i].index);
    hash = (hash ^ both) * 0x9E3779B97F4A7C15u;
  }
  return hash;
}

const Pipeline& Pipelines::get(const char* name, std::initializer_list<Constant> constants) {
  MARLIN_CHECK(constants.size() <= kMostConstants, "{} has {} function constants", name, constants.size());
  Key key{name, constants.size(), {}};
  std::ranges::copy(constants, key.constants.begin());
  const auto found = pipelines_.find(key);
  if (found != pipelines_.end()) return found->second;
  return pipelines_.emplace(key, build(key)).first->second;
}

Pipeline Pipelines::build(const Key& key) {
  const AutoreleasePool pool;
  std::array<uint32_t, kMostConstants> values{};
  std::array<int, kMostConstants> indices{};
  for (size_t i = 0; i < key.n; ++i) {
    values[i] = key.constants[i].value;
    indices[i] = key.constants[i].index;
  }
  std::string error;
  const Object function = library::new_function(library_of(key.name), key.name, values.data(), indices.data(),
                                                static_cast<int>(key.n), error);
  Pipeline pipeline;
  pipeline.name = key.name;
  if (function) pipeline.state = device::new_compute_pipeline(device_, function.get(), error);
  if (!pipeline.state) {
    throw Error(ErrorCode::kUnsupported, fmt::format("Metal kernel {} cannot be built: {}", key.name, error));
  }
  pipeline.most_threads = pipeline::max_total_threads_per_threadgroup(pipeline.state.get());
  MARLIN_CHECK(pipeline::thread_execution_width(pipeline.state.get()) == 32, "{}: simdgroups of {} threads", key.name,
               pipeline::thread_execution_width(pipeline.state.get()));
  return pipeline;
}

Id Pipelines::library_of(std::string_view kernel) {
  for (const KernelSource& source : kernel_sources()) {
    if (std::ranges::find(source.kernels, kernel) == source.kernels.end()) continue;
    Object& library = libraries_[source.file];
    if (!library) {
      std::string error;
      library = device::new_library_with_source(device_, source.text, error);
      if (!library) {
        throw Error(ErrorCode::kUnsupported, fmt::format("{} does not compile on this system: {}", source.file, error));
      }
    }
    return library.get();
  }
  MARLIN_CHECK(false, "no Metal kernel is named {}", kernel);
  return nullptr;
}

}  // namespace marlin::metal
