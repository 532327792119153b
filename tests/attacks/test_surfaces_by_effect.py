"""An edit inside its own surface that changes another one: refused by its form, or seen at run time by name.

The table names 24 kinds. `FORMS` are refused before anything runs; `EFFECTS` are written so that no form gives
them away and run once in the real sandbox on `airbench_mini`, whose report must name each definition.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

import pytest

from agents.edits.role_surface import check_surface, owns
from evaluators.judge import judge_client
from evaluators.judge.candidate_folders import write_files
from evaluators.judge.judge_client import Bench
from evaluators.judge.sandbox.prove_level import best
from flows.environments.loading import Environment, load_environment
from flows.environments.prepared_data import check_data, prepare
from lineage.errors import EditRefused

END = ""  # append to optim.py
FIT = "    optimizer = make_optimizer(net)\n"

FORMS = {
    "assignment to another module": (END, "data.views = lambda images: [images]\n"),
    "setattr on another module": (END, 'setattr(data, "views", lambda images: [images])\n'),
    "vars of another module": (END, "vars(data).update(views=lambda images: [images])\n"),
    "__dict__ of another module": (END, "data.__dict__.update(views=lambda images: [images])\n"),
    "__dict__ in a helper": (
        END,
        "def prepare() -> None:\n    data.__dict__.update(views=None)\n\n\nDONE = prepare()\n",
    ),
    "__dict__ of torch": (END, "torch.__dict__.update(manual_seed=lambda seed: None)\n"),
    "setitem on a module's dict": (END, 'dict.__setitem__(data.__dict__, "views", None)\n'),
    "train.write through an import": (FIT, "    import train\n\n    train.__dict__.update(write=print)\n"),
    "__main__ through an import": (FIT, "    import __main__\n\n    __main__.say = print\n"),
    "import os in a function": (FIT, "    import os\n\n    os.getpid()\n"),
    "os through torch": (FIT, "    torch.os.getpid()\n"),
    "os.popen through torch": (FIT, "    torch.utils.cpp_extension_path = torch._utils_internal.os.popen\n"),
    "os.path through torch": (FIT, "    torch.serialization.os.path.abspath('.')\n"),
    "file read by torch": (FIT, "    torch.from_file('/proc/self/mountinfo', size=1, dtype=torch.uint8)\n"),
    "__del__": (
        END,
        "class Last:\n    def __del__(self) -> None:\n        data.__dict__.update(views=None)\n",
    ),
    "__init_subclass__": (
        END,
        "class Base:\n    def __init_subclass__(cls) -> None:\n        data.__dict__.update(views=None)\n\n\n"
        "class Sub(Base):\n    pass\n",
    ),
    "metaclass": (
        END,
        "class Meta(type):\n    def __init__(cls, *a: object) -> None:\n        data.__dict__.update(views=None)\n\n\n"
        "class Made(metaclass=Meta):\n    pass\n",
    ),
    "__getattr__ of the module": (END, "def __getattr__(name: str) -> object:\n    return data.views\n"),
}

# what is changed -> code that a check of names accepts or only flags
AT_IMPORT = {
    "data.views": 'getattr(data, "__dict__")["views"] = lambda images: [images]',
    "data.SHIFT": 'data.shift.__globals__["SHIFT"] = 2',
    "data.EXTRA": 'data.shift.__globals__["EXTRA"] = 2',
    "data.select": "select = data.select\nselect.__defaults__ = (None, None)",
    "model.Net.forward": "Net = model.Net\nNet.forward = lambda self, x: x.flatten(1)[:, :10]",
    "model.Block.__call__": "Block = model.Block\nBlock.__call__ = lambda self, x: x",
    "model.activation": "activation = model.activation\nactivation.__code__ = (lambda x: x).__code__",
    "torch.manual_seed": 'getattr(torch, "__dict__").update(manual_seed=lambda seed: None)',
    "torch.utils.cpp_extension_path": "torch.utils.cpp_extension_path = print",
    "torch.nn.modules.conv.Conv2d.forward": "Conv = nn.Conv2d\nConv.forward = lambda self, x: x",
    "torch.nn.modules.module._global_forward_hooks": (
        "HOOK = torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: o)"
    ),
    "torch.default_dtype": "torch.set_default_dtype(torch.float64)",
    "loss.criterion": (
        "class Last:\n    def __del__(self) -> None:\n"
        '        getattr(loss, "__dict__").update(criterion=None)\n\n\nLAST = Last()\ndel LAST'
    ),
    "regularise.limit": (
        "class Base:\n    def __init_subclass__(cls) -> None:\n"
        '        getattr(regularise, "__dict__").update(limit=None)\n\n\nclass Sub(Base):\n    pass'
    ),
    "regularise.param_groups": (
        "class Meta(type):\n    def __init__(cls, *a: object) -> None:\n"
        '        getattr(regularise, "__dict__").update(param_groups=None)\n\n\nclass Made(metaclass=Meta):\n    pass'
    ),
    "numpy.load": 'getattr(data.torch, "__dict__")["sys"].modules["numpy"].load = print',
    "__main__.export": 'getattr(data.torch, "__dict__")["sys"].modules["__main__"].export = print',
    "bakeoff.Definitions.differences": (
        'table = getattr(data.torch, "__dict__")["sys"].meta_path[0].table\n'
        "kind = type(table)\nfirst = kind.differences\nkind.differences = lambda self: first(self)"
    ),
}
IN_TRAINING = {
    "train.write": 'torch.__dict__["sys"].modules["train"].write = lambda net, out: torch.save(net.state_dict(), out / "weights.pt")',
    "torch.manual_seed(7)": "torch.manual_seed(7)",
}


@pytest.fixture(scope="module")
def airbench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Environment, Bench]]:
    folder = tmp_path_factory.mktemp("airbench")
    with mock.patch.dict(os.environ, {"BAKEOFF_HOME": str(folder)}):
        environment = load_environment("airbench_mini")
        prepare(environment, quiet=True)
        yield environment, Bench(environment.spec, check_data(environment), best(), folder / "scratch")


def edited(source: Mapping[str, bytes], where: str, text: str) -> dict[str, bytes]:
    old = source["optim.py"].decode()
    new = f"{old}\n\n{text}" if where == END else old.replace(where, where + text)
    assert new != old
    return {**source, "optim.py": new.encode()}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_reaches_out_is_refused(name: str) -> None:
    environment = load_environment("airbench_mini")
    role = next(role for role in environment.roster("specialists") if role.name == "opt")
    source = environment.source()
    with pytest.raises(EditRefused) as caught:
        check_surface(environment.spec, role, source, edited(source, *FORMS[name]))
    assert caught.value.cause == "outside_surface"


@pytest.mark.parametrize("path", ["sitecustomize.py", "train.py"])
def test_a_new_file_and_the_entry_point_are_refused(path: str) -> None:
    environment = load_environment("airbench_mini")
    role = next(role for role in environment.roster("specialists") if role.name == "opt")
    source = environment.source()
    with pytest.raises(EditRefused, match="outside the surface"):
        check_surface(environment.spec, role, source, {**source, path: source.get(path, b"") + b"\nX = 1\n"})


def smoke(
    bench: Bench, files: Mapping[str, bytes], folder: Path, lawful: set[str]
) -> tuple[set[str], object]:
    """Names that the run reports, and the cause that a guard which allows `lawful` gives it."""
    source = write_files(folder / "source", files)
    check = judge_client.smoke(bench, source, guard=lambda names: [n for n in names if n not in lawful])
    return set(str(check.numbers["effects"]).split("; ")), check.numbers.get("cause")


def test_what_an_import_changes_is_named(airbench: tuple[Environment, Bench], tmp_path: Path) -> None:
    environment, bench = airbench
    files = edited(environment.source(), END, "\n\n\n".join(AT_IMPORT.values()) + "\n")
    found, cause = smoke(bench, files, tmp_path, set())
    assert set(AT_IMPORT) - found == set()
    assert cause == "outside_surface"


def test_what_training_changes_is_named(airbench: tuple[Environment, Bench], tmp_path: Path) -> None:
    environment, bench = airbench
    body = "".join(f"    {line}\n" for line in IN_TRAINING.values())
    found, cause = smoke(
        bench, edited(environment.source(), FIT, body), tmp_path, {"torch.manual_seed(seed)"}
    )
    assert set(IN_TRAINING) <= found
    assert cause == "outside_surface"


HONEST = """
CALLS = {"steps": 0}
TABLE: dict[int, float] = {}


class Mine(torch.optim.SGD):
    made = 0

    def step(self, closure=None):
        Mine.made += 1
        TABLE[Mine.made] = 0.0
        return super().step(closure)


def make_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    global CALLS
    CALLS = {"steps": 1}
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(5)
    torch.rand(3, generator=generator)
    net.register_forward_hook(lambda module, inputs, output: output)
    return Mine(regularise.param_groups(net), lr=LR, momentum=MOMENTUM, nesterov=True)
"""


def test_what_a_file_does_to_itself_is_nobody_elses(
    airbench: tuple[Environment, Bench], tmp_path: Path
) -> None:
    environment, bench = airbench
    role = next(role for role in environment.roster("specialists") if role.name == "opt")
    source = environment.source()
    text = source["optim.py"].decode()
    start, end = text.index("def make_optimizer"), text.index("def rate_at")
    files = {**source, "optim.py": (text[:start] + HONEST.lstrip() + "\n\n" + text[end:]).encode()}
    check_surface(environment.spec, role, source, files)
    found, cause = smoke(bench, files, tmp_path, {"torch.manual_seed(seed)"})
    assert (found, cause) == ({"torch.manual_seed(seed)"}, None)


def test_ownership_of_a_name() -> None:
    environment = load_environment("airbench_mini")
    roles = {role.name: role for role in environment.roster("specialists")}
    spec = environment.spec
    assert owns(spec, roles["arch"], "model.py", "Net.forward")
    assert not owns(spec, roles["opt"], "model.py", "Net.forward")
    assert not owns(spec, roles["arch"], "train.py", "write")
    assert not owns(spec, roles["arch"], "train.py", "")
