"""Attacks on the protocol: forged messages, answers that are not answers, answers at the wrong time."""

from __future__ import annotations

from pathlib import Path

import workbench as wb
from attack import CHANCE, HONEST, PREDICT, TRAIN, Attack
from attacks_files import RAW, after


def predicting(body: str, before: str = "") -> dict[str, str]:
    lines = "\n".join("    " + line for line in body.strip().splitlines())
    return {"predict.py": f"{PREDICT}\n{before}\ndef predict(model, inputs):\n{lines}\n"}


def curve_is_ignored(outcome: wb.Outcome, artifact: Path) -> None:
    assert outcome.run.numbers == {}


SAY = """
def say(text):
    os.write(4, text.encode() + b"\\n")
"""

# Claims to be ready while it is imported, reads the order itself, does the real work, sends the artifact.
EARLY_READY = f"""{TRAIN}{SAY}{RAW}
from pathlib import Path
import io
say("imported")
say("ready")
place = os.read(3, 4096).decode().split("\\x1f")[0]
burn(0.5)
x, y = np.load(place + "/images.npy"), np.load(place + "/labels.npy")
buffer = io.BytesIO()
np.save(buffer, np.stack([x[y == k].mean(axis=0) for k in range(3)]).astype(np.float32))
frame("means.npy", buffer.getvalue())
os.write(5, struct.pack("<cI", b"E", 1))
time.sleep(10)
"""

BEFORE_READY = f"""{TRAIN}{RAW}
frame("means.npy", b"early")
os.write(5, struct.pack("<cI", b"E", 1))
def train(data, out, seed):
    honest(data, out)
"""

CONTROL = {
    "control noise": "os.write(4, os.urandom(300).replace(b'\\n', b'') + b'\\n')\ntime.sleep(5)",
    "control message without end": "os.write(4, b'x' * 60000)\ntime.sleep(5)",
    "control flood": "while True:\n    os.write(4, b'progress\\x1f1\\x1f1\\n' * 1000)",
    "control word that does not exist": "say('final\\x1f1.0')\ntime.sleep(5)",
    "control message of the wrong types": "say('progress\\x1f[]\\x1f{}')\ntime.sleep(5)",
    "control message without its fields": "say('progress')\ntime.sleep(5)",
}

HARMLESS = """
for text in ('ready', 'up', 'imported', 'progress\\x1f1\\x1fnan', 'progress\\x1f99999999999999999999\\x1f1e308',
             'progress\\x1f-3\\x1finf', 'trained', 'load', 'predict', 'export'):
    say(text)
"""

EXACT = "answer = nearest(model, inputs)"

ATTACKS = [
    Attack(
        "ready forged while importing",
        "B2-28 A28 A31",
        {"train.py": EARLY_READY},
        (None,),
        least=HONEST,
        least_cpu=0.45,
    ),
    Attack("artifact before the release", "A26 A31", {"train.py": BEFORE_READY}, ("illegal:early_artifact",)),
    *(
        Attack(
            name,
            "B2-9",
            after(SAY + body),
            ("illegal:control", "cpu_cap"),
            changes={"budget": {**wb.BUDGET, "train_wall_s": 4}},
        )
        for name, body in CONTROL.items()
    ),
    Attack(
        "forged control messages",
        "B2-1",
        after(SAY + HARMLESS),
        (None,),
        least=HONEST,
        check=curve_is_ignored,
    ),
    Attack(
        "refusal forged with a made-up rule",
        "B2-34",
        after(SAY + "say('refused\\x1finfra:x y')\nos._exit(1)"),
        ("illegal:control",),
    ),
    Attack(
        "artifact sent twice",
        "A26",
        after(RAW + "frame('means.npy', b'1')\nframe('means.npy', b'2')"),
        ("illegal:artifact_name",),
    ),
    Attack(
        "nothing written", "A6", {"train.py": "def train(data, out, seed):\n    pass\n"}, ("no_artifact",)
    ),
    Attack("leave without a word", "A6", after("sys.exit(0)"), ("no_artifact",)),
    # ---- answers ----
    Attack(
        "NaN answers",
        "B2-8",
        predicting("return np.full((len(inputs), 3), np.nan, dtype=np.float32)"),
        ("nan",),
    ),
    Attack(
        "one infinite number",
        "B2-8",
        predicting(EXACT + "\nanswer[-1, -1] = np.inf\nreturn answer"),
        ("nan",),
    ),
    Attack("minus infinity", "B2-8", predicting(EXACT + "\nanswer[0, 0] = -np.inf\nreturn answer"), ("nan",)),
    Attack(
        "denormals and minus zero",
        "B2-8",
        predicting("return (nearest(model, inputs) * np.float32(1e-42) * -0.0 + 0).astype(np.float32)"),
        (None,),
        most=CHANCE,
    ),
    Attack(
        "answers that tie everywhere",
        "B2-8",
        predicting("return np.ones((len(inputs), 3), dtype=np.float32)"),
        (None,),
        most=CHANCE,
    ),
    Attack(
        "wrong number of rows",
        "B2-9",
        predicting("return nearest(model, inputs)[1:]"),
        ("illegal:answer_shape",),
    ),
    Attack(
        "one axis too many",
        "B2-9",
        predicting("return nearest(model, inputs)[None]"),
        ("illegal:answer_shape",),
        is_slow=True,
    ),
    Attack(
        "float64",
        "B2-8",
        predicting("return nearest(model, inputs).astype(np.float64)"),
        ("illegal:answer_dtype",),
    ),
    Attack(
        "integers",
        "B2-8",
        predicting("return nearest(model, inputs).astype(np.int32)"),
        ("illegal:answer_dtype",),
        is_slow=True,
    ),
    Attack(
        "other byte order",
        "B2-8",
        predicting("return nearest(model, inputs).astype('>f4')"),
        ("illegal:answer_dtype",),
    ),
    Attack(
        "an object that equals everything",
        "B2-8 A22",
        predicting(
            "return Always()",
            "class Always:\n    shape = (50, 3)\n    dtype = np.float32\n    def __eq__(self, o): return True\n",
        ),
        ("illegal:answer_type",),
    ),
    Attack(
        "a subclass that lies about its bytes",
        "B2-8 A22",
        predicting(
            "return np.zeros((len(inputs), 3), dtype=np.float32).view(Liar)",
            "class Liar(np.ndarray):\n    def tobytes(self, *a): return b'1' * 10\n    def __array__(self, *a): return np.ones(7)\n",
        ),
        (None, "illegal:answer_shape", "crash"),
        most=CHANCE,
    ),
    Attack("a loss instead of answers", "A22 A8", predicting("return 0.0"), ("illegal:answer_type",)),
    Attack(
        "extra bytes after an answer",
        "B2-9",
        predicting(EXACT + "\nos.write(6, answer.tobytes())\nreturn answer"),
        ("illegal:extra_bytes",),
    ),
    Attack(
        "endless answer",
        "B2-9",
        predicting("while True:\n    os.write(6, bytes(65536))"),
        ("illegal:extra_bytes",),
    ),
    Attack(
        "answers before the questions",
        "A5 A6 B2-5",
        predicting(EXACT + "\nreturn answer", "os.write(6, bytes(600))"),
        ("illegal:extra_bytes",),
    ),
    Attack(
        "half an answer",
        "B2-9",
        predicting("os.write(6, bytes(100))\nos._exit(0)"),
        ("illegal:short_answer",),
    ),
    Attack("leave before answering", "A20", predicting("os._exit(0)"), ("illegal:early_exit",)),
    Attack(
        "answer only the first request",
        "A20",
        predicting("if seen:\n    os._exit(0)\nseen.append(1)\nreturn nearest(model, inputs)", "seen = []"),
        ("illegal:early_exit",),
    ),
    Attack("crash while answering", "A6", predicting("raise ValueError('no')"), ("crash",)),
    Attack(
        "slow drip of bytes",
        "A27",
        predicting("while True:\n    os.write(6, b'x')\n    time.sleep(0.3)"),
        ("wall_cap",),
        changes={"budget": {**wb.BUDGET, "predict_wall_s": 0.8}},
    ),
    Attack(
        "never answer",
        "A27",
        predicting("time.sleep(1000)"),
        ("wall_cap",),
        changes={"budget": {**wb.BUDGET, "predict_wall_s": 0.8}},
        is_slow=True,
    ),
    Attack(
        "compute for ever",
        "A27",
        predicting("while True: pass"),
        ("cpu_cap",),
        changes={"budget": {**wb.BUDGET, "predict_cpu_s": 0.5}},
        is_slow=True,
    ),
    Attack(
        "CPU time in a daemon while predicting",
        "A27 A28 A30",
        predicting(
            EXACT
            + "\nif not seen:\n    seen.append(1)\n    p = os.fork()\n    if p == 0:\n        end = time.thread_time() + 0.5\n        while time.thread_time() < end: pass\n        os._exit(0)\n    os.waitpid(p, 0)\nreturn answer",
            "seen = []",
        ),
        (None,),
        least=HONEST,
        least_cpu=0.45,
        is_slow=True,
    ),
    Attack(
        "heavy work before the inputs",
        "A27",
        predicting(
            EXACT + "\nreturn answer",
            "import time as t\nend = t.thread_time() + 20\nwhile t.thread_time() < end: pass",
        ),
        ("cpu_cap",),
        changes={"budget": {**wb.BUDGET, "start_cpu_s": 0.7}},
        is_slow=True,
    ),
    Attack(
        "answers by position",
        "B1-order B2-5",
        {
            **after("np.save(out / 'labels.npy', np.load(data / 'labels.npy'))"),
            "predict.py": f"{PREDICT}\n_load = load\ndef load(a):\n    return np.load(a / 'labels.npy')\ndef predict(model, inputs):\n    return guess(inputs, model)\n",
        },
        (None,),
        most=CHANCE,
    ),
    Attack(
        "search the predictor's memory for labels",
        "B2-6 B2-7 A7",
        predicting(
            "import gc\nfor o in gc.get_objects():\n    a = o if isinstance(o, np.ndarray) else None\n    if a is not None and a.ndim == 1 and a.dtype == np.int64 and len(a) == 120:\n        return guess(inputs, a)\n"
            "f = sys._getframe()\nwhile f:\n    for v in f.f_locals.values():\n        if isinstance(v, np.ndarray) and v.dtype == np.int64 and v.ndim == 1:\n            return guess(inputs, v)\n    f = f.f_back\nreturn guess(inputs, None)"
        ),
        (None,),
        most=CHANCE,
    ),
    Attack(
        "write where the next run could read",
        "B2-5 B2-30",
        predicting(
            "for d in ('/tmp', '/dev/shm', '/artifact', '/release', '/out', '/recipe', '/fake'):\n    tried(lambda: open(d + '/leak', 'wb').write(inputs.tobytes()))\nreturn nearest(model, inputs)"
        ),
        (None,),
        least=HONEST,
    ),
    Attack(
        "statistics over the batch",
        "A35 A13 B2-12",
        predicting("x = inputs - inputs.mean(axis=0)\nm = model - model.mean(axis=0)\nreturn nearest(m, x)"),
        ("not_causal",),
        changes={"audits": ["batch_invariance", "order_invariance"]},
    ),
    Attack(
        "learning from the test inputs",
        "B2-12 A4",
        predicting(
            "near = nearest(model, inputs).argmax(axis=1)\nfor k in range(3):\n    if (near == k).any():\n        model[k] += 0.3 * (inputs[near == k].mean(axis=0) - model[k])\nreturn nearest(model, inputs)"
        ),
        ("not_causal",),
        changes={"audits": ["batch_invariance", "order_invariance"]},
    ),
    Attack(
        "state that only starts late",
        "B2-29 A12",
        predicting(
            "seen.append(len(inputs))\nreturn nearest(model + (0.05 * len(seen) if len(seen) > 2 else 0), inputs)",
            "seen = []",
        ),
        ("not_causal",),
        changes={"audits": ["order_invariance"]},
    ),
]
