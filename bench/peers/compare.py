"""bench/peers.sh: dml and PyTorch in turn, on the same cores, and the median of the ratios of clean pairs.

For each case every variant of the rival (a Python command of DML_PEERS, AVX-512 allowed or not, compiled or not) runs
once; the fastest then runs in turn with dml, which goes first changing each time.  A pair whose cases take two cores
is clean when two threads were at least 1.7 times as fast as one before, between and after its halves (virtual
processors sometimes share a core); when none is, all pairs count, and the result says so.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("DML_BUILD", os.path.join(ROOT, "build"))
CLEAN = 1.7

COMMON = ["data.format=synthetic", "data.samples=4096", "data.test_samples=1", "data.pool=1024",
          "training.eval_interval=0", "parallelism.backend=cpu", "logging.console=line", "logging.interval=100000"]
SPECS = {
    "mlp": ["examples/mlp-fashion-mnist.yaml", "model.input=[784]", "model.hidden=[1024,1024]"],
    "vgg8": ["examples/vgg8-fashion-mnist.yaml", "model.input=[3,32,32]"],
    "resnet20": ["examples/resnet20-fashion-mnist.yaml", "model.input=[3,32,32]", "data.pad=0"],
}
PARAMETERS = {"mlp": 1863690, "vgg8": 3249098, "resnet20": 272474}


class Case:
    """One row: `batch` samples of a process and step (of the whole pipeline), in `micro_batches` of it."""

    def __init__(self, mode, model, batch, threads, steps, micro_batches=1, schedule="1f1b"):
        self.mode, self.model, self.batch, self.threads = mode, model, batch, threads
        self.steps, self.micro_batches, self.schedule = steps, micro_batches, schedule
        self.processes = 1 if mode == "single" else 2
        self.name = f"{mode} {model}" + (f", {threads} thread" + "s" * (threads > 1) if mode == "single" else "")
        if mode == "ddp":
            self.name += f", {batch} each"
        if mode == "pipe":
            self.name += f", {micro_batches} micro-batches, {schedule}"
        self.cores = "0" if self.processes * threads == 1 else "0,1"


CASES = [
    Case("single", "mlp", 128, 1, 300), Case("single", "mlp", 128, 2, 300),
    Case("single", "vgg8", 64, 1, 10), Case("single", "vgg8", 64, 2, 16),
    Case("single", "resnet20", 64, 1, 24), Case("single", "resnet20", 64, 2, 40),
    Case("ddp", "mlp", 128, 1, 200), Case("ddp", "vgg8", 64, 1, 10), Case("ddp", "resnet20", 64, 1, 24),
    Case("pipe", "mlp", 128, 1, 200, 2), Case("pipe", "mlp", 128, 1, 200, 4),
    Case("pipe", "mlp", 128, 1, 200, 4, "zb_h1"),
    Case("pipe", "vgg8", 64, 1, 12, 4), Case("pipe", "resnet20", 64, 1, 30, 4),
]


def run(command, environment=None):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    return done.stdout


def probe():
    return float(run(["taskset", "-c", "0,1", f"{BUILD}/dml-bench", "probe"], dict(os.environ, GOMP_SPINCOUNT="2000")))


def ours(case):
    """dml's samples a second."""
    folder = tempfile.mkdtemp()
    layout = {"single": [], "ddp": ["parallelism.dp=2"], "pipe": ["parallelism.pp=2"]}[case.mode]
    batch = case.batch * (case.processes if case.mode == "ddp" else 1)
    spec = SPECS[case.model]
    overrides = ["parallelism.pp=1", "parallelism.dp=1"]
    settings = [o for o in overrides if not layout or o.split("=")[0] != layout[0].split("=")[0]] + layout + [
        f"parallelism.schedule={case.schedule}", f"parallelism.threads_per_worker={case.threads}",
        f"training.global_batch_size={batch}", f"training.micro_batch_size={case.batch // case.micro_batches}",
        f"training.max_steps={case.steps}", f"run.output_dir={folder}/run"]
    try:
        run(["taskset", "-c", case.cores, f"{BUILD}/dml-train", os.path.join(ROOT, spec[0]), *COMMON, *spec[1:], *settings])
        with open(f"{folder}/run/metrics.jsonl", encoding="utf-8") as lines:
            end = json.loads(lines.readlines()[-1])
        return batch / end["step_time_median_s"]
    finally:
        shutil.rmtree(folder)


def tuned(variant, case):
    """What a careful user sets: OpenMP's threads, AVX-512 where the build hides it, memory that is kept."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    environment.update(OMP_NUM_THREADS=str(case.threads), MALLOC_MMAP_THRESHOLD_="1073741824",
                       MALLOC_TRIM_THRESHOLD_="1073741824", MALLOC_TOP_PAD_="268435456")
    if variant["capability"]:
        environment["ATEN_CPU_CAPABILITY"] = variant["capability"]
    return environment


def theirs(variant, case):
    """The rival's line of JSON."""
    command = ["taskset", "-c", case.cores, variant["python"], os.path.join(ROOT, "bench/peers/torch_cpu.py"), case.mode, case.model,
               "--threads", str(case.threads), "--batch", str(case.batch), "--micro-batches", str(case.micro_batches),
               "--steps", str(max(8, case.steps // 2))] + (["--compile"] if variant["compile"] else [])
    line = json.loads(run(command, tuned(variant, case)).splitlines()[-1])
    if line["parameters"] != PARAMETERS[case.model]:
        raise RuntimeError(f"{case.model} has {line['parameters']} parameters, not {PARAMETERS[case.model]}")
    return line


def variants(pythons, case, compiled):
    hides = "import torch; print('CPU capability usage: AVX512' not in torch.__config__.show())"
    for python in pythons:
        yield {"python": python, "capability": "", "compile": False}
        if run([python, "-c", hides]).split()[-1] == "True":
            yield {"python": python, "capability": "avx512", "compile": False}
        if compiled and case.mode == "single":
            yield {"python": python, "capability": "", "compile": True}


def choose(pythons, case, compiled):
    """The fastest variant, and a row for each; one that does not run is no rival."""
    rows, best = [], None
    for variant in variants(pythons, case, compiled):
        try:
            line = theirs(variant, case)
        except (RuntimeError, subprocess.TimeoutExpired, IndexError, json.JSONDecodeError) as error:
            print(f"  {variant}: did not run: {str(error)[-200:]}", file=sys.stderr)
            continue
        rows.append({"torch": line["torch"], "capability": variant["capability"] or "default",
                     "compile": variant["compile"], "samples_per_second": line["samples_per_second"]})
        if not best or line["samples_per_second"] > best[1]:
            best = (variant, line["samples_per_second"])
    if not best:
        raise RuntimeError("no rival runs; DML_PEERS names the commands that run Python with PyTorch")
    return best[0], rows


def compare(case, pythons, pairs, compiled):
    variant, tried = choose(pythons, case, compiled)
    found = []
    for i in range(pairs):
        speed_up, rates, version = [probe()], {}, ""
        for who in ("dml", "torch") if i % 2 == 0 else ("torch", "dml"):
            if who == "dml":
                rates[who] = ours(case)
            else:
                line = theirs(variant, case)
                rates[who], version = line["samples_per_second"], line["torch"]
            speed_up.append(probe())
        found.append({"dml": rates["dml"], "torch": rates["torch"], "ratio": rates["dml"] / rates["torch"],
                      "two_threads": min(speed_up), "clean": case.cores == "0" or min(speed_up) >= CLEAN})
        print(f"  {case.name}: dml {rates['dml']:.0f}, PyTorch {version} {rates['torch']:.0f} samples/s, ratio "
              f"{found[-1]['ratio']:.2f}, two threads {min(speed_up):.2f}", flush=True)
    kept = [p for p in found if p["clean"]] or found
    row = {"case": case.name, "mode": case.mode, "model": case.model, "batch": case.batch, "threads": case.threads,
           "micro_batches": case.micro_batches, "schedule": case.schedule, "steps": case.steps,
           "rival": {"torch": version, "capability": variant["capability"] or "default", "compile": variant["compile"]},
           "dml_samples_per_second": statistics.median(p["dml"] for p in kept),
           "torch_samples_per_second": statistics.median(p["torch"] for p in kept),
           "ratio": statistics.median(p["ratio"] for p in kept), "ratio_least": min(p["ratio"] for p in kept),
           "ratio_most": max(p["ratio"] for p in kept), "clean_pairs": sum(p["clean"] for p in found), "pairs": found,
           "tried": tried}
    print(f"{case.name}: {row['ratio']:.2f} ({row['ratio_least']:.2f} .. {row['ratio_most']:.2f})", flush=True)
    return row


def all_reduce(rounds):
    """25 MB in registered memory against memcpy of one thread in the same run: at most time / 0.6."""
    found = []
    for _ in range(rounds):
        with tempfile.NamedTemporaryFile() as file:
            before = probe()
            run(["taskset", "-c", "0,1", f"{BUILD}/dml-bench", "comm", "-r", "2", "-b", "25000000", "-e", "25000000",
                 "-J", file.name])
            speed_up = min(before, probe())
            with open(file.name, encoding="utf-8") as text:
                times = {r["op"]: r["time_us"] for r in json.load(text)["results"]}
        found.append({"all_reduce_us": times["all_reduce"], "memcpy_us": times["memcpy"],
                      "share": times["memcpy"] / times["all_reduce"], "two_threads": speed_up, "clean": speed_up >= CLEAN})
        print(f"  all_reduce of 25 MB {times['all_reduce']:.0f} us, memcpy {times['memcpy']:.0f} us, two threads {speed_up:.2f}")
    kept = [f for f in found if f["clean"]] or found
    return {"bytes": 25000000, "all_reduce_us": statistics.median(f["all_reduce_us"] for f in kept),
            "memcpy_us": statistics.median(f["memcpy_us"] for f in kept),
            "memcpy_over_all_reduce": statistics.median(f["share"] for f in kept), "rounds": found}


def main():
    parser = argparse.ArgumentParser(usage="bench/peers.sh [options]")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cases", default="", help="only those whose name begins so; all_reduce is one")
    parser.add_argument("--compiled", action="store_true", help="torch.compile is a variant too (minutes)")
    parser.add_argument("--result", help="JSON; rows of other cases in it stay")
    options = parser.parse_args()
    pythons = os.environ.get("DML_PEERS", "python3").split()
    rows = {}
    if options.result and os.path.exists(options.result):
        with open(options.result, encoding="utf-8") as old:
            rows = json.load(old)
    rows["environment"] = json.loads(run([f"{BUILD}/dml-bench", "environment"]))
    rows["command"] = "bench/peers.sh"
    table = {r["case"]: r for r in rows.get("rows", [])}
    for case in CASES:
        if case.name.startswith(options.cases):
            table[case.name] = compare(case, pythons, options.pairs, options.compiled)
    rows["rows"] = [table[c.name] for c in CASES if c.name in table]
    if "all_reduce".startswith(options.cases):
        rows["all_reduce"] = all_reduce(options.pairs)
    if options.result:
        with open(options.result, "w", encoding="utf-8") as out:
            json.dump(rows, out, indent=1)
            out.write("\n")


if __name__ == "__main__":
    main()
