# SPDX-License-Identifier: Apache-2.0
"""Variants of families beyond their golden cases, by flags and by what else a published folder may hold: a config.json,
the tensors, and the layer's output by the formula (families.py)."""
import math

import capacity
import checkpoint as c
import families as fam
import formulas as f
from families import E, H, I, K, LAYERS, MODEL, V3_KEYS, keys, tokens, walk

VARIANTS = []


def variant(name, prefix=MODEL):
    def register(function):
        VARIANTS.append((name, prefix, function))
        return function
    return register


def biased_glu(store, module, width):
    """A dense gate, up, down with biases under `module`, as a function of a row."""
    parts = [(store.matrix(f"{module}{name}.weight", *shape), store.vector(f"{module}{name}.bias", shape[0]))
             for name, shape in zip(c.PROJ, ((width, H), (width, H), (H, width)))]

    def run(row):
        gate, up = (f.apply(matrix, row, bias) for matrix, bias in parts[:2])
        return f.apply(parts[2][0], [f.silu(g) * u for g, u in zip(gate, up)], parts[2][1])
    return run


@variant("deepseek_v2 with mlp_bias")
def v2_bias(store):
    config = {**keys("deepseek_v2"), **V3_KEYS, "scoring_func": "softmax", "topk_method": "group_limited_greedy",
              "n_group": 4, "topk_group": 2, "mlp_bias": True}
    x, gate = tokens(store), store.matrix("mlp.gate.weight", E, H)
    experts, wide = store.experts(E, I, H, c.by_proj("mlp.")), biased_glu(store, "mlp.shared_experts.", I)

    def route(row, t):
        scores = f.softmax(f.apply(gate, row))
        ids = f.choose_limited(scores, K, 4, 2, max)
        return ids, [2.5 * scores[i] for i in ids]

    return config, walk(x, route, lambda row, ids, w, t: f.add(
        f.weighted(ids, w, lambda e: f.glu(*experts[e], row)), wide(row)))


@variant("doge with mlp_bias")
def doge_bias(store):
    config = keys("doge", num_experts=16, num_experts_per_tok=K, intermediate_size=28, is_moe=True, mlp_bias=True)
    x, gate = tokens(store), store.matrix("mlp.router_gate.weight", 8, H)
    down, up = store.matrix("mlp.down_embed.weight", 16, H), store.matrix("mlp.up_embed.weight", 16, H)
    dense = biased_glu(store, "mlp.", 28)

    def route(row, t):
        logits = f.apply(gate, row)
        sums = [a + b for a in logits[:4] for b in logits[4:]]
        ids = f.top(sums, K)
        return ids, f.softmax([sums[i] for i in ids])

    return config, walk(x, route, lambda row, ids, w, t: f.add(f.weighted(
        ids, w, lambda e: f.times(f.silu(f.apply([down[e]], row)[0]), up[e])), dense(row)))


@variant("nemotron_h with mlp_bias and a latent", prefix=f"backbone.layers.{fam.LAYER}.")
def nemotron_bias(store):
    latent, width, relu2 = 16, 20, lambda v: f.relu(v) ** 2
    config = {**keys("nemotron_h"), **V3_KEYS, "moe_shared_expert_intermediate_size": width, "moe_latent_size": latent,
              "hybrid_override_pattern": "MEME", "mlp_hidden_act": "relu2", "mlp_bias": True,
              "time_step_limit": [0.0, float("inf")]}  # as Python writes it
    x, gate = tokens(store), store.matrix("mixer.gate.weight", E, H)
    bias = store.vector("mixer.gate.e_score_correction_bias", E)
    experts = [(store.matrix(f"mixer.experts.{e}.up_proj.weight", I, latent),
                store.matrix(f"mixer.experts.{e}.down_proj.weight", latent, I)) for e in range(E)]

    def linear(name, rows, columns):
        return store.matrix(f"mixer.{name}.weight", rows, columns), store.vector(f"mixer.{name}.bias", rows)
    to, back = linear("fc1_latent_proj", latent, H), linear("fc2_latent_proj", H, latent)
    up, down = linear("shared_experts.up_proj", width, H), linear("shared_experts.down_proj", H, width)

    def output(row, ids, weights, t):
        narrow = f.apply(to[0], row, to[1])
        total = f.weighted(ids, weights, lambda e: f.apply(experts[e][1], [relu2(u) for u in f.apply(experts[e][0], narrow)]))
        wide = f.apply(down[0], [relu2(u) for u in f.apply(up[0], row, up[1])], down[1])
        return f.add(f.apply(back[0], total, back[1]), wide)

    return config, walk(x, lambda row, t: f.sigmoid_gate(f.apply(gate, row), bias, K, (2, 1), scale=2.5), output)


@variant("hy_v4 with the shared gate under linear_gate")
def hy_v4_names(store):
    config, result = fam.hy_v4(store)
    kept = store.tensors.pop(store.prefix + "mlp.shared_experts.gate_proj.weight")
    store.store("mlp.shared_experts.linear_gate.weight", *kept)
    return config, result


@variant("qwen3_omni_moe, the talker alone", prefix=f"talker.model.layers.{fam.LAYER}.")
def talker(store):
    inner, result = fam.talker(store)
    thinker = {**keys("qwen3_omni_moe_text"), **fam.QWEN_KEYS, "num_experts": 2 * E}
    inner = {**inner, "model_type": "qwen3_omni_moe_talker_text"}
    return {"model_type": "qwen3_omni_moe", "thinker_config": {"text_config": thinker},
            "talker_config": {"text_config": inner}}, result


@variant("dots3_note, the vision encoder", prefix=f"vision_encoder.blocks.{fam.LAYER}.")
def vision(store):
    text = {**keys("dots3_note_text"), **V3_KEYS, "shared_experts_intermediate_size": I}
    inner = keys("dots3_note_vision_encoder", moe_intermediate_size=I, num_local_experts=64, num_experts_per_tok=K,
                 router_scaling_factor=1.5, mlp_layer_types=["dense"] + ["sparse"] * (LAYERS - 1),
                 per_layer_config={"1": {"num_local_experts": E}, "2": {"num_local_experts": 2 * E}})
    x, gate, bias = tokens(store), store.matrix("mlp.gate_weight", E, H), store.vector("mlp.router_bias", E)
    experts = store.experts(E, I, H, tuple("mlp.experts.{e}." + name + ".weight" for name in ("fc1", "fc3", "fc2")))
    return {"model_type": "dots3_note", "text_config": text, "vision_config": inner}, walk(
        x, lambda row, t: f.sigmoid_gate(f.apply(gate, row), bias, K, scale=1.5),
        lambda row, ids, w, t: f.weighted(ids, w, lambda e: f.glu(*experts[e], row)))


# --- families that other engines alone know ---------------------------------------------------------------------------

def phixtral(store, config):
    x, gate = tokens(store), store.matrix("moe.gate.weight", E, H)
    experts = []
    for e in range(E):
        name = f"moe.mlp.{e}."
        experts.append((store.matrix(name + "fc1.weight", 4 * H, H), store.vector(name + "fc1.bias", 4 * H),
                        store.matrix(name + "fc2.weight", H, 4 * H), store.vector(name + "fc2.bias", H)))

    def expert(e, row):
        up, up_bias, down, down_bias = experts[e]
        return f.apply(down, [f.gelu_tanh(u) for u in f.apply(up, row, up_bias)], down_bias)

    def route(row, t):
        logits = f.apply(gate, row)
        ids = f.top(logits, 2)
        return ids, f.softmax([logits[i] for i in ids])

    return config, walk(x, route, lambda row, ids, w, t: f.weighted(ids, w, lambda e: expert(e, row)))


PHI = {"n_embd": H, "n_layer": LAYERS, "n_inner": None, "activation_function": "gelu_new", "num_local_experts": E,
       "num_experts_per_tok": 2}
variant("phixtral", prefix=f"transformer.h.{fam.LAYER}.")(lambda store: phixtral(store, {**PHI, "model_type": "phixtral"}))
variant("phi-msft", prefix=f"transformer.h.{fam.LAYER}.")(lambda store: phixtral(store, {**PHI, "model_type": "phi-msft"}))


@variant("pangu_pro_moe")
def pangu_pro(store):
    """One choice of every group of consecutive experts, weighted by the softmax over all times a learned factor."""
    groups, per = 4, E // 4
    config = {**keys("pangu_pro_moe"), **fam.QWEN_KEYS, "num_experts_per_tok": groups, "norm_topk_prob": False,
              "shared_expert_intermediate_size": 20}
    factor = store.vector("mlp.router_scale", E, 1.0)
    store.tensors[store.prefix + "mlp.router_scale"][0][:] = [1, E]

    def gate_of(logits):
        scores = f.softmax(logits)
        ids = [g * per + f.top(scores[g * per:(g + 1) * per], 1)[0] for g in range(groups)]
        return ids, [scores[i] * factor[i] for i in ids]

    return config, fam.qwen_like(store, gate_of, 20)


@variant("xverse")
def xverse(store):
    config = keys("xverse", num_experts=E, moe_top_k=K, intermediate_size=I, num_shared_experts=2)
    return config, fam.qwen_like(store, lambda logits: f.softmax_gate(logits, K, False), 2 * I,
                                 shared="mlp.shared_experts.", gate_name="mlp.router.weight")


@variant("minicpm")
def minicpm(store):
    config = keys("minicpm", num_experts=E, num_experts_per_tok=2, intermediate_size=I)
    return config, fam.qwen_like(store, lambda logits: f.softmax_gate(logits, 2), names=c.by_number("mlp."))


@variant("smallthinker with a softmax")
def smallthinker(store):
    config, result = fam.smallthinker(store)
    gate = fam.rows_of(store, "block_sparse_moe.primary_router.weight")
    config = {**config, "moe_primary_router_apply_softmax": True, "moe_layer_layout": [0, 1, 1, 1]}
    experts = [tuple(fam.rows_of(store, f"block_sparse_moe.experts.{e}.{n}.weight") for n in ("gate", "up", "down"))
               for e in range(E)]

    def route(row, t):
        logits = f.apply(gate, result.inputs["aux"][t])
        ids = f.top(logits, K)
        return ids, f.softmax([logits[i] for i in ids])

    made = walk(result.inputs["input"], route, lambda row, ids, w, t: f.weighted(
        ids, w, lambda e: f.glu(*experts[e], row, f.relu)))
    made.inputs["aux"] = result.inputs["aux"]
    return config, made


@variant("nemotron_h_puzzle", prefix=f"backbone.layers.{fam.LAYER}.")
def puzzle(store):
    """Sizes by layer."""
    relu2 = lambda v: f.relu(v) ** 2
    config = {**keys("nemotron_h_puzzle"), "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
              "routed_scaling_factor": 1.0, "mlp_hidden_act": "relu2", "hybrid_override_pattern": "MEEM",
              "block_configs": [{}, {"n_routed_experts": E, "moe_intermediate_size": I, "num_experts_per_tok": K,
                                     "moe_shared_expert_intermediate_size": 20}, {"n_routed_experts": 2}, {}]}
    x, gate = tokens(store), store.matrix("mixer.gate.weight", E, H)
    bias = store.vector("mixer.gate.e_score_correction_bias", E)
    pairs = [(store.matrix(f"mixer.experts.{e}.up_proj.weight", I, H),
              store.matrix(f"mixer.experts.{e}.down_proj.weight", H, I)) for e in range(E)]
    wide = store.matrix("mixer.shared_experts.up_proj.weight", 20, H), store.matrix("mixer.shared_experts.down_proj.weight", H, 20)
    run = lambda pair, row: f.apply(pair[1], [relu2(u) for u in f.apply(pair[0], row)])
    return config, walk(x, lambda row, t: f.sigmoid_gate(f.apply(gate, row), bias, K),
                        lambda row, ids, w, t: f.add(f.weighted(ids, w, lambda e: run(pairs[e], row)), run(wide, row)))


@variant("bailing_moe_v2 with a shared width of its own")
def bailing_width(store):
    config = {**keys("bailing_moe_v2"), **V3_KEYS, "score_function": "sigmoid", "moe_router_enable_expert_bias": True,
              "moe_layer_freq": [0, 1, 1, 0],
              "moe_shared_expert_intermediate_size": 12, "n_shared_experts": 2}
    return config, fam.v3_line(store, bias_name="mlp.gate.expert_bias", shared_width=24)


@variant("internvl around qwen3_moe", prefix=f"language_model.model.layers.{fam.LAYER}.")
def internvl(store):
    config = {**keys("qwen3_moe"), **fam.QWEN_KEYS}
    return {"model_type": "internvl_chat", "llm_config": config}, fam.qwen_like(
        store, lambda logits: f.softmax_gate(logits, K))


@variant("step3_text without .weight")
def step3_names(store):
    config, result = fam.step3(store)
    for name in c.PROJ:
        store.tensors[f"{store.prefix}moe.{name}"] = store.tensors.pop(f"{store.prefix}moe.{name}.weight")
    return config, result


# --- other model types for a family's block: the same keys and names, elsewhere or under another type --------------------

def renamed(model_type, build):
    """The family's own case with another model_type."""
    def made(store):
        config, result = build(store)
        return {**config, "model_type": model_type}, result
    return made


def nllb_capacity(fraction, taken, expert_capacity=64, best_first=False, before=False):
    """One nllb whose experts take taken(N) of a sequence of N tokens."""
    changed = {"moe_eval_capacity_token_fraction": fraction, "expert_capacity": expert_capacity,
               "batch_prioritized_routing": best_first, "normalize_router_prob_before_dropping": before}
    name = f"nllb-moe {fraction} {expert_capacity} {best_first} {before}"
    variant(name, prefix=f"model.encoder.layers.{fam.LAYER}.")(lambda store: capacity.nllb_dropping(store, changed, taken))


for some in (0.1, 0.25, 0.5, 0.9):
    for best in (False, True):
        for early in (False, True):
            nllb_capacity(some, lambda n, some=some: math.ceil(some * n), 64, best, early)
for given in (1, 2, 64, None):
    nllb_capacity(0 if given else -1.0, lambda n, given=given: given or 2 * -(-n // fam.E), given, bool(given))
variant("nllb_moe", prefix=f"model.encoder.layers.{fam.LAYER}.")(renamed("nllb_moe", fam.nllb))
variant("PanguProMoE")(renamed("PanguProMoE", pangu_pro))


@variant("inkling2_loop", prefix=f"model.llm.layers.{fam.LAYER}.")
def inkling2_loop(store):
    text, result = fam.inkling2(store)
    return {"model_type": "inkling2_loop", "text_config": {**text, "model_type": "inkling2_loop_text"}}, result


@variant("hy_v4_vl", prefix=f"model.language_model.layers.{fam.LAYER}.")
def hy_v4_vl(store):
    text, result = fam.hy_v4(store)
    return {"model_type": "hy_v4_vl", "text_config": {**text, "model_type": "hy_v4_vl_text"}}, result


@variant("lara_mini")
def lara_mini(store):
    config = {**keys("lara_mini"), **fam.QWEN_KEYS, "norm_topk_prob": False, "shared_expert_intermediate_size": 20}
    result = fam.qwen_like(store, lambda logits: f.softmax_gate(logits, K, False), 20, names=("g{e}", "u{e}", "d{e}"))
    fam.stack(store, "mlp.experts.gate_up_proj", "mlp.experts.down_proj", E)
    return config, result


@variant("inkling_mm_model", prefix=f"model.llm.layers.{fam.LAYER}.")
def inkling_wrapped(store):
    text, result = fam.inkling(store)
    return {"model_type": "inkling_mm_model", "text_config": text}, result


@variant("deepseek_vl_v2", prefix=f"language.model.layers.{fam.LAYER}.")
def vl_v2(store):
    config, result = fam.deepseek_ocr2(store)
    return {**config, "model_type": "deepseek_vl_v2"}, result


@variant("longcat_flash_ngram")
def longcat(store):
    """Classes E and E + 1 give the row itself back."""
    null = 2
    config = {"model_type": "longcat_flash_ngram", "hidden_size": H, "num_layers": LAYERS, "n_routed_experts": E,
              "moe_topk": K, "expert_ffn_hidden_size": I, "zero_expert_num": null, "zero_expert_type": "identity",
              "routed_scaling_factor": 6.0, "router_bias": False}
    x, gate = tokens(store), store.matrix("mlp.router.classifier.weight", E + null, H)
    bias = store.vector("mlp.router.e_score_correction_bias", E + null, 0.1)
    experts = store.experts(E, I, H, c.by_proj("mlp."))

    def route(row, t):
        scores = f.softmax(f.apply(gate, row))
        ids = f.top([s + b for s, b in zip(scores, bias)], K)
        return ids, [6.0 * scores[i] for i in ids]

    return config, walk(x, route, lambda row, ids, w, t: f.weighted(
        ids, w, lambda e: f.glu(*experts[e], row) if e < E else row))


@variant("grinmoe")
def grin(store):
    """Sparsemixer: of each pick the softmax over the logits near its own."""
    eps = 0.25
    config = keys("grinmoe", num_local_experts=E, num_experts_per_tok=2, intermediate_size=I, router_jitter_noise=eps)
    x, gate = tokens(store), store.matrix("block_sparse_moe.gate.weight", E, H)
    experts = store.experts(E, I, H, c.by_number("block_sparse_moe."))

    def pick(logits, left):
        best = max(left, key=lambda i: logits[i])
        near = [i for i in left if (logits[best] - logits[i]) / max(abs(logits[i]), logits[best]) <= 2 * eps]
        return best, f.softmax([logits[i] for i in near])[near.index(best)]

    def route(row, t):
        logits = f.apply(gate, row)
        first, w1 = pick(logits, range(E))
        second, w2 = pick(logits, [i for i in range(E) if i != first])
        return [first, second], [w1, w2]

    return config, walk(x, route, lambda row, ids, w, t: f.weighted(ids, w, lambda e: f.glu(*experts[e], row)))


@variant("inkling with the dense layers' width apart", prefix=f"model.llm.layers.{fam.LAYER}.")
def inkling_dense(store):
    """As published: intermediate_size is the experts' width then, and the first layers are dense."""
    config, result = fam.inkling(store)
    config = {**config, "intermediate_size": config.pop("moe_intermediate_size"), "dense_intermediate_size": 3 * I,
              "dense_mlp_idx": fam.LAYER}
    return config, result


@variant("qwen3_vl_moe saved output-major", prefix=f"model.language_model.layers.{fam.LAYER}.")
def vl_output_major(store):
    """Published input-major; a later release of its framework saves the same names output-major."""
    result = fam.qwen_like(store, lambda logits: f.softmax_gate(logits, K), names=("g{e}", "u{e}", "d{e}"))
    fam.stack(store, "mlp.experts.gate_up_proj", "mlp.experts.down_proj", E)
    return {"model_type": "qwen3_vl_moe", "text_config": {**keys("qwen3_vl_moe_text"), **fam.QWEN_KEYS}}, result


variant("intern_s2_mobius, stacked banks beside the model, one for all layers",
        prefix=f"language_model.model.layers.{fam.LAYER}.")(fam.mobius(1, "", False, stacked=True))
variant("intern_s2_mobius without a prefix of the layers", prefix=f"layers.{fam.LAYER}.")(fam.mobius(2, "model.", True))


@variant("granitemoehybrid without experts")
def granite_dense(store):
    """The shared expert alone, its gate and up in one."""
    config = keys("granitemoehybrid", num_local_experts=0, num_experts_per_tok=0, intermediate_size=I,
                  shared_intermediate_size=20)
    x, joint = tokens(store), store.matrix("shared_mlp.input_linear.weight", 40, H)
    down = store.matrix("shared_mlp.output_linear.weight", H, 20)
    return config, walk(x, lambda row, t: ([-1], [0.0]), lambda row, ids, w, t: f.glu(joint[:20], joint[20:], down, row))


# --- number formats ----------------------------------------------------------------------------------------------------

def e4m3(code):
    sign, exponent, mantissa = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
    return sign * (mantissa / 8 * 2.0 ** -6 if not exponent else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def fp8(store, name, rows, columns, parts):
    """Stacked e4m3 codes with `parts` scales an expert. -> [E][rows][columns]"""
    codes = [store.random.choice(range(0x30)) | store.random.choice((0, 128)) for _ in range(E * rows * columns)]
    scales = [store.random.uniform(0.5, 1.5) / columns ** 0.5 for _ in range(E * parts)]
    store.raw(name, "F8_E4M3", (E, rows, columns), bytes(codes))
    scales = store.floats(name + "_scale_inv", (E, parts, 1), scales)
    at = lambda e, r: (e * rows + r) * columns
    return [[[e4m3(code) * scales[e * parts + r * parts // rows] for code in codes[at(e, r):at(e, r) + columns]]
             for r in range(rows)] for e in range(E)]


@variant("mistral4 in FP8 with a scale for gate and one for up")
def mistral4_fp8(store):
    config = {**keys("mistral4"), **V3_KEYS, "scoring_func": "softmax", "n_group": 1, "quantization_config": {
        "quant_method": "fp8", "weight_block_size": None, "activation_scheme": "static"}}
    x, gate = tokens(store), store.matrix("mlp.gate.weight", E, H)
    joint = fp8(store, "mlp.experts.gate_up_proj", 2 * I, H, 2)
    down = fp8(store, "mlp.experts.down_proj", H, I, 1)
    wide = [store.matrix(f"mlp.shared_experts.{name}.weight", *shape)
            for name, shape in zip(c.PROJ, ((I, H), (I, H), (H, I)))]

    def route(row, t):
        ids, weights = f.softmax_gate(f.apply(gate, row), K)
        return ids, f.times(2.5, weights)

    return config, walk(x, route, lambda row, ids, w, t: f.add(f.weighted(
        ids, w, lambda e: f.glu(joint[e][:I], joint[e][I:], down[e], row)), f.glu(*wide, row)))
