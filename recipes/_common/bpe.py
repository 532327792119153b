"""A byte-pair tokenizer, trained once and kept as plain JSON (no pickle).

Use: `Tokenizer.load(path)`, `train(texts, vocabulary, pattern, special)`. Limits: training needs `rustbpe`,
encoding `tiktoken`; both are imported where they are needed, and `Wanted` says so when they are absent.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common.wheels import Wanted

INSTALL = "run `pip install rustbpe tiktoken` in the environment that prepares the data"


@dataclass(frozen=True)
class Tokenizer:
    """`ranks`: bytes of every ordinary token by its number; special tokens follow in their order."""

    pattern: str
    ranks: tuple[bytes, ...]
    special: tuple[str, ...]

    @property
    def vocabulary(self) -> int:
        return len(self.ranks) + len(self.special)

    @property
    def start(self) -> int:
        """The token that begins every document: the first special one."""
        return len(self.ranks)

    def size(self, tokens: Iterable[int]) -> int:
        """Bytes of text; special tokens stand for none."""
        return sum(len(self.ranks[token]) for token in tokens if token < len(self.ranks))

    def encoder(self) -> Any:
        """A tiktoken encoding; its `encode_ordinary(text)` gives token numbers."""
        try:
            import tiktoken
        except ImportError:
            raise Wanted(f"tokenising needs the package tiktoken; {INSTALL}") from None
        special = {name: self.start + number for number, name in enumerate(self.special)}
        ranks = {token: number for number, token in enumerate(self.ranks)}
        return tiktoken.Encoding(
            "prepared", pat_str=self.pattern, mergeable_ranks=ranks, special_tokens=special
        )

    def save(self, path: Path) -> None:
        ranks = [base64.b64encode(token).decode("ascii") for token in self.ranks]
        content = {"pattern": self.pattern, "special": list(self.special), "ranks": ranks}
        path.write_text(json.dumps(content) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Tokenizer:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            ranks = tuple(base64.b64decode(token, validate=True) for token in content["ranks"])
            return Tokenizer(str(content["pattern"]), ranks, tuple(content["special"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Wanted(f"{path} is no tokenizer written by prepare.py ({error!r}); delete it") from None


def train(texts: Iterable[str], vocabulary: int, pattern: str, special: tuple[str, ...]) -> Tokenizer:
    try:
        import rustbpe
    except ImportError:
        raise Wanted(f"training the tokenizer needs the package rustbpe; {INSTALL}") from None
    learner = rustbpe.Tokenizer()
    learner.train_from_iterator(iter(texts), vocabulary - len(special), pattern=pattern)
    ranked = sorted(learner.get_mergeable_ranks(), key=lambda pair: pair[1])
    return Tokenizer(learner.get_pattern(), tuple(bytes(token) for token, _ in ranked), special)
