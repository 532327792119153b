"""Numbers with a name in any form: found, set without a change of anything else, left out where they are not to tune."""

from __future__ import annotations

import ast

import pytest

from agents.catalogue.named_numbers import named_numbers
from agents.catalogue.recipe_constants import numbers, range_of, set_constant

SOURCE = """\
import argparse
from dataclasses import dataclass

learning_rate = 6e-4  # größte, die hält
seed = 1337
LAYERS = 4
name = "run"

@dataclass
class Config:
    n_layer: int = 12
    dropout: float = 0.0
    bias: bool = True

def fit(model, steps, lr=0.1, *, momentum=0.9, verbose=1):
    warmup = 100
    return lr * steps

def get_config(config):
    config.trainer.weight_decay = -0.5
    return config

parser = argparse.ArgumentParser()
parser.add_argument("-b", "--batch-size", type=int, default=64)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--gamma", type=float, default=0.7, help="of the schedule")
"""
FOUND = {
    "learning_rate": 6e-4,
    "LAYERS": 4,
    "Config.n_layer": 12,
    "Config.dropout": 0.0,
    "fit(lr)": 0.1,
    "fit(momentum)": 0.9,
    "config.trainer.weight_decay": -0.5,
    "--batch-size": 64,
    "--gamma": 0.7,
}


def test_every_form_is_found_and_seeds_are_not() -> None:
    assert {name: place.value for name, place in named_numbers(SOURCE).items()} == FOUND


@pytest.mark.parametrize("name", FOUND)
def test_setting_one_changes_its_digits_alone(name: str) -> None:
    changed = set_constant(SOURCE, name, 8)
    ast.parse(changed)
    after = {key: place.value for key, place in named_numbers(changed).items()}
    assert after == {**FOUND, name: 8}
    same = [a == b for a, b in zip(SOURCE.splitlines(), changed.splitlines(), strict=True)]
    assert same.count(False) == 1 and "größte, die hält" in changed


def test_upper_case_constants_alone_where_a_recipe_has_a_catalogue() -> None:
    assert list(numbers({"train.py": SOURCE.encode()})) == ["train.py:LAYERS"]


def test_a_share_stays_below_one() -> None:
    number = numbers({"t.py": b"momentum = 0.9\n"}, every=True)["t.py:momentum"]
    span = range_of(number, {})
    assert span.low > 0 and 0.9 < span.high < 1
