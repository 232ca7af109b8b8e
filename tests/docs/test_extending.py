# SPDX-License-Identifier: Apache-2.0
"""The code of docs/extending.md compiles, runs and prints what the page says."""
import blocks

blocks.run_page("docs/extending.md", [("json", 1), ("c", 2), ("sh", 4), ("text", 3)])
