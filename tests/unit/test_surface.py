"""Staying inside the surface: 31 sneaky edits and the reports of honest ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agents.edits.role_surface import check_surface, units
from lineage.environment_spec import EnvironmentSpec, Role
from lineage.errors import EditRefused

OLD = """import torch
import torch.nn as nn
LR = 0.1
STEPS = 100
# --- model
class Model(nn.Module):
    width = 32
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(8, 2)
    def forward(self, x):
        return self.l(x)
def make_optimizer(m):
    return torch.optim.SGD(m.parameters(), lr=LR)
def export(m, path):
    torch.save(m.state_dict(), path)
"""


def spec(units: dict[str, list[str]], **surface: list[str]) -> EnvironmentSpec:
    return EnvironmentSpec.model_validate(
        {
            "name": "toy",
            "title": "t",
            "description": "d",
            "score": {"metric": "accuracy", "direction": "max", "unit": "1"},
            "task": {"kind": "classification", "outputs": 2},
            "budget": {
                "train_cpu_s": 1, "train_wall_s": 1, "predict_cpu_s": 1, "predict_wall_s": 1,
                "memory_mb": 100, "artifact_bytes": 100, "source_bytes": 20_000,
            },
            "evaluation": {"runs": 1, "confirm_runs": 2, "max_confirm_runs": 2, "calibrate_runs": 3},
            "surfaces": [
                {"name": "opt", "title": "o", "units": units, **surface},
                {"name": "rest", "title": "r", "units": {"recipe.py": ["*"]}},
            ],
        }
    )  # fmt: skip


ALLOWED = {"recipe.py": ["LR", "make_optimizer", "Model.forward", "Model.__init__"]}
SPEC = spec(ALLOWED)
ROLE = Role(name="opt", surfaces=("opt",), brief="b")


def check(new: str, old: str = OLD, env: EnvironmentSpec = SPEC) -> tuple[str, ...]:
    return check_surface(env, ROLE, {"recipe.py": old.encode()}, {"recipe.py": new.encode()}).flags


def swap(old: str, new: str) -> str:
    assert old in OLD
    return OLD.replace(old, new, 1)


PASS = {
    "constant in surface": swap("LR = 0.1", "LR = 0.3"),
    "method in surface": swap("return self.l(x)", "return torch.relu(self.l(x))"),
    "optimizer swap": swap("SGD(m.parameters(), lr=LR)", "AdamW(m.parameters(), lr=LR)"),
    "owned constant moved down": OLD.replace("LR = 0.1\nSTEPS = 100\n", "STEPS = 100\nLR = 0.1\n"),
    "blank lines beside a protected unit": swap("def export", "\n\ndef export").replace("LR = 0.1", "LR = 1"),
}


@pytest.mark.parametrize("name", PASS)
def test_honest_edits_pass_without_flags(name: str) -> None:
    assert check(PASS[name]) == ()


FLAGGED = {
    "walrus in an owned constant": (swap("LR = 0.1", "LR = (STEPS := 10**9) and 0.1"), ":= at module level"),
    "patches torch": (
        swap("    return torch.optim.SGD", "    torch.save = print\n    return torch.optim.SGD"),
        "assigns to torch.save",
    ),
    "decorator with side effects": (
        swap("def make_optimizer", "@exec\ndef make_optimizer"),
        "decorator exec",
    ),
    "lookup table": (swap("LR = 0.1", "LR = " + repr(list(range(600)))), "600 items"),
    "catches everything": (
        swap(
            "        return self.l(x)",
            "        try:\n            return self.l(x)\n        except:\n            return x",
        ),
        "catches everything",
    ),
}


@pytest.mark.parametrize("name", FLAGGED)
def test_run_time_tricks_are_flagged(name: str) -> None:
    source, words = FLAGGED[name]
    assert any(words in flag for flag in check(source))


def test_old_flags_are_not_reported_again() -> None:
    old = swap("    return torch.optim.SGD", "    global STEPS\n    return torch.optim.SGD")
    assert check("# moved\n" + old.replace("LR = 0.1", "LR = 0.2"), old, spec({"recipe.py": ["*"]})) == ()


EXPORT = OLD.index("def export")
MODEL = OLD.index("# --- model")
REFUSED = {
    "protected constant": (swap("STEPS = 100", "STEPS = 10**9"), "STEPS is outside the surface"),
    "protected function": (swap("torch.save(m.state_dict(), path)", "pass"), "export is outside"),
    "protected class attribute": (swap("width = 32", "width = 64"), "Model.width is outside"),
    "class head": (swap("class Model(nn.Module)", "class Model(nn.Linear)"), "Model.<head> is outside"),
    "second export at the end": (OLD + "def export(m, path):\n    pass\n", "export is defined 2 times"),
    "export = lambda": (OLD + "export = lambda *a: None\n", "export is defined 2 times"),
    "second LR": (OLD + "LR = 9\n", "LR is defined 2 times"),
    "second method": (
        swap("def make_opt", "    def forward(self, x):\n        return x\ndef make_opt"),
        "2 times",
    ),
    "new import": (swap("import torch\n", "import torch, os\n"), "import of 'os' is outside"),
    "import over a name": (
        swap("import torch\n", "import torch\nfrom torch import save as export\n"),
        "hide",
    ),
    "import over a builtin": (swap("import torch\n", "import torch\nfrom torch import sum\n"), "hide"),
    "star import": (swap("import torch\n", "import torch\nfrom torch import *\n"), "name what is needed"),
    "import bound to another module": (swap("import torch.nn as nn", "import torch as nn"), "changed from"),
    "import removed": (swap("import torch.nn as nn\n", ""), "was removed"),
    "module code": (OLD + "torch.save = print\n", "<module code> is outside"),
    "semicolon": (swap("LR = 0.1", "LR = 0.1; STEPS = 10**9"), "<module code> is outside"),
    "chained assignment": (swap("LR = 0.1", "LR = STEPS = 0.1"), "<module code> is outside"),
    "full-width twin": (OLD + "def ｅxport(m, path): pass\n", "export is defined 2 times"),
    "comment between definitions": (swap("# --- model", "# --- MODEL"), "Model.<head> is outside"),
    "deleted": (OLD[:EXPORT], "export is outside the surface but was deleted"),
    "moved above": (OLD[:MODEL] + OLD[EXPORT:] + OLD[MODEL:EXPORT], "moved"),
    "new definition": (OLD + "def helper():\n    pass\n", "new definition helper"),
    "if-wrapped": (swap("def export", "if True:\n  def export2(): pass\ndef export"), "<module code>"),
    "new class": (OLD + "class Extra:\n    x = 1\n", "new definition Extra.x"),
    "global of another unit": (
        swap("    return torch.optim.SGD", "    global STEPS; STEPS = 1\n    return torch.optim.SGD"),
        "global STEPS",
    ),
    "default argument that imports": (
        swap("def make_optimizer(m)", "def make_optimizer(m, _=__import__('os')._exit(0))"),
        "__import__()",
    ),
    "import inside a function": (
        swap("    return torch.optim.SGD", "    import socket\n    return torch.optim.SGD"),
        "import of 'socket' inside a function",
    ),
    "setattr on a module": (
        swap("    return torch.optim.SGD", "    setattr(torch, 'save', print)\n    return torch.optim.SGD"),
        "setattr() on the imported torch",
    ),
    "text at the end": (OLD + "# the end\n", "<tail>"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_edits_outside_the_surface_are_refused_by_name(name: str) -> None:
    source, words = REFUSED[name]
    with pytest.raises(EditRefused) as caught:
        check(source)
    assert caught.value.cause == "outside_surface"
    assert words in str(caught.value)
    assert "owns the surfaces opt" in str(caught.value)


OTHER = {
    "bidi override": (swap("# --- model", "# --- \u202emodel"), "bad_edit", "U+202E"),
    "coding cookie": ("# -*- coding: utf-7 -*-\n" + OLD, "bad_edit", "encoding"),
    "coding cookie on line two": (
        "#!/bin/sh\n# vim: set fileencoding=latin-1 :\n" + OLD,
        "bad_edit",
        "encoding",
    ),
    "carriage returns": (OLD.replace("\n", "\r\n"), "bad_edit", "carriage return"),
    "NUL byte": (OLD + "\0", "bad_edit", "U+0000"),
    "syntax error": (swap("LR = 0.1", "LR = = 0.1"), "syntax", "line 3"),
    "no change": (OLD, "duplicate", "changes nothing"),
    "comment in surface only": (
        swap("    return torch.optim", "    # note\n    return torch.optim"),
        "duplicate",
        "layout",
    ),
    "docstring only": (
        swap("        return self.l", '        "about"\n        return self.l'),
        "duplicate",
        "layout",
    ),
    "too deep": (swap("LR = 0.1", "LR = " + "(" * 3000 + "1" + ")" * 3000), "syntax", "recipe.py"),
    "source over the cap": (
        swap("LR = 0.1", "LR = 0.1  # " + "x" * 20_000),
        "oversize",
        "over the limit of 20000",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_refusals_carry_their_own_cause(name: str) -> None:
    source, cause, words = OTHER[name]
    with pytest.raises(EditRefused, match=words.replace("+", r"\+")) as caught:
        check(source)
    assert caught.value.cause == cause


def test_more_lines_than_the_radius_are_refused() -> None:
    body = "".join(f"    x = {i}\n" for i in range(250))
    with pytest.raises(EditRefused, match="250 changed lines, limit 200") as caught:
        check(swap("    return torch.optim", body + "    return torch.optim"))
    assert caught.value.numbers["changed_lines"] == 250


@pytest.mark.parametrize(
    ("listed", "change"),
    [
        (["Model"], lambda s: s.replace("(nn.Module)", "(nn.Module, object)")),
        (["Model.*"], lambda s: s.replace("width = 32", "width = 64")),
        (
            ["Model.*"],
            lambda s: s.replace("def make_opt", "    def extra(self):\n        pass\ndef make_opt"),
        ),
        (["*"], lambda s: s.replace("STEPS = 100", "STEPS = 1") + "def more():\n    pass\n"),
        (["*"], lambda s: s.replace("import torch.nn as nn\n", "from torch import nn\n")),
    ],
)
def test_unit_patterns(listed: list[str], change: Callable[[str], str]) -> None:
    check(change(OLD), env=spec({"recipe.py": listed}))


def test_class_star_does_not_own_the_head() -> None:
    with pytest.raises(EditRefused, match="<head>"):
        check(swap("(nn.Module)", "(nn.Linear)"), env=spec({"recipe.py": ["Model.*"]}))


def test_new_definitions_and_imports_by_pattern() -> None:
    env = spec(ALLOWED, allow_new=["muon_*", "[A-Z]*"], imports=["math"])
    new = OLD.replace("LR = 0.1\n", "LR = 0.1\nBETA = 0.9\n").replace(
        "import torch\n", "import math\nimport torch\n"
    )
    report = check_surface(
        env,
        ROLE,
        {"recipe.py": OLD.encode()},
        {
            "recipe.py": (
                new + "def muon_step():\n    return math.pi\nclass Muon:\n    def f(self):\n        pass\n"
            ).encode()
        },
    )
    assert "recipe.py:muon_step" in report.units
    assert "recipe.py:BETA" in report.units
    assert "recipe.py:STEPS" not in report.units
    assert report.changed_lines == 7
    with pytest.raises(EditRefused, match="hide the builtin"):
        check(OLD + "def sum(x):\n    return x\n", env=spec(ALLOWED, allow_new=["*"]))


def test_new_files() -> None:
    env = spec(ALLOWED, new_files=["opt_*.py", "random.py", "numpy.py"])
    old = {"recipe.py": OLD.encode()}
    new = {"recipe.py": swap("LR = 0.1", "LR = 0.2").encode()}
    good = check_surface(env, ROLE, old, {**new, "opt_muon.py": b"import torch\nX = 1\n"})
    assert "opt_muon.py:*" in good.units
    for path, data, words in (
        ("helper.py", b"X = 1\n", "allowed patterns"),
        ("random.py", b"X = 1\n", "hide the module"),
        ("numpy.py", b"X = 1\n", "hide the module"),
        ("opt_a.py", b"import os\n", "import of 'os'"),
    ):
        with pytest.raises(EditRefused, match=words):
            check_surface(env, ROLE, old, {**new, path: data})
    with pytest.raises(EditRefused, match="the file was deleted"):
        check_surface(env, ROLE, {**old, "b.py": b"X = 1\n"}, new)
    with pytest.raises(EditRefused, match=r"b.txt: the file is outside the surface"):
        check_surface(env, ROLE, {**old, "b.txt": b"X"}, {**old, "b.txt": b"Y"})


def test_files_of_other_surfaces_are_protected() -> None:
    files = {"recipe.py": OLD.encode(), "data.py": b"SEED = 1\n"}
    with pytest.raises(EditRefused, match=r"data\.py: SEED is outside"):
        check_surface(SPEC, ROLE, files, {**files, "data.py": b"SEED = 2\n"})


def test_units_of_a_file_with_every_form() -> None:
    text = (
        '"""Doc."""\nfrom x import (\n    y,\n)\n\nA: int = 1\n\n@deco\ndef f():\n    pass\n\n'
        "class C(\n    Base,\n):\n    '''Doc.'''\n\n    # note\n    @property\n    def p(self):\n        return 1\n\n"
        "    for i in range(3):\n        pass\n\nclass D: pass\n\nclass E:\n    @deco\n    def first(self): ...\nx, y = 1, 2\n# end\n"
    )
    found = units("a.py", text)
    assert "".join(u.text for u in found) == text
    assert [u.key for u in found] == [
        "<module code>", "<imports>", "A", "f", "C.<head>", "C.p", "C.<code>", "D.<head>", "E.<head>", "E.first",
        "<module code>", "<tail>",
    ]  # fmt: skip
