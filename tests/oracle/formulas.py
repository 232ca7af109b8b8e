# SPDX-License-Identifier: Apache-2.0
"""Mixture-of-Experts formulas in plain float64, one token at a time: the oracle of families without a golden case.

Written from the formulas, not from moeblock: vectors are lists, matrices lists of rows [out][in]."""
import math


def softmax(values):
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    return [power / sum(powers) for power in powers]


def sigmoid(value):
    return 1.0 / (1.0 + math.exp(-value))


def silu(value):
    return value * sigmoid(value)


def gelu(value):
    return 0.5 * value * (1.0 + math.erf(value / math.sqrt(2.0)))


def gelu_tanh(value):
    return 0.5 * value * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (value + 0.044715 * value ** 3)))


def relu(value):
    return max(value, 0.0)


def apply(matrix, x, bias=None):
    out = [math.fsum(w * v for w, v in zip(row, x)) for row in matrix]
    return [a + b for a, b in zip(out, bias)] if bias else out


def add(*vectors):
    return [math.fsum(column) for column in zip(*vectors)]


def times(factor, vector):
    return [factor * value for value in vector]


def rms_norm(x, weight, eps):
    scale = 1.0 / math.sqrt(math.fsum(v * v for v in x) / len(x) + eps)
    return [v * scale * w for v, w in zip(x, weight)]


def top(values, k):
    """Ids of the k largest, ties to the lower id."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]


def best_groups(values, n, keep, score):
    """Ids in the `keep` best of n groups of consecutive ids."""
    size = len(values) // n
    groups = [values[g * size:(g + 1) * size] for g in range(n)]
    kept = top([score(group) for group in groups], keep)
    return [i for i in range(len(values)) if i // size in kept]


def best_two(group):
    return sum(sorted(group)[-2:])


def choose_limited(values, k, n, keep, score=best_two):
    allowed = best_groups(values, n, keep, score)
    return [allowed[i] for i in top([values[i] for i in allowed], k)]


def divide(weights, eps=0.0):
    total = sum(weights) + eps
    return [w / total for w in weights]


def glu(gate, up, down, x, act=silu):
    return apply(down, [act(g) * u for g, u in zip(apply(gate, x), apply(up, x))])


def clamp(value, limit):
    return max(-limit, min(limit, value))


def glu_clamped_before(gate, up, down, x, limit):
    return apply(down, [silu(min(g, limit)) * clamp(u, limit) for g, u in zip(apply(gate, x), apply(up, x))])


def glu_clamped_after(gate, up, down, x, limit):
    return apply(down, [min(silu(g), limit) * clamp(u, limit) for g, u in zip(apply(gate, x), apply(up, x))])


def situ(beta, linear):
    def pair(g, u):
        u = linear * math.tanh(u / linear) if linear else u
        return beta * math.tanh(g / beta) * sigmoid(g) * u
    return lambda gate, up, down, x: apply(down, [pair(g, u) for g, u in zip(apply(gate, x), apply(up, x))])


def weighted(ids, weights, expert):
    """sum of w * expert(id)."""
    return add(*[times(w, expert(e)) for e, w in zip(ids, weights)])


def sigmoid_gate(logits, bias, k, groups=(1, 1), renormalise=True, eps=1e-20, scale=1.0):
    """The DeepSeek-V3 line: choose by sigmoid + bias in the best groups, weigh by the sigmoid."""
    scores = [sigmoid(l) for l in logits]
    ids = choose_limited([s + b for s, b in zip(scores, bias)], k, *groups)
    weights = [scores[i] for i in ids]
    return ids, times(scale, divide(weights, eps) if renormalise else weights)


def softmax_gate(logits, k, renormalise=True):
    scores = softmax(logits)
    ids = top(scores, k)
    weights = [scores[i] for i in ids]
    return ids, divide(weights) if renormalise else weights
