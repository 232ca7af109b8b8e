// SPDX-License-Identifier: Apache-2.0
// Umbrella header: everything public.
#ifndef MOEBLOCK_MOEBLOCK_H
#define MOEBLOCK_MOEBLOCK_H

#include "moeblock/adapter.h"
#include "moeblock/block.h"
#include "moeblock/config.h"
#include "moeblock/context.h"
#include "moeblock/expert.h"
#include "moeblock/export.h"
#include "moeblock/mesh.h"
#include "moeblock/router.h"
#include "moeblock/status.h"
#include "moeblock/tensor.h"
#include "moeblock/weights.h"

#endif
