/* kernels/cuda/emulation/label.c - what reports call this build of the module: no figure of it is a GPU's. */
#include "kernels/cuda/kernels_cuda.h"

const char dml_cuda_label[] = "emulated-cuda";
