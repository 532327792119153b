"""YAML, TOML and JSON by key path, other text as a whole, sub-packages: what an edit may change there."""

from __future__ import annotations

import pytest
from test_surface import ROLE, spec

from agents.catalogue.config_numbers import config_numbers, set_config_number
from agents.edits.config_keys import dotted, entries
from agents.edits.editable_files import problems
from agents.edits.normal_form import ast_hash
from agents.edits.role_surface import check_surface
from lineage.errors import EditRefused

YAML = """# how the model is made
base: &base {lr: 1.0e-3, betas: [0.9, 0.95]}
model:
  depth: 4  # blocks
  "a.b": 2
optim:
  <<: *base
  decay: 0.1
seed: 1
"""
TOML = "# first\n[model]\ndepth = 4  # blocks\nwidths = [8, 16]\n\n[optim]\nlr = 1e-3\n"
JSON = '{\n  "model": {"depth": 4, "act": "relu"},\n\t"optim": {"lr": 1e-3},\n  "seed": 1\n}\n'
CONFIGS = {"config.yaml": YAML, "config.toml": TOML, "config.json": JSON}
KEYS = ["model.depth", "optim.*"]


def changed(path: str, old: str, new: str, keys: list[str] = KEYS) -> tuple[str, ...]:
    held = spec({path: keys})
    assert problems(held, {"recipe.py": b"X = 1\n", path: old.encode()}) == []
    before = {"recipe.py": b"X = 1\n", path: old.encode()}
    return check_surface(held, ROLE, before, {**before, path: new.encode()}).units


@pytest.mark.parametrize("path", CONFIGS)
def test_a_listed_key_may_change(path: str) -> None:
    old = CONFIGS[path]
    assert changed(path, old, old.replace("4", "6", 1)) == (f"{path}:model.depth",)


@pytest.mark.parametrize(
    ("path", "search", "replace", "words"),
    [
        ("config.yaml", "seed: 1", "seed: 2", "the key seed is outside the surface"),
        ("config.yaml", "lr: 1.0e-3", "lr: 2.0e-3", "the key base.lr is outside"),
        ("config.yaml", "decay: 0.1", "decay: [", "not valid YAML"),
        ("config.yaml", "decay: 0.1", "decay: 0.1\n  decay: 0.2", "optim.decay stands there twice"),
        ("config.yaml", "seed: 1", "seed: 1\nextra: 2", "the key extra is outside"),
        ("config.yaml", "optim:\n  <<: *base\n  decay: 0.1\n", "", "the key optim is outside"),
        ("config.yaml", '"a.b": 2', '"a.b": 3', 'the key model."a.b" is outside'),
        ("config.toml", "widths = [8, 16]", "widths = [8, 16, 32]", "the key model.widths.2 is outside"),
        ("config.toml", "[model]", "[models]", "the key model is outside"),
        ("config.json", '"relu"', '"gelu"', "the key model.act is outside"),
        ("config.json", '"seed": 1', '"seed": 1, "seed": 2', "'seed' stands there twice"),
        ("config.json", '"seed": 1', '"seed": 1.0', "the key seed is outside"),
    ],
)
def test_another_key_may_not(path: str, search: str, replace: str, words: str) -> None:
    assert search in CONFIGS[path]
    with pytest.raises(EditRefused, match=words):
        changed(path, CONFIGS[path], CONFIGS[path].replace(search, replace))


def test_keys_below_a_pattern_may_be_added_and_aliases_moved() -> None:
    assert changed("config.yaml", YAML, YAML.replace("decay: 0.1", "decay: 0.1\n  muon: {beta: 0.9}")) == (
        "config.yaml:optim.muon",
        "config.yaml:optim.muon.beta",
    )
    assert changed("config.yaml", YAML, YAML.replace("  <<: *base\n", "")) == ("config.yaml:optim.<<",)


@pytest.mark.parametrize("path", CONFIGS)
def test_comments_and_layout_are_the_same_program(path: str) -> None:
    old, new = (
        CONFIGS[path],
        CONFIGS[path].replace("optim", " optim", 1) if path == "config.json" else CONFIGS[path] + "# end\n",
    )
    if path == "config.json":
        new = old.replace('"depth": 4', '"depth":   4')
    assert ast_hash({path: old.encode()}) == ast_hash({path: new.encode()})
    with pytest.raises(EditRefused, match="only comments or layout") as caught:
        changed(path, old, new)
    assert caught.value.cause == "duplicate"


@pytest.mark.parametrize("path", CONFIGS)
def test_numbers_are_moved_in_place(path: str) -> None:
    old = CONFIGS[path]
    where = "base.lr" if path == "config.yaml" else "optim.lr"
    found = config_numbers(path, old)
    assert found["model.depth"] == (4.0, True) and found[where] == (0.001, False)
    for key, value, written in (("model.depth", 6.0, "6"), (where, 2e-5, "2.0e-05")):
        new = set_config_number(path, old, key, value)
        assert config_numbers(path, new)[key][0] == value
        lines = [b for a, b in zip(old.splitlines(), new.splitlines(), strict=True) if a != b]
        assert len(lines) == 1 and written in lines[0]
        different = {dotted(k) for k in entries(path, new) if entries(path, old)[k] != entries(path, new)[k]}
        assert different == {key}


def test_numbers_of_awkward_yaml() -> None:
    text = "a: 010\nb: 0x10\nc: '3'\nd: 1.5.2\ne: .5\nf: -2\ng: 2026-11-29\nh: [1, {i: 3}]\n"
    assert set(config_numbers("x.yaml", text)) == {"e", "f", "h.0", "h.1.i"}
    assert config_numbers("x.yaml", "a: 1\n---\na: 2\n") == {} and config_numbers("x.yaml", "a: [") == {}


@pytest.mark.parametrize("path", ["kernel.cu", "ops/bind.cpp", "run.sh"])
def test_other_text_is_a_surface_as_a_whole(path: str) -> None:
    before = {"recipe.py": b"X = 1\n", path: b"int depth = 4;\n"}
    after = {**before, path: b"int depth = 6;\n"}
    assert check_surface(spec({path: ["*"]}), ROLE, before, after).units == (f"{path}:*",)
    with pytest.raises(EditRefused, match="outside the surface"):
        check_surface(spec({"recipe.py": ["*"]}), ROLE, before, after)
    assert 'write ["*"]' in problems(spec({path: ["depth"]}), before)[0]


def test_faults_of_config_surfaces_are_named_before_a_campaign() -> None:
    files = {"recipe.py": b"X = 1\n", "c.yaml": b"model: {depth: 4}\n", "d.json": b"{'a': 1}\n"}
    found = "; ".join(problems(spec({"c.yaml": ["model.deph"], "d.json": ["a"]}), files))
    assert "c.yaml: no key 'model.deph' in it; did you mean model.depth?" in found
    assert "d.json, line 1: not valid JSON" in found


PACKAGE = {
    "train.py": b"from parts import net\n",
    "parts/__init__.py": b"",
    "parts/net.py": b"from . import layers\nfrom .layers import WIDTH\n\n\ndef make():\n    return layers.WIDTH + WIDTH\n",
    "parts/layers.py": b"WIDTH = 4\n",
    "parts/deep/act.py": b"from ..layers import WIDTH\n",
    "recipe.py": b"X = 1\n",
}


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("parts/net.py", b"from .layers import WIDTH\n\n\ndef make():\n    return WIDTH * 2\n", ""),
        ("parts/net.py", b"from . import layers\nfrom .deep.act import WIDTH\n\n\ndef make():\n    return WIDTH\n", ""),
        ("parts/net.py", PACKAGE["parts/net.py"] + b"\n\ndef g():\n    import os\n", "import of 'os' inside"),
        ("parts/net.py", PACKAGE["parts/net.py"] + b"\n\ndef g():\n    layers.WIDTH = 9\n", "assignment to layers.WIDTH"),
        ("parts/net.py", b"from .. import os\n", "outside the surface"),
        ("parts/norm.py", b"from .layers import WIDTH\n", ""),
        ("parts/torch/x.py", b"X = 1\n", "a new file is outside"),
        ("torch/x.py", b"X = 1\n", "hide the module 'torch'"),
        ("parts/conf.yaml", b"a: 1\n", ""),
        ("parts/conf.yaml", b"a: [\n", "not valid YAML"),
    ],
)  # fmt: skip
def test_sub_packages_and_new_files(path: str, text: bytes, words: str) -> None:
    held = spec(
        {"parts/net.py": ["*"]}, allow_new=["*"], new_files=["parts/*.py", "parts/*.yaml", "torch/*.py"]
    )
    after = {**PACKAGE, path: text}
    if words:
        with pytest.raises(EditRefused, match=words):
            check_surface(held, ROLE, PACKAGE, after)
    else:
        assert check_surface(held, ROLE, PACKAGE, after).units[0].startswith(path)
