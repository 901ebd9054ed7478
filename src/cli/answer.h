// From a conversation to a finished answer: what generate and chat share.
#pragma once

#include <functional>

#include "marlin/engine.h"

namespace marlin::cli {

/// Renders `conversation` into the request's prompt, and sets what follows from it: tools, starts_in_reasoning.
/// `allow_special` recognises control tokens in the user's text too. Throws Error{kUsage}.
void set_prompt(const Engine& engine, const Conversation& conversation, bool allow_special, Request& request);

struct ReceiveOptions {
  bool print = true;  // the answer as it comes, on standard output
  bool second_interrupt_ends_program = true;
  std::function<void()> heading = {};  // prints what stands before the answer; from then on Ctrl-C is caught
};

/// Waits for the end of the request; Ctrl-C cancels it. Throws the request's error.
Finished receive(RequestHandle& handle, const ReceiveOptions& options);

}  // namespace marlin::cli
