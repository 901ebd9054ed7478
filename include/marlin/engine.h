// The public API: load a model, submit requests, receive events. No tensor type appears here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "marlin/error.h"
#include "marlin/text.h"

namespace marlin {

struct EngineOptions {
  std::filesystem::path model;  // directory of the checkpoint
  std::string device = "auto";  // auto, cpu, metal, cuda, reference
  int threads = 0;              // 0 = one a physical core
  int context = 0;              // positions a request may use; 0 = what fits memory, at most 32,768 and the model's
  std::string kv_type = "f16";  // f32, f16, q8
  uint64_t kv_memory = 0;       // bytes of KV cache for all requests; 0 = as kv_contexts says
  int kv_contexts = 1;          // with kv_memory 0: full contexts the KV cache has room for
  int max_parallel = 4;         // sequences decoding together
  int prefill_chunk = 512;      // most prompt tokens in one step
  bool deterministic = false;   // one numerics class: cache hits, misses and replays are bit-identical
  bool check_numerics = false;  // check every op's output for NaN and Inf
  bool use_fused_moe = true;
  bool prefix_cache = true;
  std::string load = "auto";  // mmap: in place; copy: into huge pages; auto: what is faster where both fit: mmap
  bool lock_memory = false;   // keep the weights from being paged out
  std::function<void(uint64_t done, uint64_t total, const std::string& item)> progress;
};

struct SamplingParams {
  float temperature = 1.0f;  // 0 = greedy
  int top_k = 0;             // 0 = off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::optional<uint64_t> seed;  // absent: drawn at random and reported in Finished
  int top_logprobs = 0;          // with `logprobs`
  bool logprobs = false;
};

/// Which ids may come next. Called on the engine's worker before each sampling with all ids generated so far; fills
/// `allowed` (bit id of word id / 32; all ones at entry) and returns false to leave the step unconstrained. It must not
/// block and must not throw.
using LogitsMask = std::function<bool(std::span<const int32_t> generated, std::span<uint32_t> allowed)>;

struct Request {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  int max_tokens = 0;             // 0 = until eos or the context is full
  std::vector<std::string> stop;  // texts that end generation; never part of the output
  bool ignore_eos = false;
  /// Reasoning tokens after which </think> is forced; -1 = no limit. Needs starts_in_reasoning.
  int max_thinking_tokens = -1;
  bool starts_in_reasoning = false;  // the prompt ends with <think>
  bool parse_output = true;          // false: everything is content, verbatim
  Json tools = Json::array();        // for typed tool-call arguments
  bool repetition_guard = true;      // end an endless loop (finish_reason "repetition" is reported as "stop")
  LogitsMask mask;
  uint32_t choice = 0;  // index among n completions of one seed
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
};

/// One generated token. Text may lag behind ids: held-back UTF-8, stop strings and tags arrive with a later token.
struct TokenEvent {
  int32_t id = 0;
  OutputDelta delta;
  float logprob = 0;
  std::vector<TokenLogprob> top_logprobs;
  double ms = 0;  // submit to this token
};

enum class FinishReason { kStop, kLength, kRepetition, kCancelled, kError };

struct Timings {
  double queue_ms = 0;
  double prompt_ms = 0;   // prefill of the tokens that were not cached
  double decode_ms = 0;   // first token to last
  double ttft_ms = 0;     // submit to first token
  double prompt_tps = 0;  // computed prompt tokens a second
  double decode_tps = 0;  // generated tokens after the first, a second
};

struct Finished {
  FinishReason reason = FinishReason::kStop;
  std::string matched_stop;  // the stop string, if one ended it
  OutputDelta delta;         // what was still held back
  ParsedOutput output;       // the whole message
  std::string text;          // the whole decoded text, control tokens that end a turn left out
  std::vector<int32_t> ids;  // all generated ids, the stop token included
  int prompt_tokens = 0;
  int cached_tokens = 0;  // of the prompt, taken from the prefix cache
  uint64_t seed = 0;
  Timings timings;
  std::optional<Error> error;  // with kError
};

/// One submitted request. Destroying the handle cancels it.
class RequestHandle {
 public:
  struct State;
  explicit RequestHandle(std::shared_ptr<State> state);
  ~RequestHandle();
  RequestHandle(RequestHandle&&) noexcept;
  RequestHandle& operator=(RequestHandle&&) noexcept;

  struct Event {
    std::optional<TokenEvent> token;   // exactly one of the two
    std::optional<Finished> finished;  // always the last event
  };
  /// Blocks for the next event. After Finished: an event with neither.
  Event next();
  /// Ends the request within one step; Finished{kCancelled} follows. Safe from any thread and from signal-driven code
  /// outside the handler itself.
  void cancel();

 private:
  std::shared_ptr<State> state_;
};

/// What a loaded model is, for banners, /props and inspect.
struct ModelInfo {
  std::string name;  // the directory's name
  std::string architecture;
  std::string device;
  std::string device_description;
  std::string kv_type;
  int threads = 0;  // of a CPU device
  uint64_t weight_bytes = 0;
  uint64_t weight_bytes_per_token = 0;  // weights a decode step of one sequence reads; the MTP layer is none of them
  uint64_t expert_bytes_per_token = 0;  // of these, the routed experts' part
  int n_experts = 0;                    // a sparse layer's
  int experts_per_token = 0;
  uint64_t kv_bytes_per_token = 0;
  uint64_t kv_memory = 0;
  int context = 0;        // positions a request may use
  int model_context = 0;  // the model's own limit
  int vocab_size = 0;     // ids below this have a token
  bool has_mtp = false;
  bool synthetic = false;
  std::vector<int32_t> eos_ids;
  SamplingParams default_sampling;  // from generation_config.json
  std::vector<std::string> notes;   // remarks of loading
  double load_seconds = 0;
};

/// Engine-wide figures, for /metrics and /stats.
struct EngineStats {
  int running = 0;
  int waiting = 0;
  int kv_blocks = 0;
  int kv_blocks_used = 0;    // held by running requests
  int kv_blocks_cached = 0;  // kept for prefix reuse, given up when needed
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t steps = 0;
  uint64_t suspended = 0;  // times a request gave its blocks to an older one, to be computed again
};

class Engine {
 public:
  /// Loads the model. Throws Error. Refuses with the numbers when model and cache do not fit the memory.
  explicit Engine(const EngineOptions& options);
  /// Cancels what runs and waits for the worker.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const ModelInfo& info() const;
  EngineStats stats() const;

  /// Queues a request. Throws Error{kUsage} at once for an empty prompt, ids out of range, a prompt that does not fit
  /// the context, or sampling parameters out of range. Thread-safe.
  RequestHandle submit(Request request);

  /// The chat template's text with provenance. Throws Error{kUsage}.
  std::vector<Segment> render(const Conversation& conversation) const;
  /// Ids of a rendered prompt: control tokens only from template text.
  std::vector<int32_t> tokenize(const std::vector<Segment>& segments) const;
  /// Ids of plain text; `allow_special` matches control tokens in it.
  std::vector<int32_t> tokenize(const std::string& text, bool allow_special) const;
  std::string detokenize(std::span<const int32_t> ids, bool skip_special) const;
  /// A whole model output split into reasoning, content and tool calls.
  ParsedOutput parse(const std::string& text, bool starts_in_reasoning, const Json& tools) const;
  std::optional<int32_t> token_id(const std::string& added_token) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace marlin
