# SPDX-License-Identifier: Apache-2.0
# `cmake -P` of this file fails when cmake is too old for the presets.
cmake_minimum_required(VERSION 3.25)
