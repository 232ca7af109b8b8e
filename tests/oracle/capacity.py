# SPDX-License-Identifier: Apache-2.0
"""nllb whose experts take part of a sequence: the queues of first and second choices, by the formula."""
import families as fam
import formulas as f


def queued(scores, capacity, best_first, before):
    """Ids and weights of one sequence's tokens where the first choices of all stand before the second ones, and an
    expert takes `capacity` of those that want it; what is dropped is -1."""
    order = sorted(range(len(scores)), key=lambda t: (-max(scores[t]), t)) if best_first else range(len(scores))
    chosen, taken, kept = [f.top(row, 2) for row in scores], {}, set()
    for j in range(2):
        for t in order:
            e = chosen[t][j]
            taken[e] = taken.get(e, 0) + 1
            if taken[e] <= capacity:
                kept.add((t, e))
    routes = []
    for t, ids in enumerate(chosen):
        stays = [e for e in ids if (t, e) in kept]
        divisor = max(sum(scores[t][e] for e in (ids if before else stays)), 2.0**-23)
        dropped = [-1] * (2 - len(stays))
        routes.append((stays + dropped, [scores[t][e] / divisor for e in stays] + [0.0] * len(dropped)))
    return routes


def nllb_dropping(store, changed, capacity):
    """nllb with an evaluation capacity below the whole batch: capacity(tokens of a sequence)."""
    config, x, scores, expert = fam.nllb_parts(store)
    config.update(changed)
    routes = queued(scores, capacity(len(x)), config.get("batch_prioritized_routing", False),
                    config.get("normalize_router_prob_before_dropping", False))

    def output(row, ids, weights, t):
        stays = [(e, w) for e, w in zip(ids, weights) if e >= 0]
        parts = [f.times(w, expert(e, row)) for e, w in stays]
        return f.times(0.8, f.add([0.0] * fam.H, *parts))

    return config, fam.walk(x, lambda row, t: routes[t], output)
