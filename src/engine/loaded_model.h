// Everything a model directory holds, opened and validated: what an engine is made of before its worker starts.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "engine/memory_plan.h"
#include "engine/read_ahead.h"
#include "marlin/engine.h"
#include "model/model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace marlin {

struct LoadedModel {
  std::unique_ptr<Device> device;
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;
  std::string no_template;  // why there is none
  MemoryPlan plan;
  ModelInfo info;
  std::unique_ptr<ReadAhead> read_ahead;  // null where nothing is left to read

  /// Throws Error for bad options, files or too little memory.
  static LoadedModel load(const EngineOptions& options);
};

}  // namespace marlin
