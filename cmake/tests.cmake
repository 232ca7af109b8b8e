# SPDX-License-Identifier: Apache-2.0
# Every tests/**/test_*.c is a cmocka program, every tests/**/test_*.sh and test_*.py a script; each is one ctest test
# named after its file and labelled with its folder. All run in the source folder and find in their environment
# MOEBLOCK_BUILD_DIR (this build), MOEBLOCK_CLI (the command line), CC and CXX.

# Tests that start threads also carry the label `threads`: the ones worth their time under the thread sanitizer.
set(threaded_tests "team|context|mesh|block|routed|shared|loader|weights|examples|concurrent|equivalence|original|checkpoint|custom|tokens|properties")

# What every C test is compiled with, and what several share (tests/support, without a main).
add_library(test-common INTERFACE)
target_include_directories(test-common INTERFACE tests)
target_compile_definitions(test-common INTERFACE MOEBLOCK_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
target_link_libraries(test-common INTERFACE moeblock-reference moeblock-internal PkgConfig::cmocka m)
file(GLOB support_sources CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR} tests/support/*.c)
if(support_sources)
    add_library(test-support STATIC ${support_sources})
    target_link_libraries(test-support PUBLIC test-common)
else()
    add_library(test-support ALIAS test-common)
endif()

set(asan_options detect_stack_use_after_return=1:allocator_may_return_null=1)
set(test_environment
    MOEBLOCK_BUILD_DIR=${PROJECT_BINARY_DIR}
    MOEBLOCK_CLI=${PROJECT_BINARY_DIR}/moeblock
    CC=${CMAKE_C_COMPILER}
    ASAN_OPTIONS=${asan_options}
    UBSAN_OPTIONS=print_stacktrace=1
    TSAN_OPTIONS=second_deadlock_stack=1)

# What runs under MPI: both implementations keep memory to the end that nobody frees, and it is not ours to report.
set(mpi_environment ${test_environment} ASAN_OPTIONS=${asan_options}:detect_leaks=0)

function(moeblock_test source)
    cmake_path(GET source STEM name)
    cmake_path(GET source EXTENSION LAST_ONLY extension)
    cmake_path(GET source PARENT_PATH folder)
    cmake_path(GET folder FILENAME label)
    if(extension STREQUAL ".c")
        add_executable(${name} ${source})
        target_link_libraries(${name} PRIVATE test-support)
        set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
        set(command ${name})
    elseif(extension STREQUAL ".py")
        set(command ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/${source})
    else()
        set(command sh ${PROJECT_SOURCE_DIR}/${source})
    endif()
    set(labels ${label})
    set(environment ${test_environment})
    if(label STREQUAL "mesh")
        set(environment ${mpi_environment})
    endif()
    if(name MATCHES "${threaded_tests}")
        list(APPEND labels threads)
    endif()
    set(timeout 600)
    if(label STREQUAL "python")
        set(timeout 2400) # installs torch the first time, and tries two releases of transformers
    endif()
    add_test(NAME ${name} COMMAND ${command} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(${name} PROPERTIES
        ENVIRONMENT "${environment}" LABELS "${labels}" SKIP_RETURN_CODE 77 TIMEOUT ${timeout})
endfunction()

file(GLOB test_sources CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}
    tests/test_*.c tests/*/test_*.c tests/*/test_*.sh tests/*/test_*.py)
foreach(source ${test_sources})
    moeblock_test(${source})
endforeach()

include(cmake/mesh_tests.cmake)
