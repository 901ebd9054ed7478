#include <fmt/format.h>

#include <cstring>

#include "backend/forwarding_stream.h"
#include "marlin/error.h"

namespace marlin {
namespace {

// copy and check_finite make no activations, and sample reports on its logits itself: those are only passed on.
class CheckedStream final : public ForwardingStream {
 public:
  CheckedStream(Device& device, Stream& inner)
      : ForwardingStream(inner), element_bytes_(activation_bytes(device, 1)), flag_(device.allocate(sizeof(int32_t))) {}

  void mark(int layer, std::string_view part) override {
    layer_ = layer;
    part_ = part;
    inner().mark(layer, part);
  }

  void embed(const EmbedArgs& args) override {
    inner().embed(args);
    check_output("embed", args.rows, args.table->in_features, args.out, args.out_stride);
  }
  void rms_norm(const RmsNormArgs& args) override {
    inner().rms_norm(args);
    check_output("rms_norm", args.rows, args.gain->size, args.out, args.out_stride);
  }
  void linear(const LinearArgs& args) override {
    inner().linear(args);
    check_output("linear", args.rows, args.weight->out_features, args.out, args.out_stride);
  }
  void add(const AddArgs& args) override {
    inner().add(args);
    check_output("add", args.rows, args.width, args.x, args.x_stride);
  }
  void rope(const RopeArgs& args) override {
    inner().rope(args);
    for (int h = 0; h < args.heads; ++h) {
      const View head = args.x.at(static_cast<size_t>(h * args.head_stride) * element_bytes_);
      check_output("rope", args.rows, args.dims, head, args.row_stride);
    }
  }
  void kv_write(const KvWriteArgs& args) override {
    inner().kv_write(args);  // the cache may be quantized: its input tells as much
    const int rows = args.batch->n_tokens;
    check("kv_write", "latent input", rows, args.kv.layout.latent_dim, args.latent, args.latent_stride);
    check("kv_write", "rope input", rows, args.kv.layout.rope_dim, args.rope, args.rope_stride);
  }
  void mla_absorb(const MlaAbsorbArgs& args) override {
    inner().mla_absorb(args);
    check_dense("mla_absorb", args.rows, int64_t{args.shape.heads} * args.shape.latent, args.out);
  }
  void mla_attend(const MlaAttendArgs& args) override {
    inner().mla_attend(args);
    check_dense("mla_attend", args.batch->n_tokens, int64_t{args.shape.heads} * args.shape.latent, args.out);
  }
  void mla_unabsorb(const MlaUnabsorbArgs& args) override {
    inner().mla_unabsorb(args);
    check_dense("mla_unabsorb", args.rows, int64_t{args.shape.heads} * args.shape.value, args.out);
  }
  void mla_expanded(const MlaExpandedArgs& args) override {
    inner().mla_expanded(args);
    check_dense("mla_expanded", args.batch->n_tokens, int64_t{args.shape.heads} * args.shape.value, args.out);
  }
  void route(const RouteArgs& args) override {
    inner().route(args);
    check_dense("route", args.rows, args.top_k, args.weights);
  }
  void expert_linear(const ExpertLinearArgs& args) override {
    inner().expert_linear(args);
    check_dense("expert_linear", args.rows, args.top_k * args.bank->experts.front().out_features, args.out);
  }
  void swiglu(const SwigluArgs& args) override {
    inner().swiglu(args);
    check_dense("swiglu", args.rows, args.width, args.out);
  }
  void expert_sum(const ExpertSumArgs& args) override {
    inner().expert_sum(args);
    check_dense("expert_sum", args.rows, args.width, args.out);
  }
  void gather_rows(const GatherRowsArgs& args) override {
    inner().gather_rows(args);
    check_dense("gather_rows", args.rows, args.width, args.out);
  }
  void fused_moe(const FusedMoeArgs& args) override {
    inner().fused_moe(args);
    check_dense("fused_moe", args.rows, args.down->experts.front().out_features, args.out);
  }

 private:
  void check_output(const char* op, int rows, int64_t width, View x, int64_t stride) {
    check(op, "output", rows, width, x, stride);
  }
  void check_dense(const char* op, int rows, int64_t width, View x) { check(op, "output", rows, width, x, width); }

  void check(const char* op, const char* which, int rows, int64_t width, View x, int64_t stride) {
    if (rows == 0 || finite(rows, width, x, stride)) return;
    throw Error(ErrorCode::kNumeric,
                fmt::format("{}, {} ({}): NaN or Inf in the {}, {}; everything checked before it was finite", place(),
                            part_.empty() ? "unnamed part" : part_, op, which, bad_rows(rows, width, x, stride)));
  }

  bool finite(int rows, int64_t width, View x, int64_t stride) {
    const View flag = {flag_.get(), 0};
    inner().check_finite({rows, width, x, stride, flag});
    const Completed done = inner().wait(inner().submit());
    int32_t found = 0;
    inner().read(done, flag, std::as_writable_bytes(std::span(&found, 1)));
    return found == 0;
  }

  std::string place() const { return layer_ < 0 ? "outside the layers" : fmt::format("layer {}", layer_); }

  /// "rows 0..4" or "rows 0, 2..3" of those that are not finite.
  std::string bad_rows(int rows, int64_t width, View x, int64_t stride) {
    std::string text;
    for (int begin = 0; begin < rows; ++begin) {
      int end = begin;
      while (end < rows && !finite(1, width, x.at(static_cast<size_t>(end * stride) * element_bytes_), stride)) ++end;
      if (end == begin) continue;
      text += text.empty() ? "rows " : ", ";
      text += end == begin + 1 ? fmt::format("{}", begin) : fmt::format("{}..{}", begin, end - 1);
      begin = end;
    }
    return text;
  }

  size_t element_bytes_;
  std::unique_ptr<Buffer> flag_;
  int layer_ = -1;
  std::string part_;
};

}  // namespace

std::unique_ptr<Stream> make_checked_stream(Device& device, Stream& inner) {
  return std::make_unique<CheckedStream>(device, inner);
}

}  // namespace marlin
