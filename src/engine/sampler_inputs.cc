#include "engine/sampler_inputs.h"

#include <algorithm>
#include <bit>

#include "engine/generation_config.h"

namespace marlin {
namespace {

constexpr uint32_t kInPrompt = 0x80000000u;  // ops.h, SampleArgs::counts

// Where the results lie, in words of max_rows: one read fetches ids, status and logprobs; the flag of the hidden check
// follows.
constexpr size_t kStatusAt = 1;
constexpr size_t kLogprobsAt = 2;
constexpr size_t kFlagAt = 3;

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

View start_of(const std::unique_ptr<Buffer>& buffer) {
  return {buffer.get(), 0};
}

}  // namespace

SamplerInputs::SamplerInputs(Device& device, int max_rows, int vocab, int n_valid)
    : device_(&device), max_rows_(max_rows), vocab_(vocab), n_valid_(n_valid) {
  const auto rows = static_cast<size_t>(max_rows);
  params_buffer_ = device.allocate(rows * sizeof(SampleParams));
  results_buffer_ = device.allocate((kFlagAt * rows + 1) * sizeof(int32_t));
  top_buffer_ = device.allocate(2 * rows * kMostTopLogprobs * sizeof(int32_t));
  params_.reserve(rows);
  results_.resize(rows);
  fetched_.resize(std::max(kFlagAt * rows + 1, 2 * rows * kMostTopLogprobs));
}

void SamplerInputs::begin() {
  params_.clear();
  bias_ids_.clear();
  bias_values_.clear();
  n_masks_ = 0;
  top_logprobs_ = 0;
}

void SamplerInputs::add(Stream& stream, ActiveRequest& request, int32_t only) {
  const SamplingParams& s = request.request.sampling;
  if (request.uses_penalties() && !request.sampler_ready) upload_counts(stream, request);
  request.sampler_ready = true;
  const auto bias_begin = static_cast<int32_t>(bias_ids_.size());
  for (const auto& [id, bias] : s.logit_bias) {
    bias_ids_.push_back(id);
    bias_values_.push_back(bias);
  }
  params_.push_back({.temperature = s.temperature,
                     .top_p = s.top_p,
                     .min_p = s.min_p,
                     .top_k = s.top_k,
                     .repetition_penalty = s.repetition_penalty,
                     .presence_penalty = s.presence_penalty,
                     .frequency_penalty = s.frequency_penalty,
                     .choice = request.request.choice,
                     .seed = request.seed,
                     .position = request.n_tokens(),
                     .counts_row = request.uses_penalties() ? request.slot : -1,
                     .mask_row = mask_row(request, only),
                     .bias_begin = bias_begin,
                     .bias_end = static_cast<int32_t>(bias_ids_.size())});
  top_logprobs_ = std::max(top_logprobs_, s.top_logprobs);
}

// Counts live on the device, where sampling adds to them; the host writes them once for each admission.
void SamplerInputs::upload_counts(Stream& stream, const ActiveRequest& request) {
  const size_t row_bytes = static_cast<size_t>(vocab_) * sizeof(uint32_t);
  if (!counts_buffer_) counts_buffer_ = device_->allocate(static_cast<size_t>(max_rows_) * row_bytes);
  std::vector<uint32_t> counts(static_cast<size_t>(vocab_), 0);
  for (int i = 0; i < request.n_tokens(); ++i) {
    uint32_t& count = counts[static_cast<size_t>(request.tokens[static_cast<size_t>(i)])];
    count = i < request.n_prompt() ? count | kInPrompt : count + 1;
  }
  stream.upload(start_of(counts_buffer_).at(static_cast<size_t>(request.slot) * row_bytes), bytes_of(counts));
}

int32_t SamplerInputs::mask_row(const ActiveRequest& request, int32_t only) {
  if (only < 0 && !request.request.mask) return -1;
  if (!mask_buffer_) {
    mask_.resize(static_cast<size_t>(max_rows_) * mask_words());
    mask_buffer_ = device_->allocate(mask_.size() * sizeof(uint32_t));
  }
  const auto row = std::span(mask_).subspan(static_cast<size_t>(n_masks_) * mask_words(), mask_words());
  if (only >= 0) {
    std::ranges::fill(row, 0u);
    row[static_cast<size_t>(only) / 32] |= 1u << (only % 32);
    return n_masks_++;
  }
  std::ranges::fill(row, ~0u);
  return request.request.mask(request.generated(), row) ? n_masks_++ : -1;
}

void SamplerInputs::reserve_bias() {
  if (bias_ids_.size() <= bias_capacity_) return;
  bias_capacity_ = std::bit_ceil(bias_ids_.size());
  bias_buffer_ = device_->allocate(bias_capacity_ * (sizeof(int32_t) + sizeof(float)));
}

void SamplerInputs::upload(Stream& stream) {
  stream.upload(start_of(params_buffer_), bytes_of(params_));
  if (n_masks_ > 0) {
    const auto used = std::span(mask_).first(static_cast<size_t>(n_masks_) * mask_words());
    stream.upload(start_of(mask_buffer_), std::as_bytes(used));
  }
  if (!bias_ids_.empty()) {
    reserve_bias();
    stream.upload(start_of(bias_buffer_), bytes_of(bias_ids_));
    stream.upload(start_of(bias_buffer_).at(bias_capacity_ * sizeof(int32_t)), bytes_of(bias_values_));
  }
}

void SamplerInputs::enqueue(Stream& stream, View logits, View hidden, int hidden_rows, int width) {
  const size_t stride = static_cast<size_t>(max_rows_) * sizeof(int32_t);
  const View results = start_of(results_buffer_);
  stream.mark(-1, "sample");
  stream.check_finite(
      {.rows = hidden_rows, .width = width, .x = hidden, .x_stride = width, .out = results.at(kFlagAt * stride)});
  if (rows() == 0) return;
  upload(stream);
  const View top = start_of(top_buffer_);
  const size_t top_bytes = static_cast<size_t>(max_rows_) * kMostTopLogprobs * sizeof(int32_t);
  stream.sample({.rows = rows(),
                 .vocab = vocab_,
                 .n_valid = n_valid_,
                 .top_logprobs = top_logprobs_,
                 .logits = logits,
                 .params = start_of(params_buffer_),
                 .counts = start_of(counts_buffer_),
                 .mask = start_of(mask_buffer_),
                 .bias_ids = start_of(bias_buffer_),
                 .bias_values = start_of(bias_buffer_).at(bias_capacity_ * sizeof(int32_t)),
                 .ids = results,
                 .status = results.at(kStatusAt * stride),
                 .logprobs = results.at(kLogprobsAt * stride),
                 .top_ids = top,
                 .top_values = top.at(top_bytes)});
}

void SamplerInputs::read(Stream& stream) {
  const Completed done = stream.wait(stream.submit());
  const auto max_rows = static_cast<size_t>(max_rows_);
  const auto words = std::span(fetched_);
  stream.read(done, start_of(results_buffer_), std::as_writable_bytes(words.first(kFlagAt * max_rows + 1)));
  for (size_t i = 0; i < params_.size(); ++i) {
    results_[i] = {.id = words[i],
                   .status = static_cast<SampleStatus>(words[kStatusAt * max_rows + i]),
                   .logprob = std::bit_cast<float>(words[kLogprobsAt * max_rows + i])};
  }
  hidden_finite_ = words[kFlagAt * max_rows] == 0;
  if (top_logprobs_ == 0) return;
  const size_t n = params_.size() * static_cast<size_t>(top_logprobs_);
  const size_t values = max_rows * kMostTopLogprobs;
  stream.read(done, start_of(top_buffer_), std::as_writable_bytes(words.first(n)));
  stream.read(done, start_of(top_buffer_).at(values * sizeof(int32_t)),
              std::as_writable_bytes(words.subspan(values, n)));
}

std::vector<TokenLogprob> SamplerInputs::top(int index, int count) const {
  std::vector<TokenLogprob> top;
  const size_t begin = static_cast<size_t>(index) * static_cast<size_t>(top_logprobs_);
  const size_t values = static_cast<size_t>(max_rows_) * kMostTopLogprobs;
  for (size_t i = begin; i < begin + static_cast<size_t>(count); ++i) {
    if (fetched_[i] < 0) break;  // fewer ids are allowed
    top.push_back({fetched_[i], std::bit_cast<float>(fetched_[values + i])});
  }
  return top;
}

}  // namespace marlin
