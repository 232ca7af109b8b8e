# SPDX-License-Identifier: Apache-2.0
# How every C file of the tree is compiled. The bits of a result depend on two of these flags: products and sums are
# rounded separately (-ffp-contract=off), and nothing here may relax IEEE arithmetic (-ffast-math and its parts), so
# that gcc, clang and every optimisation level give the same bytes.
set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})

set(moeblock_warnings
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
    -Wundef -Wcast-align -Wdouble-promotion -Wformat=2 -Wwrite-strings -Wimplicit-fallthrough)

# A sanitizer finding ends the program: a test that only prints one would pass.
set(moeblock_sanitize_flags "")
if(MOEBLOCK_SANITIZE)
    set(moeblock_sanitize_flags -fsanitize=${MOEBLOCK_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
endif()

# The kernels gain from the vectoriser, the rest from small code.
set(moeblock_kernel_flags $<$<CONFIG:Release,RelWithDebInfo>:-O3>)

add_library(moeblock-flags INTERFACE)
target_compile_definitions(moeblock-flags INTERFACE _GNU_SOURCE)
target_compile_options(moeblock-flags INTERFACE
    ${moeblock_warnings} $<$<BOOL:${MOEBLOCK_WERROR}>:-Werror>
    -ffp-contract=off -fno-math-errno ${moeblock_sanitize_flags})
target_link_options(moeblock-flags INTERFACE ${moeblock_sanitize_flags})
