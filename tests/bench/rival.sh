#!/usr/bin/env bash
# Stands in for PyTorch in tests: a rival that no emulated GPU beats.
echo '{"samples_per_second": 1000000.0, "loss": 0.0}'
