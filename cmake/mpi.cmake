# SPDX-License-Identifier: Apache-2.0
# moeblock-mpi, once for each MPI that is found: libmoeblock-mpi-openmpi.so, libmoeblock-mpi-mpich.so. They stand beside
# each other because the two MPIs have different ABIs; the command line loads the one whose launcher started it.
set(mpi_module_openmpi ompi-c)
set(mpi_module_mpich mpich)
set(moeblock_mpis "")
foreach(mpi openmpi mpich)
    pkg_check_modules(${mpi} QUIET IMPORTED_TARGET GLOBAL "${mpi_module_${mpi}}")
    if(NOT ${mpi}_FOUND)
        message(STATUS "moeblock-mpi-${mpi} is not built: pkg-config knows no ${mpi_module_${mpi}} "
                       "(Debian: apt-get install lib${mpi}-dev)")
        continue()
    endif()
    add_library(moeblock-mpi-${mpi} SHARED src/mesh/mpi/transport.c)
    target_include_directories(moeblock-mpi-${mpi} PRIVATE include)
    target_link_libraries(moeblock-mpi-${mpi} PRIVATE moeblock-flags PUBLIC PkgConfig::${mpi})
    target_compile_options(moeblock-mpi-${mpi} PRIVATE -Wno-cast-qual)
    set_target_properties(moeblock-mpi-${mpi} PROPERTIES
        VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
    list(APPEND moeblock_mpis ${mpi})
endforeach()

# The same transport inside SimGrid's simulator, for the tests alone: programs that smpirun loads as modules.
pkg_check_modules(simgrid QUIET IMPORTED_TARGET GLOBAL simgrid)
find_path(smpi_include smpi_helpers.h PATH_SUFFIXES smpi)
if(simgrid_FOUND AND smpi_include AND NOT MOEBLOCK_SANITIZE)
    set(moeblock_simulator ON)
else()
    set(moeblock_simulator OFF)
    message(STATUS "tests in SimGrid's simulator are not built: pkg-config knows no simgrid, or sanitizers are on "
                   "(Debian: apt-get install libsimgrid-dev)")
endif()
