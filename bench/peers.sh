#!/usr/bin/env bash
# dml against PyTorch on CPU, in turn on the same cores: one process with 1 and 2 threads, data parallel and a pipeline
# over 2 processes; and all_reduce against memcpy.
#
#   bench/peers.sh [--pairs N] [--cases TEXT] [--result RESULT.json]
#
# DML_PEERS names the commands that run Python with PyTorch, separated by spaces (python3): give several versions,
# and the fastest of them and of their settings is the rival.  PyTorch stays outside of this repository.
exec python3 "$(dirname "$0")/peers/compare.py" "$@"
