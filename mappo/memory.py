"""How much memory a rollout and its update take, and whether the machine has it. Formulas of sizes; no tensors.

Data flow: TrainConfig, widths of the buffer -> `TrainingBytes` -> `check_memory`, before anything is allocated.
Dims: T steps, B copies, A agents, I network input, O own obs, S state, U action, K action mask, M memory, R rows of the
critic, V values, L steps of a chunk.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

FLOAT, BOOL, DOUBLE = 4, 1, 8  # bytes
CRITIC_COPIES = 1024
"""Copies whose values are computed in one call before an update."""
GIB = 2**30
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


class Widths(NamedTuple):
    """The last dims of a buffer."""

    agents: int
    obs: int
    inputs: int
    state: int
    actions: int
    mask: int
    memory: int
    critic_rows: int


class NetSizes(NamedTuple):
    """What the activations of actor and critic depend on."""

    hidden: int  # width of a hidden layer
    layers: int
    values: int  # V of a copy


def buffer_bytes(num_steps: int, num_envs: int, chunk: int, widths: Widths) -> int:
    """What `RolloutBuffer` takes: exactly the tensors that `allocate` makes.

    B [(T + 1) (4 A I + 4 S + A) + T (4 A U + 8 A + A K + 3 A + 1 + 4 A O + 4 S) + 4 A M T / L + 4 R M].
    """
    A, O, I, S, U, K, M, R = widths  # noqa: E741
    both = FLOAT * (A * I + S) + BOOL * A  # obs, state, starts: a row more than steps
    # actions, log_prob and rewards, action_mask, alive, terminated and truncated, ended, final_obs and final_state
    each = FLOAT * (A * U + 2 * A) + BOOL * (A * K + 3 * A + 1) + FLOAT * (A * O + S)
    memory = FLOAT * (A * M * (num_steps // chunk) + R * M)
    return num_envs * ((num_steps + 1) * both + num_steps * each + memory)


def target_bytes(num_steps: int, num_envs: int, widths: Widths, nets: NetSizes) -> int:
    """About what advantages, returns and their shuffled copies take, and a call of the critic beside them.

    T B [4 A (U + 8) + 44 V].
    """
    A, I, S, U, R = widths.agents, widths.inputs, widths.state, widths.actions, widths.critic_rows  # noqa: E741
    kept = FLOAT * A * (U + 8) + (FLOAT * 7 + DOUBLE * 2) * nets.values
    call = FLOAT * R * (nets.hidden * 3 + I + S)
    return num_steps * num_envs * kept + (num_steps + 1) * min(num_envs, CRITIC_COPIES) * call


def minibatch_bytes(rows: int, parts: int, widths: Widths, nets: NetSizes) -> int:
    """About what one step of the optimiser takes: the gathered minibatch, and activations and gradients of one part.

    Args:
        rows: env steps of a minibatch.
        parts: `--grad-accumulation`.
        widths: of the buffer.
        nets: of actor and critic.
    """
    A, I, S, U, K = widths.agents, widths.inputs, widths.state, widths.actions, widths.mask  # noqa: E741
    gathered = FLOAT * (A * I + S + A * U + 2 * A + 2 * nets.values) + BOOL * (A * K + 2 * A + nets.values)
    per_layer = FLOAT * max(A, widths.critic_rows) * nets.hidden
    activations = per_layer * (nets.layers + 2) + FLOAT * A * U * 12
    return rows * gathered + -(-rows // parts) * activations


class TrainingBytes(NamedTuple):
    """What one process allocates for its copies."""

    buffer: int
    update: int  # the larger of targets and minibatch, which are never there together, and what both keep

    @property
    def total(self) -> int:
        """Of both."""
        return self.buffer + self.update


def training_bytes(
    num_steps: int, num_envs: int, chunk: int, minibatch_count: int, parts: int, widths: Widths, nets: NetSizes
) -> TrainingBytes:
    """Buffer and update of `num_envs` copies; an env's own memory is not in it."""
    rows = num_steps * num_envs // minibatch_count
    update = target_bytes(num_steps, num_envs, widths, nets) + minibatch_bytes(rows, parts, widths, nets)
    return TrainingBytes(buffer_bytes(num_steps, num_envs, chunk, widths), update)


def check_memory(
    needed: TrainingBytes, available: int | None, *, num_envs: int, num_steps: int, device: str, num_ranks: int = 1
) -> None:
    """Refuse what does not fit, before it is allocated.

    Args:
        needed: of one rank's share of the copies.
        available: bytes for it; None where the system does not tell, and nothing is checked.
        num_envs: B, of all ranks.
        num_steps: T.
        device: of the buffer, for the message.
        num_ranks: that share the copies.

    Raises:
        ValueError: more is needed than available; names both settings and the largest --num-envs that fits.
    """
    if available is None or needed.total <= available:
        return
    fits = num_envs * available // needed.total
    remedy = f"lower --num-envs to {fits} or less, or lower --num-steps" if fits else "lower --num-steps"
    each = "" if num_ranks == 1 else f" in each of {num_ranks} ranks"
    raise ValueError(
        f"--num-envs {num_envs} x --num-steps {num_steps} takes {needed.total / GIB:.2f} GiB on {device}{each} "
        f"({needed.buffer / GIB:.2f} for the rollout, {needed.update / GIB:.2f} for its update), and "
        f"{available / GIB:.2f} GiB are free: {remedy}"
    )


def available_bytes(device: torch.device) -> int | None:
    """Bytes that may still be allocated: the GPU's free memory, or what the system and its container leave."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = [limit for limit in (_free_memory(), _container_memory()) if limit is not None]
    return min(found, default=None)


def _free_memory() -> int | None:
    """What Linux calls available; elsewhere all of the machine's memory, which is an upper limit."""
    if _MEMINFO.is_file():
        kib = {line.split(":")[0]: line.split()[1] for line in _MEMINFO.read_text().splitlines() if ":" in line}
        return int(kib["MemAvailable"]) * 1024
    sysconf: Callable[[str], int] | None = getattr(os, "sysconf", None)  # not on Windows
    return None if sysconf is None else sysconf("SC_PAGE_SIZE") * sysconf("SC_PHYS_PAGES")


def _container_memory() -> int | None:
    """What a control group's limit leaves, files in the cache not counted; None without a limit."""
    for limit, used, counts, key in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):  # versions 2 and 1 of control groups; without a limit the one says max, the other a number beyond any memory
        if (file := _CGROUP / limit).is_file() and (text := file.read_text().strip()) != "max":
            cached = dict(line.split() for line in (_CGROUP / counts).read_text().splitlines()).get(key, "0")
            return int(text) - int((_CGROUP / used).read_text()) + int(cached)
    return None
