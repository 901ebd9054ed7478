// The one exception type of the library. Bad input, files, environment or requests throw it; broken invariants
// abort instead (base/check.h).
#pragma once

#include <stdexcept>
#include <string>

namespace marlin {

enum class ErrorCode {
  kUsage,        // the caller asked for something impossible: exit code 2, HTTP 400
  kNotFound,     // a file, model or tensor is missing
  kBadFile,      // a file exists and is malformed, truncated or of an unsupported kind
  kUnsupported,  // well-formed, but this build or device cannot do it
  kNoMemory,     // it does not fit the memory budget
  kIo,           // the operating system refused a read or write
  kNumeric,      // NaN or Inf appeared in a computation
  kCancelled,    // the request was cancelled
};

/// `what()` is one line: the file or field, what was found, what was expected, and what to do.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace marlin
