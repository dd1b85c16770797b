/* kernels/cuda/label_cuda.c - what reports call this build of the module. */
#include "kernels/cuda/kernels_cuda.h"

const char dml_cuda_label[] = "cuda";
