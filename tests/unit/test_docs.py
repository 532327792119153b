"""The documentation site: it builds without a warning, and everything that the code has is on it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs-material is in the extra `dev`")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(ROOT / "docs" / "mkdocs.yml"), "-d", str(folder)],
        capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


def words(site: Path, page: str) -> set[str]:
    return set(re.findall(r"<code>([^<]+)</code>", (site / page).read_text("utf-8")))


def test_every_command_and_option_is_on_its_page(site: Path) -> None:
    import typer

    from flows.cli import app

    text = (site / "reference/commands.html").read_text("utf-8")
    named = words(site, "reference/commands.html")
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"bakeoff {name}" in text
        for parameter in command.params:
            assert (
                parameter.name == "help"
                or parameter.param_type_name == "argument"
                or set(parameter.opts) <= named
            )


def test_every_key_setting_column_outcome_and_error_is_on_its_page(site: Path) -> None:
    from flows.engine.settings import Settings
    from lineage import environment_spec, errors
    from lineage.records import CAUSES, Status
    from lineage.schema import SCHEMA

    keys = words(site, "reference/environment.html")
    for model in (
        environment_spec.EnvironmentSpec,
        environment_spec.Budget,
        environment_spec.Surface,
        environment_spec.Gate,
    ):
        assert set(model.model_fields) <= keys
    assert set(Settings.model_fields) <= words(site, "reference/settings.html")
    assert set(SCHEMA.names) <= words(site, "reference/columns.html")
    assert {*CAUSES, *Status} <= words(site, "reference/outcomes.html")
    tree = (site / "reference/errors.html").read_text("utf-8")
    classes = [
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.BakeoffError)
    ]
    assert all(name in tree for name in classes)


def test_every_column_has_a_meaning() -> None:
    from lineage.column_meanings import meaning
    from lineage.schema import SCHEMA

    assert all(meaning(name) for name in SCHEMA.names)


def test_links_lead_somewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for target in re.findall(r'href="([^"#:]+\.html)(?:#[^"]*)?"', page.read_text("utf-8")):
            assert (page.parent / target).resolve().is_file() or page.name == "404.html", f"{page}: {target}"
