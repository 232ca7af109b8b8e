# SPDX-License-Identifier: Apache-2.0
# What `cmake --install` puts where: headers, both libraries, pkg-config file, CMake package, command line, man pages,
# shell completion, licence.
include(CMakePackageConfigHelpers)

install(FILES ${public_headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/moeblock)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# Two exports, so that a user of the shared library does not need jansson's headers.
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/moeblock)
install(TARGETS moeblock EXPORT moeblockShared)
install(TARGETS moeblock-static EXPORT moeblockStatic)
install(EXPORT moeblockShared NAMESPACE moeblock:: DESTINATION ${package_dir})
install(EXPORT moeblockStatic NAMESPACE moeblock:: DESTINATION ${package_dir})
configure_package_config_file(cmake/moeblockConfig.cmake.in ${PROJECT_BINARY_DIR}/moeblockConfig.cmake
    INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/moeblockConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/moeblockConfig.cmake ${PROJECT_BINARY_DIR}/moeblockConfigVersion.cmake
    DESTINATION ${package_dir})

# The pkg-config file finds its prefix from its own place, so that an installed tree can be moved.
cmake_path(RELATIVE_PATH CMAKE_INSTALL_PREFIX BASE_DIRECTORY ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig
    OUTPUT_VARIABLE relative_prefix)
configure_file(cmake/moeblock.pc.in ${PROJECT_BINARY_DIR}/moeblock.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/moeblock.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

if(TARGET moeblock-cli)
    install(TARGETS moeblock-cli)
    install(DIRECTORY ${PROJECT_BINARY_DIR}/man/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 FILES_MATCHING PATTERN "*.1")
    install(FILES ${PROJECT_BINARY_DIR}/completion/moeblock
        DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
endif()
