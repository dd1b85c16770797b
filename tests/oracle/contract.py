"""What dml documents about its numbers, written again from the headers: random numbers (engine/base/rng.h),
the order of the samples and their pixels (engine/data.h), initial weights (engine/model.h), dropout masks
(kernels/kernels.h) and the learning rate (engine/lr.h).  Nothing here is read from a run of dml."""

import functools
import gzip
import math
import os

import numpy as np
import xxhash

INIT, SHUFFLE, DROPOUT, DATA = 1, 2, 3, 4  # dml_rng_stream
MASK32, MASK64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


# ---- random numbers ----

def _mix(x):
    """SplitMix64's finaliser."""
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK64
    return x ^ (x >> 31)


def rng_key(seed, stream, ident):
    return _mix(_mix(_mix(seed) ^ stream) ^ ident)


def philox(key, hi, lo):
    """Philox4x32-10 (Salmon et al. 2011): words [n, 4] of the blocks (hi, lo[n])."""
    lo = np.asarray(lo, np.uint64)
    low32, bits = np.uint64(MASK32), np.uint64(32)
    c = [lo & low32, lo >> bits,
         np.full_like(lo, hi & MASK32), np.full_like(lo, hi >> 32)]
    k0, k1 = key & MASK32, key >> 32
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [p1 >> bits ^ c[1] ^ np.uint64(k0), p1 & low32,
             p0 >> bits ^ c[3] ^ np.uint64(k1), p0 & low32]
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return np.stack(c, axis=-1)


def words(key, n):
    """Word i is word i % 4 of block (0, i / 4)."""
    return philox(key, 0, np.arange((n + 3) // 4)).reshape(-1)[:n]


def unit(word):
    """The top 24 bits / 2^24, exact in float and double."""
    return (word >> np.uint64(8)).astype(np.float64) * 2.0**-24


@functools.lru_cache(maxsize=4)
def permutation(key, n):
    """Fisher and Yates from the end; the words of a block are used from its last to its first."""
    source = (int(w) for w in philox(key, 0, np.arange(n // 2 + 4))[:, ::-1].reshape(-1))
    out = list(range(n))
    for i in range(n - 1, 0, -1):
        bound = i + 1
        product = next(source) * bound
        while product & MASK32 < (1 << 32) % bound:  # Lemire's rejection
            product = next(source) * bound
        j = product >> 32
        out[i], out[j] = out[j], out[i]
    return np.array(out)


# ---- initial weights ----

def initial(scheme, seed, name, shape, kind, fan_in, fan_out):
    """float32.  kind: weight, bias, scale; fan_in 0: batch norm, whose bias starts at 0."""
    n = math.prod(shape)
    if kind == "scale" or fan_in == 0:
        return np.full(shape, 1.0 if kind == "scale" else 0.0, np.float32)
    w = words(rng_key(seed, INIT, xxhash.xxh3_64_intdigest(name.encode(), seed=0)), n + 3)
    if scheme == "kaiming_normal" and kind == "weight" and len(shape) == 4:
        deviation, out = math.sqrt(2.0 / fan_out), np.empty(n)
        for i in range(0, n, 2):  # Box and Muller, with the C library's functions
            radius = math.sqrt(-2.0 * math.log((int(w[i]) + 1) * 2.0**-32))
            turn = 2.0 * math.pi * int(w[i + 1]) * 2.0**-32
            out[i:i + 2] = [deviation * radius * math.cos(turn),
                            deviation * radius * math.sin(turn)][:n - i]
        return out.astype(np.float32).reshape(shape)
    if scheme == "xavier_uniform":
        if kind == "bias":
            return np.zeros(shape, np.float32)
        bound = math.sqrt(6.0 / (fan_in + fan_out))
    else:
        bound = 1.0 / math.sqrt(fan_in)
    return (bound * (2.0 * unit(w[:n]) - 1.0)).astype(np.float32).reshape(shape)


# ---- data ----

def _idx(folder, name):
    """An IDX file: two zero bytes, the type (8: byte), the rank, big-endian dims, bytes."""
    with gzip.open(os.path.join(folder, name + ".gz"), "rb") as f:
        raw = f.read()
    rank = raw[3]
    dims = np.frombuffer(raw, ">u4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(dims)


class Idx:
    """Images [n, 1, h, w] float32 and labels of one split; `only` keeps the first samples."""

    def __init__(self, folder, split, only=None, mean=0.2860, std=0.3530):
        self.pixels = _idx(folder, f"{split}-images-idx3-ubyte")[:only]
        self.labels = _idx(folder, f"{split}-labels-idx1-ubyte")[:only]
        self.mean, self.std = np.float32(mean), np.float32(std)

    def __len__(self):
        return len(self.labels)

    def get(self, which):
        x = (self.pixels[which].astype(np.float32) / np.float32(255) - self.mean) / self.std
        return x[:, None], self.labels[which].astype(np.int64)


class Synthetic:
    """Each element a sum of four uniform bytes, brought to mean 0 and variance 1; in memory order, NHWC."""

    def __init__(self, seed, shape, classes, n, test):
        self.seed, self.shape, self.classes, self.n, self.test = seed, shape, classes, n, test

    def __len__(self):
        return self.n

    def _one(self, index):
        key = rng_key(self.seed, DATA, index | self.test << 62)
        c, h, w = self.shape
        four = words(key, c * h * w)
        total = sum((four >> np.uint64(8 * b) & np.uint64(255)).astype(np.int64) for b in range(4))
        x = (total - 510).astype(np.float32) * (np.float32(1) / np.float32(147.80054))
        label = int(philox(key, 1, [0])[0, 0]) * self.classes >> 32
        return x.reshape(h, w, c).transpose(2, 0, 1), label

    def get(self, which):
        x, y = zip(*(self._one(int(i)) for i in which))
        return np.stack(x), np.array(y, np.int64)


def step_samples(seed, n, batch, last_batch, step):
    """Indices of the samples of a step, in order of their positions."""
    if last_batch == "wrap":
        k = np.arange(step * batch, (step + 1) * batch)
        epoch, at = k // n, k % n
    else:
        steps = n // batch if last_batch == "drop" else -(-n // batch)
        at = np.arange(step % steps * batch, min(n, (step % steps + 1) * batch))
        epoch = np.full_like(at, step // steps)
    return np.array([permutation(rng_key(seed, SHUFFLE, int(e)), n)[a] for e, a in zip(epoch, at)])


# ---- dropout, learning rate ----

def dropout_mask(seed, layer, rate, step, first_sample, rows, elems):
    """[rows, elems] of 0 or 1 / (1 - rate); elements in memory order, so NHWC for images."""
    key = rng_key(seed, DROPOUT, layer)
    blocks = np.arange((elems + 3) // 4, dtype=np.uint64)
    keep = [unit(philox(key, step, np.uint64(first_sample + r) << np.uint64(32) | blocks)
                 .reshape(-1)[:elems]) >= np.float32(rate) for r in range(rows)]
    return np.stack(keep) / (1.0 - rate)


def learning_rate(step, total, lr, name="constant", warmup=0, low=0.0, step_size=1, gamma=0.1):
    if step < warmup:
        return lr * (step + 1) / warmup
    p = (step - warmup) / (total - warmup)
    if name == "step":
        return lr * gamma ** (step // step_size)
    if name == "linear":
        return lr + p * (lr * low - lr)
    if name == "cosine":
        return lr * low + (lr - lr * low) * (1 + math.cos(math.pi * p)) / 2
    return lr
