# SPDX-License-Identifier: Apache-2.0
# What the files of each kernel level (src/kernels/LEVEL/*.c) are compiled for. Only these files may use the
# instructions: which level runs is decided at run time (src/kernels/select.c), and kernels/cpu.h holds the same lists.
set(avx512_flags -mavx2 -mf16c -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
set(moeblock_level_flags_avx2 -mavx2 -mfma -mf16c)
set(moeblock_level_flags_avx512 ${avx512_flags})
set(moeblock_level_flags_avx512vnni ${avx512_flags} -mavx512vnni)
set(moeblock_level_flags_amx ${avx512_flags} -mavx512vnni -mavx512vbmi -mamx-tile -mamx-bf16)
set(moeblock_level_flags_avx512bf16 ${avx512_flags} -mavx512vnni -mavx512vbmi -mavx512bf16)
# gcc 12 places the frames that the address sanitizer checks after their return at multiples of 32 bytes, and stores to
# them as if of 64.
set(sanitize_flags "")
if(CMAKE_C_COMPILER_ID STREQUAL "GNU" AND MOEBLOCK_SANITIZE MATCHES "address")
    set(sanitize_flags --param=asan-use-after-return=0)
endif()
# No fuzz target reaches the levels' code, and clang takes minutes to instrument its unrolled tiles.
if(MOEBLOCK_FUZZ)
    set(sanitize_flags -fno-sanitize=all)
endif()
set(moeblock_x86_levels avx2 avx512 avx512vnni amx avx512bf16)

# Gives the sources of `list` their flags; on other machines than x86-64 the levels that need x86-64 leave the list.
function(moeblock_set_kernel_flags list)
    set(sources ${${list}})
    set(kernels ${sources})
    list(FILTER kernels INCLUDE REGEX "^src/kernels/")
    set_source_files_properties(${kernels} PROPERTIES COMPILE_OPTIONS "${moeblock_kernel_flags}")
    foreach(level ${moeblock_x86_levels})
        set(files ${kernels})
        list(FILTER files INCLUDE REGEX "^src/kernels/${level}/")
        if(NOT files)
            continue()
        elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
            set_source_files_properties(${files} PROPERTIES
                COMPILE_OPTIONS "${moeblock_kernel_flags};${moeblock_level_flags_${level}};${sanitize_flags}")
        else()
            list(REMOVE_ITEM sources ${files})
        endif()
    endforeach()
    set(${list} ${sources} PARENT_SCOPE)
endfunction()
