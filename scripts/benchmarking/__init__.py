"""The stages of scripts/benchmark.py."""
