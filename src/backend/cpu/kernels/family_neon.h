// The functions that the NEON families share; no code, so that files with different compiler flags may include it.
#pragma once

#include "backend/cpu/kernels/family.h"

namespace marlin::cpu {

// Base NEON.
void dot_neon(const DotArgs& args);
void accumulate_neon(const AccumulateArgs& args);
void decode_f16_neon(const uint16_t* in, int64_t count, float* out);
void decode_bf16_neon(const uint16_t* in, int64_t count, float* out);
void decode_fp4_neon(const uint8_t* codes, const uint16_t* scales, int group_size, int64_t count, bool add, float* out);
void fp4_accumulate_neon(const Fp4AccumulateArgs& args);
void split_neon(const float* x, int64_t n, uint8_t* out);

// Needs the dot product extension.
void fp4_dot_dotprod(const Fp4DotArgs& args);

// Needs the int8 matrix extension.
void fp4_dot_i8mm(const Fp4DotArgs& args);

}  // namespace marlin::cpu
