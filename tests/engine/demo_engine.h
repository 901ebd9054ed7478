// An engine over a demo checkpoint, and requests run to their end.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "marlin/engine.h"

namespace marlin::testing {

inline std::filesystem::path bf16_demo() {
  return std::filesystem::path(MARLIN_SHARED_DIR) / "demo-model/bf16";
}
inline std::filesystem::path bundled_demo() {
  return std::filesystem::path(MARLIN_SOURCE_DIR) / "models/GLM-4.7-Flash-Demo-MMFP4";
}

/// The bundled model, two threads, one numerics class; tests change what they are about.
inline EngineOptions demo_options() {
  EngineOptions options;
  options.model = bundled_demo();
  options.device = "cpu";
  options.threads = 2;
  options.context = 1024;
  options.kv_type = "f32";
  options.deterministic = true;
  return options;
}

/// Everything one request made.
struct Result {
  std::vector<TokenEvent> tokens;
  Finished finished;

  const std::vector<int32_t>& ids() const { return finished.ids; }
  std::vector<float> logprobs() const {
    std::vector<float> values;
    for (const TokenEvent& token : tokens) values.push_back(token.logprob);
    return values;
  }
};

inline Result collect(RequestHandle& handle) {
  Result result;
  for (;;) {
    RequestHandle::Event event = handle.next();
    if (event.token) {
      result.tokens.push_back(std::move(*event.token));
    } else {
      EXPECT_TRUE(event.finished.has_value());
      if (event.finished) result.finished = std::move(*event.finished);
      return result;
    }
  }
}

inline Result run(Engine& engine, Request request) {
  RequestHandle handle = engine.submit(std::move(request));
  return collect(handle);
}

/// Greedy, from text as the user of the chat template.
inline Request chat(const Engine& engine, const std::string& text, bool thinking = false) {
  Conversation conversation;
  conversation.messages.push_back({{"role", "user"}, {"content", text}});
  conversation.template_args["enable_thinking"] = thinking;
  Request request;
  request.prompt = engine.tokenize(engine.render(conversation));
  request.sampling.temperature = 0;
  request.starts_in_reasoning = thinking;
  request.max_tokens = 64;
  return request;
}

/// Greedy, from raw text.
inline Request raw(const Engine& engine, const std::string& text, int max_tokens) {
  Request request;
  request.prompt = engine.tokenize(text, false);
  request.sampling.temperature = 0;
  request.parse_output = false;
  request.max_tokens = max_tokens;
  return request;
}

inline std::string joined_content(const Result& result) {
  std::string content;
  for (const TokenEvent& token : result.tokens) content += token.delta.content;
  return content + result.finished.delta.content;
}

/// A prompt of the demo's own kind of text, `n` tokens long.
inline std::vector<int32_t> prose(const Engine& engine, int n) {
  std::string text;
  std::vector<int32_t> ids;
  for (int i = 0; static_cast<int>(ids.size()) < n; ++i) {
    text += "Once upon a time there was king number " + std::to_string(i) + ", who had three daughters. ";
    ids = engine.tokenize(text, false);
  }
  ids.resize(static_cast<size_t>(n));
  return ids;
}

}  // namespace marlin::testing
