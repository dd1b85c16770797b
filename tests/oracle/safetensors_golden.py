"""Files of the reference safetensors library, and its verdicts, for tests/engine/test_safetensors.c.

    venv/bin/python tests/oracle/safetensors_golden.py tests/golden/safetensors
    venv/bin/python tests/oracle/safetensors_golden.py --read checkpoints/step-00000100

The second reads a checkpoint of dml with the library.
"""
import json
import os
import random
import struct
import sys

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import load, save

# Why a file that the library reads is refused by dml: it leaves room for two readings, or is beyond a cap.
STRICTER = 1


def filled(number, dtype, shape):
    n = int(np.prod(shape)) * np.dtype(dtype).itemsize
    data = bytes(b % 2 if number == 0 else (number * 16 + b) % 256 for b in range(n))
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def reference():
    kinds = [("bool", "?", (5,)), ("bytes", "u1", (3, 7)), ("deep/name.weight", "<f4", (4, 3)), ("empty", "<f4", (0, 4)),
             ("half", "<f2", (9,)), ("scalar", "<f8", ()), ("shorts", "<i2", (2, 2, 2)),
             ('umlaut \u00e4 "quoted"', "<i8", (3,))]
    return save({name: filled(i, dtype, shape) for i, (name, dtype, shape) in enumerate(kinds)}, metadata={"format": "pt"})


def ours():
    return save({"fc1.weight": np.zeros((3, 2), "<f4"), "fc1.bias": np.zeros(3, "<f4"),
                 "fc1.weight.scale": np.zeros((), "<i4"), "steps": np.zeros(1, "<i8")}, metadata={"format": "pt"})


def accepts(file):
    try:
        deserialize(file)
        return True
    except SafetensorError:
        return False


def raw(header, data=b""):
    if isinstance(header, str):
        header = header.encode()
    return struct.pack("<Q", len(header)) + header + data


def tensor(begin=0, end=8, dtype="F32", shape="[2]", more=""):
    return '{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]%s}' % (dtype, shape, begin, end, more)


def by_hand():
    """(file, may dml be stricter)"""
    eight = bytes(8)
    t = tensor()
    yield raw('{"a":%s}' % t, eight), 0
    yield raw(' {"a":%s}' % t, eight), 0
    yield raw('{"a":%s}   ' % t, eight), 0
    yield raw('{"a":%s}\0' % t, eight), 0
    yield raw('{"a":%s}x' % t, eight), 0
    yield raw('{}'), 0
    yield raw('{"a":%s}' % t, eight + b"x"), 0
    yield raw('{"a":%s}' % t, eight[:-1]), 0
    yield raw('{"a":%s,"b":%s}' % (t, tensor(8, 16)), eight * 2), 0
    yield raw('{"a":%s,"b":%s}' % (t, tensor(4, 12)), bytes(12)), 0
    yield raw('{"a":%s,"b":%s}' % (t, tensor(12, 20)), bytes(20)), 0
    yield raw('{"a":%s,"a":%s}' % (t, tensor(8, 16)), eight * 2), 1  # one name, two tensors
    yield raw('{"a":%s,"a":%s}' % (t, t), eight), 1
    yield raw('{"a":%s}' % tensor(more=',"x":1'), eight), 1  # a key that nobody knows
    yield raw('{"a":%s}' % tensor(more=',"dtype":"F32"'), eight), 1
    for shape in ["[-2]", "[2.0]", "[2e0]", "[02]", "[+2]", "[\"2\"]", "[[2]]", "2", "[2,]", "[-0]", "[null]",
                  "[18446744073709551616]"]:
        yield raw('{"a":%s}' % tensor(shape=shape), eight), 0
    yield raw('{"a":%s}' % tensor(shape="[2,1,1,1,1,1,1,1,1]"), eight), 1  # rank 9
    yield raw('{"a":%s}' % tensor(shape="[0,281474976710657]", end=0)), 1  # beyond 2^48
    yield raw('{"a":%s}' % tensor(shape="[4294967296,4294967296,4294967296]"), eight), 0
    yield raw('{"a":%s}' % tensor(shape="[0,4294967296,4294967296,4294967296]", end=0)), 0
    yield raw('{"a":%s}' % tensor(shape="[]", end=4), bytes(4)), 0
    for dtype in ["F4", "F6_E2M3", "F8_E8M0", "C64"]:
        for n in [1, 2, 3, 6, 8, 16]:
            yield raw('{"a":%s}' % tensor(dtype=dtype, end=n), bytes(n)), 1  # types that dml does not read
    for dtype in ["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64",
                  "U64", "f32", "F128", ""]:
        for n in [2, 4, 8, 16]:
            yield raw('{"a":%s}' % tensor(dtype=dtype, end=n), bytes(n)), 0
    for name in [r"\u0041", r"\ud83d\ude00", r"\ud800", r"\udc00", r"\ud800\u0041", r"\x", r"\u00g0", "\n", "\t", r"\/", ""]:
        yield raw('{"%s":%s}' % (name, t), eight), 0
    yield raw(r'{"\u0000":%s}' % t, eight), 1
    yield raw('{"%s":%s}' % ("n" * 600, t), eight), 1  # beyond the cap on names
    for name in [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3\xa4"]:
        yield raw(b'{"' + name + b'":' + t.encode() + b"}", eight), 0
    for meta in ['{}', '{"k":"v"}', '{"k":1}', '[]', '1', '{"k":{}}']:
        yield raw('{"__metadata__":%s,"a":%s}' % (meta, t), eight), 0
    yield raw('{"__metadata__":null,"a":%s}' % t, eight), 1
    yield raw('{"__metadata__":{"k":"1","k":"2"},"a":%s}' % t, eight), 1
    yield raw('{"__metadata__":{},"__metadata__":{},"a":%s}' % t, eight), 1
    yield b"", 0
    yield bytes(7), 0
    yield bytes(8), 0
    yield struct.pack("<Q", 2**64 - 1) + b"{}", 0
    yield struct.pack("<Q", 100000001) + b"{}", 0
    yield struct.pack("<Q", 3) + b"{}", 0


def mutated(count, seed):
    """Bits, bytes and lengths of good files, changed.  Where a mutation makes a key that the library passes over, dml may
    refuse it."""
    random.seed(seed)
    good = [reference(), ours(), raw('{"a":%s,"b":%s}' % (tensor(), tensor(8, 16)), bytes(16))]
    for _ in range(count):
        f = bytearray(random.choice(good))
        n = struct.unpack("<Q", f[:8])[0]
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            at = random.randrange(min(len(f), 8 + n)) if f else 0
            what = random.randrange(5)
            if what == 0:
                f[at] ^= 1 << random.randrange(8)
            elif what == 1:
                f[at] = random.choice(b'{}[]",:0123456789eE.-+\\ uF\0\xff')
            elif what == 2:
                del f[at:at + random.randrange(1, 4)]
            elif what == 3:
                f[at:at] = bytes([random.choice(b'{}[]",:0 \\x')])
            else:
                del f[random.randrange(len(f)):]
            if not f:
                break
        yield bytes(f), stricter_of(bytes(f))


def stricter_of(f):
    """1 when the header has what dml refuses and the library passes over, found with Python's own JSON."""
    if len(f) < 8:
        return 0
    n = struct.unpack("<Q", f[:8])[0]
    try:
        twice = []

        def pairs(p):
            keys = [k for k, _ in p]
            twice.extend(keys if len(set(keys)) < len(keys) else [])
            return dict(p)
        header = json.loads(f[8:8 + n], object_pairs_hook=pairs)
    except ValueError:
        return 0
    if twice or "\0" in "".join(header):
        return 1
    known = {"BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64"}
    for name, t in header.items():
        if name == "__metadata__":
            if t is None or "\0" in "".join(list(t) + [v for v in t.values() if isinstance(v, str)]):
                return 1
        elif isinstance(t, dict):
            if set(t) - {"dtype", "shape", "data_offsets"} or t.get("dtype") not in known:
                return 1
            if isinstance(t.get("shape"), list) and (len(t["shape"]) > 8 or any(
                    isinstance(d, int) and d > 2**48 for d in t["shape"])):
                return 1
        elif isinstance(t, list):
            return 1  # the library reads a list as the fields in turn
    return 0


def write(folder):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "reference.safetensors"), "wb") as f:
        f.write(reference())
    with open(os.path.join(folder, "ours.safetensors"), "wb") as f:
        f.write(ours())
    with open(os.path.join(folder, "verdicts.bin"), "wb") as f:
        for file, stricter in list(by_hand()) + list(mutated(1200, 1)):
            f.write(struct.pack("<iBB", len(file), accepts(file), stricter) + file)


def read(folder):
    for name in ["model.safetensors", "optimizer.safetensors"]:
        path = os.path.join(folder, name)
        with safe_open(path, framework="np") as f:
            for key in f.keys():
                x = f.get_tensor(key)
                print(name, key, x.dtype, list(x.shape))
        with open(path, "rb") as f:
            load(f.read())


if __name__ == "__main__":
    read(sys.argv[2]) if sys.argv[1] == "--read" else write(sys.argv[1])
