#include <algorithm>

#include "backend/metal/launch.h"

namespace marlin::metal {
namespace {

constexpr uint kThreads = 256;

/// Threadgroups for `count` threads along x.
unsigned long groups(uint64_t count) {
  return (count + kThreads - 1) / kThreads;
}

/// A norm's threadgroup: a multiple of the simdgroup's width, at most 1024 threads, about 4 values a thread.
unsigned long norm_threads(int64_t width) {
  return std::clamp<unsigned long>(static_cast<unsigned long>((width + 127) / 128 * 32), 32, 1024);
}

}  // namespace

void embed(Commands& commands, const EmbedArgs& args) {
  const LinearWeight& table = *args.table;
  const int64_t width = table.in_features;
  commands.kernel("embed", {{FC_FORMAT, format_of(table)}, {FC_PLANES, u(std::max(table.n_planes, 1))}});
  commands.in(0, args.ids, static_cast<size_t>(args.rows) * 4);
  bind_weight(commands, 1, table);
  commands.out(6, args.out, matrix_bytes(args.rows, args.out_stride, width));
  commands.params(
      7,
      EmbedParams{
          u(args.rows), u(width), {u(table.planes[0].group_size), u(table.planes[1].group_size)}, u(args.out_stride)});
  const auto words = static_cast<uint64_t>((width + 7) / 8);
  commands.dispatch({groups(words), static_cast<unsigned long>(args.rows)}, {kThreads});
}

void rms_norm(Commands& commands, const RmsNormArgs& args) {
  const int64_t width = args.gain->size;
  const Format gain = format_of(args.gain->type);
  commands.kernel("rms_norm", {{FC_GAIN, gain}});
  commands.in(0, args.x, matrix_bytes(args.rows, args.x_stride, width));
  commands.in(1, args.gain->data, static_cast<size_t>(width) * format_bytes(gain));
  commands.out(2, args.out, matrix_bytes(args.rows, args.out_stride, width));
  commands.params(
      3, RmsNormParams{u(args.rows), u(width), u(args.x_stride), u(args.out_stride), static_cast<float>(args.eps)});
  commands.dispatch({static_cast<unsigned long>(args.rows)}, {norm_threads(width)});
}

void add(Commands& commands, const AddArgs& args) {
  commands.kernel("add_rows", {});
  commands.out(0, args.x, matrix_bytes(args.rows, args.x_stride, args.width));
  commands.in(1, args.y, matrix_bytes(args.rows, args.y_stride, args.width));
  commands.params(2, AddParams{u(args.rows), u(args.width), u(args.x_stride), u(args.y_stride)});
  commands.dispatch({groups(static_cast<uint64_t>(args.width)), static_cast<unsigned long>(args.rows)}, {kThreads});
}

void swiglu(Commands& commands, const SwigluArgs& args) {
  const auto count = static_cast<uint64_t>(args.rows) * static_cast<uint64_t>(args.width);
  commands.kernel("swiglu", {});
  commands.in(0, args.gate, count * 4);
  commands.in(1, args.up, count * 4);
  commands.out(2, args.out, count * 4);
  commands.params(3, SwigluParams{static_cast<uint>(count)});
  commands.dispatch({groups(count)}, {kThreads});
}

// The rows of x that will be read are the device's secret: the whole of x from here on is bound.
void gather_rows(Commands& commands, const GatherRowsArgs& args) {
  commands.kernel("gather_rows", {});
  commands.in(0, args.x, args.x.buffer->size() - args.x.offset);
  commands.in(1, args.index, static_cast<size_t>(args.rows) * 4);
  commands.out(2, args.out, matrix_bytes(args.rows, args.width, args.width));
  commands.params(3, GatherRowsParams{u(args.rows), u(args.width), u(args.x_stride)});
  commands.dispatch({groups(static_cast<uint64_t>(args.width)), static_cast<unsigned long>(args.rows)}, {kThreads});
}

// A dispatch takes at most 1 GiB, so that counts stay far below 32 bits.
void copy(Commands& commands, const CopyArgs& args) {
  constexpr size_t kMost = size_t{1} << 30;
  for (size_t done = 0; done < args.bytes; done += kMost) {
    const size_t bytes = std::min(kMost, args.bytes - done);
    const View from = args.from.at(done);
    const View to = args.to.at(done);
    commands.kernel("copy_bytes", {{FC_WORDS, from.offset % 16 == 0 && to.offset % 16 == 0 ? 1U : 0U}});
    commands.in(0, from, bytes);
    commands.out(1, to, bytes);
    commands.params(2, CopyParams{static_cast<uint>(bytes)});
    commands.dispatch({groups((bytes + 15) / 16)}, {kThreads});
  }
}

void check_finite(Commands& commands, const CheckFiniteArgs& args) {
  commands.kernel("check_finite", {});
  commands.in(0, args.x, matrix_bytes(args.rows, args.x_stride, args.width));
  commands.out(1, args.out, 4);
  commands.params(2, CheckFiniteParams{u(args.rows), u(args.width), u(args.x_stride)});
  commands.dispatch({1}, {1024});
}

}  // namespace marlin::metal
