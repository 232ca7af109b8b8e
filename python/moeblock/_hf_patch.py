# SPDX-License-Identifier: Apache-2.0
"""Modules of transformers that the experts interface does not reach: what their experts are, and a forward of each
with ours in the place of theirs. A row of `PATCHES` a class, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ._hf_experts import Experts, PackedExperts, Tensor, known_activation, stacked_experts


class Patch(NamedTuple):
    experts: Callable[[Any], Experts]
    forward: Callable[..., Any]  # (module, packed, *arguments of the module's own forward)
    holders: tuple[str, ...] = ()  # classes that own the experts' parameters and no others


class _Plain:
    """The part of a module that activation_of asks: an act_fn between gate and up."""

    def __init__(self, act_fn: Any, gated: bool = True) -> None:
        self.act_fn = act_fn
        self.has_gate = gated

    def _apply_gate(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        result: Tensor = self.act_fn(gate) * up
        return result


def _activation(act_fn: Any, gated: bool = True) -> dict[str, Any]:
    return {"gated": gated, **known_activation(_Plain(act_fn, gated))}


def _stacked(gate_up: Tensor, down: Tensor, act_fn: Any, transposed: bool = False, **rest: Any) -> Experts:
    """Experts of a fused gate_up [E, 2I, H] and down [E, H, I], both turned round when transposed."""
    rows, hidden = gate_up.shape[:0:-1] if transposed else gate_up.shape[1:]
    return Experts(
        experts=down.shape[0],
        hidden=hidden,
        intermediate=rows // 2,
        tensors={"gate_up_proj": gate_up[: down.shape[0]], "down_proj": down},
        distributed=_activation(act_fn),
        weights={
            "layout": "stacked",
            "orientation": "input_major" if transposed else "output_major",
            "gate_up": "concatenated",
            "names": {"gate_up": "gate_up_proj", "down": "down_proj"},
        },
        parameters={"gate_up_proj": gate_up, "down_proj": down},
        **rest,
    )


def _llama4_experts(moe: Any) -> Experts:
    own = moe.experts
    return _stacked(own.gate_up_proj, own.down_proj, own.act_fn, transposed=True, weight_on_input=True)


def _llama4_forward(moe: Any, packed: PackedExperts, hidden_states: Tensor) -> Any:
    """The router's score multiplies the expert's input; scores of experts that are not chosen are zero."""
    rows = hidden_states.reshape(-1, moe.hidden_dim)
    scores, logits = moe.router(rows)
    ids = logits.topk(moe.top_k, dim=1).indices
    routed = packed.forward(rows, ids, scores.gather(1, ids))
    return moe.shared_expert(rows) + routed, logits


def _dbrx_experts(module: Any) -> Experts:
    own, experts, inner = module.mlp, module.num_experts, module.ffn_hidden_size
    shape = (experts, inner, module.hidden_size)
    return Experts(
        experts=experts,
        hidden=module.hidden_size,
        intermediate=inner,
        # w2 is stored [I, H], the wrong way round for an output-major projection.
        tensors={"w1": own.w1.view(shape), "v1": own.v1.view(shape), "w2": own.w2.view(shape).transpose(1, 2)},
        distributed=_activation(own.activation_fn),
        weights={"layout": "stacked", "gate_up": "separate", "names": {"gate": "w1", "up": "v1", "down": "w2"}},
        parameters={"w1": own.w1, "v1": own.v1, "w2": own.w2},
    )


def _dbrx_forward(module: Any, packed: PackedExperts, hidden_states: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    routed = packed.forward(hidden_states.reshape(-1, module.hidden_size), ids, weights)
    return routed.view(hidden_states.shape[0], -1, module.hidden_size)


def _longcat_experts(module: Any) -> Experts:
    return _stacked(module.gate_up_proj, module.down_proj, module.act_fn)


def _longcat_forward(module: Any, packed: PackedExperts, rows: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Experts beyond the routed ones hand their input on."""
    kept = (weights * (ids >= module.num_routed_experts)).sum(dim=-1, keepdim=True)
    handed_on: Tensor = (rows * kept).to(rows.dtype)
    return packed.forward(rows, ids, weights) + handed_on


def _jetmoe_experts(moe: Any) -> Experts:
    return _stacked(moe.input_linear.weight, moe.output_linear.weight, moe.activation)


def _jetmoe_forward(moe: Any, packed: PackedExperts, layer_input: Tensor) -> Tensor:
    rows = layer_input.reshape(-1, layer_input.shape[-1])
    logits = moe.router.layer(rows).float()
    values, ids = logits.topk(moe.router.top_k, dim=1)
    weights = torch.softmax(values, dim=1).type_as(rows)
    result: Tensor = packed.forward(rows, ids, weights).view(layer_input.shape) + moe.bias
    return result


def _switch_experts(module: Any) -> Experts:
    first = module["expert_0"]
    tensors = {
        f"expert_{e}.{part}.weight": getattr(module[f"expert_{e}"], part).weight
        for e in range(module.num_experts)
        for part in ("wi", "wo")
    }
    return Experts(
        experts=module.num_experts,
        hidden=first.wi.in_features,
        intermediate=first.wi.out_features,
        tensors=tensors,
        distributed=_activation(first.act, gated=False),
        weights={
            "layout": "per_expert",
            "names": {"up": "expert_{expert}.wi.weight", "down": "expert_{expert}.wo.weight"},
        },
    )


def _switch_forward(module: Any, packed: PackedExperts, rows: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """One expert a token at most: `mask` [T, 1, E] has no one where a token was dropped."""
    chosen = mask.squeeze(1)
    ids = torch.where(chosen.sum(-1) > 0, chosen.argmax(-1), -1)
    return packed.forward(rows, ids[:, None], weights)


def _interface_forward(module: Any, packed: PackedExperts, rows: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    return packed.forward(rows, ids, weights)


def _aria_experts(module: Any) -> Experts:
    silu = torch.nn.functional.silu
    return _stacked(module.fc1.weight, module.fc2.weight, silu, transposed=True)


def _aria_forward(module: Any, packed: PackedExperts, rows: Tensor, logits: Tensor) -> Tensor:
    ids, weights = module.route_tokens_to_experts(logits)
    return packed.forward(rows, ids, weights)


def decorated(kind: Any) -> bool:
    """Whether a module's class carries the decorator of the experts interface."""
    return hasattr(kind, "_apply_gate") and hasattr(kind.forward, "__wrapped__")


def row_of(kind: Any) -> Patch | None:
    """What a module's class needs to be served outside the experts interface; None for all others. A class that had to
    be patched in an older release may carry the decorator in a newer one."""
    return None if decorated(kind) else PATCHES.get(kind.__name__)


PATCHES: dict[str, Patch] = {
    "AriaExperts": Patch(_aria_experts, _aria_forward, ("AriaGroupedExpertsGemm",)),
    "DbrxExperts": Patch(_dbrx_experts, _dbrx_forward, ("DbrxExpertGLU",)),
    "JetMoeMoE": Patch(_jetmoe_experts, _jetmoe_forward),
    "Llama4TextMoe": Patch(_llama4_experts, _llama4_forward, ("Llama4TextExperts",)),
    "LongcatFlashExperts": Patch(_longcat_experts, _longcat_forward, ("LongcatFlashExperts",)),
    "Step3p7Experts": Patch(stacked_experts, _interface_forward, ("Step3p7Experts",)),
    "SwitchTransformersExperts": Patch(_switch_experts, _switch_forward),
}
