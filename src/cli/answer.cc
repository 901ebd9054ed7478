#include "cli/answer.h"

#include <string>
#include <utility>
#include <vector>

#include "cli/output.h"
#include "cli/signals.h"
#include "marlin/error.h"

namespace marlin::cli {

void set_prompt(const Engine& engine, const Conversation& conversation, bool allow_special, Request& request) {
  const std::vector<Segment> segments = engine.render(conversation);
  if (allow_special) {
    std::string text;
    for (const Segment& segment : segments) text += segment.text;
    request.prompt = engine.tokenize(text, /*allow_special=*/true);
  } else {
    request.prompt = engine.tokenize(segments);
  }
  request.tools = conversation.tools;
  request.starts_in_reasoning =
      !segments.empty() && segments.back().from_template && segments.back().text.ends_with("<think>");
}

Finished receive(RequestHandle& handle, const ReceiveOptions& options) {
  const InterruptScope interrupts([&handle] { handle.cancel(); }, options.second_interrupt_ends_program
                                                                      ? InterruptScope::Second::kEndsProgram
                                                                      : InterruptScope::Second::kIsIgnored);
  if (options.heading) options.heading();
  AnswerPrinter printer;
  for (;;) {
    RequestHandle::Event event = handle.next();
    if (event.token && options.print) printer.print(event.token->delta);
    if (!event.finished) continue;
    if (options.print) {
      printer.print(event.finished->delta);
      printer.finish();
    }
    if (event.finished->error) throw Error(*event.finished->error);
    return std::move(*event.finished);
  }
}

}  // namespace marlin::cli
