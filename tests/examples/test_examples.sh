#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs every program of examples/ on golden cases and checks what it prints. None may be left out, none may exceed 100
# lines.
set -eu
examples=$MOEBLOCK_BUILD_DIR/examples
golden=tests/golden
ran=0

# check NAME EXPECTED-TEXT ARGUMENT...
check() {
    name=$1
    expected=$2
    shift 2
    output=$("$examples/$name" "$@") || { echo "$name failed: $output"; exit 1; }
    case $output in
        *"$expected"*) ran=$((ran + 1)) ;;
        *) echo "$name printed: $output (expected to find: $expected)"; exit 1 ;;
    esac
    lines=$(wc -l <"examples/$name.c")
    [ "$lines" -le 100 ] || { echo "$name.c has $lines lines, 100 are allowed"; exit 1; }
}

check run_layer "token 3: y[0..2] =" $golden/mixtral-bf16 1
check weights_from_memory "token 2: y[0] ="
check adapter "same bits" $golden/deepseek_v3-bf16 2
check prefill_then_decode "step 3: y[0] =" $golden/gpt_oss_mxfp4 1
check expert_load "expert 15:" $golden/deepseek_v3-bf16 2
check custom_router "routed by \"round_robin\"" $golden/mixtral-bf16 1
check custom_expert "token 2: y / x ="

available=$(find examples -name '*.c' | wc -l)
[ "$ran" -eq "$available" ] || { echo "$ran of $available examples were run"; exit 1; }
echo "$ran examples ran"
