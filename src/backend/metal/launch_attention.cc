#include <fmt/format.h>

#include <algorithm>

#include "backend/metal/launch.h"
#include "marlin/error.h"

namespace marlin::metal {
namespace {

constexpr unsigned long kSimdWidth = 32;
constexpr unsigned long kAbsorbThreads = 256;
constexpr unsigned long kAttendThreads = 256;
constexpr unsigned long kPromptThreads = 384;
constexpr int kAttendHeads = 24;  // of a threadgroup, as in attention.metal
constexpr unsigned long kUnabsorbThreads = 256;
constexpr int64_t kUnabsorbRows = kUnabsorbThreads / kSimdWidth * 4;
/// Splits of this many bytes at most are in memory at a time; more tokens are taken in turns.
constexpr size_t kMostPartials = size_t{64} << 20;

size_t floats(int64_t count) {
  return static_cast<size_t>(count) * sizeof(float);
}

/// The queries of an attention op and what they attend to.
struct Attention {
  const TokenBatch* batch = nullptr;
  KvView kv;
  MlaShape shape;
  double scale = 0;
  View q_latent;
  View q_rope;
  int64_t q_row_stride = 0;
  int64_t q_head_stride = 0;
};

Attention attention_of(const MlaAttendArgs& args) {
  return {args.batch,    args.kv,     args.shape,        args.scale,
          args.q_latent, args.q_rope, args.q_row_stride, args.q_head_stride};
}

void check_shape(const MlaShape& shape) {
  if (shape.latent <= MARLIN_MOST_LATENT && shape.rope <= MARLIN_MOST_ROPE) return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("kv_lora_rank {} and qk_rope_head_dim {}: the Metal kernels take at most {} and {}; use "
                          "--device cpu",
                          shape.latent, shape.rope, MARLIN_MOST_LATENT, MARLIN_MOST_ROPE));
}

/// Tokens of a batch whose splits are computed together.
struct Turn {
  int first = 0;
  int count = 0;
  int splits = 0;  // of the longest context there may be
  View partials;
};

size_t table_bytes(const TokenBatch& batch) {
  return static_cast<size_t>(batch.n_slots) * static_cast<size_t>(batch.blocks_per_slot) * 4;
}

size_t partial_bytes(const MlaShape& shape) {
  return floats(int64_t{shape.heads} * (shape.latent + 2));
}

template <typename Each>
void in_turns(Commands& commands, const TokenBatch& batch, const MlaShape& shape, const Each& each) {
  Turn turn;
  turn.splits = static_cast<int>(most_splits(u(int64_t{batch.blocks_per_slot} * kKvBlockTokens)));
  const size_t token = partial_bytes(shape) * static_cast<size_t>(turn.splits);
  const int most = static_cast<int>(std::clamp<size_t>(kMostPartials / token, 1, static_cast<size_t>(batch.n_tokens)));
  for (turn.first = 0; turn.first < batch.n_tokens; turn.first += most) {
    turn.count = std::min(most, batch.n_tokens - turn.first);
    turn.partials = commands.scratch(Scratch::kAttention, token * static_cast<size_t>(turn.count));
    each(turn);
  }
}

/// Binds what both forms of attention read, at the same indices, and returns their common parameters.
AttendParams bind_attention(Commands& commands, const Attention& args, RoleFilter filter) {
  const MlaShape& shape = args.shape;
  const TokenBatch& batch = *args.batch;
  const int64_t heads = shape.heads;
  const auto ints = static_cast<size_t>(batch.n_tokens) * 4;
  commands.in(0, args.q_latent, floats(batch.n_tokens * heads * shape.latent));
  commands.in(1, args.q_rope,
              matrix_bytes(batch.n_tokens, args.q_row_stride, (heads - 1) * args.q_head_stride + shape.rope));
  commands.in(2, args.kv.pool, rest_of(args.kv.pool));
  commands.in(3, batch.positions, ints);
  commands.in(4, batch.slots, ints);
  commands.in(5, batch.block_tables, table_bytes(batch));
  if (filter != kAllRows) commands.in(6, batch.roles, static_cast<size_t>(batch.n_tokens));
  AttendParams params{};
  params.kv = kv_params(args.kv, batch);
  params.heads = u(heads);
  params.q_row_stride = u(args.q_row_stride);
  params.q_head_stride = u(args.q_head_stride);
  params.scale = static_cast<float>(args.scale);
  return params;
}

/// Scores and sums of a turn's splits.
void attend_splits(Commands& commands, const Attention& args, RoleFilter filter, const Turn& turn) {
  const MlaShape& shape = args.shape;
  commands.kernel("mla_attend", {{FC_KV, kv_format(args.kv.layout)},
                                 {FC_ROLE, filter},
                                 {FC_LATENT_STEPS, u(static_cast<int64_t>(over(shape.latent, kSimdWidth)))},
                                 {FC_ROPE_STEPS, u(static_cast<int64_t>(over(shape.rope, kSimdWidth)))}});
  AttendParams params = bind_attention(commands, args, filter);
  commands.out(7, turn.partials,
               partial_bytes(shape) * static_cast<size_t>(turn.splits) * static_cast<size_t>(turn.count));
  params.first_token = u(turn.first);
  params.splits = u(turn.splits);
  commands.params(9, params);
  commands.dispatch({static_cast<unsigned long>(turn.splits), static_cast<unsigned long>(turn.count),
                     over(shape.heads, kAttendHeads)},
                    {kAttendThreads});
}

/// The prompt form: whole contexts at once.
void attend_prompt(Commands& commands, const Attention& args, RoleFilter filter, View out) {
  const MlaShape& shape = args.shape;
  const auto tokens = static_cast<unsigned long>(args.batch->n_tokens);
  commands.kernel("mla_attend_prompt", {{FC_KV, kv_format(args.kv.layout)},
                                        {FC_ROLE, filter},
                                        {FC_LATENT_GROUPS, u(static_cast<int64_t>(over(shape.latent, 8)))},
                                        {FC_ROPE_GROUPS, u(static_cast<int64_t>(over(shape.rope, 8)))}});
  const AttendParams params = bind_attention(commands, args, filter);
  commands.out(8, out, floats(args.batch->n_tokens * int64_t{shape.heads} * shape.latent));
  commands.params(9, params);
  commands.dispatch({tokens, over(shape.heads, kAttendHeads)}, {kPromptThreads});
}

void combine(Commands& commands, const Attention& args, RoleFilter filter, const Turn& turn, View out) {
  const TokenBatch& batch = *args.batch;
  const int64_t heads = args.shape.heads;
  commands.kernel("mla_combine", {{FC_ROLE, filter}});
  commands.in(0, turn.partials,
              partial_bytes(args.shape) * static_cast<size_t>(turn.splits) * static_cast<size_t>(turn.count));
  commands.in(1, batch.positions, static_cast<size_t>(batch.n_tokens) * 4);
  if (filter != kAllRows) commands.in(2, batch.roles, static_cast<size_t>(batch.n_tokens));
  commands.out(3, out, floats(batch.n_tokens * heads * args.shape.latent));
  commands.params(4, CombineParams{u(turn.first), u(heads), u(turn.splits), u(args.shape.latent)});
  commands.dispatch({static_cast<unsigned long>(heads), static_cast<unsigned long>(turn.count)}, {kAttendThreads});
}

/// What W_UV is multiplied by, and the tokens.
struct Unabsorb {
  MlaShape shape;
  const LinearWeight* kv_b = nullptr;
  int rows = 0;
  View from = {};  // latents, or with `turn` splits
  const Turn* turn = nullptr;
  View positions = {};
  View roles = {};
  View out = {};
};

void unabsorb(Commands& commands, const Unabsorb& args, RoleFilter filter) {
  const MlaShape& shape = args.shape;
  const LinearWeight& weight = *args.kv_b;
  const int64_t heads = shape.heads;
  const bool whole = args.turn == nullptr;
  commands.kernel("mla_unabsorb", {{FC_FORMAT, format_of(weight)},
                                   {FC_PLANES, u(std::max(weight.n_planes, 1))},
                                   {FC_BIAS, bias_format(weight)},
                                   {FC_ROLE, filter},
                                   {FC_WHOLE, whole ? 1U : 0U}});
  bind_weight(commands, 0, weight);
  const int splits = whole ? 1 : args.turn->splits;
  const int tokens = whole ? args.rows : args.turn->count;
  commands.in(5, args.from,
              whole ? floats(args.rows * heads * shape.latent)
                    : partial_bytes(shape) * static_cast<size_t>(splits) * static_cast<size_t>(tokens));
  if (!whole) commands.in(6, args.positions, static_cast<size_t>(args.rows) * 4);
  if (filter != kAllRows) commands.in(7, args.roles, static_cast<size_t>(args.rows));
  commands.out(8, args.out, floats(args.rows * heads * shape.value));
  UnabsorbParams params{};
  params.first_token = whole ? 0 : u(args.turn->first);
  params.heads = u(heads);
  params.splits = u(splits);
  params.nope = u(shape.nope);
  params.value = u(shape.value);
  params.weight = weight_params(weight);
  commands.params(9, params);
  commands.dispatch(
      {over(shape.value, kUnabsorbRows), static_cast<unsigned long>(heads), static_cast<unsigned long>(tokens)},
      {kUnabsorbThreads});
}

}  // namespace

void rope(Commands& commands, const RopeArgs& args, RoleFilter filter, View roles) {
  const int64_t pairs = int64_t{args.heads} * (args.dims / 2);
  commands.kernel("rope", {{FC_ROLE, filter}});
  commands.out(0, args.x, matrix_bytes(args.rows, args.row_stride, (args.heads - 1) * args.head_stride + args.dims));
  commands.in(1, args.positions, static_cast<size_t>(args.rows) * 4);
  commands.in(2, args.table, rest_of(args.table));
  if (filter != kAllRows) commands.in(3, roles, static_cast<size_t>(args.rows));
  commands.params(4, RopeParams{u(args.rows), u(args.heads), u(args.dims), u(args.row_stride), u(args.head_stride)});
  constexpr int64_t kThreads = 128;
  commands.dispatch({over(pairs, kThreads), static_cast<unsigned long>(args.rows)}, {kThreads});
}

void kv_write(Commands& commands, const KvWriteArgs& args, RoleFilter filter) {
  const TokenBatch& batch = *args.batch;
  const auto ints = static_cast<size_t>(batch.n_tokens) * 4;
  commands.kernel("kv_write", {{FC_KV, kv_format(args.kv.layout)}, {FC_ROLE, filter}});
  commands.in(0, args.latent, matrix_bytes(batch.n_tokens, args.latent_stride, args.kv.layout.latent_dim));
  commands.in(1, args.rope, matrix_bytes(batch.n_tokens, args.rope_stride, args.kv.layout.rope_dim));
  commands.in(2, batch.positions, ints);
  commands.in(3, batch.slots, ints);
  commands.in(4, batch.block_tables, table_bytes(batch));
  if (filter != kAllRows) commands.in(5, batch.roles, static_cast<size_t>(batch.n_tokens));
  commands.out(6, args.kv.pool, rest_of(args.kv.pool));
  commands.params(7, KvWriteParams{kv_params(args.kv, batch), u(args.latent_stride), u(args.rope_stride)});
  commands.dispatch({static_cast<unsigned long>(batch.n_tokens)}, {128});
}

void mla_absorb(Commands& commands, const MlaAbsorbArgs& args) {
  const MlaShape& shape = args.shape;
  const LinearWeight& weight = *args.kv_b;
  const int64_t tokens = args.rows >= 3 ? 4 : args.rows;
  commands.kernel("mla_absorb", {{FC_FORMAT, format_of(weight)},
                                 {FC_PLANES, u(std::max(weight.n_planes, 1))},
                                 {FC_BIAS, bias_format(weight)},
                                 {FC_ROWS, u(tokens)}});
  bind_weight(commands, 0, weight);
  commands.in(5, args.q,
              matrix_bytes(args.rows, args.q_row_stride, (shape.heads - 1) * args.q_head_stride + shape.nope));
  commands.out(6, args.out, floats(int64_t{args.rows} * shape.heads * shape.latent));
  AbsorbParams params{};
  params.rows = u(args.rows);
  params.heads = u(shape.heads);
  params.nope = u(shape.nope);
  params.head_rows = u(shape.nope + shape.value);
  params.q_row_stride = u(args.q_row_stride);
  params.q_head_stride = u(args.q_head_stride);
  params.weight = weight_params(weight);
  commands.params(7, params);
  commands.dispatch({over(shape.latent, 512), static_cast<unsigned long>(shape.heads), over(args.rows, tokens)},
                    {kAbsorbThreads});
}

void mla_attend(Commands& commands, const MlaAttendArgs& args) {
  check_shape(args.shape);
  const Attention attention = attention_of(args);
  const Forms forms = forms_of(commands, args.batch->roles);
  if (forms.decode) {
    in_turns(commands, *args.batch, args.shape, [&](const Turn& turn) {
      attend_splits(commands, attention, forms.decode_filter, turn);
      combine(commands, attention, forms.decode_filter, turn, args.out);
    });
  }
  if (forms.prompt) attend_prompt(commands, attention, forms.prompt_filter, args.out);
}

void mla_unabsorb(Commands& commands, const MlaUnabsorbArgs& args) {
  check_shape(args.shape);
  unabsorb(commands,
           {.shape = args.shape, .kv_b = args.kv_b, .rows = args.rows, .from = args.o_latent, .out = args.out},
           kAllRows);
}

void mla_absorbed(Commands& commands, const MlaAbsorbedArgs& args) {
  check_shape(args.shape);
  const MlaShape& shape = args.shape;
  const TokenBatch& batch = *args.batch;
  const int64_t head = shape.nope + shape.rope;
  mla_absorb(commands, {.rows = batch.n_tokens,
                        .shape = shape,
                        .kv_b = args.kv_b,
                        .roles = batch.roles,
                        .q = args.q,
                        .q_row_stride = shape.heads * head,
                        .q_head_stride = head,
                        .out = args.q_latent});
  const Attention attention{
      args.batch, args.kv, shape, args.scale, args.q_latent, args.q.at(floats(shape.nope)), shape.heads * head, head};
  const Forms forms = forms_of(commands, batch.roles);
  Unabsorb values{.shape = shape,
                  .kv_b = args.kv_b,
                  .rows = batch.n_tokens,
                  .positions = batch.positions,
                  .roles = batch.roles,
                  .out = args.out};
  if (forms.decode) {
    in_turns(commands, batch, shape, [&](const Turn& turn) {
      attend_splits(commands, attention, forms.decode_filter, turn);
      values.from = turn.partials;
      values.turn = &turn;
      unabsorb(commands, values, forms.decode_filter);
    });
  }
  if (forms.prompt) {
    attend_prompt(commands, attention, forms.prompt_filter, args.o_latent);
    values.from = args.o_latent;
    values.turn = nullptr;
    unabsorb(commands, values, forms.prompt_filter);
  }
}

// No expanded form of its own: the absorbed one equals it up to rounding.
void mla_expanded(Commands& commands, const MlaExpandedArgs& args) {
  const int64_t latents = int64_t{args.batch->n_tokens} * args.shape.heads * args.shape.latent;
  const View scratch = commands.scratch(Scratch::kExpanded, floats(latents) * 2);
  mla_absorbed(commands, {.batch = args.batch,
                          .kv = args.kv,
                          .shape = args.shape,
                          .kv_b = args.kv_b,
                          .scale = args.scale,
                          .q = args.q,
                          .q_latent = scratch,
                          .o_latent = scratch.at(floats(latents)),
                          .out = args.out});
}

}  // namespace marlin::metal
