# SPDX-License-Identifier: Apache-2.0
"""Where the tests find the golden cases, and a small checkpoint of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"


def golden_cases() -> list[Path]:
    return sorted(case.parent for case in GOLDEN.glob("*/case.json"))


def described(case: Path) -> dict:
    return json.loads((case / "case.json").read_text())


@pytest.fixture(scope="session")
def small() -> tuple[dict, dict[str, np.ndarray]]:
    """A configuration of ours and its weights, float32: 6 experts, 2 a token, with a shared expert."""
    hidden, inner, experts = 24, 20, 6
    config = {
        "model": {"hidden_size": hidden, "num_experts": experts, "num_experts_per_tok": 2},
        "router": {"type": "topk", "config": {}},
        "experts": {
            "distributed": {"intermediate_size": inner, "activation": "swiglu"},
            "shared": {"enabled": True, "intermediate_size": inner},
        },
    }
    random = np.random.default_rng(7)

    def weight(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    weights = {"gate.weight": weight(experts, hidden)}
    for prefix in [f"experts.{e}" for e in range(experts)] + ["shared_experts"]:
        weights[f"{prefix}.gate_proj.weight"] = weight(inner, hidden)
        weights[f"{prefix}.up_proj.weight"] = weight(inner, hidden)
        weights[f"{prefix}.down_proj.weight"] = weight(hidden, inner)
    return config, weights
