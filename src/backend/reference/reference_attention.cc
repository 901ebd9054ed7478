// The attention ops of the reference stream.
#include <algorithm>
#include <vector>

#include "backend/reference/paged_kv.h"
#include "backend/reference/reference_stream.h"
#include "ops/ref/attention.h"

namespace marlin::reference {
namespace {

void check_shape(const MlaShape& shape, const ref::WeightReader& kv_b, const char* what) {
  MARLIN_CHECK(kv_b.out_features() == static_cast<int64_t>(shape.heads) * (shape.nope + shape.value) &&
                   kv_b.in_features() == shape.latent,
               "{}: kv_b is [{}, {}] with {} heads of {} + {} rows and a latent of {}", what, kv_b.out_features(),
               kv_b.in_features(), shape.heads, shape.nope, shape.value, shape.latent);
}

void check_layout(const MlaShape& shape, const KvLayout& layout, const char* what) {
  MARLIN_CHECK(layout.latent_dim == shape.latent && layout.rope_dim == shape.rope,
               "{}: the cache holds {} + {} values, the shape has {} + {}", what, layout.latent_dim, layout.rope_dim,
               shape.latent, shape.rope);
}

/// Elements from the first to the last value of a [rows, heads, width] array with strides.
int64_t head_extent(int64_t rows, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t width,
                    const char* what) {
  const int64_t row = extent(heads, head_stride, width, what);
  return rows == 0 ? 0 : (rows - 1) * row_stride + row;
}

}  // namespace

void ReferenceStream::kv_write(const KvWriteArgs& args) {
  const PagedKv kv(access(), args.batch, args.kv, "kv_write");
  const int latent_dim = args.kv.layout.latent_dim;
  const int rope_dim = args.kv.layout.rope_dim;
  const int64_t latent_size = extent(kv.n_tokens(), args.latent_stride, latent_dim, "kv_write latent");
  const auto* latent = access().input<double>(args.latent, latent_size, "kv_write latent");
  const int64_t rope_size = extent(kv.n_tokens(), args.rope_stride, rope_dim, "kv_write rope");
  const auto* rope = access().input<double>(args.rope, rope_size, "kv_write rope");
  std::vector<int> last_position(static_cast<size_t>(args.batch->n_slots), -1);
  for (int t = 0; t < kv.n_tokens(); ++t) {
    int& last = last_position[static_cast<size_t>(kv.slot(t))];
    MARLIN_CHECK(kv.position(t) > last, "kv_write: position {} of slot {} after {}", kv.position(t), kv.slot(t), last);
    last = kv.position(t);
    double* row = kv.row_for_write(t);
    const double* latent_t = latent + t * args.latent_stride;
    const double* rope_t = rope + t * args.rope_stride;
    std::copy(latent_t, latent_t + latent_dim, row);
    std::copy(rope_t, rope_t + rope_dim, row + latent_dim);
  }
}

void ReferenceStream::mla_absorb(const MlaAbsorbArgs& args) {
  const MlaShape& shape = args.shape;
  const ref::WeightReader kv_b = access().weight(args.kv_b, "mla_absorb kv_b");
  check_shape(shape, kv_b, "mla_absorb");
  access().optional_input<uint8_t>(args.roles, args.rows, "mla_absorb roles");
  const int64_t q_size =
      head_extent(args.rows, args.q_row_stride, shape.heads, args.q_head_stride, shape.nope, "mla_absorb q");
  const auto* q = access().input<double>(args.q, q_size, "mla_absorb q");
  auto* out = access().output<double>(args.out, int64_t{args.rows} * shape.heads * shape.latent, "mla_absorb out");
  ref::mla_absorb(kv_b, shape, args.rows, q, args.q_row_stride, args.q_head_stride, out);
}

void ReferenceStream::mla_attend(const MlaAttendArgs& args) {
  const MlaShape& shape = args.shape;
  check_layout(shape, args.kv.layout, "mla_attend");
  const PagedKv kv(access(), args.batch, args.kv, "mla_attend");
  const int64_t latent_size = int64_t{kv.n_tokens()} * shape.heads * shape.latent;
  const auto* q_latent = access().input<double>(args.q_latent, latent_size, "mla_attend q_latent");
  const int64_t rope_size =
      head_extent(kv.n_tokens(), args.q_row_stride, shape.heads, args.q_head_stride, shape.rope, "mla_attend q_rope");
  const auto* q_rope = access().input<double>(args.q_rope, rope_size, "mla_attend q_rope");
  auto* out = access().output<double>(args.out, latent_size, "mla_attend out");
  for (int t = 0; t < kv.n_tokens(); ++t) {
    const ref::KvRows rows = kv.visible_rows(t);
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t at = (int64_t{t} * shape.heads + h) * shape.latent;
      ref::mla_attend(shape, args.scale, q_latent + at, q_rope + t * args.q_row_stride + h * args.q_head_stride, rows,
                      out + at);
    }
  }
}

void ReferenceStream::mla_unabsorb(const MlaUnabsorbArgs& args) {
  const MlaShape& shape = args.shape;
  const ref::WeightReader kv_b = access().weight(args.kv_b, "mla_unabsorb kv_b");
  check_shape(shape, kv_b, "mla_unabsorb");
  access().optional_input<uint8_t>(args.roles, args.rows, "mla_unabsorb roles");
  const int64_t rows = int64_t{args.rows} * shape.heads;
  const auto* o_latent = access().input<double>(args.o_latent, rows * shape.latent, "mla_unabsorb o_latent");
  auto* out = access().output<double>(args.out, rows * shape.value, "mla_unabsorb out");
  ref::mla_unabsorb(kv_b, shape, args.rows, o_latent, out);
}

void ReferenceStream::mla_expanded(const MlaExpandedArgs& args) {
  const MlaShape& shape = args.shape;
  const ref::WeightReader kv_b = access().weight(args.kv_b, "mla_expanded kv_b");
  check_shape(shape, kv_b, "mla_expanded");
  check_layout(shape, args.kv.layout, "mla_expanded");
  const PagedKv kv(access(), args.batch, args.kv, "mla_expanded");
  const int64_t width = shape.nope + shape.rope;
  const auto* q = access().input<double>(args.q, kv.n_tokens() * shape.heads * width, "mla_expanded q");
  const int64_t out_size = int64_t{kv.n_tokens()} * shape.heads * shape.value;
  auto* out = access().output<double>(args.out, out_size, "mla_expanded out");
  for (int slot = 0; slot < args.batch->n_slots; ++slot) {
    int last_position = -1;
    for (int t = 0; t < kv.n_tokens(); ++t) {
      if (kv.slot(t) == slot) last_position = std::max(last_position, kv.position(t));
    }
    if (last_position < 0) continue;
    const ref::KvRows rows = kv.rows(slot, last_position);
    for (int h = 0; h < shape.heads; ++h) {
      const ref::ExpandedHead head = ref::expand_head(kv_b, shape, h, rows);
      for (int t = 0; t < kv.n_tokens(); ++t) {
        if (kv.slot(t) != slot) continue;
        const int64_t row = int64_t{t} * shape.heads + h;
        ref::attend_expanded(shape, args.scale, q + row * width, head, kv.position(t) + 1, out + row * shape.value);
      }
    }
  }
}

}  // namespace marlin::reference
