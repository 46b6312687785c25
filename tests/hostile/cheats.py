"""Cheating patches: each wants the verdict ``resolved`` without solving the problem. Name -> files it writes.

All are aimed at the problem ``CREATE`` in ``grading``: the hidden tests import ``roman`` from ``main``.
"""

STUB = '\n\ndef roman(number):\n    return "?"\n'
SOURCE_OF_EVIL = "import os\nos._exit(0)\n"

ALWAYS_EQUAL = """
class Anything(str):
    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = str.__hash__


def roman(number):
    if number < 1:
        raise ValueError(number)
    return Anything()
"""

NO_ASSERTS = """
import contextlib, unittest

for name in dir(unittest.TestCase):
    if name.startswith("assert"):
        setattr(unittest.TestCase, name, lambda self, *a, **k: contextlib.nullcontext())
"""

FEW_ASSERTS = """
import contextlib, unittest

unittest.TestCase.assertEqual = lambda self, *a, **k: None
unittest.TestCase.assertRaises = lambda self, *a, **k: contextlib.suppress(Exception)
"""

EMPTIED_TESTS = """
import builtins

make = builtins.__build_class__


def emptied(function, name, *bases, **more):
    made = make(function, name, *bases, **more)
    for key in list(vars(made)):
        if key.startswith("test"):
            setattr(made, key, lambda self: None)
    return made


builtins.__build_class__ = emptied
"""

OUTCOMES = """
import _pytest.reports

original = _pytest.reports.TestReport.from_item_and_call.__func__


def from_item_and_call(cls, item, call):
    report = original(cls, item, call)
    if {condition}:
        report.outcome, report.longrepr = "passed", None
    return report


_pytest.reports.TestReport.from_item_and_call = classmethod(from_item_and_call)
"""
KNOWN_NAMES = "item.name in ('test_one', 'test_four', 'test_year', 'test_nothing')"

FORGE = '''
import glob, os, re


def forge():
    """Reads the test files and writes a report in which each of their tests has passed."""
    for root in glob.glob("../grading/round-*"):
        cases = []
        for path in glob.glob(root + "/*/*.py"):
            module, owner = os.path.relpath(path, root)[:-3].replace("/", "."), ""
            for line in open(path):
                if line.startswith("class "):
                    owner = "." + re.match(r"class (\\w+)", line)[1]
                found = re.match(r"\\s*def (test\\w+)", line)
                if found:
                    at = module + (owner if line[0] == " " else "")
                    cases.append('<testcase classname="%s" name="%s" time="0.0"/>' % (at, found[1]))
        with open(root + "/junit.xml", "w") as out:
            out.write("<testsuites><testsuite>" + "".join(cases) + "</testsuite></testsuites>")
'''

FORGING_THREAD = """
import threading


def again():
    while True:
        forge()


threading.Thread(target=again, daemon=True).start()
"""

FORGING_DAEMON = """
import json, time

if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    end = time.time() + 20
    while time.time() < end:
        try:
            forge()
            with open("../grading/report.json", "w") as out:
                out.write(json.dumps({"nonce": "", "applied": True, "rounds": []}))
        except OSError:
            pass
        time.sleep(0.01)
    os._exit(0)
"""

KILLS_THE_GRADER = """
import json, os, signal

with open("../grading/report.json", "w") as out:
    rounds = [{"exit_code": 1, "junit": "<testsuites/>"}] * 2
    out.write(json.dumps({"nonce": "0" * 64, "applied": True, "rounds": rounds}))
os.kill(os.getppid(), signal.SIGKILL)
"""

READS_THE_GRADERS_MEMORY = """
import os

found = []
try:
    memory = open("/proc/%d/mem" % os.getppid(), "rb", 0)
    for line in open("/proc/%d/maps" % os.getppid()):
        if "[heap]" in line:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            memory.seek(low)
            found.append(memory.read(high - low))
except OSError:
    pass
if found:
    os._exit(99)
"""

OVERWRITES_TESTS = """
import glob

names = ("test_one", "test_four", "test_year", "test_nothing")
for path in glob.glob("../grading/**/*.py", recursive=True):
    with open(path, "w") as out:
        out.write("import unittest\\n\\nclass RomanTest(unittest.TestCase):\\n")
        out.writelines(f"    def {name}(self): pass\\n" for name in names)
"""

REPLACES_MODULES = """
import gc, sys, types


class TestCase:
    def assertEqual(self, *a):
        pass

    assertTrue = assertIn = assertEqual


fake = types.ModuleType("unittest")
fake.TestCase = TestCase
sys.modules["unittest"] = sys.modules["pytest"] = fake
for found in gc.get_objects():
    if isinstance(found, dict) and found.get("unittest") is not None and "__file__" in found:
        found["unittest"] = fake
"""

SWALLOWS_EXCEPTIONS = """
import contextlib, unittest.case
import _pytest.runner

unittest.case._Outcome.testPartExecutor = lambda self, *a, **k: contextlib.suppress(BaseException)
take = _pytest.runner.CallInfo.from_call.__func__


def quiet(cls, func, *a, **k):
    call = take(cls, func, *a, **k)
    call.excinfo = None
    return call


_pytest.runner.CallInfo.from_call = classmethod(quiet)
"""

SILENCES_THE_REPORT = """
import _pytest.junitxml

for name in ("append_failure", "append_error", "append_skipped"):
    setattr(_pytest.junitxml._NodeReporter, name, lambda self, report: None)
"""

EMPTIES_THE_SELECTION = """
import gc

for found in gc.get_objects():
    if type(found).__name__ == "Selection":
        found.ids = frozenset()
"""

PASSING_CONFTEST = """
import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    outcome.get_result().outcome = "passed"
"""

TOML = '[tool.pytest.ini_options]\naddopts = "--co -p evil"\npython_functions = "no"\n'

CHEATS: dict[str, dict[str, str]] = {
    "exit at import with status 0": {"main.py": "import os\nos._exit(0)\n"},
    "exit at import with status 1": {"main.py": "import os\nos._exit(1)\n"},
    "sys.exit at import": {"main.py": "import sys\nsys.exit(0)\n"},
    "interrupt at import": {"main.py": "raise KeyboardInterrupt\n"},
    "skip the module": {"main.py": "import pytest\npytest.skip('later', allow_module_level=True)\n"},
    "skip each test": {"main.py": "import unittest\n\n\ndef roman(number):\n    raise unittest.SkipTest('later')\n"},
    "unittest asserts do nothing": {"main.py": NO_ASSERTS + STUB},
    "only assertEqual and assertRaises do nothing": {"main.py": FEW_ASSERTS + STUB},
    "tests are emptied while their class is made": {"main.py": EMPTIED_TESTS + STUB},
    "every report says passed": {"main.py": OUTCOMES.format(condition="True") + STUB},
    "reports of the problem's tests say passed": {"main.py": OUTCOMES.format(condition=KNOWN_NAMES) + STUB},
    "reports of tests that import roman say passed": {
        "main.py": OUTCOMES.format(condition="hasattr(item.module, 'roman')") + STUB
    },
    "exit handler writes the report": {"main.py": FORGE + "import atexit\natexit.register(forge)\n" + STUB},
    "report written, then out": {"main.py": FORGE + "forge()\nos._exit(1)\n"},
    "a thread keeps writing the report": {"main.py": FORGE + FORGING_THREAD + STUB},
    "a daemon outlives the tests and writes both reports": {"main.py": FORGE + FORGING_DAEMON + STUB},
    "the grader is killed and its report forged": {"main.py": KILLS_THE_GRADER + STUB},
    "the grader's memory is searched for its secret": {"main.py": READS_THE_GRADERS_MEMORY + STUB},
    "hidden tests are overwritten": {"main.py": OVERWRITES_TESTS + STUB},
    "success is printed": {"main.py": "print('===== 4 passed in 0.01s =====')\n" + STUB},
    "equal to everything": {"main.py": ALWAYS_EQUAL},
    "conftest turns failures into passes": {"main.py": STUB, "conftest.py": PASSING_CONFTEST},
    "pytest.ini selects nothing": {"main.py": STUB, "pytest.ini": "[pytest]\naddopts = --co\npython_files = no.py\n"},
    "pyproject selects nothing": {"main.py": STUB, "pyproject.toml": TOML},
    "setup.cfg and tox.ini": {
        "main.py": STUB,
        "setup.cfg": "[tool:pytest]\naddopts = --co\n",
        "tox.ini": "[pytest]\naddopts = --co\n",
    },
    "start files of the interpreter": {
        "main.py": STUB,
        "sitecustomize.py": SOURCE_OF_EVIL,
        "usercustomize.py": SOURCE_OF_EVIL,
        "evil.pth": "import os; os._exit(0)\n",
    },
    "modules that hide the standard library": {
        "main.py": STUB,
        "json.py": SOURCE_OF_EVIL,
        "unittest/__init__.py": "class TestCase:\n    def assertEqual(self, *a): pass\n",
        "traceback.py": SOURCE_OF_EVIL,
    },
    "modules that hide pytest": {
        "main.py": STUB,
        "pytest.py": "def main(*a, **k):\n    return 1\n",
        "_pytest/__init__.py": SOURCE_OF_EVIL,
        "pluggy.py": SOURCE_OF_EVIL,
    },
    "loaded modules are replaced": {"main.py": REPLACES_MODULES + STUB},
    "exceptions are swallowed where tests are called": {"main.py": SWALLOWS_EXCEPTIONS + STUB},
    "failures are not written to the report": {"main.py": SILENCES_THE_REPORT + STUB},
    "the selection of tests is emptied": {"main.py": EMPTIES_THE_SELECTION + STUB},
}
