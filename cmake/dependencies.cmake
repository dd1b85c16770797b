# The libraries we stand on (README, "Dependencies").  Each is a Debian package; a missing one is named
# here with the package that holds it, all of them at once, before anything is compiled.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(OpenMP COMPONENTS C)

set(missing "")

# name, header that proves it, library (empty: header only), Debian package
function(dml_library name header library package)
  find_path(DML_${name}_INCLUDE ${header})
  if(library)
    find_library(DML_${name}_LIBRARY ${library})
  else()
    set(DML_${name}_LIBRARY "" PARENT_SCOPE)
  endif()
  if(NOT DML_${name}_INCLUDE OR (library AND NOT DML_${name}_LIBRARY))
    set(missing "${missing} ${package}" PARENT_SCOPE)
    return()
  endif()
  add_library(dml_lib_${name} INTERFACE)
  target_include_directories(dml_lib_${name} SYSTEM INTERFACE ${DML_${name}_INCLUDE})
  if(library)
    target_link_libraries(dml_lib_${name} INTERFACE ${DML_${name}_LIBRARY})
  endif()
endfunction()

dml_library(fyaml libfyaml.h fyaml libfyaml-dev)
dml_library(jansson jansson.h jansson libjansson-dev)
dml_library(xxhash xxhash.h "" libxxhash-dev)
dml_library(random123 Random123/philox.h "" librandom123-dev)
dml_library(zlib zlib.h z zlib1g-dev)
dml_library(hwloc hwloc.h hwloc libhwloc-dev)
dml_library(dnnl oneapi/dnnl/dnnl.h dnnl libdnnl-dev)
dml_library(cmocka cmocka.h cmocka libcmocka-dev)

if(missing)
  message(FATAL_ERROR "These Debian packages are missing; install them with\n"
    "  apt-get install${missing}\nor run .ci/install, which does that.")
endif()
