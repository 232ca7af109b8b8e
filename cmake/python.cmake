# SPDX-License-Identifier: Apache-2.0
# What the Python package carries beside its modules: the declarations for cffi, the shared library, the command line,
# and the jansson that both load, so that a wheel needs nothing of the system. Built by `pip install .`.
find_package(Python3 REQUIRED COMPONENTS Interpreter)

set(declarations ${PROJECT_BINARY_DIR}/python/_declarations.py)
list(TRANSFORM public_headers PREPEND ${PROJECT_SOURCE_DIR}/ OUTPUT_VARIABLE header_files)
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/python)
add_custom_command(OUTPUT ${declarations}
    COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/python/declarations.py ${PROJECT_SOURCE_DIR}/include/moeblock
            ${declarations}
    DEPENDS ${PROJECT_SOURCE_DIR}/python/declarations.py ${header_files} VERBATIM)
add_custom_target(moeblock-python-declarations ALL DEPENDS ${declarations})
install(FILES ${declarations} DESTINATION moeblock COMPONENT python)

# Both find their libraries beside them.
set_target_properties(moeblock PROPERTIES INSTALL_RPATH "$ORIGIN")
set_target_properties(moeblock-cli PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
install(TARGETS moeblock LIBRARY DESTINATION moeblock/lib COMPONENT python NAMELINK_SKIP)
install(TARGETS moeblock-cli RUNTIME DESTINATION moeblock/bin COMPONENT python)

# What runs moeblock's tasks on the threads of torch.
add_library(moeblock-openmp MODULE ${PROJECT_SOURCE_DIR}/python/openmp.c)
target_link_libraries(moeblock-openmp PRIVATE moeblock-flags)
target_include_directories(moeblock-openmp PRIVATE include)
install(TARGETS moeblock-openmp LIBRARY DESTINATION moeblock/lib COMPONENT python)

find_library(jansson_file NAMES jansson HINTS ${jansson_LIBRARY_DIRS} REQUIRED)
file(REAL_PATH ${jansson_file} jansson_real)
install(CODE "
    file(GET_RUNTIME_DEPENDENCIES LIBRARIES \"$<TARGET_FILE:moeblock>\" RESOLVED_DEPENDENCIES_VAR found
         PRE_INCLUDE_REGEXES \"libjansson\" PRE_EXCLUDE_REGEXES \".*\" DIRECTORIES \"${jansson_LIBRARY_DIRS}\")
    if(NOT found)
        set(found \"${jansson_real}\")
    endif()
    file(INSTALL \${found} DESTINATION \"\${CMAKE_INSTALL_PREFIX}/moeblock/lib\" FOLLOW_SYMLINK_CHAIN)"
    COMPONENT python)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/configs/ DESTINATION moeblock/configs COMPONENT python FILES_MATCHING PATTERN "*.json")
