#!/usr/bin/env python3
"""Trains tests/specs/delayed-mlp.yaml with weights that are late, in NumPy and float64.

    python3 tests/oracle/delayed.py > tests/golden/oracle-delayed.txt

Stage s of three is one linear layer.  Update t, counted from the last drain, takes its gradient at version v_s of each
stage's weights and makes version t + 1; what v_s is stands in `late`, from the papers' equations.  A line for each way
of being late: its name, then the loss of each update.
"""

import sys

import numpy as np

sys.dont_write_bytecode = True
import contract  # noqa: E402

SEED, WIDTHS, SAMPLES, BATCH, UPDATES, DRAIN, LR, MOMENTUM = 21, (32, 16, 12, 4), 60, 12, 13, 5, 0.1, 0.5
STAGES = len(WIDTHS) - 1


def late(way, s):
    return {"stashing": STAGES - 1 - s, "without_stashing": STAGES - 1 - s,
            "vertical_sync": STAGES - 1, "2bw": 1}[way]


def initial():
    weights = []
    for s, (fan_in, out) in enumerate(zip(WIDTHS, WIDTHS[1:])):
        weights.append([contract.initial("", SEED, f"fc{s + 1}.{name}", shape, name, fan_in, out).astype(np.float64)
                        for name, shape in (("weight", (out, fan_in)), ("bias", (out,)))])
    return weights


def train(way):
    data = contract.Synthetic(SEED, (1, 1, WIDTHS[0]), WIDTHS[-1], SAMPLES, False)
    versions = [[w] for w in initial()]  # of each stage, since the last drain
    moments = [[np.zeros_like(p) for p in stage[0]] for stage in versions]
    losses = []
    for step in range(UPDATES):
        if step % DRAIN == 0:
            versions = [[stage[-1]] for stage in versions]
        t = step % DRAIN
        x, y = data.get(contract.step_samples(SEED, SAMPLES, BATCH, "wrap", step))
        inputs = [x.reshape(BATCH, -1).astype(np.float64)]
        read = [versions[s][max(0, t - late(way, s))] for s in range(STAGES)]
        for s, (w, b) in enumerate(read):
            z = inputs[s] @ w.T + b
            inputs.append(np.tanh(z) if s < STAGES - 1 else z)
        z = inputs[-1] - inputs[-1].max(axis=1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        losses.append(-log_p[np.arange(BATCH), y].mean())
        dz = (np.exp(log_p) - np.eye(WIDTHS[-1])[y]) / BATCH
        if way == "without_stashing":
            read = [stage[t] for stage in versions]
        for s in reversed(range(STAGES)):
            gradient = [dz.T @ inputs[s], dz.sum(axis=0)]
            if s > 0:
                dz = dz @ read[s][0] * (1 - inputs[s] ** 2)
            moments[s] = [MOMENTUM * m + g for m, g in zip(moments[s], gradient)]
            versions[s].append([w - LR * m for w, m in zip(versions[s][t], moments[s])])
    return losses


for name in ("stashing", "vertical_sync", "2bw", "without_stashing"):
    print(name, *(f"{loss:.9f}" for loss in train(name)))
