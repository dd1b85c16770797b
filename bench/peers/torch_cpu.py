"""PyTorch on CPU as a rival: the models, batches and optimizers of examples/, and one line of JSON.

    torch_cpu.py single|ddp|pipe mlp|vgg8|resnet20 [--threads N] [--batch N] [--micro-batches N] [--steps N]
                                                   [--compile]

    single   one process with N threads
    ddp      two processes of N threads, gloo, each `batch` samples
    pipe     two stages in two processes, 1F1B written by hand over gloo's isend and irecv, `batch` samples in
             `micro-batches`

What a careful user of PyTorch writes: channels_last for images, inplace ReLU, optimizers in one call over all tensors
(fused where this version has it), gradients as views of DDP's buckets, one fixed batch in memory (no loading at
all), no read of the loss inside the loop.  Time of a step is the first process's, by its own clock; warm-up
does not count.
"""
import argparse
import json
import os
import statistics
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

# model: input of a sample, learning rate, momentum options; as in examples/
MODELS = {"mlp": ((784,), dict(lr=0.1, momentum=0.9), 0.0),
          "vgg8": ((3, 32, 32), dict(lr=0.1, momentum=0.9), 5e-4),
          "resnet20": ((3, 32, 32), dict(lr=0.1, momentum=0.9, nesterov=True), 1e-4)}


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.body(x).add_(self.shortcut(x)))


def layers_of(name):
    """The model as a list, so that it can be cut."""
    if name == "mlp":
        return [nn.Linear(784, 1024), nn.ReLU(inplace=True), nn.Linear(1024, 1024), nn.ReLU(inplace=True),
                nn.Linear(1024, 10)]
    if name == "vgg8":
        layers, inputs = [], 3
        for width in (64, 128, 256):
            for _ in range(2):
                layers += [nn.Conv2d(inputs, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        return layers + [nn.Flatten(), nn.Linear(4096, 512), nn.ReLU(inplace=True), nn.Dropout(0.5),
                         nn.Linear(512, 10)]
    layers, inputs = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)], 16
    for group in range(3):
        for i in range(3):
            layers.append(Block(inputs, 16 << group, 2 if group > 0 and i == 0 else 1))
            inputs = 16 << group
    return layers + [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]


CUT = {"mlp": 2, "vgg8": 7, "resnet20": 6}  # layers of the first of two stages: near equal times


def optimizer_of(model, options):
    keep = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    _, settings, decay = MODELS[options.model]
    groups = [{"params": keep, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
    try:
        return torch.optim.SGD(groups, fused=True, **settings)
    except (RuntimeError, TypeError):  # before 2.4
        return torch.optim.SGD(groups, foreach=True, **settings)


def batch_of(options, seed):
    shape = MODELS[options.model][0]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(options.batch, *shape, generator=generator)
    return formatted(x), torch.randint(10, (options.batch,), generator=generator)


def formatted(x):
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def timed(step, options):
    """Seconds of each of `steps` steps after the warm-up."""
    for _ in range(options.warmup):
        step()
    times = []
    for _ in range(options.steps):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return times


def whole_model(options):
    model = nn.Sequential(*layers_of(options.model))
    return model.to(memory_format=torch.channels_last) if options.model != "mlp" else model


def train(options, model, rank):
    x, y = batch_of(options, rank)
    optimizer = optimizer_of(model, options)
    loss_of = nn.CrossEntropyLoss()
    run = torch.compile(model) if options.compile else model

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss_of(run(x), y).backward()
        optimizer.step()

    return timed(step, options)


def single(options, rank):
    return train(options, whole_model(options), rank)


def ddp(options, rank):
    model = nn.parallel.DistributedDataParallel(whole_model(options), gradient_as_bucket_view=True, static_graph=True)
    return train(options, model, rank)


def pipe(options, rank):
    """1F1B of two stages: the first runs one forward ahead; gradients go back while it computes."""
    layers, cut, n = layers_of(options.model), CUT[options.model], options.micro_batches
    x, y = batch_of(options, 0)
    with torch.no_grad():
        crossing = formatted(nn.Sequential(*layers[:cut])(x[:options.batch // n]))
    stage = nn.Sequential(*(layers[cut:] if rank else layers[:cut]))
    if options.model != "mlp":
        stage = stage.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(stage, options)
    loss_of = nn.CrossEntropyLoss()
    parts, labels = [formatted(p) for p in x.chunk(n)], y.chunk(n)
    inbox = [torch.empty_like(crossing) for _ in range(n)]

    def plain(t):
        """gloo sends contiguous tensors; a channels_last one is contiguous as NHWC."""
        return t.permute(0, 2, 3, 1) if t.dim() == 4 else t

    def first():
        optimizer.zero_grad(set_to_none=True)
        waits = [dist.irecv(plain(inbox[i]), 1, tag=i) for i in range(n)]
        outputs, sends = {}, []

        def forward(i):
            outputs[i] = formatted(stage(parts[i]))
            sends.append(dist.isend(plain(outputs[i].detach()), 1, tag=i))

        forward(0)
        for i in range(n):
            if i + 1 < n:
                forward(i + 1)
            waits[i].wait()
            outputs.pop(i).backward(inbox[i])
        for s in sends:
            s.wait()
        optimizer.step()

    def second():
        optimizer.zero_grad(set_to_none=True)
        waits = [dist.irecv(plain(inbox[i]), 0, tag=i) for i in range(n)]
        sends = []
        for i in range(n):
            waits[i].wait()
            received = inbox[i].detach().requires_grad_()
            (loss_of(stage(received), labels[i]) / n).backward()
            sends.append(dist.isend(plain(formatted(received.grad)), 0, tag=i))
        for s in sends:
            s.wait()
        optimizer.step()

    return timed(second if rank else first, options)


def work(rank, options, out):
    torch.manual_seed(1)
    torch.set_num_threads(options.threads)
    if options.mode != "single":
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{options.port}", rank=rank, world_size=2)
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) == 2 * options.threads:
            os.sched_setaffinity(0, cores[rank * options.threads:][:options.threads])
    times = {"single": single, "ddp": ddp, "pipe": pipe}[options.mode](options, rank)
    if rank == 0:
        out.put(times)
    if options.mode != "single":
        dist.barrier()
        dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=("single", "ddp", "pipe"))
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64, help="samples of a process and step")
    parser.add_argument("--micro-batches", type=int, default=4)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--port", type=int, default=29511)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()

    context = mp.get_context("spawn")
    out = context.SimpleQueue()
    if options.mode == "single":
        work(0, options, out)
    else:
        mp.spawn(work, (options, out), nprocs=2)
    times = out.get()
    median = statistics.median(times)
    samples = options.batch * (2 if options.mode == "ddp" else 1)
    parameters = sum(p.numel() for layer in layers_of(options.model) for p in layer.parameters())
    print(json.dumps({
        "mode": options.mode, "model": options.model, "threads": options.threads, "batch": options.batch,
        "compile": options.compile, "steps": options.steps, "parameters": parameters,
        "step_time_median_s": median, "samples_per_second": samples / median, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
