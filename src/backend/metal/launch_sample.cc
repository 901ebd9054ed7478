#include <cstddef>

#include "backend/metal/launch.h"
#include "base/check.h"

namespace marlin::metal {
namespace {

// The shader reads the array that the caller filled.
static_assert(sizeof(SampleRow) == sizeof(SampleParams) &&
              offsetof(SampleRow, top_k) == offsetof(SampleParams, top_k) &&
              offsetof(SampleRow, choice) == offsetof(SampleParams, choice) &&
              offsetof(SampleRow, seed) == offsetof(SampleParams, seed) &&
              offsetof(SampleRow, position) == offsetof(SampleParams, position) &&
              offsetof(SampleRow, counts_row) == offsetof(SampleParams, counts_row) &&
              offsetof(SampleRow, bias_end) == offsetof(SampleParams, bias_end));

/// Sums of 14-bit limbs of so many masses fit 32 bits, and a 256th of so many ids has a thread an id.
constexpr int32_t kMostIds = 1 << 18;
constexpr unsigned long kThreads = 1024;

}  // namespace

// How many rows of counts and masks, and how many biases there are, only the device knows: all of each buffer is bound.
void sample(Commands& commands, const SampleArgs& args) {
  MARLIN_CHECK(args.n_valid > 0 && args.n_valid <= args.vocab, "{} valid ids of {}", args.n_valid, args.vocab);
  MARLIN_CHECK(args.n_valid <= kMostIds, "{} ids, at most {}", args.n_valid, kMostIds);
  const auto rows = static_cast<size_t>(args.rows);
  const size_t tops = rows * static_cast<size_t>(args.top_logprobs);
  const auto whole = [&](int index, View view) {
    if (view) commands.in(index, view, rest_of(view));
  };
  const View keys = commands.scratch(Scratch::kSample, rows * static_cast<size_t>(args.n_valid) * 4);
  commands.kernel("sample", {});
  commands.in(0, args.logits, matrix_bytes(args.rows, args.vocab, args.vocab));
  commands.in(1, args.params, rows * sizeof(SampleParams));
  if (args.counts) commands.out(2, args.counts, rest_of(args.counts));
  whole(3, args.mask);
  whole(4, args.bias_ids);
  whole(5, args.bias_values);
  commands.out(6, keys, rows * static_cast<size_t>(args.n_valid) * 4);
  commands.out(7, args.ids, rows * 4);
  commands.out(8, args.status, rows * 4);
  commands.out(9, args.logprobs, rows * 4);
  if (args.top_logprobs > 0) {
    commands.out(10, args.top_ids, tops * 4);
    commands.out(11, args.top_values, tops * 4);
  }
  commands.params(12, SampleShape{static_cast<uint>(args.vocab), static_cast<uint>(args.n_valid),
                                  static_cast<uint>((args.vocab + 31) / 32), static_cast<uint>(args.top_logprobs)});
  commands.dispatch({static_cast<unsigned long>(args.rows)}, {kThreads});
}

}  // namespace marlin::metal
