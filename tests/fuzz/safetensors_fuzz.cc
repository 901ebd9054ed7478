// Any bytes as a safetensors file: refused with an Error, or every view lies inside the bytes.
#include <cstdlib>

#include "format/safetensors.h"
#include "marlin/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  try {
    const marlin::SafetensorsFile file = marlin::SafetensorsFile::parse(bytes, "fuzz");
    size_t total = 0;
    for (const marlin::TensorView& view : file.tensors()) {
      const size_t expected = static_cast<size_t>(view.elements()) * marlin::dtype_size(view.dtype);
      const bool inside =
          view.data.data() >= bytes.data() && view.data.data() + view.data.size() <= bytes.data() + size;
      if (!inside || view.data.size() != expected || file.find(view.name) != &view) std::abort();
      total += expected;
    }
    if (total != size - file.data_start()) std::abort();
  } catch (const marlin::Error&) {  // a refusal is a right answer
  }
  return 0;
}
