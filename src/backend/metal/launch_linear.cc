// linear and the fused ops that begin with one.
#include "backend/metal/launch.h"
#include "base/check.h"

namespace marlin::metal {
namespace {

// A threadgroup: 2 simdgroups of 4 rows each (linear.metal).
constexpr uint kTileRows = 8;
constexpr Size kThreads{64, 1, 1};

/// Tokens that share one reading of the weights.
uint shared_rows(int rows) {
  return rows <= 2 ? static_cast<uint>(rows) : 4;
}

uint tiles(int64_t n, uint size) {
  return static_cast<uint>((n + size - 1) / size);
}

/// Threadgroups that share a tile of weights: one goes through all tokens if only some are wanted (next_row in
/// weights.h).
uint token_tiles(int rows, RoleFilter filter) {
  return filter == kAllRows ? tiles(rows, shared_rows(rows)) : 1;
}

/// Whether one dispatch can compute both.
bool alike(const LinearWeight& a, const LinearWeight& b) {
  return a.in_features == b.in_features && kind_of(a) == kind_of(b);
}

/// What the decode form is to compute: one or two products of the same input, normed or not.
struct Products {
  int rows = 0;
  View x;
  int64_t x_stride = 0;
  const VectorWeight* gain = nullptr;
  double eps = 0;
  RoleView roles;
  std::span<const NormedLinearsArgs::Product> products;
  bool add = false;
};

void dispatch_products(Commands& commands, const Products& args, RoleFilter filter) {
  const LinearWeight& first = *args.products[0].weight;
  const auto n = static_cast<uint>(args.products.size());
  commands.kernel("linear", {{FC_FORMAT, format_of(first)},
                             {FC_PLANES, static_cast<uint>(first.n_planes)},
                             {FC_BIAS, bias_format(first)},
                             {FC_GAIN, args.gain != nullptr ? format_of(args.gain->type) : kNone},
                             {FC_ROWS, shared_rows(args.rows)},
                             {FC_ROLE, filter},
                             {FC_ADD, args.add ? 1U : 0U},
                             {FC_PRODUCTS, n}});
  LinearParams params{};
  params.rows = static_cast<uint>(args.rows);
  params.x_stride = static_cast<uint>(args.x_stride);
  params.eps = static_cast<float>(args.eps);
  params.weight_tiles = tiles(first.out_features, kTileRows);
  uint weight_tiles = 0;
  for (uint i = 0; i < n; ++i) {
    const NormedLinearsArgs::Product& product = args.products[i];
    const LinearWeight& weight = *product.weight;
    bind_weight(commands, static_cast<int>(5 * i), weight);
    commands.out(static_cast<int>(13 + i), product.out,
                 matrix_bytes(args.rows, product.out_stride, weight.out_features));
    params.weight[i] = weight_params(weight);
    params.out_stride[i] = static_cast<uint>(product.out_stride);
    weight_tiles += tiles(weight.out_features, kTileRows);
  }
  commands.in(10, args.x, matrix_bytes(args.rows, args.x_stride, first.in_features));
  if (args.gain != nullptr) {
    MARLIN_CHECK(args.gain->size == first.in_features, "a gain of {} for {} values", args.gain->size,
                 first.in_features);
    commands.in(11, args.gain->data, static_cast<size_t>(args.gain->size) * format_bytes(format_of(args.gain->type)));
  }
  if (filter != kAllRows) commands.in(12, args.roles, static_cast<size_t>(args.rows));
  commands.params(15, params);
  commands.dispatch({token_tiles(args.rows, filter), weight_tiles, 1}, kThreads);
}

/// One dispatch if the weights are alike.
void decode_products(Commands& commands, Products args, RoleFilter filter) {
  const auto products = args.products;
  if (products.size() == 1 || alike(*products[0].weight, *products[1].weight)) {
    dispatch_products(commands, args, filter);
    return;
  }
  for (size_t i = 0; i < products.size(); ++i) {
    args.products = products.subspan(i, 1);
    dispatch_products(commands, args, filter);
  }
}

void linear_of(Commands& commands, const LinearArgs& args, bool add) {
  if (args.rows == 0) return;
  const Forms forms = forms_of(commands, args.roles);
  if (forms.decode) {
    const NormedLinearsArgs::Product product{args.weight, args.out, args.out_stride};
    Products products;
    products.rows = args.rows;
    products.x = args.x;
    products.x_stride = args.x_stride;
    products.roles = args.roles;
    products.products = {&product, 1};
    products.add = add;
    decode_products(commands, products, forms.decode_filter);
  }
  if (forms.prompt) linear_prompt(commands, args, forms.prompt_filter, add);
}

// ---- mla_prepare ---------------------------------------------------------------------------------------------------

void decode_prepare(Commands& commands, const MlaPrepareArgs& args, RoleFilter filter) {
  const TokenBatch& batch = *args.batch;
  const KvLayout& layout = args.kv.layout;
  const int rows = batch.n_tokens;
  const auto n = static_cast<size_t>(rows);
  const LinearWeight& weight = *args.q_b;
  const Format gain = format_of(args.q_a_norm->type);
  const Format kv_gain = format_of(args.kv_a_norm->type);
  commands.kernel("mla_prepare", {{FC_FORMAT, format_of(weight)},
                                  {FC_PLANES, static_cast<uint>(weight.n_planes)},
                                  {FC_BIAS, bias_format(weight)},
                                  {FC_GAIN, gain},
                                  {FC_KV_GAIN, kv_gain},
                                  {FC_ROWS, shared_rows(rows)},
                                  {FC_ROLE, filter},
                                  {FC_KV, kv_format(layout)}});
  MlaPrepareParams params{};
  params.rows = static_cast<uint>(rows);
  params.q_a_stride = static_cast<uint>(args.q_a_stride);
  params.kv_a_stride = static_cast<uint>(args.kv_a_stride);
  params.eps = static_cast<float>(args.eps);
  params.token_tiles = token_tiles(rows, filter);
  params.nope = static_cast<uint>(args.shape.nope);
  params.weight = weight_params(weight);
  params.kv = kv_params(args.kv, batch);
  bind_weight(commands, 0, weight);
  commands.in(5, args.q_a, matrix_bytes(rows, args.q_a_stride, weight.in_features));
  commands.in(6, args.q_a_norm->data, static_cast<size_t>(args.q_a_norm->size) * format_bytes(gain));
  commands.in(7, args.kv_a, matrix_bytes(rows, args.kv_a_stride, layout.values()));
  commands.in(8, args.kv_a_norm->data, static_cast<size_t>(args.kv_a_norm->size) * format_bytes(kv_gain));
  commands.in(9, args.rope_table, rest_of(args.rope_table));
  commands.in(10, batch.positions, n * sizeof(int32_t));
  commands.in(11, batch.slots, n * sizeof(int32_t));
  const auto blocks = static_cast<size_t>(batch.n_slots) * static_cast<size_t>(batch.blocks_per_slot);
  commands.in(12, batch.block_tables, blocks * sizeof(int32_t));
  if (filter != kAllRows) commands.in(13, batch.roles, n);
  commands.out(14, args.kv.pool, rest_of(args.kv.pool));
  commands.out(15, args.q, matrix_bytes(rows, weight.out_features, weight.out_features));
  commands.params(16, params);
  const uint weight_tiles = tiles(weight.out_features, kTileRows);
  commands.dispatch({params.rows + weight_tiles * params.token_tiles, 1, 1}, kThreads);
}

RopeArgs rope_args(const MlaPrepareArgs& args, View x, int heads, int64_t row_stride, int64_t head_stride) {
  RopeArgs rope;
  rope.rows = args.batch->n_tokens;
  rope.heads = heads;
  rope.dims = args.shape.rope;
  rope.x = x;
  rope.row_stride = row_stride;
  rope.head_stride = head_stride;
  rope.positions = args.batch->positions;
  rope.theta = args.theta;
  rope.table = args.rope_table;
  return rope;
}

RmsNormArgs norm_args(const MlaPrepareArgs& args, View x, int64_t x_stride, const VectorWeight* gain, View out,
                      int64_t out_stride) {
  return {args.batch->n_tokens, x, x_stride, gain, args.eps, out, out_stride};
}

/// By the ops that it is made of. With `prompt_only`, other rows of q and of the cache stay as they are.
void prepare_by_parts(Commands& commands, const MlaPrepareArgs& args, RoleFilter filter, bool prompt_only) {
  const MlaShape& shape = args.shape;
  const TokenBatch& batch = *args.batch;
  const int64_t head = shape.nope + shape.rope;
  const int64_t width = shape.heads * head;
  const auto floats = [](View view, int n) { return view.at(static_cast<size_t>(n) * sizeof(float)); };
  rms_norm(commands, norm_args(args, args.q_a, args.q_a_stride, args.q_a_norm, args.q_a, args.q_a_stride));
  const LinearArgs product{batch.n_tokens, args.q_a, args.q_a_stride, args.q_b, batch.roles, args.q, width};
  if (prompt_only) {
    linear_prompt(commands, product, filter, false);
  } else {
    linear(commands, product);
  }
  rope(commands, rope_args(args, floats(args.q, shape.nope), shape.heads, width, head), filter, batch.roles);
  rms_norm(commands, norm_args(args, args.kv_a, args.kv_a_stride, args.kv_a_norm, args.latent, shape.latent));
  const View key = floats(args.kv_a, shape.latent);
  rope(commands, rope_args(args, key, 1, args.kv_a_stride, shape.rope), filter, batch.roles);
  KvWriteArgs write;
  write.batch = &batch;
  write.kv = args.kv;
  write.latent = args.latent;
  write.latent_stride = shape.latent;
  write.rope = key;
  write.rope_stride = args.kv_a_stride;
  kv_write(commands, write, filter);
}

}  // namespace

void linear(Commands& commands, const LinearArgs& args) {
  linear_of(commands, args, false);
}

void linear_add(Commands& commands, const LinearArgs& args) {
  linear_of(commands, args, true);
}

void normed_linears(Commands& commands, const NormedLinearsArgs& args) {
  if (args.rows == 0) return;
  const Forms forms = forms_of(commands, args.roles);
  const std::span products(args.products, static_cast<size_t>(args.n_products));
  if (forms.decode) {
    Products decode;
    decode.rows = args.rows;
    decode.x = args.x;
    decode.x_stride = args.x_stride;
    decode.gain = args.gain;
    decode.eps = args.eps;
    decode.roles = args.roles;
    decode.products = products;
    decode_products(commands, decode, forms.decode_filter);
  }
  if (!forms.prompt) return;
  const int64_t width = args.gain->size;
  rms_norm(commands, {args.rows, args.x, args.x_stride, args.gain, args.eps, args.normed, width});
  for (const NormedLinearsArgs::Product& product : products) {
    linear_prompt(commands,
                  {args.rows, args.normed, width, product.weight, args.roles, product.out, product.out_stride},
                  forms.prompt_filter, false);
  }
}

void mla_prepare(Commands& commands, const MlaPrepareArgs& args) {
  if (args.batch->n_tokens == 0) return;
  // The kernel rotates pairs of neighbouring rows of q_b, which an odd offset would tear apart.
  if (args.shape.nope % 2 != 0) {
    prepare_by_parts(commands, args, kAllRows, false);
    return;
  }
  const Forms forms = forms_of(commands, args.batch->roles);
  // The decode form first: the other one changes its inputs in place.
  if (forms.decode) decode_prepare(commands, args, forms.decode_filter);
  if (forms.prompt) prepare_by_parts(commands, args, forms.prompt_filter, true);
}

}  // namespace marlin::metal
