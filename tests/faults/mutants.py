"""Damage of every kind to files of tensors and to JSON, drawn from a seed."""

import json
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

EVIL: list[Any] = [
    None, True, -1, 0, 1, 3, 7, 2**31, 2**53 + 1, 2**62, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.0, 1e308, "", "x",
    "F32", "F64", "BOOL", "U8", "I4", "F4", "../../etc/passwd", "/dev/zero", "\x00", "__metadata__", "cos\nsystem",
    [], [0], [1, 2], [0, 0], [8, 0], [2**62, 2], [0] * 70, [[0, 4]], {}, {"dtype": "F32"}, {"py/object": "os.system"},
]  # fmt: skip

PIECES = [
    b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"[" * 70 + b"]" * 70, b'"', b"\\", b"}",
    b'{"a":1,"a":2}', b'"\\ud800"', b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00", b"[]," * 2000, b"0x10", b"1_0",
    b"// x\n", b"'", b"true", b"null", b"-", b"1.", b"01",
]  # fmt: skip


def flipped(data: bytes, random: Random) -> bytes:
    """Change one to eight bits."""
    out = bytearray(data)
    for _ in range(random.randint(1, 8)):
        if out:
            out[random.randrange(len(out))] ^= 1 << random.randrange(8)
    return bytes(out)


def cut(data: bytes, random: Random) -> bytes:
    """End early, at a place near the beginning, anywhere, or near the end."""
    at = random.choice([random.randint(0, 16), random.randint(0, len(data)), len(data) - random.randint(0, 16)])
    return data[: max(at, 0)]


def longer(data: bytes, random: Random) -> bytes:
    """Go on after the end."""
    return data + random.choice([b"\0", b" ", data, random.randbytes(random.randint(1, 64))])


def removed(data: bytes, random: Random) -> bytes:
    """Take bytes out of the middle."""
    at = random.randint(0, len(data))
    return data[:at] + data[at + random.randint(1, 16) :]


def inserted(data: bytes, random: Random) -> bytes:
    """Put something that readers stumble over into the middle."""
    at = random.randint(0, len(data))
    return data[:at] + random.choice(PIECES) + data[at:]


def moved(data: bytes, random: Random) -> bytes:
    """Exchange two stretches."""
    a, b, c = sorted(random.randint(0, len(data)) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def emptied(data: bytes, random: Random) -> bytes:
    """Keep the length and lose the contents, as file systems do that lose power."""
    at = random.choice([0, random.randint(0, len(data))])
    return data[:at] + bytes(len(data) - at)


BYTES: list[Callable[[bytes, Random], bytes]] = [flipped, cut, longer, removed, inserted, moved, emptied]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a JSON value with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def edited(value: Any, random: Random) -> Any:
    """Change, drop, rename or exchange values somewhere in a JSON value."""
    value = json.loads(json.dumps(value))
    for _ in range(random.randint(1, 3)):
        if not (found := places(value)):
            return deepcopy(random.choice(EVIL))
        (holder, key), (other, again) = random.choice(found), random.choice(found)
        match random.randrange(5):
            case 0:
                holder[key] = deepcopy(random.choice(EVIL))
            case 1:
                del holder[key]
            case 2 if isinstance(holder, dict):
                holder[str(random.choice(EVIL))[:50]] = holder.pop(key)
            case 3 if isinstance(holder[key], int):
                holder[key] = holder[key] + random.choice([-8, -4, -1, 1, 4, 8, 2**32, 2**62])
            case _:
                holder[key], other[again] = json.loads(json.dumps([other[again], holder[key]]))
    return value


def written(value: Any, random: Random) -> bytes:
    """JSON as other programs might write it, now and then with a key twice."""
    text = json.dumps(value, indent=random.choice([None, 1]), ensure_ascii=random.random() < 0.5).encode(
        errors="surrogatepass"
    )
    if random.random() < 0.1 and isinstance(value, dict) and value:
        key = random.choice(list(value))
        text = b"{" + json.dumps(key).encode() + b":" + json.dumps(value[key]).encode() + b"," + text[1:]
    return text


def damaged_json(data: bytes, random: Random) -> bytes:
    """One mutant of a JSON text."""
    if random.random() < 0.6:
        return written(edited(json.loads(data), random), random)
    return random.choice(BYTES)(data, random)


def damaged_tensors(data: bytes, random: Random) -> bytes:
    """One mutant of a file of tensors: of its header, its length or its bytes."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    choice = random.random()
    if choice < 0.2:
        return random.choice(BYTES)(data, random)
    if choice < 0.3:
        odd = [0, 1, 2, length - 8, length - 1, length + 1, len(data), len(data) - 8, 2**31, 2**60, 2**63, 2**64 - 1]
        return (random.choice(odd) % 2**64).to_bytes(8, "little") + data[8:]
    if choice < 0.4:
        header = random.choice(BYTES)(header, random)
    else:
        header = written(edited(json.loads(header), random), random)
    if random.random() < 0.2:
        body = random.choice(BYTES)(body, random)
    return len(header).to_bytes(8, "little") + header + body
