#include "metal/emulator/symbols.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <set>
#include <unordered_map>

// The linker's: where the program begins.
extern "C" const char __executable_start;

namespace marlin::emulator {
namespace {

constexpr char kMarkBegin = '\x01';
constexpr char kMarkEnd = '\x02';

std::string hex(uint32_t number) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%x", number);
  return text;
}

std::unordered_map<uint32_t, std::string>& known_lines() {
  static auto* lines = new std::unordered_map<uint32_t, std::string>;
  return *lines;
}

/// Calls use(begin, end, offset) for each mark; end is that after the mark.
template <typename Use>
void for_each_mark(const std::string& message, Use use) {
  size_t end = 0;
  for (size_t begin = message.find(kMarkBegin); begin != std::string::npos; begin = message.find(kMarkBegin, end)) {
    end = message.find(kMarkEnd, begin) + 1;
    use(begin, end, static_cast<uint32_t>(std::strtoul(message.c_str() + begin + 1, nullptr, 16)));
  }
}

bool ends_with_metal(const std::string& line) {
  return line.find(".metal:") != std::string::npos;
}

/// Of a frame as addr2line has it: "./src/a.metal:12 (discriminator 3)".
std::string shortened(const std::string& frame) {
  const size_t begin = frame.rfind("./", 0) == 0 ? 2 : 0;
  return frame.substr(begin, frame.find(" (") - begin);
}

/// The innermost frame that is not the shim's, and the .metal file's if that is a header's.
std::string chosen_line(const std::vector<std::string>& frames, uint32_t offset) {
  std::string inner;
  for (const std::string& frame : frames) {
    if (frame.find("/metal/emulator/") != std::string::npos || frame.find("??") == 0) continue;
    if (inner.empty()) {
      inner = shortened(frame);
      if (ends_with_metal(inner)) return inner;
    } else if (ends_with_metal(frame)) {
      return inner + " (for " + shortened(frame) + ")";
    }
  }
  return inner.empty() ? std::string("code at ").append(hex(offset)) : inner;
}

/// addr2line prints each address, then its frames from the innermost one on.
void look_up(const std::set<uint32_t>& offsets) {
  std::string command = "addr2line -a -i -e /proc/" + std::to_string(getpid()) + "/exe";
  // A return address is that of the next instruction.
  for (uint32_t offset : offsets) command.append(" ").append(hex(offset - 1));
  command += " 2>/dev/null";
  std::vector<std::vector<std::string>> frames;
  if (FILE* output = popen(command.c_str(), "r")) {
    char line[2048];
    while (std::fgets(line, sizeof line, output)) {
      std::string text = line;
      if (!text.empty() && text.back() == '\n') text.pop_back();
      if (text.rfind("0x", 0) == 0) {
        frames.emplace_back();
      } else if (!frames.empty()) {
        frames.back().push_back(text);
      }
    }
    pclose(output);
  }
  frames.resize(offsets.size());
  size_t i = 0;
  for (uint32_t offset : offsets) known_lines()[offset] = chosen_line(frames[i++], offset);
}

std::string without_marks(const std::string& message) {
  std::string result;
  size_t done = 0;
  for_each_mark(message, [&](size_t begin, size_t end, uint32_t offset) {
    result.append(message, done, begin - done);
    result += known_lines()[offset];
    done = end;
  });
  return result.append(message, done);
}

}  // namespace

uint32_t code_offset(const void* return_address) {
  return static_cast<uint32_t>(static_cast<const char*>(return_address) - &__executable_start);
}

std::string line_mark(uint32_t code_offset) {
  std::string mark(1, kMarkBegin);
  mark += hex(code_offset);
  mark += kMarkEnd;
  return mark;
}

void name_lines(std::vector<std::string>& messages) {
  std::set<uint32_t> unknown;
  for (const std::string& message : messages) {
    for_each_mark(message, [&](size_t, size_t, uint32_t offset) {
      if (!known_lines().contains(offset)) unknown.insert(offset);
    });
  }
  if (!unknown.empty()) look_up(unknown);
  for (std::string& message : messages) message = without_marks(message);
}

}  // namespace marlin::emulator
