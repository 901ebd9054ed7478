// The one exception type of the library. Bad input, files, environment or requests throw it; broken invariants
// abort instead (base/check.h).
#pragma once

#include <exception>
#include <string>
#include <utility>

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
/// Copies share nothing, so that one may travel to another thread.
class Error : public std::exception {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}
  ErrorCode code() const { return code_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  ErrorCode code_;
  std::string message_;
};

}  // namespace marlin
