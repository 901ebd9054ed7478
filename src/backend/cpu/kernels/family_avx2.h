// The functions that the families of 256-bit vectors share; no code, so that files with different compiler flags may
// include it.
#pragma once

#include "backend/cpu/kernels/family.h"

namespace marlin::cpu {

void dot_avx2(const DotArgs& args);
void accumulate_avx2(const AccumulateArgs& args);
void decode_f16_avx2(const uint16_t* in, int64_t count, float* out);
void decode_bf16_avx2(const uint16_t* in, int64_t count, float* out);
void decode_fp4_avx2(const uint8_t* codes, const uint16_t* scales, int group_size, int64_t count, bool add, float* out);
void fp4_accumulate_avx2(const Fp4AccumulateArgs& args);
void split_avx2(const float* x, int64_t n, uint8_t* out);

}  // namespace marlin::cpu
