# SPDX-License-Identifier: Apache-2.0
"""One function per family without a golden case: a config.json with published keys, the tensors under published names,
and the layer's output by the formula. LAYER of LAYERS is the one that is run."""
import math

import checkpoint as c
import formulas as f

H, I, E, K, T, LAYERS, LAYER = 24, 16, 8, 3, 6, 4, 1
MODEL = f"model.layers.{LAYER}."
FAMILIES = []


class Result:
    """Rows of y with the ids and weights of each token, and the further inputs of the run."""

    def __init__(self, y, routes, **inputs):
        self.y, self.routes, self.inputs = y, routes, inputs


def family(model_type, prefix=MODEL, **more):
    def register(function):
        FAMILIES.append((model_type, prefix, function, more))
        return function
    return register


def keys(model_type, **more):
    return {"model_type": model_type, "hidden_size": H, "num_hidden_layers": LAYERS, "hidden_act": "silu", **more}


def tokens(store):
    return [store.values(H) for _ in range(T)]


def walk(x, route, output):
    """Runs every token: route(row, t) -> (ids, weights), output(row, ids, weights, t) -> y."""
    routes = [route(row, t) for t, row in enumerate(x)]
    return Result([output(row, *routes[t], t) for t, row in enumerate(x)], routes, input=x)


# --- the DeepSeek-V3 line --------------------------------------------------------------------------------------------

V3_KEYS = {"n_routed_experts": E, "num_experts_per_tok": K, "moe_intermediate_size": I, "n_shared_experts": 1,
           "routed_scaling_factor": 2.5, "norm_topk_prob": True, "n_group": 2, "topk_group": 1,
           "first_k_dense_replace": 1, "scoring_func": "sigmoid"}


def v3_line(store, bias_name="mlp.gate.e_score_correction_bias", groups=(2, 1), scale=2.5, scale_on="weights",
            shared="mlp.shared_experts.", shared_width=I, names=None, act=f.glu, shared_act=f.glu, mean=False):
    x = tokens(store)
    gate = store.matrix("mlp.gate.weight", E, H)
    bias = store.vector(bias_name, E)
    if mean:
        bias = [value - sum(bias) / E for value in bias]
    experts = store.experts(E, I, H, names or c.by_proj("mlp."))
    wide = [store.matrix(shared + name + ".weight", *shape) for name, shape in
            zip(c.PROJ, ((shared_width, H), (shared_width, H), (H, shared_width)))] if shared else None
    on_output = scale if scale_on == "output" else 1.0

    def route(row, t):
        return f.sigmoid_gate(f.apply(gate, row), bias, K, groups, True, 1e-20, scale / on_output)

    def output(row, ids, weights, t):
        y = f.times(on_output, f.weighted(ids, weights, lambda e: act(*experts[e], row)))
        return f.add(y, shared_act(*wide, row)) if wide else y

    return walk(x, route, output)


def plain_v3(model_type, changed=None, prefix=MODEL, **how):
    config = {**keys(model_type), **V3_KEYS, **(changed or {})}

    @family(model_type, prefix)
    def build(store):
        return config, v3_line(store, **how)
    return build


plain_v3("exaone_moe", {"num_experts": E, "num_shared_experts": 1}, bias_name="mlp.e_score_correction_bias")
plain_v3("pangu_ultra_moe")
plain_v3("bailing_moe_v2", {"score_function": "sigmoid", "num_experts": E, "num_shared_experts": 1},
         bias_name="mlp.gate.expert_bias")
plain_v3("bailing_moe_linear", {"score_function": "sigmoid"}, bias_name="mlp.gate.expert_bias")
plain_v3("llada2_moe", {"score_function": "sigmoid"}, bias_name="mlp.gate.expert_bias")
plain_v3("param2moe", {"score_function": "sigmoid"}, bias_name="mlp.gate.expert_bias")
plain_v3("sarvam_moe", {"score_function": "sigmoid"}, bias_name="mlp.gate.expert_bias", mean=True)
plain_v3("glm5_next", {"swiglu_limit": 0.7}, act=lambda *a: f.glu_clamped_before(*a, 0.7),
         shared_act=lambda *a: f.glu_clamped_before(*a, 0.7))
plain_v3("bailing_moe_v3", {"expert_swiglu_limit_list": [0, 0.4, 0, 0], "share_expert_swiglu_limit_list": [0, 0.3, 0, 0]},
         bias_name="mlp.gate.expert_bias", act=lambda *a: f.glu_clamped_after(*a, 0.4),
         shared_act=lambda *a: f.glu_clamped_after(*a, 0.3))
plain_v3("dots3_note", {"shared_experts_intermediate_size": 12, "n_shared_experts": 2, "n_group": 1}, groups=(1, 1),
         shared_width=24)


@family("beam")
def beam(store):
    config = keys("beam", num_experts=E, num_experts_per_tok=K, moe_intermediate_size=I, n_group=4, topk_group=2,
                  norm_topk_prob=True, routed_scaling_factor=1.7, mlp_layer_types=["dense"] + ["sparse"] * 3)
    return config, v3_line(store, groups=(4, 2), scale=1.7, scale_on="output", shared=None)


@family("hy_v4")
def hy_v4(store):
    config = {**keys("hy_v4"), **V3_KEYS, "swiglu_limit": 0.5}
    result = v3_line(store, names=("g{e}", "u{e}", "d{e}"),
                     act=lambda *a: f.glu_clamped_before(*a, 0.5))
    stack(store, "mlp.experts.gate_up_proj", "mlp.experts.down_proj", E)
    return config, result


def stack(store, gate_up, down, count, joined=lambda gate, up: gate + up):
    """Turns the tensors g0.., u0.., d0.. into stacked ones."""
    take = lambda name: store.tensors.pop(store.prefix + name)
    rows = lambda stored: [stored[1][r * stored[0][1]:(r + 1) * stored[0][1]] for r in range(stored[0][0])]
    joint, downs = [], []
    for e in range(count):
        joint += c.flatten(joined(rows(take(f"g{e}")), rows(take(f"u{e}"))))
        downs += take(f"d{e}")[1]
    width = len(joint) // count // H
    store.store(gate_up, (count, width, H), joint)
    store.store(down, (count, H, len(downs) // count // H), downs)


@family("kimi_k3")
def kimi_k3(store):
    latent, beta, linear = 16, 4.0, 25.0
    config = keys("kimi_k3", num_experts=E, num_experts_per_token=K, moe_intermediate_size=I, num_shared_experts=2,
                  routed_scaling_factor=2.0, moe_renormalize=True, num_expert_group=1, topk_group=1, rms_norm_eps=1e-5,
                  first_k_dense_replace=1, routed_expert_hidden_size=latent, latent_moe_use_norm=True,
                  activation_situ_beta=beta, activation_situ_linear_beta=linear, moe_router_activation_func="sigmoid")
    module, x = "block_sparse_moe.", tokens(store)
    gate = store.matrix(module + "gate.weight", E, H)
    bias = store.vector(module + "gate.e_score_correction_bias", E)
    experts = store.experts(E, I, latent, c.by_number(module))
    down = store.matrix(module + "routed_expert_down_proj.weight", latent, H)
    up = store.matrix(module + "routed_expert_up_proj.weight", H, latent)
    norm = store.vector(module + "routed_expert_norm.weight", latent, 1.0)
    wide = [store.matrix(module + f"shared_experts.{name}.weight", *shape)
            for name, shape in zip(c.PROJ, ((2 * I, H), (2 * I, H), (H, 2 * I)))]
    act = f.situ(beta, linear)

    def output(row, ids, weights, t):
        narrow = f.apply(down, row)
        total = f.weighted(ids, weights, lambda e: act(*experts[e], narrow))
        return f.add(f.apply(up, f.rms_norm(total, norm, 1e-5)), act(*wide, row))

    return config, walk(x, lambda row, t: f.sigmoid_gate(f.apply(gate, row), bias, K, scale=2.0), output)


# --- sigmoid without groups -------------------------------------------------------------------------------------------

@family("flint")
def flint(store):
    config = keys("flint", num_experts=E, num_experts_per_tok=K, moe_intermediate_size=I, norm_topk_prob=True,
                  shared_expert_intermediate_size=20)
    return config, qwen_like(store, lambda logits: f.sigmoid_gate(logits, [0.0] * E, K, eps=0.0), 20)


def qwen_like(store, gate_of, shared_width=0, sigmoid_gated=False, shared="mlp.shared_expert.", act=f.glu,
              names=None, gate_name="mlp.gate.weight", mix=f.add, shared_names=c.PROJ):
    x = tokens(store)
    gate = store.matrix(gate_name, E, H)
    experts = store.experts(E, I, H, names or c.by_proj("mlp."))
    w = shared_width
    wide = [store.matrix(shared + name + ".weight", *shape)
            for name, shape in zip(shared_names, ((w, H), (w, H), (H, w)))] if w else None
    lever = store.matrix("mlp.shared_expert_gate.weight", 1, H) if sigmoid_gated else None

    def output(row, ids, weights, t):
        y = f.weighted(ids, weights, lambda e: act(*experts[e], row))
        if not wide:
            return y
        factor = f.sigmoid(f.apply(lever, row)[0]) if lever else 1.0
        return mix(y, f.times(factor, act(*wide, row)))

    return walk(x, lambda row, t: gate_of(f.apply(gate, row)), output)


@family("kolibri1")
def kolibri1(store):
    config = keys("kolibri1", num_local_experts=E, num_experts_per_tok=K, moe_intermediate_size=I,
                  shared_expert_intermediate_size=12)
    bias = store.vector("moe.router.expert_bias", E, 1.0)

    def gate_of(logits):  # the raw logit and the bias choose; not renormalised
        ids = f.top([l + b for l, b in zip(logits, bias)], K)
        return ids, [f.sigmoid(logits[i]) for i in ids]

    return config, qwen_like(store, gate_of, 12, shared="mlp.shared_experts.")


@family("klear")
def klear(store):
    config = keys("klear", num_experts=E, num_experts_per_tok=K, moe_intermediate_size=I, n_shared_experts=1,
                  norm_topk_prob=True)
    x = tokens(store)
    gate, bias = store.matrix("mlp.gate.weight", E, H), store.vector("mlp.expert_bias", E)
    experts = store.experts(E, I, H, c.by_proj("mlp."))
    wide = [store.matrix(f"mlp.shared_experts.{name}.weight", *shape)
            for name, shape in zip(c.PROJ, ((I, H), (I, H), (H, I)))]
    mixer, mixer_bias = store.matrix("mlp.coefficient.weight", 2, H), store.vector("mlp.coefficient.bias", 2)

    def output(row, ids, weights, t):
        c0, c1 = f.softmax(f.apply(mixer, row, mixer_bias))
        y = f.weighted(ids, weights, lambda e: f.glu(*experts[e], row))
        return f.add(f.times(c0, y), f.times(c1, f.glu(*wide, row)))

    return config, walk(x, lambda row, t: f.sigmoid_gate(f.apply(gate, row), bias, K, eps=0.0), output)


@family("step3p5")
def step3p5(store):
    config = keys("step3p5", moe_num_experts=E, moe_top_k=K, moe_intermediate_size=I, share_expert_dim=20,
                  moe_router_scaling_factor=3.0, moe_layers_enum="1,2,3", swiglu_limits=[0, 0.4, 0, 0],
                  swiglu_limits_shared=[0, 0.25, 0, 0])
    x = tokens(store)
    gate, bias = store.matrix("moe.gate.weight", E, H), store.vector("moe.router_bias", E)
    experts = [(store.matrix(None, I, H), store.matrix(None, I, H), store.matrix(None, H, I)) for _ in range(E)]
    for part, name in enumerate(c.PROJ):
        shape = (E, H, I) if part == 2 else (E, I, H)
        store.store(f"moe.{name}.weight", shape, [v for expert in experts for v in c.flatten(expert[part])])
    wide = [store.matrix(f"share_expert.{name}.weight", *shape)
            for name, shape in zip(c.PROJ, ((20, H), (20, H), (H, 20)))]

    def output(row, ids, weights, t):
        y = f.weighted(ids, weights, lambda e: f.glu_clamped_after(*experts[e], row, 0.4))
        return f.add(f.times(3.0, y), f.glu_clamped_after(*wide, row, 0.25))

    return config, walk(x, lambda row, t: f.sigmoid_gate(f.apply(gate, row), bias, K, eps=0.0), output)


# --- inkling ----------------------------------------------------------------------------------------------------------

def inkling_experts(store):
    store.experts(E, I, H, ("g{e}", "u{e}", "d{e}"))
    experts = [tuple(rows_of(store, f"{part}{e}") for part in "gud") for e in range(E)]
    stack(store, "mlp.experts.w13_weight", "mlp.experts.w2_weight", E, c.interleaved)
    return experts


def rows_of(store, name):
    (rows, columns), flat = store.tensors[store.prefix + name]
    return [flat[r * columns:(r + 1) * columns] for r in range(rows)]


@family("inkling", prefix=f"model.llm.layers.{LAYER}.")
def inkling(store):
    shared = 2
    config = keys("inkling", n_routed_experts=E, num_experts_per_tok=K, moe_intermediate_size=I, n_shared_experts=shared,
                  route_scale=8.0, shared_expert_sink=True)
    x = tokens(store)
    gate, bias = store.matrix("mlp.gate.weight", E + shared, H), store.vector("mlp.gate.bias", E)
    scale = store.vector("mlp.gate.global_scale", 1, 1.0)[0] * 8.0
    experts = inkling_experts(store)
    store.experts(shared, I, H, ("g{e}", "u{e}", "d{e}"))
    always = [tuple(rows_of(store, f"{part}{e}") for part in "gud") for e in range(shared)]
    stack(store, "mlp.shared_experts.shared_w13_weight", "mlp.shared_experts.shared_w2_weight", shared, c.interleaved)
    of_shared = {}

    def route(row, t):
        logits = f.apply(gate, row)
        ids = f.top([f.sigmoid(l) + b for l, b in zip(logits[:E], bias)], K)
        joint = f.softmax([math.log(f.sigmoid(logits[i])) for i in ids + [E, E + 1]])
        of_shared[t] = [scale * w for w in joint[K:]]
        return ids, [scale * w for w in joint[:K]]

    def output(row, ids, weights, t):
        def weighted_before_down(gate_, up, down, w):
            return f.apply(down, [w * f.silu(g) * u for g, u in zip(f.apply(gate_, row), f.apply(up, row))])
        y = f.weighted(ids, weights, lambda e: f.glu(*experts[e], row))
        return f.add(y, *[weighted_before_down(*always[s], of_shared[t][s]) for s in range(shared)])

    return config, walk(x, route, output)


@family("inkling2", prefix=f"model.llm.layers.{LAYER}.")
def inkling2(store):
    config = keys("inkling2", n_routed_experts=E, num_experts_per_tok=K, moe_intermediate_size=I, route_scale=2.0,
                  mlp_gate_softcap=4.0, mlp_up_softcap=25.0, scoring_func="sigmoid", norm_topk_prob=True)
    x = tokens(store)
    gate, bias = store.matrix("mlp.gate.weight", E, H), store.vector("mlp.gate.bias", E)
    experts, act = inkling_experts(store), f.situ(4.0, 25.0)
    return config, walk(x, lambda row, t: f.sigmoid_gate(f.apply(gate, row), bias, K, scale=2.0),
                        lambda row, ids, w, t: f.weighted(ids, w, lambda e: act(*experts[e], row)))


# --- softmax ----------------------------------------------------------------------------------------------------------

QWEN_KEYS = {"num_experts": E, "num_experts_per_tok": K, "moe_intermediate_size": I, "norm_topk_prob": True}


def plain_qwen(model_type, renormalise=True, **more):
    @family(model_type)
    def build(store):
        config = {**keys(model_type), **QWEN_KEYS, "norm_topk_prob": renormalise, **more}
        return config, qwen_like(store, lambda logits: f.softmax_gate(logits, K, renormalise))
    return build


plain_qwen("sdar_moe")
plain_qwen("rnd1")
plain_qwen("llada_moe", False)


@family("qwen3_omni_moe_talker", prefix=f"talker.model.layers.{LAYER}.")
def talker(store):
    config = {**keys("qwen3_omni_moe_talker"), **QWEN_KEYS, "shared_expert_intermediate_size": 20}
    return config, qwen_like(store, lambda logits: f.softmax_gate(logits, K), 20, True)


@family("deepseek")
def deepseek(store):
    config = {**keys("deepseek"), **V3_KEYS, "scoring_func": "softmax", "norm_topk_prob": False, "n_shared_experts": 2}
    return config, qwen_like(store, lambda logits: f.softmax_gate(logits, K, False), 2 * I, shared="mlp.shared_experts.")


@family("bailing_moe")
def bailing(store):
    config = {**keys("bailing_moe"), **QWEN_KEYS, "num_shared_experts": 1, "first_k_dense_replace": 0}
    return config, qwen_like(store, lambda logits: f.softmax_gate(logits, K), I, shared="mlp.shared_experts.")


@family("deepseek_ocr2")
def deepseek_ocr2(store):
    text = {**keys("deepseek_v2"), **V3_KEYS, "scoring_func": "softmax", "topk_method": "group_limited_greedy",
            "n_group": 4, "topk_group": 2, "routed_scaling_factor": 16.0, "norm_topk_prob": False}
    config = {"model_type": "deepseek_ocr2", "language_config": text}

    def gate_of(logits):
        scores = f.softmax(logits)
        ids = f.choose_limited(scores, K, 4, 2, max)
        return ids, [16.0 * scores[i] for i in ids]

    return config, qwen_like(store, gate_of, I, shared="mlp.shared_experts.")


def mobius(banks, prefix, scaled, stacked=False):
    """Layer LAYER uses bank LAYER mod banks, which stands outside of the layers."""
    def build(store):
        config = {**keys("intern_s2_mobius"), **QWEN_KEYS, "shared_expert_intermediate_size": 20, "num_blocks": banks}
        result = qwen_like(store, lambda logits: f.softmax_gate(logits, K), 20, True, names=("g{e}", "u{e}", "d{e}"),
                           gate_name="gate")
        scale = store.vector("ffn_layer_scale", H) if scaled else [0.0] * H
        if scaled:
            store.tensors[store.prefix + "ffn_layer_scale"][0][:] = [1, 1, H]
        bank = f"{prefix}meta_mlp.{LAYER % banks}."
        if stacked:
            stack(store, "gate_up", "down", E)
        moved = {"gate": "gate.weight", "gate_up": "experts.gate_up_proj", "down": "experts.down_proj"}
        for e in range(E):
            for part, name in zip("gud", c.PROJ):
                moved[f"{part}{e}"] = f"experts.{e}.{name}.weight"
        for name, place in moved.items():
            if store.prefix + name in store.tensors:
                store.tensors[bank + place] = store.tensors.pop(store.prefix + name)
        for other in range(banks):  # the other banks' routers are there too
            store.tensors.setdefault(f"{prefix}meta_mlp.{other}.gate.weight", ([E, H], [0.0] * (E * H)))
        result.y = [[v * (1.0 + s) for v, s in zip(row, scale)] for row in result.y]
        return {"model_type": "intern_s2_mobius", "text_config": config}, result
    return build


@family("intern_s2_mobius", prefix=f"model.language_model.layers.{LAYER}.")
def intern_s2_mobius(store):
    return mobius(3, "model.language_model.", True)(store)


@family("step3_text")
def step3(store):
    config = keys("step3_text", moe_num_experts=E, moe_top_k=K, moe_intermediate_size=I, share_expert_dim=20,
                  norm_expert_weight=True, moe_layers_enum="1,2,3")
    x = tokens(store)
    gate = store.matrix("moe.gate.weight", E, H)
    experts = [(store.matrix(None, I, H), store.matrix(None, I, H), store.matrix(None, H, I)) for _ in range(E)]
    for part, name in enumerate(c.PROJ):
        shape = (E, H, I) if part == 2 else (E, I, H)
        store.store(f"moe.{name}.weight", shape, [v for expert in experts for v in c.flatten(expert[part])])
    wide = [store.matrix(f"share_expert.{name}.weight", *shape)
            for name, shape in zip(c.PROJ, ((20, H), (20, H), (H, 20)))]
    return config, walk(x, lambda row, t: f.softmax_gate(f.apply(gate, row), K), lambda row, ids, w, t: f.add(
        f.weighted(ids, w, lambda e: f.glu(*experts[e], row)), f.glu(*wide, row)))


@family("intern_s1_pro", prefix=f"model.language_model.layers.{LAYER}.")
def intern_s1_pro(store):
    config = {**keys("intern_s1_pro"), **QWEN_KEYS, "num_experts_per_tok": 4, "router_n_groups": 2}

    def gate_of(logits):  # two of each half
        scores = f.softmax(logits)
        ids = f.top(scores[:4], 2) + [4 + i for i in f.top(scores[4:], 2)]
        return ids, f.divide([scores[i] for i in ids])

    return config, qwen_like(store, gate_of)


@family("arctic")
def arctic(store):
    config = keys("arctic", num_local_experts=E, num_experts_per_tok=2, intermediate_size=I, moe_layer_frequency=2)
    x, aux = tokens(store), tokens(store)
    gate = store.matrix("block_sparse_moe.gate.weight", E, H)
    experts = store.experts(E, I, H, c.by_number("block_sparse_moe."))
    residual = [store.matrix(f"residual_mlp.{name}.weight", H, H) for name in ("w1", "w3", "w2")]
    result = walk(x, lambda row, t: f.softmax_gate(f.apply(gate, row), 2), lambda row, ids, w, t: f.add(
        f.weighted(ids, w, lambda e: f.glu(*experts[e], row)), f.glu(*residual, aux[t])))
    result.inputs["aux"] = aux
    return config, result


def capped(logits):
    scores = f.softmax([30.0 * math.tanh(l / 30.0) for l in logits])
    ids = f.top(scores, 2)
    return ids, [scores[i] for i in ids]


@family("grok-1")
def grok1(store):
    config = keys("grok-1", num_local_experts=E, num_experts_per_tok=2, intermediate_size=I)
    return config, qwen_like(store, capped, act=lambda *a: f.glu(*a, f.gelu), names=c.by_number("block_sparse_moe."),
                             gate_name="block_sparse_moe.gate.weight")


@family("grok-2")
def grok2(store):
    config = keys("grok-2", num_local_experts=E, num_experts_per_tok=2, moe_intermediate_size=I, intermediate_size=28)
    return config, qwen_like(store, capped, 28, shared="mlp.", act=lambda *a: f.glu(*a, f.gelu),
                             names=c.by_number("block_sparse_moe."), gate_name="block_sparse_moe.gate.weight",
                             mix=lambda a, b: f.times(1.0 / math.sqrt(2.0), f.add(a, b)))


@family("smallthinker")
def smallthinker(store):
    config = keys("smallthinker", moe_num_primary_experts=E, moe_num_active_primary_experts=K, moe_ffn_hidden_size=I)
    x, aux = tokens(store), tokens(store)
    gate = store.matrix("block_sparse_moe.primary_router.weight", E, H)
    experts = store.experts(E, I, H, tuple("block_sparse_moe.experts.{e}." + n + ".weight" for n in ("gate", "up", "down")))

    def route(row, t):  # reads the layer's input
        logits = f.apply(gate, aux[t])
        ids = f.top(logits, K)
        return ids, f.divide([f.sigmoid(logits[i]) for i in ids])

    result = walk(x, route, lambda row, ids, w, t: f.weighted(ids, w, lambda e: f.glu(*experts[e], row, f.relu)))
    result.inputs["aux"] = aux
    return config, result


@family("grove_moe")
def grove(store):
    narrow = 8
    config = {**keys("grove_moe"), **QWEN_KEYS, "head_dim": narrow}
    x = tokens(store)
    gate = store.matrix("mlp.gate.weight", E, H)
    experts = store.experts(E, I, H, c.by_proj("mlp."))
    second = store.experts(E // 2, narrow, H, tuple(p.replace("experts", "chunk_experts") for p in c.by_proj("mlp.")))

    def route(row, t):
        logits = f.apply(gate, row)
        ids = f.top([f.sigmoid(l) for l in logits], K)
        scores = f.softmax(logits)
        return ids, f.divide([scores[i] for i in ids])

    return config, walk(x, route, lambda row, ids, w, t: f.weighted(
        ids, w, lambda e: f.add(f.glu(*experts[e], row), f.times(0.05, f.glu(*second[e // 2], row)))))


@family("nomic_bert", prefix=f"encoder.layers.{LAYER}.")
def nomic(store):
    config = {"model_type": "nomic_bert", "n_embd": H, "n_inner": I, "n_layer": LAYERS, "num_experts": E, "moe_top_k": 2,
              "moe_every_n_layers": 2, "activation_function": "gelu"}
    x = tokens(store)
    gate = store.matrix("mlp.router.layer.weight", E, H)
    up = [store.matrix(None, I, H) for _ in range(E)]
    down = [store.matrix(None, H, I) for _ in range(E)]
    store.store("mlp.experts.mlp.w1", (E * I, H), [v for m in up for v in c.flatten(m)])
    store.store("mlp.experts.mlp.w2", (E * I, H), [v for m in down for v in c.flatten(c.transposed(m))])
    return config, walk(x, lambda row, t: f.softmax_gate(f.apply(gate, row), 2, False), lambda row, ids, w, t: f.weighted(
        ids, w, lambda e: f.apply(down[e], [f.gelu(u) for u in f.apply(up[e], row)])))


# --- operators --------------------------------------------------------------------------------------------------------

def nllb_parts(store):
    """Keys of an nllb layer, its tokens, their scores and its experts."""
    config = {"model_type": "nllb-moe", "d_model": H, "encoder_ffn_dim": I, "encoder_layers": LAYERS, "num_experts": E,
              "encoder_sparse_step": 2, "decoder_sparse_step": 2, "activation_function": "relu", "moe_token_dropout": 0.2,
              "moe_eval_capacity_token_fraction": 1.0, "second_expert_policy": "all", "router_bias": False}
    x = tokens(store)
    gate = store.matrix("ffn.router.classifier.weight", E, H)
    experts = []
    for e in range(E):
        name = f"ffn.experts.expert_{e}."
        experts.append((store.matrix(name + "fc1.weight", I, H), store.vector(name + "fc1.bias", I),
                        store.matrix(name + "fc2.weight", H, I), store.vector(name + "fc2.bias", H)))

    def expert(e, row):
        up, up_bias, down, down_bias = experts[e]
        return f.apply(down, [f.relu(u) for u in f.apply(up, row, up_bias)], down_bias)

    return config, x, [f.softmax(f.apply(gate, row)) for row in x], expert


@family("nllb-moe", prefix=f"model.encoder.layers.{LAYER}.")
def nllb(store):
    config, x, scores, expert = nllb_parts(store)

    def route(row, t):
        ids = f.top(scores[t], 2)
        return ids, f.divide([scores[t][i] for i in ids])

    return config, walk(x, route, lambda row, ids, w, t: f.times(0.8, f.weighted(ids, w, lambda e: expert(e, row))))


@family("doge")
def doge(store):
    experts, side = 20, 4  # keys of a half: the experts from 16 on are never reached
    config = keys("doge", num_experts=experts, num_experts_per_tok=K, intermediate_size=28, is_moe=True,
                  norm_topk_prob=False)
    x = tokens(store)
    gate = store.matrix("mlp.router_gate.weight", 2 * side, H)
    down, up = store.matrix("mlp.down_embed.weight", experts, H), store.matrix("mlp.up_embed.weight", experts, H)
    dense = [store.matrix(f"mlp.{name}.weight", *shape) for name, shape in zip(c.PROJ, ((28, H), (28, H), (H, 28)))]

    def route(row, t):
        logits = f.apply(gate, row)
        sums = [a + b for a in logits[:side] for b in logits[side:]]
        ids = f.top(sums, K)
        return ids, f.softmax([sums[i] for i in ids])

    def output(row, ids, weights, t):
        y = f.weighted(ids, weights, lambda e: f.times(f.silu(f.apply([down[e]], row)[0]), up[e]))
        return f.add(y, f.glu(*dense, row))

    return config, walk(x, route, output)
