// FP4 products with AVX-512's dot product instruction in 256 bits, for processors with VNNI but without VBMI (Cascade
// Lake, Cooper Lake). The rest is AVX2 too: there 512-bit multiplications lower the clock of everything after them.
#include "backend/cpu/kernels/family_avx2.h"
#include "backend/cpu/kernels/planes_256.h"

namespace marlin::cpu {

const Family kAvx512Vnni256Family = {"avx512vnni_256", dot_avx2,        accumulate_avx2, fold_scores_portable,
                                     sum_exp_portable, swiglu_portable, decode_f16_avx2, decode_bf16_avx2,
                                     decode_fp4_avx2,  split_avx2,      fp4_dot,         fp4_accumulate_avx2};

}  // namespace marlin::cpu
