# What the module is made of: one list for the real build (CMakeLists.txt here) and the emulated ones
# (tests/kernels/cuda).  Paths are from the repository root.

# CUDA C++: nvcc compiles these, or g++ against emulation/include.
set(DML_CUDA_KERNELS
  kernels/cuda/activation.cu
  kernels/cuda/column_sums.cu
  kernels/cuda/dropout.cu
  kernels/cuda/elementwise.cu
  kernels/cuda/exact.cu
  kernels/cuda/layout.cu
  kernels/cuda/loss.cu
  kernels/cuda/moments.cu
  kernels/cuda/norm.cu
  kernels/cuda/norm_words.cu
  kernels/cuda/optimizer.cu
  kernels/cuda/pool.cu
  kernels/cuda/sabotage.cu)

# Host code, the same in both.
set(DML_CUDA_HOST
  comm/nccl/clique.c
  comm/nccl/id_page.c
  comm/nccl/library.c
  comm/nccl/meet.c
  comm/nccl/nccl.c
  comm/pair.c
  kernels/cuda/backend_cuda.c
  kernels/cuda/context.c
  kernels/cuda/conv_cuda.c
  kernels/cuda/device_cuda.c
  kernels/cuda/dnn_book.c
  kernels/cuda/dnn_text.c
  kernels/cuda/gemm_cublaslt.c
  kernels/cuda/image_cuda.c
  kernels/cuda/kernels_cuda.c
  kernels/cuda/linear_cuda.c
  kernels/cuda/norm_cuda.c
  kernels/cuda/numa.c
  kernels/cuda/queue_cuda.c
  kernels/cuda/status_cuda.c
  kernels/cuda/watch_nvml.c)

# Host code that only the real build has, and what stands in for it in the emulated ones.  (A library whose
# calls are emulated, as the runtime and NCCL are, needs no line here: its caller is in DML_CUDA_HOST.)
set(DML_CUDA_REAL
  kernels/cuda/dnn_cudnn.c
  kernels/cuda/dnn_graph.c
  kernels/cuda/dnn_plan.c
  kernels/cuda/label_cuda.c)
set(DML_CUDA_STAND_INS
  kernels/cuda/emulation/cublaslt.c
  kernels/cuda/emulation/dnn_naive.c
  kernels/cuda/emulation/label.c)

# Small stateless functions of which the module has its own, hidden copies.
set(DML_CUDA_SHARED
  engine/base/clock.c
  engine/base/wait.c
  kernels/check.c
  kernels/kernels.c
  kernels/tensor.c)

# The emulator: the machine under the kernels.  Never instrumented by a sanitizer.
set(DML_CUDA_EMULATOR
  kernels/cuda/emulation/block.cc
  kernels/cuda/emulation/clocks.cc
  kernels/cuda/emulation/event.cc
  kernels/cuda/emulation/fault.cc
  kernels/cuda/emulation/graph.cc
  kernels/cuda/emulation/memory.cc
  kernels/cuda/emulation/nccl.cc
  kernels/cuda/emulation/nccl_move.cc
  kernels/cuda/emulation/order.cc
  kernels/cuda/emulation/runtime.cc
  kernels/cuda/emulation/stream.cc)
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  list(APPEND DML_CUDA_EMULATOR kernels/cuda/emulation/fiber_x86_64.cc)
else()
  list(APPEND DML_CUDA_EMULATOR kernels/cuda/emulation/fiber_ucontext.cc)
endif()

foreach(list KERNELS HOST REAL STAND_INS SHARED EMULATOR)
  list(TRANSFORM DML_CUDA_${list} PREPEND ${PROJECT_SOURCE_DIR}/)
endforeach()
