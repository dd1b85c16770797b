# The NCCL transport on the emulated GPUs and the emulated NCCL (included by tests/kernels/cuda).
#
#   nccl_test(name source WRAP calls)   WRAP: NCCL's calls that the source comes between
function(nccl_test name source)
  cmake_parse_arguments(N "" "" "WRAP" ${ARGN})
  cuda_test(comm.nccl.${name} fast "${nccl_tests}/${source};${nccl_tests}/gpu_world.c")
  foreach(call ${N_WRAP})
    target_link_options(test_comm_nccl_${name} PRIVATE -Wl,--wrap=nccl${call})
  endforeach()
endfunction()
nccl_test(transport test_nccl.c)
nccl_test(meet test_meet.c WRAP CommInitRankConfig AllReduce)
nccl_test(leave test_leave.c WRAP CommFinalize CommDestroy CommRevoke CommAbort GetVersion)
nccl_test(errors test_errors.c WRAP Send Recv GetUniqueId CommAbort)
nccl_test(sweep test_sweep.c)
nccl_test(rebuild test_rebuild.c)
set_tests_properties(comm.nccl.sweep comm.nccl.rebuild PROPERTIES LABELS dist) # processes
