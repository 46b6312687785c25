"""Unified diffs as git writes them: parsed strictly, written canonically: ``git apply`` sees only what was understood.

Text is UTF-8 with surrogate escapes: bytes that are no UTF-8 go through unharmed.
"""

import difflib
import re
from typing import Literal

import msgspec

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@(.*)")
_PREFIX = re.compile(r"[abiwco]/")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9._/+@%=,~-]+")
_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_EXTENDED = ("old mode ", "new mode ", "deleted file mode ", "new file mode ", "copy from ", "copy to ", "rename from ",
             "rename to ", "similarity index ", "dissimilarity index ", "index ")  # fmt: skip
REGULAR_MODES = frozenset({"100644", "100755"})


class MalformedDiff(ValueError):
    """The text is no diff that git would take."""


class Hunk(msgspec.Struct, frozen=True, kw_only=True):
    old_start: int
    new_start: int
    lines: tuple[str, ...]
    """With their marker, without line feed; a carriage return stays."""

    def side(self, marker: str) -> list[str]:
        """The lines before (``-``) or after (``+``)."""
        return [line[1:] for line in self.lines if line[0] in (" ", marker)]


class FileDiff(msgspec.Struct, frozen=True, kw_only=True):
    """What a diff does to one file."""

    old_path: str | None
    """None: the file is created."""
    new_path: str | None
    """None: the file is deleted."""
    old_mode: str | None = None
    new_mode: str | None = None
    index_mode: str | None = None
    moved: Literal["rename", "copy"] | None = None
    hunks: tuple[Hunk, ...] = ()
    binary: bool = False
    crlf_headers: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path for path in (self.old_path, self.new_path) if path is not None))


class ParsedDiff(msgspec.Struct, frozen=True, kw_only=True):
    files: tuple[FileDiff, ...]
    mended: tuple[str, ...]
    """What had to be mended to read it."""


def parse(content: bytes) -> ParsedDiff:
    """The files of a diff.

    Raises:
        MalformedDiff: with the line at which it stops making sense.
    """
    return _Reader(content.decode("utf-8", "surrogateescape")).read()


class _Reader:
    """One pass over the lines."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.mended: list[str] = []
        if self.lines[-1] == "":
            self.lines.pop()
        else:
            self.mended.append("last newline added")
        self.at = 0

    def read(self) -> ParsedDiff:
        files: list[FileDiff] = []
        after_hunk = False
        while self.at < len(self.lines):
            line = self._header()
            if line.startswith("diff --git "):
                files.append(self._git_file())
            elif line.startswith("--- ") and self._header(1).startswith("+++ ") and self._header(2).startswith("@@ "):
                files.append(self._plain_file())
            elif line.startswith(("diff --cc ", "diff --combined ")):
                raise self._malformed("a merge difference cannot be applied; use plain git diff")
            elif line.startswith("@@ -") or (after_hunk and line.startswith(("+", "-", " ")) and line.rstrip() != "--"):
                raise self._malformed("lines outside of any hunk (the hunk before is longer than its header says)")
            else:
                self.at += 1
                after_hunk = after_hunk and not line.strip()
                continue
            after_hunk = bool(files[-1].hunks)
        return ParsedDiff(files=tuple(files), mended=tuple(self.mended))

    def _header(self, ahead: int = 0) -> str:
        position = self.at + ahead
        return self.lines[position].removesuffix("\r") if position < len(self.lines) else ""

    def _malformed(self, why: str) -> MalformedDiff:
        return MalformedDiff(f"line {self.at + 1}: {why}")

    def _git_file(self) -> FileDiff:
        crlf = self.lines[self.at].endswith("\r")
        named = _git_names(self._header()[len("diff --git ") :])
        self.at += 1
        fields = self._extended_headers()
        binary = self._header().startswith(("Binary files ", "GIT binary patch"))
        if binary:
            self._skip_to_next_file()
        moved: Literal["rename", "copy"] | None = (
            "rename" if "rename from " in fields else "copy" if "copy from " in fields else None
        )
        old, new = named or (None, None)
        if self._header().startswith("--- ") and self._header(1).startswith("+++ "):
            old, new = self._name_lines()
        elif moved:
            old, new = (_unquoted(fields.get(f"{moved} {end} ", "")) for end in ("from", "to"))
        elif named is None:
            raise self._malformed("cannot tell which file this is about")
        if "new file mode " in fields:
            old = None
        if "deleted file mode " in fields:
            new = None
        if old and new and old != new and not moved:
            raise self._malformed(f"{old[:200]!r} and {new[:200]!r} differ, but this is no rename")
        index = fields.get("index ", "").split()
        return FileDiff(
            old_path=old,
            new_path=new,
            old_mode=fields.get("deleted file mode ") or fields.get("old mode "),
            new_mode=fields.get("new file mode ") or fields.get("new mode "),
            index_mode=index[1] if len(index) > 1 else None,
            moved=moved,
            hunks=() if binary else self._hunks(),
            binary=binary,
            crlf_headers=crlf,
        )

    def _extended_headers(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        while self.at < len(self.lines):
            line = self._header()
            key = next((key for key in _EXTENDED if line.startswith(key)), None)
            if key is None:
                break
            fields[key] = line[len(key) :].strip()
            self.at += 1
        return fields

    def _plain_file(self) -> FileDiff:
        crlf = self.lines[self.at].endswith("\r")
        old, new = self._name_lines()
        if old is None and new is None:
            raise self._malformed("both names are /dev/null")
        if old and new:
            old = new  # "--- x.orig" beside "+++ x": only git headers can rename
        return FileDiff(old_path=old, new_path=new, hunks=self._hunks(), crlf_headers=crlf)

    def _name_lines(self) -> tuple[str | None, str | None]:
        names = []
        for _ in range(2):
            text = self._header()[4:]
            name = _unquoted(text.strip()) if text.startswith('"') else text.partition("\t")[0].rstrip()
            names.append(None if name == "/dev/null" else _PREFIX.sub("", name, count=1))
            self.at += 1
        return names[0], names[1]

    def _skip_to_next_file(self) -> None:
        while self.at < len(self.lines) and not self._header().startswith("diff --git "):
            self.at += 1

    def _hunks(self) -> tuple[Hunk, ...]:
        hunks = []
        while self._header().startswith("@@ "):
            match = _HUNK.fullmatch(self._header())
            if match is None:
                raise self._malformed(f"not a hunk header: {self._header()[:80]!r}")
            self.at += 1
            counts = [1 if match[group] is None else int(match[group]) for group in (2, 4)]
            hunks.append(Hunk(old_start=int(match[1]), new_start=int(match[3]), lines=self._hunk_lines(*counts)))
        return tuple(hunks)

    def _hunk_lines(self, old: int, new: int) -> tuple[str, ...]:
        found: list[str] = []
        while old > 0 or new > 0:
            if self.at >= len(self.lines):
                break
            line = self.lines[self.at]
            if line in ("", "\r"):
                line = " " + line
            if line[0] not in " +-\\" or (old <= 0 and line[0] in " -") or (new <= 0 and line[0] in " +"):
                break
            old -= line[0] in " -"
            new -= line[0] in " +"
            found.append(line)
            self.at += 1
        if old == new and 0 < old <= 3 and not any(line.strip() for line in self.lines[self.at :]):
            found += [" "] * old
            self.mended.append("blank lines at the end added")
        elif old or new:
            raise self._malformed(f"the hunk ends {max(old, new)} lines short of what its header says")
        if self._header().startswith("\\ "):
            found.append(self.lines[self.at])
            self.at += 1
        return tuple(found)


def _git_names(text: str) -> tuple[str, str] | None:
    """The names of a ``diff --git`` line, where they are unambiguous: quoted, or equal but for the prefix."""
    quoted = re.fullmatch(r'("(?:[^"\\]|\\.)*"|\S+) ("(?:[^"\\]|\\.)*"|\S+)', text)
    if quoted:
        old, new = (_PREFIX.sub("", _unquoted(name), count=1) for name in quoted.groups())
        return old, new
    middle = len(text) // 2
    old, new = text[:middle], text[middle + 1 :]
    if text[middle : middle + 1] == " " and old[2:] == new[2:] and _PREFIX.match(old) and _PREFIX.match(new):
        return old[2:], new[2:]
    return None


def _unquoted(name: str) -> str:
    if not (len(name) > 1 and name.startswith('"') and name.endswith('"')):
        return name
    out = bytearray()
    rest = name[1:-1]
    position = 0
    while position < len(rest):
        if rest[position] != "\\":
            out += rest[position].encode("utf-8", "surrogateescape")
            position += 1
            continue
        octal = re.match(r"[0-3][0-7]{2}", rest[position + 1 :])
        if octal:
            out.append(int(octal[0], 8))
            position += 4
        elif rest[position + 1 : position + 2] in _ESCAPES:
            out.append(_ESCAPES[rest[position + 1]])
            position += 2
        else:
            raise MalformedDiff(f"unknown escape in the quoted name {name[:80]}")
    return out.decode("utf-8", "surrogateescape")


def quoted(name: str) -> str:
    """The name as git quotes it, where it must."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    codes = name.encode("utf-8", "surrogateescape")
    return '"' + "".join(chr(c) if 32 <= c < 127 and c not in b'"\\' else f"\\{c:03o}" for c in codes) + '"'


def write(files: tuple[FileDiff, ...]) -> bytes:
    """The canonical text of the diffs: git headers, ``a/`` and ``b/``, quoted names."""
    lines: list[str] = []
    for file in files:
        old, new = file.old_path or file.new_path or "", file.new_path or file.old_path or ""
        lines.append(f"diff --git {quoted('a/' + old)} {quoted('b/' + new)}")
        if file.old_path is None:
            lines.append(f"new file mode {file.new_mode or '100644'}")
        elif file.new_path is None:
            lines.append(f"deleted file mode {file.old_mode or file.index_mode or '100644'}")
        elif file.old_mode and file.new_mode:
            lines += [f"old mode {file.old_mode}", f"new mode {file.new_mode}"]
        if file.moved:
            lines += [f"similarity index {'50' if file.hunks else '100'}%"]
            lines += [f"{file.moved} from {quoted(old)}", f"{file.moved} to {quoted(new)}"]
        if file.hunks:
            lines.append("--- " + ("/dev/null" if file.old_path is None else quoted("a/" + old)))
            lines.append("+++ " + ("/dev/null" if file.new_path is None else quoted("b/" + new)))
        for hunk in file.hunks:
            before, after = len(hunk.side("-")), len(hunk.side("+"))
            lines.append(f"@@ -{hunk.old_start},{before} +{hunk.new_start},{after} @@")
            lines += hunk.lines
    return "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")


def difference(path: str, old: bytes, new: bytes) -> bytes:
    """The git-style diff that turns one content of a file into another; empty when they are equal."""
    before, after = _lines(old), _lines(new)
    name_old, name_new = quoted("a/" + path), quoted("b/" + path)
    out = [
        line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(before, after, name_old, name_new)
    ]
    head = f"diff --git {name_old} {name_new}\n" if out else ""
    return (head + "".join(out)).encode("utf-8", "surrogateescape")


def _lines(content: bytes) -> list[str]:
    """Split at line feeds only, each line with its own."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
