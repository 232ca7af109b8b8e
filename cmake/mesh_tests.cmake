# SPDX-License-Identifier: Apache-2.0
# What tests/mesh needs of a build: programs that mpiexec or SimGrid's smpirun starts, one build for each MPI. Included
# by cmake/tests.cmake.

# Processes outnumber cores in these tests, and may be root's in a container: both need Open MPI's consent.
set(mesh_environment ${mpi_environment} OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none)

# Every golden case on each of these, one job a mesh and MPI. Instrumented builds look at memory, which 2x2 moves as others do.
if(MOEBLOCK_SANITIZE)
    set(meshes 2x2)
else()
    set(meshes 1x1 1x2 2x1 2x2 3x1 1x3 3x2 4x2 2x4)
endif()

# moeblock_mesh_program(NAME MPI LIBRARY...): tests/mesh/NAME.c as build/tests/NAME-MPI.
function(moeblock_mesh_program name mpi)
    add_executable(${name}-${mpi} tests/mesh/${name}.c)
    target_link_libraries(${name}-${mpi} PRIVATE ${ARGN} moeblock-mpi-${mpi})
    set_target_properties(${name}-${mpi} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
endfunction()

# moeblock_mesh_test(NAME MPI MESH): one job of it as a test.
function(moeblock_mesh_test name mpi mesh)
    string(REPLACE "x" "*" processes ${mesh})
    math(EXPR processes "${processes}")
    add_test(NAME ${name}_${mpi}_${mesh} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
        COMMAND ${mpiexec_${mpi}} -n ${processes} $<TARGET_FILE:${name}-${mpi}> ${mesh})
    set_tests_properties(${name}_${mpi}_${mesh} PROPERTIES
        ENVIRONMENT "${mesh_environment}" LABELS "mesh;mpi" PROCESSORS 2 TIMEOUT 300)
endfunction()

foreach(mpi ${moeblock_mpis})
    moeblock_mesh_program(mesh_cases ${mpi} test-support)
    moeblock_mesh_program(mesh_equivalence ${mpi} test-support)
    moeblock_mesh_program(mesh_routers ${mpi} test-support)
    moeblock_mesh_program(check_mesh ${mpi} moeblock-internal) # run by tests/mesh/simulate and tests/mesh/test_*.py
    # Preloaded by tests/mesh/test_faults.py, which the sanitizers' own preloading does not allow.
    if(NOT MOEBLOCK_SANITIZE)
        add_library(mesh_fault-${mpi} MODULE tests/mesh/mesh_fault.c)
        target_link_libraries(mesh_fault-${mpi} PRIVATE moeblock-flags PkgConfig::${mpi})
        target_include_directories(mesh_fault-${mpi} PRIVATE include src)
        set_target_properties(mesh_fault-${mpi} PROPERTIES PREFIX "" C_VISIBILITY_PRESET default
            LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
    endif()
    find_program(mpiexec_${mpi} NAMES mpiexec.${mpi})
    if(NOT mpiexec_${mpi})
        continue()
    endif()
    foreach(mesh ${meshes})
        moeblock_mesh_test(mesh_cases ${mpi} ${mesh})
    endforeach()
    foreach(mesh 2x2 3x1)
        moeblock_mesh_test(mesh_routers ${mpi} ${mesh})
    endforeach()
    foreach(mesh 1x1 1x2 2x1 2x2)
        moeblock_mesh_test(mesh_equivalence ${mpi} ${mesh})
    endforeach()
endforeach()

# moeblock_simulated_program(NAME LIBRARY...): the same for SimGrid, a module that smpirun loads.
function(moeblock_simulated_program name)
    add_library(${name}-simulated MODULE tests/mesh/${name}.c src/mesh/mpi/transport.c)
    target_include_directories(${name}-simulated SYSTEM BEFORE PRIVATE ${smpi_include})
    target_compile_options(${name}-simulated PRIVATE "SHELL:-include smpi_helpers.h")
    target_link_libraries(${name}-simulated PRIVATE ${ARGN} PkgConfig::simgrid)
    set_target_properties(${name}-simulated PROPERTIES PREFIX "" SUFFIX "" C_VISIBILITY_PRESET default
        LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
endfunction()

if(moeblock_simulator)
    moeblock_simulated_program(check_mesh moeblock-internal)
    moeblock_simulated_program(mesh_equivalence test-support)
endif()

# Jobs with deadlines, which others beside them on a small machine would keep waiting.
set_tests_properties(test_faults PROPERTIES RUN_SERIAL TRUE)
set_tests_properties(test_launch PROPERTIES PROCESSORS 2)
