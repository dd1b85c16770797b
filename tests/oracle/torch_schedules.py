#!/usr/bin/env python3
"""The op lists of torch.distributed.pipelining, as its CSV, for tests/schedule/test_torch.c.

    python3 tests/oracle/torch_schedules.py [FOLDER]      default tests/golden/torch

No process group and no tensors: the schedules are made over stages that only say where they are.  Idle ticks are
left out, and so are REDUCE_GRAD actions, which an order does not have.
"""
import pathlib
import sys

import torch
from torch.distributed.pipelining import schedules as s
from torch.distributed.pipelining.stage import _PipelineStageBase

P, M = 4, 8


class Stage(_PipelineStageBase):
    def __init__(self, index, stages):
        self.stage_index, self.num_stages = index, stages
        self.group_size, self.group_rank, self.group = P, index % P, None
        self.has_backward, self.submod = True, torch.nn.Identity()

    def _create_grad_recv_info(self, *args, **kwargs):
        return None

    def _prepare_forward_infra(self, *args):
        pass

    def _prepare_backward_infra(self, *args):
        pass


def order(kind, stages_of_a_rank, mbs):
    stages = P * stages_of_a_rank
    if stages_of_a_rank == 1:
        schedule = kind(Stage(0, stages), mbs, loss_fn=lambda y, t: y)
    else:
        schedule = kind([Stage(P * i, stages) for i in range(stages_of_a_rank)], mbs, loss_fn=lambda y, t: y)
    return schedule.pipeline_order


def from_one(cell):
    """In the list of Schedule1F1B, which its own step does not use, PyTorch 2.15 counts the forwards of the last
    rank from 1."""
    stage, mb = cell.split("F") if "F" in cell else (cell, None)
    return cell if mb is None else f"{stage}F{int(mb) - 1}"


def rows(actions):
    words = ("F", "B", "I", "W")
    for rank in range(P):
        cells = [str(a) for a in actions[rank] if a is not None]
        cells = [c for c in cells if c.strip("0123456789") in words]
        yield ",".join(cells if "F0" in "".join(cells) else [from_one(c) for c in cells])


ASKED = [
    ("gpipe", s.ScheduleGPipe, 1),
    ("1f1b", s.Schedule1F1B, 1),
    ("interleaved_1f1b", s.ScheduleInterleaved1F1B, 2),
    ("interleaved_1f1b", s.ScheduleInterleaved1F1B, 3),
    ("looped_bfs", s.ScheduleLoopedBFS, 2),
    ("interleaved_zb", s.ScheduleInterleavedZeroBubble, 2),
]


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/torch")
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind, each in ASKED:
        for mbs in (M, 3 * P):
            text = "\n".join(rows(order(kind, each, mbs))) + "\n"
            path = folder / f"{name}_x{each}_m{mbs}.csv"
            path.write_text(f"# {kind.__name__}, PyTorch {torch.__version__}\n" + text)
            print(path)


if __name__ == "__main__":
    main()
