# SPDX-License-Identifier: Apache-2.0
# What the build needs from the system. A missing piece is an error that names the Debian package.
set(CMAKE_THREAD_PREFER_PTHREAD ON)
find_package(Threads REQUIRED)

find_package(PkgConfig)
if(NOT PkgConfig_FOUND)
    message(FATAL_ERROR "pkg-config was not found, and it is how moeblock finds jansson: install pkg-config "
                        "(Debian: apt-get install pkg-config)")
endif()

# Finds the pkg-config module `name` of at least `version` as PkgConfig::name, or ends with what to install.
function(moeblock_require name version package purpose)
    pkg_check_modules(${name} IMPORTED_TARGET GLOBAL "${name}>=${version}")
    if(NOT ${name}_FOUND)
        message(FATAL_ERROR "${name} ${version} or newer, ${purpose}, was not found: install it "
                            "(Debian: apt-get install ${package})")
    endif()
endfunction()

moeblock_require(jansson 2.10 libjansson-dev "the JSON parser of the library")
if(MOEBLOCK_BUILD_TESTS)
    moeblock_require(cmocka 1.1.5 libcmocka-dev "the unit test library (or set MOEBLOCK_BUILD_TESTS=OFF)")
    find_package(Python3 COMPONENTS Interpreter)
    if(NOT Python3_FOUND)
        message(FATAL_ERROR "python3, which runs the checks of tests/, was not found: install it "
                            "(Debian: apt-get install python3; or set MOEBLOCK_BUILD_TESTS=OFF)")
    endif()
endif()
