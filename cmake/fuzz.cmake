# SPDX-License-Identifier: Apache-2.0
# Fuzz targets (clang's libFuzzer): every tests/fuzz/fuzz_*.c is a program over the library, and a ctest test that runs
# it for some seconds from the seeds of the tree. An input that it stops at lies in build/fuzz; it becomes a unit test.
set(MOEBLOCK_FUZZ_SECONDS 5 CACHE STRING "how long the test of each fuzz target runs")

if(NOT CMAKE_C_COMPILER_ID MATCHES "Clang" OR NOT MOEBLOCK_SANITIZE MATCHES "fuzzer-no-link")
    message(FATAL_ERROR "MOEBLOCK_FUZZ needs clang and MOEBLOCK_SANITIZE=fuzzer-no-link,address,undefined; "
        "use the preset `fuzz`")
endif()

enable_testing()
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(seeds ${PROJECT_BINARY_DIR}/seeds)
add_custom_target(fuzz ALL COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/tests/fuzz/seeds.py ${seeds} VERBATIM)

file(GLOB fuzz_sources CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR} tests/fuzz/fuzz_*.c)
foreach(source ${fuzz_sources})
    cmake_path(GET source STEM name)
    add_executable(${name} ${source})
    target_include_directories(${name} PRIVATE tests)
    target_link_libraries(${name} PRIVATE moeblock-internal)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    add_dependencies(fuzz ${name})
    add_test(NAME ${name} WORKING_DIRECTORY ${PROJECT_BINARY_DIR}
        COMMAND ${name} -seed=1 -max_total_time=${MOEBLOCK_FUZZ_SECONDS} -max_len=65536 -timeout=5 -rss_limit_mb=1024
            -close_fd_mask=1 -verbosity=0 -print_final_stats=1 -artifact_prefix=${name}- ${seeds}/${name})
    set_tests_properties(${name} PROPERTIES LABELS fuzz ENVIRONMENT "UBSAN_OPTIONS=print_stacktrace=1")
endforeach()
