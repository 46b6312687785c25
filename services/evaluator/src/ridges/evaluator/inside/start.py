"""The command of an evaluation sandbox: the grader, compiled beforehand where that was done for this interpreter.

Standard library only, Python 3.8 or newer. ``compiled`` is the interpreter's magic number, as of byte code on disk, and
a marshalled dict: name of a program -> its code.
"""

import marshal
import os
from importlib.util import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types

FOLDER = os.path.dirname(os.path.realpath(__file__))


def compiled() -> "dict[str, types.CodeType]":
    with open(os.path.join(FOLDER, "compiled"), "rb") as stream:
        content = stream.read()
    return marshal.loads(content[len(MAGIC_NUMBER) :]) if content.startswith(MAGIC_NUMBER) else {}  # noqa: S302 - our own


def main() -> None:
    codes, path = compiled(), os.path.join(FOLDER, "grade.py")
    if "grade" not in codes:
        with open(path) as stream:
            codes["grade"] = compile(stream.read(), path, "exec")
    exec(codes["grade"], {"__name__": "__main__", "__file__": path, "CODES": codes})  # noqa: S102 - our own


if __name__ == "__main__":
    main()
