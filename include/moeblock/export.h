// SPDX-License-Identifier: Apache-2.0
// Which symbols the shared library exports, and its version.
#ifndef MOEBLOCK_EXPORT_H
#define MOEBLOCK_EXPORT_H

#define MOEBLOCK_VERSION_MAJOR 0
#define MOEBLOCK_VERSION_MINOR 1
#define MOEBLOCK_VERSION_PATCH 0

#if defined(__GNUC__)
#define MOEBLOCK_API __attribute__((visibility("default")))
#else
#define MOEBLOCK_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

// "major.minor.patch" of the library that is loaded. Static storage.
MOEBLOCK_API const char *moeblock_version(void);

#ifdef __cplusplus
}
#endif
#endif
