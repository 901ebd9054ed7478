#include "backend/reference/reference_stream.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/ref/math.h"
#include "ops/ref/sample.h"

namespace marlin::reference {

void ReferenceStream::upload(View to, std::span<const std::byte> bytes) {
  std::byte* target = access().bytes_for_write(to, static_cast<int64_t>(bytes.size()), "upload");
  std::copy(bytes.begin(), bytes.end(), target);
}

Fence ReferenceStream::submit() {
  return {serial_->fetch_add(1) + 1};
}

void ReferenceStream::wait_for(Fence fence) {
  MARLIN_CHECK(fence.serial <= serial_->load(), "a fence of serial {} was never submitted; the last is {}",
               fence.serial, serial_->load());
}

void ReferenceStream::read(const Completed& done, View from, std::span<std::byte> bytes) {
  const HostBuffer& buffer = host_buffer(from, bytes.size(), "read");
  MARLIN_CHECK(done.serial() >= buffer.last_write(), "read: the buffer was written by work {}, the fence covers {}",
               buffer.last_write(), done.serial());
  const std::byte* source = buffer.data() + from.offset;
  std::copy(source, source + bytes.size(), bytes.begin());
}

void ReferenceStream::embed(const EmbedArgs& args) {
  const ref::WeightReader table = access().weight(args.table, "embed table");
  const auto* ids = access().input<int32_t>(args.ids, args.rows, "embed ids");
  const int64_t size = extent(args.rows, args.out_stride, table.in_features(), "embed out");
  auto* out = access().output<double>(args.out, size, "embed out");
  for (int64_t t = 0; t < args.rows; ++t) {
    MARLIN_CHECK(ids[t] >= 0 && ids[t] < table.out_features(), "embed: id {} in row {} of a vocabulary of {}", ids[t],
                 t, table.out_features());
    const std::vector<double> row = table.row(ids[t]);
    std::copy(row.begin(), row.end(), out + t * args.out_stride);
  }
}

void ReferenceStream::rms_norm(const RmsNormArgs& args) {
  const std::vector<double> gain = access().vector(args.gain, "rms_norm gain");
  const int64_t width = args.gain->size;
  const auto* x = access().input<double>(args.x, extent(args.rows, args.x_stride, width, "rms_norm x"), "rms_norm x");
  const int64_t size = extent(args.rows, args.out_stride, width, "rms_norm out");
  auto* out = access().output<double>(args.out, size, "rms_norm out");
  for (int64_t t = 0; t < args.rows; ++t) {
    ref::rms_norm(x + t * args.x_stride, gain.data(), width, args.eps, out + t * args.out_stride);
  }
}

void ReferenceStream::linear(const LinearArgs& args) {
  const ref::WeightReader weight = access().weight(args.weight, "linear weight");
  const int64_t x_size = extent(args.rows, args.x_stride, weight.in_features(), "linear x");
  const auto* x = access().input<double>(args.x, x_size, "linear x");
  access().optional_input<uint8_t>(args.roles, args.rows, "linear roles");
  const int64_t out_size = extent(args.rows, args.out_stride, weight.out_features(), "linear out");
  auto* out = access().output<double>(args.out, out_size, "linear out");
  ref::linear(weight, args.rows, x, args.x_stride, out, args.out_stride);
}

void ReferenceStream::add(const AddArgs& args) {
  auto* x = access().output<double>(args.x, extent(args.rows, args.x_stride, args.width, "add x"), "add x");
  const auto* y = access().input<double>(args.y, extent(args.rows, args.y_stride, args.width, "add y"), "add y");
  for (int64_t t = 0; t < args.rows; ++t) {
    for (int64_t i = 0; i < args.width; ++i) x[t * args.x_stride + i] += y[t * args.y_stride + i];
  }
}

void ReferenceStream::rope(const RopeArgs& args) {
  MARLIN_CHECK(args.dims % 2 == 0 && args.heads >= 1, "rope: {} dims, {} heads", args.dims, args.heads);
  const auto* positions = access().input<int32_t>(args.positions, args.rows, "rope positions");
  const int64_t head_size = extent(args.heads, args.head_stride, args.dims, "rope heads");
  const int64_t size = args.rows == 0 ? 0 : (args.rows - 1) * args.row_stride + head_size;
  auto* x = access().output<double>(args.x, size, "rope x");
  for (int64_t t = 0; t < args.rows; ++t) {
    MARLIN_CHECK(positions[t] >= 0, "rope: position {} in row {}", positions[t], t);
    for (int64_t h = 0; h < args.heads; ++h) {
      ref::rope(x + t * args.row_stride + h * args.head_stride, args.dims, positions[t], args.theta);
    }
  }
}

void ReferenceStream::swiglu(const SwigluArgs& args) {
  const int64_t size = extent(args.rows, args.width, args.width, "swiglu");
  const auto* gate = access().input<double>(args.gate, size, "swiglu gate");
  const auto* up = access().input<double>(args.up, size, "swiglu up");
  ref::swiglu(gate, up, size, access().output<double>(args.out, size, "swiglu out"));
}

void ReferenceStream::gather_rows(const GatherRowsArgs& args) {
  const auto* index = access().input<int32_t>(args.index, args.rows, "gather_rows index");
  const int64_t size = extent(args.rows, args.width, args.width, "gather_rows out");
  auto* out = access().output<double>(args.out, size, "gather_rows out");
  for (int64_t i = 0; i < args.rows; ++i) {
    MARLIN_CHECK(index[i] >= 0, "gather_rows: index {}", index[i]);
    const View row = args.x.at(static_cast<size_t>(index[i] * args.x_stride) * sizeof(double));
    const auto* x = access().input<double>(row, args.width, "gather_rows x");
    std::copy(x, x + args.width, out + i * args.width);
  }
}

void ReferenceStream::copy(const CopyArgs& args) {
  const auto bytes = static_cast<int64_t>(args.bytes);
  const std::byte* from = access().bytes(args.from, bytes, "copy from");
  std::byte* to = access().bytes_for_write(args.to, bytes, "copy to");
  MARLIN_CHECK(from + bytes <= to || to + bytes <= from, "copy: the {} bytes overlap", bytes);
  std::copy(from, from + bytes, to);
}

void ReferenceStream::check_finite(const CheckFiniteArgs& args) {
  const int64_t size = extent(args.rows, args.x_stride, args.width, "check_finite x");
  const auto* x = access().input<double>(args.x, size, "check_finite x");
  bool finite = true;
  for (int64_t t = 0; t < args.rows; ++t) {
    const double* row = x + t * args.x_stride;
    finite = finite && std::all_of(row, row + args.width, [](double v) { return std::isfinite(v); });
  }
  *access().output<int32_t>(args.out, 1, "check_finite out") = finite ? 0 : 1;
}

namespace {

/// Row `index` of a [n, width] array of U32; empty when the index is negative.
std::span<const uint32_t> u32_row(const Access& access, View view, int32_t index, int64_t width, const char* what) {
  if (index < 0) return {};
  const View row = view.at(static_cast<size_t>(index * width) * sizeof(uint32_t));
  return {access.input<uint32_t>(row, width, what), static_cast<size_t>(width)};
}

ref::SampleInput sample_input(const Access& access, const SampleArgs& args, int64_t row, const SampleParams& params) {
  const auto* logits = access.input<double>(args.logits, args.rows * args.vocab, "sample logits") + row * args.vocab;
  ref::SampleInput input;
  input.logits = {logits, static_cast<size_t>(args.n_valid)};
  input.params = params;
  input.counts = u32_row(access, args.counts, params.counts_row, args.vocab, "sample counts");
  input.mask = u32_row(access, args.mask, params.mask_row, (args.vocab + 31) / 32, "sample mask");
  const int32_t n_bias = params.bias_end - params.bias_begin;
  MARLIN_CHECK(params.bias_begin >= 0 && n_bias >= 0, "sample: bias range {}…{}", params.bias_begin, params.bias_end);
  if (n_bias > 0) {
    const auto* ids = access.input<int32_t>(args.bias_ids, params.bias_end, "sample bias_ids");
    const auto* values = access.input<float>(args.bias_values, params.bias_end, "sample bias_values");
    input.bias_ids = {ids + params.bias_begin, static_cast<size_t>(n_bias)};
    input.bias_values = {values + params.bias_begin, static_cast<size_t>(n_bias)};
  }
  input.top_logprobs = args.top_logprobs;
  return input;
}

void count_sampled(const Access& access, const SampleArgs& args, const SampleParams& params, int32_t id) {
  if (params.counts_row < 0 || id < 0) return;
  const auto index = static_cast<size_t>(params.counts_row * args.vocab + id);
  *access.output<uint32_t>(args.counts.at(index * sizeof(uint32_t)), 1, "sample counts") += 1;
}

}  // namespace

void ReferenceStream::sample(const SampleArgs& args) {
  MARLIN_CHECK(args.n_valid >= 0 && args.n_valid <= args.vocab, "sample: {} valid ids of {}", args.n_valid, args.vocab);
  const Access memory = access();
  const auto* params = memory.input<SampleParams>(args.params, args.rows, "sample params");
  auto* ids = memory.output<int32_t>(args.ids, args.rows, "sample ids");
  auto* status = memory.output<int32_t>(args.status, args.rows, "sample status");
  auto* logprobs = memory.output<float>(args.logprobs, args.rows, "sample logprobs");
  for (int64_t t = 0; t < args.rows; ++t) {
    const ref::SampleOutput result = ref::sample(sample_input(memory, args, t, params[t]));
    ids[t] = result.id;
    status[t] = static_cast<int32_t>(result.status);
    logprobs[t] = static_cast<float>(result.logprob);
    count_sampled(memory, args, params[t], result.id);
    if (args.top_logprobs == 0) continue;
    const int64_t size = static_cast<int64_t>(args.rows) * args.top_logprobs;
    auto* top_ids = memory.output<int32_t>(args.top_ids, size, "sample top_ids") + t * args.top_logprobs;
    auto* top_values = memory.output<float>(args.top_values, size, "sample top_values") + t * args.top_logprobs;
    std::copy(result.top_ids.begin(), result.top_ids.end(), top_ids);
    std::transform(result.top_values.begin(), result.top_values.end(), top_values,
                   [](double value) { return static_cast<float>(value); });
  }
}

}  // namespace marlin::reference
