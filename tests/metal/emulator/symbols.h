// Names the lines of .metal files that machine code comes from. Messages are made while a kernel waits, so they have
// marks in them instead, and the lines are looked up once for all messages of a dispatch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace marlin::emulator {

/// Of a return address, relative to the start of the program.
uint32_t code_offset(const void* return_address);

/// Stands for the line of this code in a message until name_lines() replaces it.
std::string line_mark(uint32_t code_offset);

/// Replaces the marks in all messages: "src/a.metal:12", with the caller's line if the code is in a header.
void name_lines(std::vector<std::string>& messages);

}  // namespace marlin::emulator
