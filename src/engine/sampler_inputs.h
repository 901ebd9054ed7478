// The device side of sampling: parameters, penalty counts, masks and biases on their way in, ids on their way out.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "engine/request_state.h"
#include "marlin/engine.h"

namespace marlin {

struct SampledRow {
  int32_t id = -1;
  SampleStatus status = SampleStatus::kOk;
  float logprob = 0;
};

/// One step: begin(), add() for each row of logits in their order, enqueue(), and read() once the work is done.
/// Buffers for counts and masks (a row of the vocabulary each) are allocated when the first request needs them.
class SamplerInputs {
 public:
  /// Up to `max_rows` rows of `vocab` logits, of which ids from `n_valid` on are never sampled.
  SamplerInputs(Device& device, int max_rows, int vocab, int n_valid);

  void begin();
  /// The next row. A request's first row after admission uploads its counts. `only` >= 0: no other id is allowed.
  void add(Stream& stream, ActiveRequest& request, int32_t only);
  /// Samples all rows of `logits`. `hidden` [hidden_rows, width] is checked for NaN and Inf on the way.
  void enqueue(Stream& stream, View logits, View hidden, int hidden_rows, int width);
  /// Waits for everything enqueued and fetches the results.
  void read(Stream& stream);

  int rows() const { return static_cast<int>(params_.size()); }
  const SampledRow& row(int index) const { return results_[static_cast<size_t>(index)]; }
  /// The `count` most likely ids of a row.
  std::vector<TokenLogprob> top(int index, int count) const;
  bool hidden_finite() const { return hidden_finite_; }

 private:
  int32_t mask_row(const ActiveRequest& request, int32_t only);
  void upload_counts(Stream& stream, const ActiveRequest& request);
  void upload(Stream& stream);
  void reserve_bias();
  size_t mask_words() const { return (static_cast<size_t>(vocab_) + 31) / 32; }

  Device* device_;
  int max_rows_;
  int vocab_;
  int n_valid_;
  std::unique_ptr<Buffer> params_buffer_, results_buffer_, top_buffer_;
  std::unique_ptr<Buffer> counts_buffer_, mask_buffer_, bias_buffer_;
  size_t bias_capacity_ = 0;

  std::vector<SampleParams> params_;
  std::vector<uint32_t> mask_;
  std::vector<int32_t> bias_ids_;
  std::vector<float> bias_values_;
  int n_masks_ = 0;
  int top_logprobs_ = 0;

  std::vector<int32_t> fetched_;
  std::vector<SampledRow> results_;
  bool hidden_finite_ = true;
};

}  // namespace marlin
