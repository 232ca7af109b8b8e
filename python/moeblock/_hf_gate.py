# SPDX-License-Identifier: Apache-2.0
"""Which activation of ours a transformers experts module applies.

Modules spell the same function in many ways (an `act_fn`, an `_apply_gate` of their own, limits and alphas under
several names), so a module is asked rather than read: its function is evaluated on a probe, and an activation of ours
counts only when it gives the same numbers there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

Tensor = torch.Tensor
Function = Callable[[Tensor, Tensor], Tensor]

_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda gate: functional.gelu(gate, approximate="tanh"),
    "relu": functional.relu,
    "relu2": lambda gate: functional.relu(gate) ** 2,
    "identity": lambda gate: gate,
}


def _clamped(act: Callable[[Tensor], Tensor], clamp: str, limit: float) -> Function:
    def apply(gate: Tensor, up: Tensor) -> Tensor:
        up = up.clamp(-limit, limit)
        return act(gate.clamp(max=limit)) * up if clamp == "before" else act(gate).clamp(max=limit) * up

    return apply


def _swiglu_oai(limit: float, alpha: float, plus_one: bool) -> Function:
    def apply(gate: Tensor, up: Tensor) -> Tensor:
        if limit:
            gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return gate * torch.sigmoid(gate * alpha) * (up + 1 if plus_one else up)

    return apply


def _numbers(module: Any, *names: str) -> list[float]:
    values = (getattr(owner, name, None) for owner in (module, getattr(module, "config", None)) for name in names)
    return sorted({float(value) for value in values if isinstance(value, (int, float)) and value > 0})


def _candidates(module: Any) -> Iterator[tuple[dict[str, Any], Function]]:
    """Keys of experts.distributed with the function that they mean."""
    limits = _numbers(module, "limit", "swiglu_limit")
    alphas = _numbers(module, "alpha", "swiglu_alpha") or [1.702]
    for name, act in _PLAIN.items():
        yield {"activation": name}, lambda gate, up, act=act: act(gate) * up  # type: ignore[misc]
        for limit, clamp in itertools.product(limits, ("before", "after")):
            yield {"activation": name, "clamp": clamp, "limit": limit}, _clamped(act, clamp, limit)
    for limit, alpha, plus_one in itertools.product([*limits, 0.0], alphas, (True, False)):
        keys = {"activation": "swiglu_oai", "alpha": alpha, "plus_one": plus_one, "limit": limit}
        yield keys | ({} if limit else {"clamp": "none"}), _swiglu_oai(limit, alpha, plus_one)


def _probe() -> tuple[Tensor, Tensor]:
    """Every pair of values that tell functions apart: around zero, and beyond any limit that a model uses."""
    values = torch.cat([torch.linspace(-3, 3, 31), torch.tensor([-60.0, -20.0, -8.0, 8.0, 20.0, 60.0])])
    gate, up = torch.meshgrid(values, values, indexing="ij")
    return gate.flatten(), up.flatten()


def activation_of(module: Any) -> dict[str, Any] | None:
    """Keys of experts.distributed for what `module` computes between its projections; None when ours has no such."""
    gate, up = _probe()
    with torch.no_grad():
        try:
            if not getattr(module, "has_gate", True):
                found = module.act_fn(up)
                gate = torch.ones_like(up)
            elif getattr(module, "is_concatenated", True):
                found = module._apply_gate(torch.cat([gate, up]).unsqueeze(0)).squeeze(0)
            else:
                found = module._apply_gate(torch.stack([gate, up], dim=-1).reshape(1, -1)).squeeze(0)
        except Exception:  # a module that cannot be asked is a module that cannot be replaced
            return None
        for keys, function in _candidates(module):
            expected = function(gate, up) if getattr(module, "has_gate", True) else function(up, gate)
            if found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-5, atol=1e-6):
                return keys
    return None
