#include "marlin/engine.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/generation_config.h"
#include "engine/loaded_model.h"
#include "engine/worker.h"
#include "text/output_parser.h"

namespace marlin {
namespace {

[[noreturn]] void refuse(const std::string& message) {
  throw Error(ErrorCode::kUsage, message);
}

void check_prompt(const std::vector<int32_t>& prompt, const ModelInfo& info) {
  if (prompt.empty()) refuse("the prompt is empty; expected at least one token");
  if (prompt.size() >= static_cast<size_t>(info.context)) {
    refuse(
        fmt::format("the prompt has {} tokens, but the context is {}, of which one is left for the answer; shorten "
                    "the prompt or raise the context (--ctx, the model's limit is {})",
                    prompt.size(), info.context, info.model_context));
  }
  const auto bad = std::ranges::find_if(prompt, [&](int32_t id) { return id < 0 || id >= info.vocab_size; });
  if (bad != prompt.end()) {
    refuse(fmt::format("prompt token {} has id {}; expected 0 to {}", bad - prompt.begin(), *bad, info.vocab_size - 1));
  }
}

void check_request(const Request& request, const ModelInfo& info, const Tokenizer& tokenizer) {
  check_prompt(request.prompt, info);
  if (const std::string fault = sampling_fault(request.sampling, info.vocab_size); !fault.empty()) refuse(fault);
  if (request.max_tokens < 0) {
    refuse(fmt::format("max_tokens is {}; expected 0 (no limit) or more", request.max_tokens));
  }
  if (std::ranges::any_of(request.stop, [](const std::string& stop) { return stop.empty(); })) {
    refuse("a stop string is empty; expected text");
  }
  if (request.max_thinking_tokens < -1) {
    refuse(fmt::format("max_thinking_tokens is {}; expected -1 (no limit) or more", request.max_thinking_tokens));
  }
  if (request.max_thinking_tokens >= 0 && request.starts_in_reasoning && !tokenizer.id_of("</think>")) {
    refuse("max_thinking_tokens needs a model with a </think> token, and this tokenizer has none");
  }
}

WorkerOptions worker_options(const EngineOptions& options, const LoadedModel& loaded) {
  return {.scheduler = {.max_parallel = options.max_parallel,
                        .prefill_chunk = options.prefill_chunk,
                        .prefix_cache = options.prefix_cache},
          .context = loaded.plan.context,
          .kv_blocks = loaded.plan.kv_blocks,
          .n_valid = loaded.info.vocab_size,
          .check_numerics = options.check_numerics,
          .eos_ids = loaded.info.eos_ids};
}

}  // namespace

struct Engine::Impl {
  explicit Impl(const EngineOptions& options)
      : loaded(LoadedModel::load(options)), worker(*loaded.model, *loaded.tokenizer, worker_options(options, loaded)) {}

  LoadedModel loaded;
  Worker worker;
};

Engine::Engine(const EngineOptions& options) : impl_(std::make_unique<Impl>(options)) {}

Engine::~Engine() = default;

const ModelInfo& Engine::info() const {
  return impl_->loaded.info;
}

EngineStats Engine::stats() const {
  return impl_->worker.stats();
}

RequestHandle Engine::submit(Request request) {
  check_request(request, info(), *impl_->loaded.tokenizer);
  return RequestHandle(impl_->worker.submit(std::move(request)));
}

std::vector<Segment> Engine::render(const Conversation& conversation) const {
  const LoadedModel& loaded = impl_->loaded;
  if (!loaded.chat_template) {
    refuse(fmt::format("this model has no chat template, so only a raw prompt works (--raw): {}", loaded.no_template));
  }
  return loaded.chat_template->render(conversation);
}

std::vector<int32_t> Engine::tokenize(const std::vector<Segment>& segments) const {
  return impl_->loaded.tokenizer->encode(segments);
}

std::vector<int32_t> Engine::tokenize(const std::string& text, bool allow_special) const {
  return impl_->loaded.tokenizer->encode(
      text, allow_special ? Tokenizer::AddedTokens::kMatch : Tokenizer::AddedTokens::kIgnore);
}

std::string Engine::detokenize(std::span<const int32_t> ids, bool skip_special) const {
  return impl_->loaded.tokenizer->decode(ids, skip_special);
}

ParsedOutput Engine::parse(const std::string& text, bool starts_in_reasoning, const Json& tools) const {
  OutputParser parser({.starts_in_reasoning = starts_in_reasoning, .tools = tools, .parse_tool_calls = true});
  parser.feed(text);
  parser.finish();
  return parser.output();
}

std::optional<int32_t> Engine::token_id(const std::string& added_token) const {
  return impl_->loaded.tokenizer->id_of(added_token);
}

}  // namespace marlin
