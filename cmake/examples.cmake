# SPDX-License-Identifier: Apache-2.0
# One program per file of examples/ and bench/. Examples see the public headers and the shared library only, as a
# user's program does; benchmarks may look inside, and share the command line's measuring of the machine's limits.
file(GLOB example_sources CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR} examples/*.c)
foreach(source ${example_sources})
    cmake_path(GET source STEM name)
    add_executable(example-${name} ${source})
    target_link_libraries(example-${name} PRIVATE moeblock-flags moeblock m)
    set_target_properties(example-${name} PROPERTIES
        OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/examples)
endforeach()

add_library(moeblock-limits STATIC cli/limits.c cli/machine.c cli/peaks.c)
target_include_directories(moeblock-limits PUBLIC .)
target_link_libraries(moeblock-limits PRIVATE moeblock-internal)
file(GLOB bench_sources CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR} bench/*.c)
foreach(source ${bench_sources})
    cmake_path(GET source STEM name)
    add_executable(bench-${name} ${source})
    target_link_libraries(bench-${name} PRIVATE moeblock-internal moeblock-limits)
    set_target_properties(bench-${name} PROPERTIES
        OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
endforeach()
