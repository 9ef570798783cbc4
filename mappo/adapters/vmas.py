"""VMAS scenarios (extra `vmas`) as a `VecEnv`: already batched in torch, so nothing leaves the device.

Data flow: VMAS scenario -> VmasVecEnv -> Step -> rollout. VMAS steps all copies at once but resets either all of them
or one at a time. The host learns once a step whether any copy ended; where all did, as at the horizon, one reset serves
all, else the ended ones are reset one by one, a millisecond or two each.
Dims: B envs, A agents, O own-observation width, U action columns, K action-mask columns.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.functional import pad

from mappo.adapters.env_string import parse_env_string
from mappo.adapters.random_state import RandomState
from mappo.spaces import ActionSpec, action_heads
from mappo.vec_env import MetricSpec, Step, checked_device

if TYPE_CHECKING:
    from vmas.simulator.scenario import BaseScenario

DEFAULT_MAX_STEPS = 100
FLAGS = {"num_envs": "--num-envs", "device": "--device", "seed": "--seed"}
OURS = {"wrapper", "wrapper_kwargs", "dict_spaces", "clamp_actions", "grad_enabled", "terminated_truncated"}


class VmasVecEnv:
    """B copies of a VMAS scenario.

    The horizon `max_steps` truncates, the scenario's own `done` terminates (also where both happen at once). The state
    is the concatenation of all agents' padded observations. Continuous actions are scaled to each agent's range here;
    with `continuous_actions=False` each agent chooses one of all combinations, with `multidiscrete_actions=True` one
    value for each dim. Numbers in VMAS's `info` become metrics, averaged over the agents that report them; names with
    `rew` are summed over an episode, others averaged.

    Randomness: VMAS draws from the global generators and shares one stream among all its envs. Here each env has a
    stream of its own, and the global generators are as before after every call. `reset` always begins with the same
    episodes, those of a plain VMAS env's `reset(seed=seed)`, so that evaluations meet the same ones.
    """

    needs_discount = True  # the horizon cuts a task that would go on

    def __init__(
        self,
        task: "str | BaseScenario",
        num_envs: int = 60,
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
        max_steps: int | None = DEFAULT_MAX_STEPS,
        **scenario_kwargs: Any,
    ) -> None:
        """Build the scenario.

        Args:
            task: name of a VMAS scenario, or a scenario of your own.
            num_envs: copies B.
            device: where VMAS steps, and where every tensor of a Step lies.
            seed: of this env's own random stream.
            max_steps: steps until an episode is truncated; None: never.
            scenario_kwargs: for the scenario, and `continuous_actions`, `multidiscrete_actions` of VMAS itself.

        Raises:
            ValueError: VMAS is not installed, the task is unknown, or VMAS does not accept an argument.
        """
        vmas = _import_vmas()
        self.name = name = task if isinstance(task, str) else type(task).__name__
        _check(vmas, task, num_envs, max_steps, scenario_kwargs)
        self.num_envs, self.device = num_envs, checked_device(str(device))
        self.spec: dict[str, Any] = {"env": _text(name, max_steps, scenario_kwargs), "num_envs": num_envs, "seed": seed}
        # VMAS's class attribute: the states that it installs around each of its calls
        self._shared_states: list[Any] = vmas.simulator.environment.Environment.vmas_random_state
        self._first = self._random = RandomState.seeded(seed, self.device)  # what `reset` begins with, and now
        self._begun_from: RandomState | None = None  # random state before the reset, while no copy has moved since
        with self._own_random_numbers():
            self._env = _make_env(vmas, task, num_envs, self.device, max_steps, scenario_kwargs)
            obs, infos = self._env.get_from_scenario(
                get_observations=True, get_rewards=False, get_infos=True, get_dones=False
            )
        self._describe([_flat(own) for own in obs], infos)

    def _describe(self, obs: Sequence[Tensor], infos: Sequence[Mapping[str, Tensor]]) -> None:
        """Spaces, layouts and metrics, from what the agents see at first."""
        self.agents: list[str] = [agent.name for agent in self._env.agents]
        self._widths = [own.shape[-1] for own in obs]
        self.observation_spaces: dict[str, spaces.Box] = {
            name: spaces.Box(-np.inf, np.inf, (width,)) for name, width in zip(self.agents, self._widths, strict=True)
        }
        self.state_dim = len(self.agents) * max(self._widths)
        kinds = [_gymnasium_space(space, self._env) for space in self._env.action_space]
        self.action_spaces: dict[str, spaces.Space[Any]] = dict(zip(self.agents, kinds, strict=True))
        layout = ActionSpec.of([action_heads(name, space) for name, space in self.action_spaces.items()])
        self._columns = [len(layout.columns_of(agent)) for agent in range(len(self.agents))]
        self._half, self._middle = torch.ones(layout.valid.shape), torch.zeros(layout.valid.shape)  # (A, U)
        for agent, space in enumerate(kinds):
            if isinstance(space, spaces.Box):
                low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
                self._half[agent, : len(low)] = (high - low) / 2
                self._middle[agent, : len(low)] = (high + low) / 2
        self._half, self._middle = self._half.to(self.device), self._middle.to(self.device)
        self._alive = torch.ones(self.num_envs, len(self.agents), dtype=torch.bool, device=self.device)
        self._action_mask = layout.choice_valid.to(self.device).expand(self.num_envs, -1, -1)
        numbers = [name for info in infos for name, value in info.items() if self._is_number(value)]
        self.metric_specs: tuple[MetricSpec, ...] = tuple(
            MetricSpec(name=name, unit="1", reduce="sum" if "rew" in name else "mean")
            for name in dict.fromkeys(numbers)
        )

    def reset(self) -> tuple[Tensor, Tensor]:
        """Begin an episode in every copy; obs (B, A, O) and state (B, A * O)."""
        self._random = self._first
        obs = self._reset_all()
        return obs, obs.flatten(1)

    def step(self, actions: Tensor) -> Step:
        """Advance every copy by actions (B, A, U): in [-1, 1], or indices of choices.

        Raises:
            ValueError: a wrong shape, or an observation or a reward that is not finite.
        """
        if actions.shape != (self.num_envs, *self._half.shape):
            raise ValueError(f"actions must be {(self.num_envs, *self._half.shape)}; got {tuple(actions.shape)}")
        self._begun_from = None
        with self._own_random_numbers():
            own_obs, own_rewards, terminated, truncated, infos = self._env.step(self._to_vmas(actions))
        final_obs = self._join(own_obs)
        rewards = torch.stack([reward.reshape(self.num_envs) for reward in own_rewards], dim=1).float()
        truncated = truncated & ~terminated
        ended = terminated | truncated
        finite = final_obs.isfinite().all() & rewards.isfinite().all()
        any_ended, all_ended, all_finite = torch.stack([ended.any(), ended.all(), finite]).tolist()  # one host sync
        if not all_finite:
            raise ValueError(self._not_finite(final_obs, rewards))
        obs = final_obs
        if all_ended:
            obs = self._reset_all()
        elif any_ended:
            obs = torch.where(ended.view(-1, 1, 1), self._reset_some(ended.nonzero().flatten().tolist()), final_obs)
        return Step(
            obs=obs,
            state=obs.flatten(1),
            final_obs=final_obs,
            final_state=final_obs.flatten(1),
            rewards=rewards,
            terminated=terminated.unsqueeze(-1).expand_as(self._alive),
            truncated=truncated.unsqueeze(-1).expand_as(self._alive),
            alive=self._alive,
            action_mask=self._action_mask,
            metrics={spec.name: self._metric(spec.name, infos) for spec in self.metric_specs},
        )

    def close(self) -> None:
        """Nothing to release."""

    def state_dict(self) -> dict[str, Any]:
        """The random streams, and the observations if every copy stands at the start of an episode."""
        if self._begun_from is None:
            return {"random": self._random.to_plain(), "begun_from": None, "obs": None}
        return {"random": self._random.to_plain(), "begun_from": self._begun_from.to_plain(), "obs": self._obs}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Restore what `state_dict` returned.

        VMAS cannot restore a running episode. One that has not begun is drawn again and compared.

        Returns:
            False if the episodes could not be restored: the next `reset` begins new ones.
        """
        if state["begun_from"] is not None:
            self._random = RandomState.from_plain(state["begun_from"])
            if torch.equal(self._reset_all(), state["obs"].to(self.device)):
                return True
        self._first = RandomState.from_plain(state["random"])
        return False

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """Let VMAS draw from this env's stream, and leave all others as they were, whatever happens."""
        outside, shared = RandomState.current(self.device), list(self._shared_states)
        self._shared_states[:] = self._random[:3]
        self._random.install_on_device(self.device)
        try:
            yield  # VMAS installs the shared states, keeps what becomes of them, and puts back those from outside
            torch_cpu, numpy, python = self._shared_states
            self._random = RandomState(torch_cpu, numpy, python, RandomState.of_device(self.device))
            outside.install_on_device(self.device)  # which VMAS leaves out
        except BaseException:
            outside.install(self.device)  # VMAS does not put them back where it raises
            raise
        finally:
            self._shared_states[:] = shared

    def _reset_all(self) -> Tensor:
        begun_from = self._random
        with self._own_random_numbers():
            self._obs = self._join(self._env.reset())
        self._begun_from = begun_from
        return self._obs

    def _reset_some(self, copies: Sequence[int]) -> Tensor:
        with self._own_random_numbers():
            for copy in copies:
                self._env.reset_at(copy, return_observations=False)
            (obs,) = self._env.get_from_scenario(
                get_observations=True, get_rewards=False, get_infos=False, get_dones=False
            )
        return self._join(obs)

    def _join(self, obs: Sequence[Any]) -> Tensor:
        """The agents' observations as one (B, A, O), narrower ones zero-padded."""
        lacks = [max(self._widths) - width for width in self._widths]
        rows = [pad(_flat(own), (0, lack)) if lack else _flat(own) for own, lack in zip(obs, lacks, strict=True)]
        return torch.stack(rows, dim=1)

    def _to_vmas(self, actions: Tensor) -> list[Tensor]:
        """(B, A, U) -> each agent's own (B, columns), in physical units or as indices."""
        if self._env.continuous_actions:
            physical = self._middle + self._half * actions.clamp(-1, 1)
        else:
            physical = actions.round().long()
        return [physical[:, agent, :columns] for agent, columns in enumerate(self._columns)]

    def _metric(self, name: str, infos: Sequence[Mapping[str, Tensor]]) -> Tensor:
        values = [info[name].reshape(self.num_envs).float() for info in infos if name in info]
        return torch.stack(values).mean(0)

    def _is_number(self, value: Tensor) -> bool:
        return value.shape in ((self.num_envs,), (self.num_envs, 1))

    def _not_finite(self, obs: Tensor, rewards: Tensor) -> str:
        """Which agent, entry and value."""
        for name, values in (("observation", obs), ("reward", rewards.unsqueeze(-1))):
            for copy, agent, entry in (~values.isfinite()).nonzero().tolist()[:1]:
                what = f"{name} entry {entry}" if name == "observation" else name
                value = values[copy, agent, entry].item()
                return (
                    f"{self.spec['env']}: {what} of {self.agents[agent]} is {value} in copy {copy}; mend the scenario"
                )
        raise AssertionError("all values are finite")


def vmas_env_from(text: str, num_envs: int = 60, *, device: str = "cpu", seed: int = 0) -> VmasVecEnv:
    """The env that `vmas:navigation:n_agents=3,max_steps=200` names.

    Raises:
        ValueError: as `parse_env_string` and `VmasVecEnv`, or the text sets what has a flag of its own.
    """
    _, task, kwargs = parse_env_string(text)
    for name, flag in FLAGS.items():
        if name in kwargs:
            raise ValueError(f"--env {text}: {name} is not an argument of the env; use {flag} {kwargs[name]}")
    return VmasVecEnv(task, num_envs, device=device, seed=seed, **kwargs)


def _text(name: str, max_steps: int | None, kwargs: Mapping[str, Any]) -> str:
    """What `--env` would say."""
    steps = {} if max_steps == DEFAULT_MAX_STEPS else {"max_steps": max_steps}
    given = ",".join(f"{key}={value!r}" for key, value in {**steps, **kwargs}.items())
    return f"vmas:{name}:{given}" if given else f"vmas:{name}"


def _import_vmas() -> ModuleType:
    try:
        import vmas  # noqa: PLC0415 - an extra, which not everyone has
        import vmas.simulator.environment  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(f'--env vmas needs the package {error.name}; pip install -e ".[vmas]"') from error
    return vmas


def _check(vmas: ModuleType, task: object, num_envs: int, max_steps: int | None, kwargs: Mapping[str, Any]) -> None:
    if isinstance(task, str) and task not in (known := vmas.scenarios + vmas.mpe_scenarios + vmas.debug_scenarios):
        raise ValueError(f"--env vmas:{task} is unknown; the tasks are {', '.join(known)}")
    if num_envs < 1:
        raise ValueError(f"--num-envs must be at least 1; got {num_envs}")
    if max_steps is not None and (not isinstance(max_steps, int) or max_steps < 1):
        raise ValueError(f"--env vmas: max_steps must be a whole number from 1, or None; got {max_steps!r}")
    if ours := sorted(OURS & kwargs.keys()):
        raise ValueError(f"--env vmas: {', '.join(ours)} is set by the adapter; leave it out")


def _make_env(
    vmas: ModuleType,
    task: object,
    num_envs: int,
    device: torch.device,
    max_steps: int | None,
    kwargs: Mapping[str, Any],
) -> Any:
    """Build the VMAS env; what it does not accept is refused, where VMAS itself would warn or assert."""
    if kwargs.get("multidiscrete_actions"):
        kwargs = {**kwargs, "continuous_actions": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Scenario kwargs")
        try:
            return vmas.make_env(
                task, num_envs, device=device, max_steps=max_steps, terminated_truncated=True, **kwargs
            )
        except (UserWarning, AssertionError, TypeError, ValueError) as error:
            name = task if isinstance(task, str) else type(task).__name__
            reason = str(error) or "an assertion of the scenario failed"
            raise ValueError(f"--env {_text(name, max_steps, kwargs)} was refused by VMAS: {reason}") from error


def _gymnasium_space(space: Any, env: Any) -> spaces.Space[Any]:
    """VMAS describes actions in the spaces of gym, gymnasium's predecessor."""
    if env.continuous_actions:
        return spaces.Box(space.low, space.high)
    if env.multidiscrete_actions:
        return spaces.MultiDiscrete(space.nvec)
    return spaces.Discrete(int(space.n))


def _flat(obs: Any) -> Tensor:
    """An agent's observation, a tensor or a nested dict of tensors, as (B, width)."""
    if isinstance(obs, Tensor):
        return obs.flatten(1).float()
    return torch.cat([_flat(part) for part in obs.values()], dim=-1)
