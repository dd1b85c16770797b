#!/usr/bin/env python3
"""Trains dml's test cases in PyTorch, from dml's documented contracts alone.

    oracle.py --golden FOLDER [case ...]      writes FOLDER/oracle-<case>.json
    oracle.py --compare DUMP case             every element of a run of dml against float32 and float64
    oracle.py --noise [case ...]              PyTorch in float32 against itself in float64
    oracle.py --margin N [case ...]           how near to a kink (README.md) N seeds come

A step loops over micro-batches, adds the sums of the samples' losses, divides the gradients by the samples of the
step, and takes batch norm's running moments once over the whole step.
"""

import argparse
import collections
import json
import math
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
import xxhash
from torch import nn

sys.dont_write_bytecode = True
import contract  # noqa: E402

torch.set_num_threads(1)  # the same bits wherever it runs
STEPS, SAMPLED, TEST_IMAGES = 20, 64, 128
FASHION = "/usr/share/datasets/fashion-mnist"


# ---- models ----

class Dropout(nn.Module):
    """Masks from dml's contract.  `layer` numbers the chain; `place` is where training says what it runs."""

    def __init__(self, rate, place):
        super().__init__()
        self.rate, self.place, self.layer = rate, place, None

    def forward(self, x):
        if not self.training:
            return x
        rows, elems = x.shape[0], x[0].numel()
        mask = torch.from_numpy(contract.dropout_mask(
            self.place.seed, self.layer, self.rate, self.place.step, self.place.first_sample, rows, elems))
        if x.dim() == 4:
            n, c, h, w = x.shape
            mask = mask.reshape(n, h, w, c).permute(0, 3, 1, 2)
        return x * mask.reshape(x.shape).to(x.dtype)


class BatchNorm(nn.Module):
    """Normalises by micro-batch.  Deferred: the running moments take the whole step's values at its end."""

    def __init__(self, channels, eps=1e-5, momentum=0.1, deferred=True):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.eps, self.momentum, self.deferred, self.seen = eps, momentum, deferred, []

    def forward(self, x):
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if not self.deferred:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True,
                                self.momentum, self.eps)
        self.seen.append(x.detach())
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)

    def end_step(self):
        if not self.deferred:
            return
        values = torch.cat(self.seen).transpose(0, 1).flatten(1)
        self.running_mean.lerp_(values.mean(1), self.momentum)
        self.running_var.lerp_(values.var(1, unbiased=True), self.momentum)
        self.seen.clear()


class Block(nn.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body, shortcut=()):
        super().__init__()
        self.body = [name for name, _ in body]
        for name, module in body:
            self.add_module(name, module)
        self.shortcut = nn.Sequential(collections.OrderedDict(shortcut))

    def forward(self, x):
        y = x
        for name in self.body:
            y = getattr(self, name)(y)
        return y + self.shortcut(x)


def number_layers(net):
    """dml numbers layers along the chain: a block's body, its shortcut, its addition."""
    i = 0
    for child in net:
        if isinstance(child, Block):
            i += len(child.body) + len(child.shortcut) + 1
            continue
        if isinstance(child, Dropout):
            child.layer = i
        i += 1


def sequential(parts):
    return nn.Sequential(collections.OrderedDict(parts))


def mlp(place, hidden, rate=0.0, activation=nn.ReLU):
    parts, width = [("flatten", nn.Flatten())], 784
    for i, out in enumerate(hidden, 1):
        parts += [(f"fc{i}", nn.Linear(width, out)), (f"{activation.__name__.lower()}{i}", activation())]
        if rate > 0:
            parts.append((f"dropout{i}", Dropout(rate, place)))
        width = out
    return sequential(parts + [(f"fc{len(hidden) + 1}", nn.Linear(width, 10))])


def vgg8(place, image, activation, pool, names):
    """VGG-8 for images of `image` x `image`; `names` of activations and pools."""
    parts, channels = [], 1
    for i, out in enumerate([64, 64, 128, 128, 256, 256], 1):
        parts += [(f"conv{i}", nn.Conv2d(channels, out, 3, padding=1, bias=False)),
                  (f"bn{i}", BatchNorm(out)), (f"{names[0]}{i}", activation())]
        if i % 2 == 0:
            parts.append((f"{names[1]}{i // 2}", pool(2)))
        channels = out
    return sequential(parts + [
        ("flatten", nn.Flatten()), ("fc1", nn.Linear(256 * (image // 8) ** 2, 512)),
        (f"{names[0]}7", activation()), ("dropout1", Dropout(0.5, place)), ("fc2", nn.Linear(512, 10))])


def every_layer(place):
    """tests/specs/oracle-layers.yaml."""
    keep = Block([
        ("conv1", nn.Conv2d(8, 8, 3, padding=1, bias=False)), ("bn1", BatchNorm(8)), ("gelu1", nn.GELU()),
        ("conv2", nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2, bias=False)),
        ("bn2", BatchNorm(8, momentum=0.3, deferred=False))])
    shrink = Block([
        ("conv1", nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)), ("bn1", BatchNorm(12)),
        ("relu1", nn.ReLU()), ("conv2", nn.Conv2d(12, 12, 3, padding=1, groups=4, bias=False)),
        ("bn2", BatchNorm(12))],
        [("conv1", nn.Conv2d(8, 12, 1, stride=2, bias=False)), ("bn1", BatchNorm(12))])
    return sequential([
        ("stem", nn.Conv2d(3, 8, (3, 5), padding=(1, 2))), ("tanh1", nn.Tanh()), ("bn1", BatchNorm(8)),
        ("keep", keep), ("relu1", nn.ReLU()), ("dropout1", Dropout(0.1, place)),
        ("shrink", shrink), ("relu2", nn.ReLU()),
        ("maxpool1", nn.MaxPool2d(3, 1, 1)), ("avgpool1", nn.AvgPool2d(2, 2, 1, count_include_pad=False)),
        ("flatten", nn.Flatten()), ("fc1", nn.Linear(108, 20, bias=False)), ("bn2", BatchNorm(20, eps=1e-3)),
        ("gelu1", nn.GELU()), ("dropout2", Dropout(0.3, place)), ("delay1", nn.Identity()),
        ("fc2", nn.Linear(20, 7))])


# ---- cases: `spec` and `overrides` say to dml what the rest says to PyTorch ----
# AdamW has an eps above round-off: an element whose gradient is 0 but for round-off would move by +-lr.

BASE = dict(init="kaiming_uniform", loss="cross_entropy", last_batch="wrap", clip=0.0, momentum=0.9,
            nesterov=False, decay_all=False, betas=(0.9, 0.999), eps=1e-8, kinks=False)
MLP = dict(BASE, spec="tests/specs/oracle-mlp.yaml", net=lambda place: mlp(place, [256, 128], 0.1),
           batch=64, micro=8, schedule=dict(name="cosine", warmup=5, low=0.1))
VGG = dict(BASE, spec="tests/specs/oracle-vgg8.yaml", synthetic=(1, 8, 8), samples=(4096, 128),
           classes=10, net=lambda place: vgg8(place, 8, nn.ReLU, nn.MaxPool2d, ["relu", "maxpool"]),
           batch=8, micro=4, schedule=dict(name="cosine", warmup=5))
SMOOTH = dict(BASE, spec="tests/specs/oracle-smooth.yaml",
              net=lambda place: vgg8(place, 28, nn.GELU, nn.AvgPool2d, ["gelu", "avgpool"]),
              batch=32, micro=8, schedule=dict(name="cosine", warmup=5))
LAYERS = dict(BASE, spec="tests/specs/oracle-layers.yaml", net=every_layer, synthetic=(3, 10, 8),
              samples=(100, 37), classes=7, batch=24, micro=6)


def sgd(base, lr, seed):
    return dict(base, optimizer="sgd", lr=lr, decay=5e-4, seed=seed, overrides=[
        f"run.seed={seed}", "optimizer.name=sgd", f"optimizer.lr={lr}", "optimizer.weight_decay=5e-4"])


def adamw(base, lr, eps, seed):
    return dict(base, optimizer="adamw", lr=lr, eps=eps, decay=0.05, seed=seed, overrides=[
        f"run.seed={seed}", "optimizer.name=adamw", f"optimizer.lr={lr}", f"optimizer.eps={eps}",
        "optimizer.weight_decay=0.05"])


CASES = {
    "mlp-sgd": sgd(MLP, 0.05, 1236),
    "mlp-adamw": adamw(MLP, 1e-3, 1e-6, 1236),
    "vgg8-sgd": sgd(VGG, 2e-3, 21),
    "vgg8-adamw": adamw(VGG, 1e-4, 1e-5, 138),
    "smooth-sgd": sgd(SMOOTH, 5e-3, 99),
    "smooth-adamw": adamw(SMOOTH, 3e-4, 1e-5, 99),
    "mlp-example": dict(
        BASE, spec="examples/mlp-fashion-mnist.yaml", seed=1234, optimizer="sgd", lr=0.1, decay=0.0,
        net=lambda place: mlp(place, [1024] * 3, activation=nn.GELU), batch=256, micro=32,
        schedule=dict(name="cosine"), overrides=[f"training.max_steps={STEPS}", "model.activation=gelu"]),
    "vgg8-example": dict(
        BASE, spec="examples/vgg8-fashion-mnist.yaml", seed=1234, optimizer="sgd", lr=1e-3, decay=5e-4,
        net=lambda place: vgg8(place, 28, nn.ReLU, nn.MaxPool2d, ["relu", "maxpool"]), kinks=True,
        batch=32, micro=8, schedule=dict(name="cosine"),
        overrides=[f"training.max_steps={STEPS}", "training.global_batch_size=32",
                   "training.micro_batch_size=8", "optimizer.lr=1e-3", "lr_scheduler.warmup_steps=0"]),
    "layers-sgd": dict(
        LAYERS, seed=27, optimizer="sgd", lr=0.01, nesterov=True, decay=1e-2, init="kaiming_normal",
        last_batch="short", clip=1.5, schedule=dict(name="step", step_size=8, gamma=0.3),
        overrides=["run.seed=27", "optimizer.lr=0.01", "optimizer.nesterov=true", "optimizer.weight_decay=1e-2",
                   "lr_scheduler.name=step", "lr_scheduler.step_size=8", "lr_scheduler.gamma=0.3",
                   "model.init.scheme=kaiming_normal", "training.grad_clip=1.5", "data.last_batch=short"]),
    "layers-adamw": dict(
        LAYERS, seed=40, optimizer="adamw", lr=2e-3, betas=(0.8, 0.99), eps=1e-6, decay=0.1, decay_all=True,
        init="xavier_uniform", loss="mse", clip=0.5, schedule=dict(name="linear", warmup=3, low=0.2),
        overrides=["run.seed=40", "optimizer.name=adamw", "optimizer.lr=2e-3", "optimizer.betas=[0.8, 0.99]",
                   "optimizer.eps=1e-6", "optimizer.weight_decay=0.1", "optimizer.decay_all=true",
                   "lr_scheduler.name=linear", "lr_scheduler.warmup_steps=3", "lr_scheduler.min_lr_ratio=0.2",
                   "model.init.scheme=xavier_uniform", "training.loss=mse", "training.grad_clip=0.5"]),
}


class Place:
    """Where training is, for dropout."""

    def __init__(self, seed):
        self.seed, self.step, self.first_sample = seed, 0, 0


def kind_of(module, name):
    if isinstance(module, BatchNorm):
        return ("scale" if name == "weight" else "bias"), 0, 0
    window = math.prod(module.weight.shape[2:])
    return name, module.weight.shape[1] * window, module.weight.shape[0] * window


def make(case, dtype):
    """The net with dml's initial weights, and whether each parameter is under weight decay."""
    place = Place(case["seed"])
    net = case["net"](place)
    number_layers(net)
    decayed = {}
    for path, module in net.named_modules():
        for name, p in module.named_parameters(recurse=False):
            kind, fan_in, fan_out = kind_of(module, name)
            value = contract.initial(case["init"], case["seed"], f"{path}.{name}", tuple(p.shape), kind,
                                     fan_in, fan_out)
            p.data = torch.from_numpy(value)
            decayed[p] = kind == "weight" or case["decay_all"]
    return net.to(dtype), place, decayed


def optimizer_of(case, net, decayed):
    groups = [{"params": [p for p in net.parameters() if decayed[p] == d],
               "weight_decay": case["decay"] if d else 0.0} for d in (True, False)]
    groups = [g for g in groups if g["params"]]
    if case["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=1.0, momentum=case["momentum"], nesterov=case["nesterov"])
    return torch.optim.AdamW(groups, lr=1.0, betas=case["betas"], eps=case["eps"])


def loss_sum(case, x, y):
    if case["loss"] == "cross_entropy":
        return F.cross_entropy(x, y, reduction="sum")
    return F.mse_loss(x, F.one_hot(y, x.shape[1]).to(x.dtype), reduction="none").mean(1).sum()


def data_of(case, test):
    if "synthetic" in case:
        return contract.Synthetic(case["seed"], case["synthetic"], case["classes"], case["samples"][test], test)
    return contract.Idx(FASHION, "t10k" if test else "train", TEST_IMAGES if test else None)


def batches(case, data, which, dtype):
    for at in range(0, len(which), case["micro"]):
        x, y = data.get(which[at:at + case["micro"]])
        yield at, torch.from_numpy(np.ascontiguousarray(x)).to(dtype), torch.from_numpy(y)


def tensors(net):
    return {name: t.detach().numpy().copy() for name, t in net.state_dict().items()}


def train_step(case, net, opt, data, place, step, dtype):
    which = contract.step_samples(case["seed"], len(data), case["batch"], case["last_batch"], step)
    opt.zero_grad()
    place.step, total, correct = step, 0.0, 0
    for place.first_sample, x, y in batches(case, data, which, dtype):
        out = net(x)
        loss = loss_sum(case, out, y)
        loss.backward()
        total += loss.item()
        correct += (out.argmax(1) == y).sum().item()
    for p in net.parameters():
        p.grad /= len(which)
    norm = nn.utils.clip_grad_norm_(net.parameters(), case["clip"] or math.inf).item()
    lr = contract.learning_rate(step, STEPS, case["lr"], **case["schedule"])
    for group in opt.param_groups:
        group["lr"] = lr
    opt.step()
    for module in net.modules():
        if isinstance(module, BatchNorm):
            module.end_step()
    return dict(samples=len(which), loss=total / len(which), grad_norm=norm, lr=lr, correct=correct)


def evaluate(case, net, dtype):
    net.eval()
    data, total, correct = data_of(case, True), 0.0, 0
    with torch.no_grad():
        for _, x, y in batches(case, data, np.arange(len(data)), dtype):
            out = net(x)
            total += loss_sum(case, out, y).item()
            correct += (out.argmax(1) == y).sum().item()
    return dict(samples=len(data), loss=total / len(data), correct=correct)


def train(case, dtype):
    net, place, decayed = make(case, dtype)
    start = tensors(net)
    opt, data = optimizer_of(case, net, decayed), data_of(case, False)
    steps = [train_step(case, net, opt, data, place, step, dtype) for step in range(STEPS)]
    return start, steps, tensors(net), evaluate(case, net, dtype)


# ---- output ----

def sampled(n):
    """All of a small tensor, else element (i 2654435769 mod 2^32) n >> 32, which spreads by the golden ratio."""
    if n <= SAMPLED:
        return np.arange(n)
    return np.array([(i * 2654435769 & contract.MASK32) * n >> 32 for i in range(SAMPLED)])


def number(x):
    return float(f"{float(x):.9g}")


def write_golden(folder, name):
    case = CASES[name]
    start, steps, end, test = train(case, torch.float64)
    head = dict(case=name, spec=case["spec"], overrides=case["overrides"],
                data="synthetic" if "synthetic" in case else "fashion-mnist", kinks=case["kinks"],
                torch=torch.__version__.split("+")[0], dtype="float64")
    rows = []
    for key, value in end.items():
        flat = value.reshape(-1)
        bits = np.ascontiguousarray(start[key].astype(np.float32)).tobytes()
        rows.append(dict(name=key, shape=list(value.shape), start=f"{xxhash.xxh3_64_intdigest(bits):016x}",
                         max=number(np.abs(flat).max()), end=[number(v) for v in flat[sampled(flat.size)]]))
    steps = [{k: number(v) if isinstance(v, float) else v for k, v in s.items()} for s in steps]
    test["loss"] = number(test["loss"])
    with open(os.path.join(folder, f"oracle-{name}.json"), "w") as f:
        f.write(json.dumps(head)[:-1] + f',\n"eval": {json.dumps(test)},\n"steps": [\n')
        f.write(",\n".join(json.dumps(s) for s in steps) + '\n],\n"tensors": [\n')
        f.write(",\n".join(json.dumps(r) for r in rows) + "\n]}\n")
    print(f"{name}: last loss {steps[-1]['loss']:.6f}, {len(rows)} tensors", flush=True)


def worst(ours, reference):
    """Largest max|difference| / max|reference| over the tensors, and where."""
    ratio = {k: float(np.abs(ours[k].astype(np.float64) - reference[k]).max() / np.abs(reference[k]).max())
             for k in reference}
    name = max(ratio, key=ratio.get)
    return f"{ratio[name]:.2e} in {name}"


def read_dump(path, like):
    """Per tensor a line `name elements`, then that many float32."""
    out = {}
    with open(path, "rb") as f:
        while line := f.readline():
            name, n = line.decode().split()
            out[name] = np.frombuffer(f.read(4 * int(n)), np.float32).reshape(like[name].shape)
    assert out.keys() == like.keys(), "the dump has other tensors"
    return out


def compare(name, dump):
    single, double = (train(CASES[name], dtype)[2] for dtype in (torch.float32, torch.float64))
    ours = read_dump(dump, double)
    print(f"{name}: dml against float32 {worst(ours, single)}; against float64 {worst(ours, double)}; "
          f"float32 against float64 {worst(single, double)}", flush=True)


def noise(name):
    single, double = (train(CASES[name], dtype) for dtype in (torch.float32, torch.float64))
    off = {key: max(abs(a[key] / b[key] - 1) for a, b in zip(single[1], double[1]))
           for key in ("loss", "grad_norm")}
    print(f"{name}: losses {off['loss']:.1e}, gradient norms {off['grad_norm']:.1e}, tensors "
          f"{worst(single[2], double[2])}; loss {double[1][0]['loss']:.4f} to {double[1][-1]['loss']:.4f}",
          flush=True)


def watch_kinks(net, seen):
    """Collects the inputs of ReLUs and max pools."""
    for module in net.modules():
        if isinstance(module, (nn.ReLU, nn.MaxPool2d)):
            module.register_forward_hook(lambda m, x, _: seen.append((m, x[0].detach().double())))


def distance(module, x):
    """How far the nearest element is from its kink: |x| of a ReLU, a max pool's lead over the second best."""
    if isinstance(module, nn.ReLU):
        return x.abs().min().item()
    x = F.pad(x, [module.padding] * 4, value=-math.inf)
    windows = F.unfold(x.flatten(0, 1)[:, None], module.kernel_size, stride=module.stride)
    top = windows.topk(2, dim=1).values
    lead = (top[:, 0] - top[:, 1])[top[:, 0] > 0]  # maxima of 0 come from a ReLU that passes nothing back
    return lead.min().item()


def margin(name, seeds):
    """The smallest distance from a kink in units of float32's root mean square error in the same tensor."""
    for seed in range(CASES[name]["seed"], CASES[name]["seed"] + seeds):
        case, runs, least = dict(CASES[name], seed=seed), [], math.inf
        for dtype in (torch.float32, torch.float64):
            net, place, decayed = make(case, dtype)
            seen = []
            watch_kinks(net, seen)
            runs.append((net, optimizer_of(case, net, decayed), place, dtype, seen))
        data = data_of(case, False)
        for step in range(STEPS):
            for net, opt, place, dtype, seen in runs:
                seen.clear()
                train_step(case, net, opt, data, place, step, dtype)
            for (_, single), (module, double) in zip(runs[0][4], runs[1][4]):
                error = (single - double).square().mean().sqrt().item()
                least = min(least, distance(module, double) / error)
        print(f"{name}, seed {seed}: {least:.2f}", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--golden", metavar="FOLDER")
    p.add_argument("--compare", metavar="DUMP")
    p.add_argument("--noise", action="store_true")
    p.add_argument("--margin", metavar="N", type=int)
    p.add_argument("cases", nargs="*", metavar="case", help=" ".join(CASES))
    args = p.parse_args()
    for name in args.cases or CASES:
        if args.golden:
            write_golden(args.golden, name)
        elif args.compare:
            compare(name, args.compare)
        elif args.noise:
            noise(name)
        elif args.margin:
            margin(name, args.margin)


if __name__ == "__main__":
    main()
