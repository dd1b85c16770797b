#!/usr/bin/env python3
"""Draws test accuracy over epochs as SVG, from metrics.jsonl files.  Python's own library is enough.

    curves.py OUT.svg "PANEL=LABEL=metrics.jsonl=STEPS_PER_EPOCH" ...

Runs of one panel are drawn in the order given, one colour a label, the last value beside the line's end.
"""
import json
import sys

COLOURS = ["#1f4e9e", "#c2571a", "#2e7d4f", "#7a3f98", "#555555"]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 320, 52, 128, 40, 44


def curve(path, steps_per_epoch):
    """[(epoch, test accuracy in percent)] of the run's evaluations."""
    points = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            if record["type"] == "eval":
                points.append((record["step"] / steps_per_epoch, 100 * record["accuracy_ratio"]))
    if not points:
        sys.exit(f"{path} has no evaluation: set training.eval_interval")
    return points


def text(x, y, what, anchor="middle", size=12, colour="#222"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
            f'fill="{colour}">{what}</text>')


def spread(ys, gap):
    """Label heights: those of `ys`, moved apart where they would overlap."""
    order = sorted(range(len(ys)), key=lambda i: ys[i])
    out = list(ys)
    for before, i in zip(order, order[1:]):
        out[i] = max(out[i], out[before] + gap)
    return out


def panel(title, runs, colour_of, left):
    """One chart: runs are (label, points)."""
    every = [p for _, points in runs for p in points]
    first, last = 0.0, max(x for x, _ in every)
    low, high = int(min(y for _, y in every)), int(max(y for _, y in every)) + 1
    step = max(1, (high - low + 5) // 6)
    x_of = lambda x: left + LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)
    y_of = lambda y: HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
    out = [text(x_of((first + last) / 2), 22, title, size=14)]
    for y in range(low, high + 1, step):
        out.append(f'<line x1="{x_of(first):.1f}" x2="{x_of(last):.1f}" y1="{y_of(y):.1f}" '
                   f'y2="{y_of(y):.1f}" stroke="#ddd"/>')
        out.append(text(x_of(first) - 6, y_of(y) + 4, f"{y}", "end", 11))
    for x in range(0, int(last) + 1, max(1, int(last) // 6)):
        out.append(text(x_of(x), HEIGHT - BOTTOM + 16, f"{x}", size=11))
    out.append(text(x_of((first + last) / 2), HEIGHT - 10, "epochs"))
    heights = spread([y_of(points[-1][1]) for _, points in runs], 14)
    for (label, points), height in zip(runs, heights):
        where = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        colour = colour_of[label]
        out.append(f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.append(text(x_of(last) + 6, height + 4, f"{label} {points[-1][1]:.2f}", "start", 11,
                        colour))
    return out


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    panels, labels = {}, []
    for arg in sys.argv[2:]:
        title, label, path, steps = arg.split("=")
        panels.setdefault(title, []).append((label, curve(path, float(steps))))
        if label not in labels:
            labels.append(label)
    colour_of = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(labels)}
    body = []
    for k, (title, runs) in enumerate(panels.items()):
        body += panel(title, runs, colour_of, k * WIDTH)
    width = WIDTH * len(panels) + 16
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" '
                  f'viewBox="0 0 {width} {HEIGHT}" font-family="sans-serif">\n'
                  f'<title>Test accuracy in percent over epochs</title>\n'
                  f'<rect width="{width}" height="{HEIGHT}" fill="white"/>\n')
        out.write("\n".join(body) + "\n</svg>\n")


main()
