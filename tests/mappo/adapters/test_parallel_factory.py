import pickle
import sys
from pathlib import Path

import pytest

from mappo.adapters.pettingzoo import PettingZooVecEnv, parallel_factory


def test_the_text_makes_the_env_and_describes_it() -> None:
    text = "pettingzoo:mpe2.simple_spread_v3:N=2,local_ratio=0.5,continuous_actions=True"
    factory = pickle.loads(pickle.dumps(parallel_factory(text)))
    env = PettingZooVecEnv(factory, 2, seed=3)
    assert env.agents == ["agent_0", "agent_1"]
    assert env.action_spaces["agent_0"].shape == (5,)
    assert env.spec == {"env": text, "num_envs": 2, "num_workers": 0, "seed": 3}
    env.close()


def test_modules_below_pettingzoo_and_mpe2_need_no_prefix() -> None:
    assert parallel_factory("pettingzoo:simple_spread_v3").module == "mpe2.simple_spread_v3"
    name = "butterfly.knights_archers_zombies_v11"
    assert parallel_factory(f"pettingzoo:{name}").module == f"pettingzoo.{name}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vmas:balance", "must begin with pettingzoo:"),
        ("pettingzoo:no_such", r"no such module \(tried no_such, pettingzoo.no_such, mpe2.no_such\)"),
        (
            "pettingzoo:mpe2.simple_spread_v3:M=2",
            r"does not take M=2: .*unexpected keyword argument 'M'; the arguments are those of raw_env\(N: 'int' = 3, ",
        ),
        (
            "pettingzoo:mpe2.simple_spread_v3:local_ratio=5",
            r"mpe2\.simple_spread_v3\.parallel_env\(local_ratio=5\) failed: AssertionError: local_ratio is a prop",
        ),
        ("pettingzoo:mpe2.simple_spread_v3:N=0", r"parallel_env\(N=0\) failed: ValueError: zero-size array"),
        ("pettingzoo:own_strict:a=1", r"does not take a=1: .*; it is parallel_env\(size=2\)"),
        ("pettingzoo:json", r"json must define parallel_env\(\*\*kwargs\)"),
        ("pettingzoo:mpe2.simple_spread_v3:N=", "must be key=value"),
        (
            "pettingzoo:classic.connect_four_v3",
            r"pettingzoo.classic.connect_four_v3 has only env\(\), whose agents act in turn",
        ),
        ("pettingzoo:own_aec", r"own_aec has only env\(\).*pettingzoo\.utils\.aec_to_parallel\(own_aec\.env"),
        ("pettingzoo:own_wrong", r"must be a pettingzoo ParallelEnv; int lacks reset"),
        ("pettingzoo:own_import", r"own_import needs no_such_library, which is not installed"),
    ],
)
def test_what_the_text_names_wrongly_is_refused(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_aec.py").write_text("def env(): ...\n")
    (tmp_path / "own_wrong.py").write_text("parallel_env = int\n")
    (tmp_path / "own_strict.py").write_text("def parallel_env(size=2): ...\n")
    (tmp_path / "own_import.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=message) as error:
        parallel_factory(text)
    assert f"--env {text}" in str(error.value)
    for name in ("own_aec", "own_wrong", "own_import", "own_strict"):
        sys.modules.pop(name, None)


def test_an_env_that_fails_without_arguments_shows_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_failing.py").write_text("def parallel_env(**kwargs):\n    raise OSError('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(OSError, match="no licence"):
        parallel_factory("pettingzoo:own_failing")
    sys.modules.pop("own_failing", None)
