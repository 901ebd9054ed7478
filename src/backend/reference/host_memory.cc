#include "backend/reference/host_memory.h"

#include <fmt/format.h>

#include <cstdlib>

#include "format/fp4.h"
#include "marlin/error.h"

namespace marlin::reference {

HostBuffer::HostBuffer(size_t bytes) : Buffer(bytes), data_(nullptr) {
  // calloc takes large blocks straight from the system, zeroed and committed page by page on first use.
  writable_ = static_cast<std::byte*>(std::calloc(bytes == 0 ? 1 : bytes, 1));
  if (writable_ == nullptr) {
    throw Error(ErrorCode::kNoMemory, fmt::format("device reference: {} bytes cannot be allocated", bytes));
  }
  owner_ = std::shared_ptr<const void>(writable_, [](void* memory) { std::free(memory); });
  data_ = writable_;
}

HostBuffer::HostBuffer(std::span<const std::byte> bytes, std::shared_ptr<const void> owner)
    : Buffer(bytes.size()), owner_(std::move(owner)), data_(bytes.data()) {}

std::byte* HostBuffer::data_for_write(uint64_t serial, const char* what) {
  MARLIN_CHECK(writable_ != nullptr, "{}: the buffer is bound to weights and read-only", what);
  last_write_ = serial;
  return writable_;
}

HostBuffer& host_buffer(View view, size_t bytes, const char* what) {
  MARLIN_CHECK(view.buffer != nullptr, "{}: no buffer", what);
  auto* buffer = dynamic_cast<HostBuffer*>(view.buffer);
  MARLIN_CHECK(buffer != nullptr, "{}: the buffer belongs to another device", what);
  MARLIN_CHECK(view.offset <= buffer->size() && bytes <= buffer->size() - view.offset,
               "{}: {} bytes at offset {} of a buffer of {}", what, bytes, view.offset, buffer->size());
  return *buffer;
}

int64_t extent(int64_t rows, int64_t stride, int64_t width, const char* what) {
  MARLIN_CHECK(rows >= 0 && width >= 0, "{}: shape [{}, {}]", what, rows, width);
  MARLIN_CHECK(rows <= 1 || stride >= width, "{}: stride {} with rows of {}", what, stride, width);
  return rows == 0 ? 0 : (rows - 1) * stride + width;
}

const std::byte* Access::bytes(View view, int64_t count, const char* what) const {
  MARLIN_CHECK(count >= 0, "{}: {} bytes", what, count);
  return host_buffer(view, static_cast<size_t>(count), what).data() + view.offset;
}

std::byte* Access::bytes_for_write(View view, int64_t count, const char* what) const {
  MARLIN_CHECK(count >= 0, "{}: {} bytes", what, count);
  return host_buffer(view, static_cast<size_t>(count), what).data_for_write(serial_, what) + view.offset;
}

ref::WeightReader Access::weight(const LinearWeight* weight, const char* what) const {
  MARLIN_CHECK(weight != nullptr, "{}: no weight", what);
  MARLIN_CHECK(weight->n_planes >= 0 && weight->n_planes <= 2, "{}: {} planes", what, weight->n_planes);
  const int64_t elements = weight->out_features * weight->in_features;
  ref::HostLinear host;
  host.out_features = weight->out_features;
  host.in_features = weight->in_features;
  host.n_planes = weight->n_planes;
  host.plain_type = weight->plain_type;
  if (weight->n_planes == 0) {
    host.plain = bytes(weight->plain, elements * static_cast<int64_t>(dtype_size(weight->plain_type)), what);
  }
  for (int p = 0; p < weight->n_planes; ++p) {
    const Fp4PlaneView& plane = weight->planes[p];
    MARLIN_CHECK(fp4::legal_group_size(plane.group_size) && weight->in_features % plane.group_size == 0,
                 "{}: groups of {} in rows of {}", what, plane.group_size, weight->in_features);
    host.planes[p] = {bytes(plane.codes, elements / 2, what),
                      bytes(plane.scales, elements / plane.group_size * 2, what), plane.group_size};
  }
  if (weight->bias) {
    host.bias_type = weight->bias_type;
    host.bias = bytes(weight->bias, weight->out_features * static_cast<int64_t>(dtype_size(weight->bias_type)), what);
  }
  return ref::WeightReader(host);
}

std::vector<ref::WeightReader> Access::experts(const ExpertBank* bank, const char* what) const {
  MARLIN_CHECK(bank != nullptr && !bank->experts.empty(), "{}: no experts", what);
  std::vector<ref::WeightReader> readers;
  for (const LinearWeight& expert : bank->experts) {
    MARLIN_CHECK(
        expert.out_features == bank->experts[0].out_features && expert.in_features == bank->experts[0].in_features,
        "{}: the experts differ in shape", what);
    readers.push_back(weight(&expert, what));
  }
  return readers;
}

std::vector<double> Access::vector(const VectorWeight* weight, const char* what) const {
  MARLIN_CHECK(weight != nullptr, "{}: no weight", what);
  const std::byte* data = bytes(weight->data, weight->size * static_cast<int64_t>(dtype_size(weight->type)), what);
  std::vector<double> values;
  for (int64_t i = 0; i < weight->size; ++i) values.push_back(ref::stored_value(data, weight->type, i));
  return values;
}

}  // namespace marlin::reference
