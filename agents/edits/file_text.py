"""The bytes of a source file as the text that edits are made on, and back.

`text_of(path, data)` decodes as Python does (a byte order mark, a coding line, else UTF-8), leaves the mark out and
ends every line with "\\n". `bytes_like(path, text, old)` writes text as `old` is written: encoding, mark and line
ends; in a file of mixed line ends an unchanged line keeps its own, a new one has that of the line before it.
`check_change(path, old, new)` refuses what a reader of a diff cannot see, where an edit adds it; what the file had
already may stay.
"""

from __future__ import annotations

import codecs
import io
import re
import tokenize
import unicodedata
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import lru_cache

from lineage.errors import EditRefused
from lineage.safe_text import is_visible

BOM = "\ufeff"
_END = re.compile(r"\r\n|\r|\n")
_PLAIN = re.compile(r"[\n\t\x20-\x7e]*")
# encodings in which what stands there is what is meant; not utf-7, unicode_escape and other codes
_READABLE = re.compile(
    r"utf-8(-sig)?|ascii|latin-1|iso8859-\d+|cp\d+|koi8-[ru]|gb\w+|big5\w*|shift_jis\w*|euc_\w+|mac-\w+"
)


def _refuse(message: str, path: str, **numbers: int | str) -> EditRefused:
    return EditRefused("bad_edit", f"{path}{message}", {"file": path, **numbers})


def encoding_of(path: str, data: bytes) -> str:
    """Raises EditRefused for one that is unknown or that hides what is written."""
    if not path.endswith(".py"):
        return "utf-8-sig" if data.startswith(codecs.BOM_UTF8) else "utf-8"
    try:
        name, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError:  # the first two lines are not UTF-8, or the coding line names nothing known
        name = "utf-8"
    name = name if name == "utf-8-sig" else codecs.lookup(name).name
    if not _READABLE.fullmatch(name):
        raise _refuse(f": the encoding {name} is not readable text; save the file as UTF-8", path)
    return name


@lru_cache(maxsize=512)
def _decoded(path: str, data: bytes) -> str:
    name = encoding_of(path, data)
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f": not {name} text at byte {error.start} (line {line}); save the file as UTF-8"
        raise _refuse(
            message + (", or name its encoding in a coding line" * path.endswith(".py")), path
        ) from None


@lru_cache(maxsize=512)
def text_of(path: str, data: bytes) -> str:
    """Raises EditRefused("bad_edit") for bytes that are no text."""
    return _END.sub("\n", _decoded(path, data))


def raw_text(path: str, data: bytes) -> str:
    """For diffs: every line end as it is, what cannot be decoded replaced."""
    try:
        name = encoding_of(path, data).removesuffix("-sig")
    except EditRefused:
        name = "utf-8"
    return data.decode(name, "replace")


def shown(path: str, data: bytes) -> str:
    """For display: like `text_of`, but never refuses."""
    return _END.sub("\n", raw_text(path, data).removeprefix(BOM))


def _with_ends(text: str, old: str) -> str:
    """`text` with the line ends of `old`."""
    ends = _END.findall(old)
    kinds = Counter(ends)
    if len(kinds) < 2:
        return text if not ends or ends[0] == "\n" else text.replace("\n", ends[0])
    before, after = _END.sub("\n", old).split("\n"), text.split("\n")
    own: list[str | None] = [None] * len(after)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for tag, i1, i2, j1, _ in matcher.get_opcodes():
        if tag == "equal":
            own[j1 : j1 + i2 - i1] = [*ends, None][i1:i2]
    out, last = list[str](), kinds.most_common(1)[0][0]
    for line, end in zip(after, own, strict=True):
        last = end or last
        out += [line, last]
    return "".join(out[:-1])


def bytes_like(path: str, text: str, old: bytes | None) -> bytes:
    """`text` written as `old` is; as UTF-8 for a new file. Raises EditRefused where it cannot be.

    >>> bytes_like("a.py", "x = 1\\ny = 2\\n", b"\\xef\\xbb\\xbfx = 1\\r\\n")
    b'\\xef\\xbb\\xbfx = 1\\r\\ny = 2\\r\\n'
    """
    name = "utf-8" if old is None else encoding_of(path, old)
    body = text if old is None else _with_ends(text, _decoded(path, old))
    try:
        data = body.encode(name)
    except UnicodeEncodeError as error:
        char = body[error.start]
        line = text.count("\n", 0, error.start) + 1
        message = (
            f", line {line}: {char!r} (U+{ord(char):04X}) cannot be written in the file's encoding, {name}"
        )
        raise _refuse(message + "; write it as an escape", path, line=line) from None
    if encoding_of(path, data) != name:
        raise _refuse(": an edit may not change the encoding of a file; leave its coding line as it is", path)
    return data


def _unseen(text: str) -> Iterator[tuple[str, str, int]]:
    """(character before it, character, place) of all that does not show."""
    if _PLAIN.fullmatch(text):
        return
    for at, char in enumerate(text):
        if char not in "\n\t" and not is_visible(char):
            yield text[at - 1] if at else "", char, at


def check_added(path: str, old: str, new: str) -> None:
    """Raise EditRefused for an invisible character that `new` has in a place (what stands before it) that `old` has not."""
    left: Counter[tuple[str, str]] | None = None
    for before, char, at in _unseen(new):
        if left is None:
            left = Counter((b, c) for b, c, _ in _unseen(old))
        left[before, char] -= 1
        if left[before, char] < 0:
            line = new.count("\n", 0, at) + 1
            name = "carriage return" if char == "\r" else unicodedata.name(char, "control character")
            message = f", line {line}: invisible character U+{ord(char):04X} ({name}); write it as an escape"
            raise _refuse(message, path, line=line)


def check_change(path: str, old: bytes | None, new: bytes) -> None:
    """Refuse what an edit adds that does not show: characters, another kind of line end, another encoding or mark."""
    known = set(_END.findall(_decoded(path, old))) if old else set()
    text = _decoded(path, new)
    for found in _END.finditer(text):
        if found.group() not in {*known, "\n"}:
            check_added(path, "", text[: found.start()].replace("\r", "") + "\r")
    name = encoding_of(path, old) if old is not None else "utf-8"
    if encoding_of(path, new) != name:
        check_added(path, "", new.decode("utf-8", "replace")[:1])
        raise _refuse(
            f": the encoding changed from {name} to {encoding_of(path, new)}; leave it as it is", path
        )
    check_added(path, text_of(path, old) if old else "", text_of(path, new))


def edit_text(text: str, old: bytes) -> str:
    """What an edit quotes of a file, as `text_of` has it: a model may repeat the file's own line ends and mark."""
    if old.startswith(codecs.BOM_UTF8):
        text = text.removeprefix(BOM)
    return _END.sub("\n", text) if b"\r" in old else text
