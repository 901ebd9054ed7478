// What Checkpoint holds behind its interface: the stored tensors and the linears found among them.
#pragma once

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "format/checkpoint.h"
#include "format/checkpoint_index.h"

namespace marlin {

inline constexpr size_t kNoTensor = static_cast<size_t>(-1);

/// One tensor of the files.
struct StoredTensor {
  TensorView view;              // its name is canonical
  std::vector<size_t> linears;  // the linear whose weight it is, or those cut from it
  bool part = false;            // scales, bias or a claim of some linear
  bool fused = false;           // experts.gate_up_proj or experts.down_proj: `linears` are its rows
  bool claimed = false;
};

struct StoredPlane {
  size_t weight = kNoTensor;  // indices into CheckpointContents::tensors
  size_t scales = kNoTensor;
  int group_size = 0;
  bool transposed = false;  // layout K
};

struct StoredLinear {
  std::string name;
  int64_t out_features = 0;
  int64_t in_features = 0;
  std::vector<StoredPlane> planes;
  size_t plain = kNoTensor;
  int64_t first_row = 0;  // of `plain`, counted over all experts
  size_t bias = kNoTensor;
  std::vector<size_t> parts;  // every stored tensor that belongs to it alone
  bool claimed = false;
};

struct CheckpointContents {
  std::vector<StoredTensor> tensors;  // in file order
  std::map<std::string, size_t, std::less<>> tensor_by_name;
  std::vector<StoredLinear> linears;
  std::map<std::string, size_t, std::less<>> linear_by_name;
  std::set<Writer> writers;
  std::mutex mutex;                     // guards `claimed` everywhere, and `copies`
  std::map<size_t, TensorView> copies;  // by stored tensor, those not usable in place
};

/// Finds the linears among contents.tensors and checks each on its own. Throws Error{kBadFile|kUnsupported}.
void find_linears(CheckpointContents& contents, const QuantizationClaims& claims, const CheckpointOptions& options);

/// True when the kernels cannot use the tensor where it lies in the file.
bool misaligned(const TensorView& view);

/// How a stored tensor is going to be used: a plain one as it is, codes and scales as layout R wants them.
enum class TensorUse { kAsStored, kLayoutR, kLayoutK };  // the latter two name the layout it is stored in

/// The tensor as the kernels want it: aligned to its element size, codes as U32, planes in layout R. Copies at most
/// once a tensor; the caller holds contents.mutex. Throws Error{kBadFile} when an I64 holds more than 32 bits.
TensorView usable_view(CheckpointContents& contents, size_t tensor, TensorUse use);

}  // namespace marlin
