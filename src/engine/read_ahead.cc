#include "engine/read_ahead.h"

#include <utility>

namespace marlin {
namespace {

constexpr size_t kPiece = size_t{8} << 20;

}  // namespace

ReadAhead::ReadAhead(std::vector<std::shared_ptr<const MappedFile>> files) : files_(std::move(files)) {
  thread_ = std::thread([this] { run(); });
}

ReadAhead::~ReadAhead() {
  stopping_.store(true);
  thread_.join();
}

void ReadAhead::run() const {
  for (const auto& file : files_) {
    for (size_t offset = 0; offset < file->bytes().size(); offset += kPiece) {
      if (stopping_.load()) return;
      file->read_ahead(offset, kPiece);
    }
  }
}

}  // namespace marlin
