// FP4 products with the dot product instruction of AVX-VNNI: processors from 2021 on that have no AVX-512.
#include "backend/cpu/kernels/family_avx2.h"
#include "backend/cpu/kernels/planes_256.h"

namespace marlin::cpu {

const Family kAvxVnniFamily = {"avxvnni",        dot_avx2,        accumulate_avx2, fold_scores_portable,
                               sum_exp_portable, swiglu_portable, decode_f16_avx2, decode_bf16_avx2,
                               decode_fp4_avx2,  split_avx2,      fp4_dot,         fp4_accumulate_avx2};

}  // namespace marlin::cpu
