"""PyTorch as a rival: the same model, batch and precision as a dml run, and one line of JSON.

    torch_train.py resnet50|mlp [--precision bf16|tf32] [--batch N] [--micro N] [--steps N] [--compile]

What a careful user of PyTorch writes: channels_last, cudnn.benchmark, autocast for bf16, fused SGD with momentum,
one fixed batch on the device (so no loading at all), no read of the loss inside the loop.  With --micro the gradient
of a batch is summed over parts of it, as dml does it.  Time of a step is the device's, between two events; the first steps (choice of algorithms, compilation) do not count.
"""
import argparse
import json
import statistics

import torch
from torch import nn


class Bottleneck(nn.Module):
    """torchvision's, v1.5: the stride is the 3x3 convolution's."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                                          nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.body(x) + self.shortcut(x))


def resnet50():
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
              nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for group, blocks in enumerate((3, 4, 6, 3)):
        for i in range(blocks):
            layers.append(Bottleneck(inputs, 64 << group, 2 if group > 0 and i == 0 else 1))
            inputs = 256 << group
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


def mlp(width):
    """As examples/mlp-wide.yaml: 8 hidden layers of `width`, an eighth of it at both ends."""
    made = [nn.Linear(width // 8, width), nn.ReLU(inplace=True)]
    for _ in range(7):
        made += [nn.Linear(width, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*made, nn.Linear(width, width // 8))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=("resnet50", "mlp"))
    parser.add_argument("--precision", choices=("bf16", "tf32", "fp32"), default="bf16")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--micro", type=int, help="samples of one forward and backward (the batch)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=15)
    parser.add_argument("--side", type=int, default=224, help="of the images, or the width of the mlp")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()

    micro = options.micro or options.batch
    if options.batch % micro:
        parser.error(f"{options.batch} samples are not whole micro-batches of {micro}")
    cuda = options.device == "cuda"
    torch.manual_seed(1)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high" if options.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = options.precision == "tf32"
    if options.model == "resnet50":
        model = resnet50().to(options.device).to(memory_format=torch.channels_last)
        x = torch.randn(options.batch, 3, options.side, options.side, device=options.device)
        x = x.contiguous(memory_format=torch.channels_last)
        classes = 1000
    else:
        model = mlp(options.side).to(options.device)
        classes = options.side // 8
        x = torch.randn(options.batch, classes, device=options.device)
    y = torch.randint(classes, (options.batch,), device=options.device)
    parameters = sum(p.numel() for p in model.parameters())
    step_of = torch.compile(model) if options.compile else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=cuda)
    loss_of = nn.CrossEntropyLoss()

    parts = list(zip(x.split(micro), y.split(micro)))

    def step():
        total = torch.zeros((), device=options.device)
        optimizer.zero_grad(set_to_none=True)
        for some, labels in parts:
            with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
                loss = loss_of(step_of(some), labels) / len(parts)
            loss.backward()
            total += loss.detach()
        optimizer.step()
        return total

    for _ in range(options.warmup):
        loss = step()
    times = []
    if cuda:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(options.steps + 1)]
        events[0].record()
        for i in range(options.steps):
            loss = step()
            events[i + 1].record()
        torch.cuda.synchronize()
        times = [a.elapsed_time(b) * 1e-3 for a, b in zip(events, events[1:])]
    else:
        import time
        for _ in range(options.steps):
            begin = time.perf_counter()
            loss = step()
            times.append(time.perf_counter() - begin)
    median = statistics.median(times)
    print(json.dumps({
        "model": options.model, "precision": options.precision, "batch": options.batch, "micro_batch": micro,
        "side": options.side, "compile": options.compile, "steps": options.steps,
        "samples_are": "on the device all the time", "parameters": parameters, "step_time_median_s": median,
        "step_time_quartiles_s": [sorted(times)[len(times) // 4], sorted(times)[3 * len(times) // 4]],
        "samples_per_second": options.batch / median, "loss": loss.item(),
        "torch": torch.__version__, "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "device": torch.cuda.get_device_name() if cuda else "cpu"}))


if __name__ == "__main__":
    main()
