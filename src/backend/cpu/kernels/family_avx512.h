// The functions of the AVX-512 family: fp32_avx512.cc, planes_avx512.cc and kv_panel_avx512.cc.
#pragma once

#include "backend/cpu/kernels/family.h"

namespace marlin::cpu {

void dot_avx512(const DotArgs& args);
void accumulate_avx512(const AccumulateArgs& args);
float fold_scores_avx512(float* scores, int64_t n, float scale, SoftmaxState* state);
float sum_exp_avx512(const float* x, int64_t n, float largest, float scale);
void swiglu_avx512(const float* gate, const float* up, int64_t n, float* out);
void decode_f16_avx512(const uint16_t* in, int64_t count, float* out);
void decode_bf16_avx512(const uint16_t* in, int64_t count, float* out);
void decode_fp4_avx512(const uint8_t* codes, const uint16_t* scales, int group_size, int64_t count, bool add,
                       float* out);
void split_avx512(const float* x, int64_t n, uint8_t* out);
void fp4_dot_avx512(const Fp4DotArgs& args);
void fp4_accumulate_avx512(const Fp4AccumulateArgs& args);
void panel_query_avx512(const PanelShape& shape, const float* latent, const float* rope, uint8_t* out);
void kv_panel_avx512(const KvPanelArgs& args);
void panel_scores_avx512(const PanelScoresArgs& args);
void panel_sums_avx512(const PanelSumsArgs& args);

}  // namespace marlin::cpu
