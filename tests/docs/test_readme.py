# SPDX-License-Identifier: Apache-2.0
"""The marked code of README.md compiles, runs and prints what the page says."""
import os

import blocks

if os.path.exists(os.path.join(blocks.ROOT, "README.md")):
    blocks.run_page("README.md", [])
else:
    print("README.md: not written yet, nothing to run")
