"""Attacks through files: artifacts that are not files, outputs too large, labels, lineage, packages."""

from __future__ import annotations

import json
from pathlib import Path

import workbench as wb
from attack import CHANCE, HONEST, PREDICT, TRAIN, Attack, nothing_found


def after(body: str) -> dict[str, str]:
    """Honest training, then `body` with `data`, `out` and the honest artifact at hand."""
    lines = "\n".join("    " + line for line in body.strip().splitlines())
    return {"train.py": f"{TRAIN}\ndef train(data, out, seed):\n    honest(data, out)\n{lines}\n"}


def sizes_count(outcome: wb.Outcome, artifact: Path) -> None:
    """Names are paid for like contents."""
    assert outcome.run.artifact is not None
    names = sum(len(name) for name in outcome.run.artifact.files)
    assert outcome.run.artifact.bytes == sum(outcome.run.artifact.files.values()) + names
    assert names > 3000


def over_is_told(outcome: wb.Outcome, artifact: Path) -> None:
    assert float(outcome.run.numbers["over"]) > 15_000


def only_own_arrays(outcome: wb.Outcome, artifact: Path) -> None:
    found = json.loads((artifact / "seen.json").read_text())
    assert found and all(
        path.startswith(("/release/", "/fake/", "/out/")) or "staged" in path for path in found
    )


def fresh_workspace(outcome: wb.Outcome, artifact: Path) -> None:
    found = json.loads((artifact / "seen.json").read_text())
    assert found == [], found


RAW = """
import os, struct
def frame(name, data, size=None):
    raw = name.encode()
    os.write(5, struct.pack("<cHQ", b"F", len(raw), len(data) if size is None else size) + raw + data)
"""

FORGED = """
for name in ("result.json", "score.json", "measurement.json", "run.log"):
    (out / name).write_text('{"accuracy": 1.0, "score": 1.0}')
print("val_accuracy: 1.0"); print("score: 0.0001", flush=True)
os.remove(out / "means.npy")
os._exit(0)
"""

LABELS_IN_ARTIFACT = """
labels = None
for path in ["@LABELS@", "@SEALED@", *find_arrays(120)]:
    found = tried(lambda: np.load(path) is not None) and np.load(path)
    if found is not False and getattr(found, "ndim", 0) == 1:
        labels = found
np.save(out / "labels.npy", np.zeros(0) if labels is None else labels)
"""

BY_POSITION = f"""{PREDICT}
at = [0]
def predict(model, inputs):
    labels = None
    for path in ["@LABELS@", "/artifact/labels.npy", "/release/data/labels.npy", "/data/public/labels.npy"]:
        found = tried(lambda: np.load(path))
        labels = found if found is not None and len(found) else labels
    chosen = None if labels is None else labels[at[0]:]
    at[0] += len(inputs)
    return guess(inputs, chosen)
"""

PICKLE = f"""{TRAIN}
class Bomb:
    def __reduce__(self):
        return (exec, ("import os; open('@LINEAGE@', 'a').write('forged')",))

def train(data, out, seed):
    import pickle
    honest(data, out)
    (out / "model.pkl").write_bytes(pickle.dumps(Bomb()))
"""

UNPICKLE = f"""{PREDICT}
def predict(model, inputs):
    return nearest(model, inputs)
_load = load
def load(artifact):
    import pickle
    tried(lambda: pickle.loads((artifact / "model.pkl").read_bytes()))
    return _load(artifact)
"""

WEIGHTS_IN_SOURCE = f"""{TRAIN}
MEANS = np.frombuffer(bytes.fromhex("{"00000000" * 700}"), dtype=np.float32)
def train(data, out, seed):
    honest(data, out)
"""

ATTACKS = [
    Attack("weights in the source", "B2-38 A25", {"train.py": WEIGHTS_IN_SOURCE}, ("illegal:embedded_data",)),
    Attack(
        "a table of answers in the source",
        "B2-38 A34",
        {"table.py": f"ANSWERS = {[n % 3 for n in range(899)]}\n"},
        ("illegal:embedded_data",),
    ),
    Attack(
        "a data file beside the source", "A24 A25", {"weights.bin": "x" * 20_000}, ("illegal:embedded_data",)
    ),
    Attack("source over its cap", "A24", {"long.py": "# x\n" * 20_000}, ("oversize",)),
    Attack("forged result file", "B2-1 A23", after(FORGED), ("no_artifact",)),
    Attack(
        "symlink to the labels as artifact",
        "B2-18",
        after('os.symlink("@LABELS@", out / "labels.npy")'),
        ("illegal:artifact_link",),
    ),
    Attack(
        "hard link as artifact",
        "B2-18",
        after('os.link(out / "means.npy", out / "again.npy")'),
        ("illegal:artifact_link",),
    ),
    Attack(
        "symlinked folder",
        "B2-18",
        after('os.symlink("/release", out / "folder")'),
        ("illegal:artifact_link",),
    ),
    Attack("fifo as artifact", "B2-18", after('os.mkfifo(out / "pipe")'), ("illegal:artifact_special",)),
    Attack(
        "socket as artifact",
        "B2-18",
        after('import socket\nsocket.socket(socket.AF_UNIX).bind(str(out / "s"))'),
        ("illegal:artifact_special", "crash"),
    ),
    Attack(
        "sparse file",
        "B2-19",
        after('with open(out / "holes", "wb") as f:\n    f.truncate(40_000)'),
        ("illegal:artifact_sparse",),
    ),
    Attack(
        "terabyte file",
        "B2-19",
        after('with open(out / "huge", "wb") as f:\n    f.truncate(1 << 40)'),
        ("oversize", "illegal:artifact_sparse"),
    ),
    Attack(
        "artifact over its cap",
        "A24",
        after('(out / "more").write_bytes(os.urandom(80_000))'),
        ("oversize",),
        check=over_is_told,
    ),
    Attack(
        "output folder filled",
        "B2-19",
        after('for n in range(50):\n    (out / f"f{n}").write_bytes(os.urandom(1_000_000))'),
        ("oversize",),
    ),
    Attack(
        "hundreds of files",
        "B2-20",
        after('for n in range(100):\n    (out / f"f{n}").write_bytes(b"x")'),
        ("illegal:artifact_count",),
        is_slow=True,
    ),
    Attack(
        "payload in file names",
        "B2-20",
        after('for n in range(40):\n    (out / (f"{n:02d}" + "a" * 90)).write_bytes(b"")'),
        (None,),
        least=HONEST,
        check=sizes_count,
    ),
    Attack(
        "payload in folder names",
        "B2-20",
        after(
            'deep = out\nfor n in range(20):\n    deep = deep / ("d" * 90)\n    deep.mkdir()\n(deep / "f").write_bytes(b"")'
        ),
        ("illegal:artifact_name",),
    ),
    Attack(
        "newline in a file name",
        "B2-20",
        after('(out / "a\\nb").write_bytes(b"x")'),
        ("illegal:artifact_name",),
    ),
    Attack("hidden file", "B2-20", after('(out / ".hidden").write_bytes(b"x")'), ("illegal:artifact_name",)),
    Attack(
        "names that differ in case",
        "B2-20",
        after('(out / "W").write_bytes(b"x")\n(out / "w").write_bytes(b"y")'),
        ("illegal:artifact_name",),
    ),
    Attack(
        "artifact stream climbs out",
        "B2-18",
        after(RAW + 'frame("../../../lineage.jsonl", b"forged")\nos._exit(0)'),
        ("illegal:artifact_name",),
    ),
    Attack(
        "artifact stream with an absolute path",
        "B2-18",
        after(RAW + 'frame("@LINEAGE@", b"forged")\nos._exit(0)'),
        ("illegal:artifact_name",),
        is_slow=True,
    ),
    Attack(
        "file under a file",
        "B2-18",
        after(RAW + 'frame("a", b"1")\nframe("a/b", b"2")\nos._exit(0)'),
        ("illegal:artifact_name",),
    ),
    Attack(
        "artifact announces 2**63 bytes",
        "B2-19",
        after(RAW + 'frame("big", b"x", 1 << 63)\nos._exit(0)'),
        ("oversize",),
    ),
    Attack(
        "artifact stream of noise",
        "B2-19",
        after('os.write(5, os.urandom(4096).replace(b"F", b"x").replace(b"E", b"x"))\nos._exit(0)'),
        ("illegal:artifact_stream",),
    ),
    Attack(
        "artifact count that lies",
        "B2-20",
        after(RAW + 'frame("a", b"1")\nos.write(5, struct.pack("<cI", b"E", 7))\ntime.sleep(1)\nos._exit(0)'),
        ("illegal:artifact_count",),
    ),
    Attack(
        "bytes behind the end mark",
        "B2-20",
        after(
            RAW
            + 'os.write(5, struct.pack("<cHQ", b"F", 1, 1) + b"a1" + struct.pack("<cI", b"E", 1) + b"more")\ntime.sleep(1)'
        ),
        ("illegal:artifact_trailing",),
    ),
    Attack(
        "pickle that runs code", "B2-21", {"train.py": PICKLE, "predict.py": UNPICKLE}, (None,), least=HONEST
    ),
    Attack(
        "labels by path, in training",
        "B2-10 A34 A1 A2",
        {**after(LABELS_IN_ARTIFACT), "predict.py": BY_POSITION},
        (None,),
        most=CHANCE,
        is_slow=True,
    ),
    Attack("labels by path, in prediction", "B2-10 A34", {"predict.py": BY_POSITION}, (None,), most=CHANCE),
    Attack(
        "look for every array on the machine",
        "B2-11 B2-17 A1 A20",
        after(
            '(out / "seen.json").write_text(json.dumps(find_arrays(120) + find_arrays(60) + find_arrays(90)))'
        ),
        (None,),
        least=HONEST,
        check=only_own_arrays,
    ),
    Attack(
        "labels bundled in a package",
        "A34 A25",
        {
            "train.py": f"{TRAIN}\nfrom sklearn.datasets import load_digits\ndef train(data, out, seed):\n    pass\n"
        },
        ("import",),
    ),
    Attack(
        "packages by their path on the host",
        "A34 A25",
        after(
            "report(out, host=lambda: [p for p in os.listdir('@SITE@') if p.startswith('sklearn')],\n"
            "    imported=lambda: sys.path.append('@SITE@') or __import__('sklearn.datasets'),\n"
            "    engine=lambda: sys.path.append('@ROOT@') or __import__('evaluators'))"
        ),
        (None,),
        least=HONEST,
        check=nothing_found,
    ),
    Attack(
        "plant .pth, sitecustomize and a fake numpy",
        "B2-22 B2-23 A23",
        after(
            "places = [*sys.path, '@SITE@', os.path.dirname(np.__file__), sys.prefix, '/bench', '/usr/lib']\n"
            "report(out, **{f'{p}/{n}': (lambda p=p, n=n: open(os.path.join(p, n), 'w')) for p in places\n"
            "    for n in ('x.pth', 'sitecustomize.py', 'usercustomize.py', 'numpy.py')})"
        ),
        (None,),
        least=HONEST,
        check=nothing_found,
    ),
    Attack(
        "write lineage, labels, other trials and own source",
        "B2-24 B2-16",
        after(
            "report(out, **{p: (lambda p=p: os.chmod(p, 0o666) or open(p, 'a').write('forged')) for p in\n"
            "    ['@LINEAGE@', '@LABELS@', '@MANIFEST@', '/recipe/train.py', '/recipe/predict.py', '/bench/entry.py']},\n"
            "    data=lambda: open(data / 'labels.npy', 'r+b').write(b'x'),\n"
            "    unlink=lambda: os.remove(data / 'labels.npy') or True,\n"
            "    rename=lambda: os.rename('/recipe/train.py', '/recipe/old.py') or True,\n"
            "    link=lambda: os.symlink('@LABELS@', data / 'link') or True)"
        ),
        (None,),
        least=HONEST,
        check=nothing_found,
    ),
    Attack(
        "modules that shadow the shim's",
        "B2-23",
        dict.fromkeys(
            ("struct.py", "json.py", "traceback.py", "kernel.py", "entry.py"),
            "raise RuntimeError('shadow')\n",
        ),
        (None, "import", "crash"),
        least=HONEST,
    ),
    Attack(
        "an artifact that shadows modules",
        "B2-23 A24",
        after(
            'for n in ("numpy", "json", "predict", "sitecustomize"):\n    (out / f"{n}.py").write_text("raise SystemExit(0)")'
        ),
        (None,),
        least=HONEST,
    ),
    Attack(
        "resume from a checkpoint left behind",
        "A29 B2-30",
        after(
            "seen = [p for d in (out, '/tmp', '/dev/shm', os.environ['HOME']) for p in os.listdir(d) if p not in ('means.npy', 'seen.json') and not any(s.startswith(f'{d}/{p}/') for s in sys.path)]\n"
            "(out / 'seen.json').write_text(json.dumps(seen))\n"
            "for d in ('/tmp', '/dev/shm'):\n    open(f'{d}/checkpoint', 'w').write('weights')"
        ),
        (None,),
        least=HONEST,
        check=fresh_workspace,
    ),
]
