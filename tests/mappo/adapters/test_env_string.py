from typing import Any

import pytest

from mappo.adapters.env_string import parse_env_string


def test_family_name_and_kwargs_are_split() -> None:
    parsed = parse_env_string("pettingzoo:mpe2.simple_spread_v3:N=3,local_ratio=0.5")
    assert parsed == ("pettingzoo", "mpe2.simple_spread_v3", {"N": 3, "local_ratio": 0.5})


def test_kwargs_may_be_left_out() -> None:
    assert parse_env_string("vmas:balance") == ("vmas", "balance", {})


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("-3", -3),
        ("1e-3", 1e-3),
        ("True", True),
        ("None", None),
        ("rgb_array", "rgb_array"),
        ("4m-v-3m", "4m-v-3m"),
        ("maps/small.txt", "maps/small.txt"),
        ("C:\\maps\\small.txt", "C:\\maps\\small.txt"),
        ("'3'", "3"),
        ("'a,b=c:d'", "a,b=c:d"),
        (r"'it\'s, so'", "it's, so"),
        ('"(["', "(["),
        ("[1, 2]", [1, 2]),
        ("(1,(2,3))", (1, (2, 3))),
        ("{'a': [1,2], 'b': 3}", {"a": [1, 2], "b": 3}),
    ],
)
def test_values_are_literals_or_plain_words(written: str, read: Any) -> None:
    kwargs = parse_env_string(f"vmas:task:first={written},last=1").kwargs
    assert kwargs == {"first": read, "last": 1}
    assert type(kwargs["first"]) is type(read)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("balance", "name is missing"),
        ("vmas:", "name is missing"),
        (":balance", "family is missing"),
        ("vmas:balance:", "must be key=value"),
        ("vmas:balance:n_agents", "'n_agents' must be key=value"),
        ("vmas:balance:n_agents=", "'n_agents=' must be key=value"),
        ("vmas:balance:n_agents=3,", "must be key=value"),
        ("vmas:balance:2n=3", "'2n=3' must be key=value"),
        ("vmas:balance:n=3,n=4", "n is given twice"),
        ("vmas:balance:shared=false", "write shared=False"),
        ("vmas:balance:shared=null", "write shared=None"),
        ("vmas:balance:n=[1,2", r"a \] is missing"),
        ("vmas:balance:n='a", "a ' is missing"),
        ("vmas:balance:n=3..5", "n=3..5 is neither"),
        ("vmas:balance:n=[x]", r"n=\[x\] is neither"),
        ("vmas:balance:n=open('x')", "is neither"),
        ("vmas:balance:n={[1]:2}", "is neither"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        parse_env_string(text)
    assert text in str(error.value)
