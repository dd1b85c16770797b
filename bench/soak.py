#!/usr/bin/env python3
"""What a run came to that lost workers all the time.  Python's own library is enough.

    soak.py METRICS.jsonl SAMPLES ENVIRONMENT RESULT.json

Goodput is the committed steps, each counted once, over what those who were there allowed: while a plan was in force, or
while the run was on its way to it, one step each median step time of that plan.

    allowed = sum of (time from the loss, or the return, that led to a plan, to the next one) / (its median step)

Exit code 1 where goodput is below 90 %, where the agent's or the supervisor's descriptors or memory grow, or where a worker's do:
the most of the last third of the samples against the most of the first.
"""
import json
import statistics
import sys

GOODPUT, MORE_FDS, MORE_KIB = 0.9, 0, 4096


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def tenures(records):
    """[(begin in seconds, plan)], the first from the end of the first step on; and {plan: [step times]}."""
    steps = [r for r in records if r["type"] == "step"]
    found, times, plan, fresh = [], {}, None, True
    for r in records:
        if r["type"] == "recovery":
            if plan is None:
                plan = r["plan_before"]
                found.append((steps[0]["wall_time_s"], plan))
            begin = r["t_fault_s"] if r["reason"] == "loss" else r["t_detect_s"]
            plan, fresh = r["plan_after"], True
            found.append((begin, plan))
        elif r["type"] == "step":
            if not fresh:
                times.setdefault(plan, []).append(r["step_time_s"])
            fresh = False
    times.setdefault(found[0][1], []).extend(times.pop(None, []))
    return found, {p: t for p, t in times.items() if p}


def goodput(records):
    found, times = tenures(records)
    steps = [r for r in records if r["type"] == "step"]
    end = steps[-1]["wall_time_s"]
    usual = {plan: statistics.median(t) for plan, t in times.items() if t}
    slowest = max(usual.values())  # of a plan that never came to a second step
    allowed = 0.0
    for (begin, plan), (until, _) in zip(found, found[1:] + [(end, None)]):
        allowed += max(until - begin, 0.0) / usual.get(plan, slowest)
    return (steps[-1]["step"] - steps[0]["step"]) / allowed


def thirds(path):
    """{role: (most descriptors, most KiB) of the first third of the samples and of the last}."""
    samples = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            role, _, fds, kib = line.split()
            samples.setdefault(role, []).append((int(fds), int(kib)))
    most = lambda part: tuple(max(s[i] for s in part) for i in range(2))
    return {role: (most(s[: len(s) // 3]), most(s[-(len(s) // 3) :])) for role, s in samples.items()}


def main():
    metrics, samples, environment, result = sys.argv[1:]
    records = read(metrics)
    end = [r for r in records if r["type"] == "run_end"][-1]
    recoveries = [r for r in records if r["type"] == "recovery"]
    losses = [r for r in recoveries if r["reason"] == "loss"]
    returns = [r for r in recoveries if r["reason"] == "rejoin"]
    good, use = goodput(records), thirds(samples)
    faults = sum(r["type"] == "failure" for r in records)
    wall = [r for r in records if r["type"] == "step"][-1]["wall_time_s"]
    flat = all(b[0] <= a[0] + MORE_FDS and b[1] <= a[1] + MORE_KIB for a, b in use.values())
    print(f"{wall / 60:.1f} min, {end['steps']} steps, {faults} workers lost, one each {wall / max(faults, 1):.1f} s, "
          f"{len(losses)} recoveries, {len(returns)} returns, {end['steps_lost']} committed steps made again")
    print(f"goodput {100 * good:.1f} % of what those who were there allowed")
    for role, (a, b) in use.items():
        print(f"{role:10s} descriptors {a[0]} -> {b[0]}, memory {a[1] / 1024:.1f} -> {b[1] / 1024:.1f} MiB")
    with open(result, "w", encoding="utf-8") as out:
        json.dump({"environment": json.loads(environment), "emulated": "delay layers", "minutes": round(wall / 60, 2),
                   "steps": end["steps"], "workers_lost": faults, "recoveries": len(losses), "returns": len(returns),
                   "steps_made_again": end["steps_lost"], "goodput": round(good, 4),
                   "first_and_last_third": {role: {"descriptors": [a[0], b[0]], "kib": [a[1], b[1]]}
                                            for role, (a, b) in use.items()}}, out, indent=1)
        out.write("\n")
    return 0 if good >= GOODPUT and flat else 1


sys.exit(main())
