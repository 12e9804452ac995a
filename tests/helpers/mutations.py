"""Files with something wrong in them: bytes that are others, and values that no reader expects where they stand."""

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any

import yaml

MARK = "PWNED"  # a file of this name is what code that was run would leave
NASTY: list[Any] = [
    None, "", "x", "x" * 100_000, "é\x00\x1b[2J", "\ud800", "1", "NaN", "Infinity", "../../../etc/passwd", "/dev/zero",
    "s3://nowhere.invalid/x", 0, -1, 1, 2, 1.5, 1e308, -1e308, 5e-324, 10**30, 2**63, 2**31, float("nan"),
    float("inf"), True, False, [], {}, [None], [[]], [1, 2, 3], {"": None}, {"x": 1}, [{"step": 1}], ["x", "x"],
]  # fmt: skip
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
BITS: list[bytes] = [
    b"\x00", b"\xff\xfe", b"\x80\x80", b"\n", b"\n\n", b"{}", b"[]", b"null", b"{\n", b'"', b"[" * 5_000,
    b'{"a":' * 5_000,
    b"9" * 5_000, b"1" * 60_000 + b"x", b"NaN", b"1e999", b"- " * 2_000, b"&a [*a]", b"*a", b"\t", b": ", b"'" * 999,
    f"!!python/object/apply:os.system ['touch {MARK}']".encode(), f"cos\nsystem\n(S'touch {MARK}'\ntR.".encode(),
    f"a: !!python/object/new:os.system ['touch {MARK}']\n".encode(), BOMB.encode(), b"<<: {a: 1}\n",
    b"%YAML 9.9\n---\n",
    b"\xef\xbb\xbf", b"? " * 500, b"2024-13-45", b"\xed\xa0\x80", b"\\ud800", b"\x1b[2J",
]  # fmt: skip


def mutated(rng: random.Random, name: str, raw: bytes) -> bytes:
    """A file's content with one or a few things wrong, by its name's ending; the same for the same state of `rng`."""
    kind = name.rpartition(".")[2]
    if rng.random() < 0.6:
        with_structure = {"json": _json, "jsonl": _jsonl, "yaml": _yaml, "safetensors": _safetensors}.get(kind)
        if with_structure is not None:
            return with_structure(rng, raw)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        raw = rng.choice(BYTES)(rng, raw)
    return raw


# ---------------------------------------------------------------------------------------------- bytes


def _flip(rng: random.Random, raw: bytes) -> bytes:
    out = bytearray(raw)
    for _ in range(rng.choice([1, 1, 8])):
        if out:
            out[_somewhere(rng, out)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _somewhere(rng: random.Random, raw: bytes | bytearray) -> int:
    """Heads and ends, where formats keep what decides, as often as all the rest."""
    at = rng.choice([rng.randrange(len(raw)), rng.randrange(min(64, len(raw))), -1 - rng.randrange(min(64, len(raw)))])
    return at % len(raw)


def _cut(rng: random.Random, raw: bytes) -> bytes:
    return raw[: rng.choice([0, 1, len(raw) // 2, max(0, len(raw) - 1), rng.randrange(len(raw) + 1)])]


def _drop(rng: random.Random, raw: bytes) -> bytes:
    a, b = _two(rng, raw)
    return raw[:a] + raw[b:]


def _swap(rng: random.Random, raw: bytes) -> bytes:
    a, b = _two(rng, raw)
    return raw[b:] + raw[a:b] + raw[:a]


def _twice(rng: random.Random, raw: bytes) -> bytes:
    a, b = _two(rng, raw)
    return raw[:b] + raw[a:]


def _insert(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw) + 1)
    return raw[:at] + rng.choice([*BITS, rng.randbytes(rng.choice([1, 4, 300]))]) + raw[at:]


def _number(rng: random.Random, raw: bytes) -> bytes:
    """A number in binary that becomes the largest, or 0."""
    if not raw:
        return raw
    at, size = _somewhere(rng, raw), rng.choice([1, 2, 4, 8])
    return raw[:at] + rng.choice([b"\xff", b"\x00", b"\x7f", b"\x80"]) * size + raw[at + size :]


def _digits(rng: random.Random, raw: bytes) -> bytes:
    """A number in digits that becomes another."""
    found = [*re.finditer(rb"\d+", raw[:20_000])]
    if not found:
        return raw
    one = rng.choice(found)
    return raw[: one.start()] + rng.choice([b"0", b"-1", b"1e9", b"99999999999999999999", b"x"]) + raw[one.end() :]


def _two(rng: random.Random, raw: bytes) -> tuple[int, int]:
    a, b = sorted((rng.randrange(len(raw) + 1), rng.randrange(len(raw) + 1)))
    return a, b


BYTES: list[Callable[[random.Random, bytes], bytes]] = [_flip, _flip, _cut, _drop, _swap, _twice, _insert, _insert,
                                                        _number, _digits]  # fmt: skip

# ---------------------------------------------------------------------------------------------- structure


def change(rng: random.Random, value: Any) -> Any:
    """Plain data with one value in it replaced, taken out, or added."""
    places = [*_places(value)]
    if not places or rng.random() < 0.05:
        return rng.choice(NASTY)
    holder, key = rng.choice(places)
    how = rng.choice(["replace", "replace", "replace", "delete", "add", "copy"])
    if how == "delete":
        del holder[key]
    elif how == "add" and isinstance(holder, dict):
        holder[rng.choice(["", "x", "step", "x" * 999, "\x00"])] = rng.choice(NASTY)
    elif how == "copy":
        holder[key] = copy.deepcopy(holder[rng.choice([*_keys(holder)])])
    else:
        holder[key] = rng.choice(NASTY)
    return value


def _keys(holder: Any) -> Any:
    return holder.keys() if isinstance(holder, dict) else range(len(holder))


def _places(value: Any) -> Any:
    if isinstance(value, dict | list):
        for key in _keys(value):
            yield value, key
            yield from _places(value[key])


def _json(rng: random.Random, raw: bytes) -> bytes:
    return _dump(change(rng, json.loads(raw)))


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _jsonl(rng: random.Random, raw: bytes) -> bytes:
    lines = raw.split(b"\n")[:-1]
    at = rng.randrange(len(lines))
    how = rng.choice(["change", "change", "change", "tear", "bit", "move"])
    if how == "change":
        lines[at] = _dump(change(rng, json.loads(lines[at])))
    elif how == "tear":
        lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
    elif how == "bit":
        lines[at] = rng.choice(BITS)
    else:
        lines.insert(rng.randrange(len(lines)), lines.pop(at))
    return b"\n".join(lines) + b"\n"


def _yaml(rng: random.Random, raw: bytes) -> bytes:
    text = yaml.safe_dump(change(rng, yaml.safe_load(raw)), sort_keys=False, allow_unicode=True)
    encoded = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:  # a whole line of nonsense
        lines = encoded.split(b"\n")
        at = rng.randrange(len(lines))
        lines[at] = rng.choice([rng.choice(BITS), lines[at] + rng.choice(BITS), BOMB.encode() + b"loss: *a11"])
        encoded = b"\n".join(lines)
    return encoded


def _safetensors(rng: random.Random, raw: bytes) -> bytes:
    """Its head: eight bytes of its length, and JSON."""
    size = int.from_bytes(raw[:8], "little")
    head = _dump(change(rng, json.loads(raw[8 : 8 + size])))
    return len(head).to_bytes(8, "little") + head + raw[8 + size :]
