"""Role briefs and the rosters of the arms."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.roles import ARMS, build_roster, is_generalist, load_role, roster_sha256
from lineage.errors import SpecInvalid, UnknownName
from tests.fakes.lab import SPEC

OPT = '+++\nsurfaces = ["opt"]\nmax_changed_lines = 120\n+++\n# Optimizer\n\nYou own it.\n'
ARCH = '+++\nsurfaces = ["arch", "loop"]\n+++\n# Network\n'
TEXTS = {"opt": OPT, "arch": ARCH}


def test_a_brief_becomes_a_role() -> None:
    role = load_role(SPEC, "opt", OPT)
    assert (role.surfaces, role.max_changed_lines) == (("opt",), 120)
    assert role.brief == "# Optimizer\n\nYou own it."


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("# no head", SpecInvalid, "roles/opt.md of toy: no head"),
        ("+++\nsurfaces = [\n+++\nx\n", SpecInvalid, "not TOML"),
        ("+++\nmax_changed_lines = 3\n+++\nx\n", SpecInvalid, "surfaces"),
        ('+++\nsurfaces = ["optt"]\n+++\nx\n', UnknownName, "did you mean 'opt'"),
        ('+++\nsurfaces = ["opt"]\nradius = 3\n+++\nx\n', SpecInvalid, "radius"),
        ('+++\nsurfaces = ["opt"]\n+++\n\n', SpecInvalid, "0 characters"),
        ('+++\nsurfaces = ["opt"]\n+++\n' + "x" * 6_001, SpecInvalid, "6001 characters"),
    ],
)
def test_a_wrong_brief_is_named(text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        load_role(SPEC, "opt", text)


def test_the_arms_differ_as_in_the_paper() -> None:
    rosters = {arm: build_roster(SPEC, TEXTS, arm) for arm in ARMS}
    assert [r.name for r in rosters["specialists"].roles] == ["arch", "opt"]
    assert rosters["no_lineage"].roles == rosters["specialists"].roles == rosters["random"].roles
    single, generic = rosters["single"].roles, rosters["generic"].roles
    assert [r.name for r in single] == ["generalist"]
    assert len(generic) == len(rosters["specialists"].roles)
    assert all(is_generalist(r.name) for r in generic)
    for role in generic:
        assert role.model_dump(exclude={"name"}) == single[0].model_dump(exclude={"name"})
    assert set(single[0].surfaces) == {"opt", "arch", "loop"}
    assert "design from scratch" in single[0].brief


def test_an_environment_may_bring_its_own_generalist() -> None:
    texts = {**TEXTS, "generalist": "+++\nmax_changed_lines = 300\n+++\n# All of it\n"}
    assert build_roster(SPEC, texts, "single").roles[0].brief == "# All of it"
    assert [r.name for r in build_roster(SPEC, texts).roles] == ["arch", "opt"]


def test_the_hash_sees_briefs_names_and_surfaces() -> None:
    roster = build_roster(SPEC, TEXTS)
    assert roster.sha256 == roster_sha256(roster.roles) == build_roster(SPEC, dict(TEXTS)).sha256
    assert roster.sha256 != build_roster(SPEC, {**TEXTS, "opt": OPT + "More.\n"}).sha256


def test_unknown_arm_and_unknown_role() -> None:
    with pytest.raises(UnknownName, match="did you mean 'single'"):
        build_roster(SPEC, TEXTS, "singel")
    with pytest.raises(UnknownName, match="did you mean 'opt'"):
        build_roster(SPEC, TEXTS).role("optt")
    with pytest.raises(SpecInvalid, match="no role briefs"):
        build_roster(SPEC, {})


def test_every_brief_shipped_with_the_recipes_loads() -> None:
    import tomllib

    from lineage.environment_spec import EnvironmentSpec

    found = 0
    for toml in sorted(Path(__file__).parents[2].glob("recipes/*/environment.toml")):
        if toml.parent.name.startswith("_"):
            continue
        spec = EnvironmentSpec.model_validate(tomllib.loads(toml.read_text("utf-8")))
        texts = {p.stem: p.read_text("utf-8") for p in (toml.parent / "roles").glob("*.md")}
        found += len(build_roster(spec, texts).roles)
    assert found >= 5
