"""The stages of scripts/benchmark.py."""

import mappo  # noqa: F401 - before torch loads, whose waiting threads it tames
