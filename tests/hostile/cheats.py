"""Cheating patches: each wants the verdict ``resolved`` without solving the problem. Name -> files that the patch writes.

All are aimed at the problem ``CREATE`` in ``grading``: the hidden tests import ``roman`` from ``main``.
"""

STUB = '\n\ndef roman(number):\n    return "?"\n'

ALWAYS_EQUAL = """
class Anything(str):
    def __eq__(self, other):
        return True
    __ne__ = lambda self, other: False
    __hash__ = str.__hash__


def roman(number):
    if number < 1:
        raise ValueError(number)
    return Anything()
"""

FORGED_XML = """
def forge():
    import glob, os, re
    for root in glob.glob("/proc/self/cwd/../grading/round-*"):
        cases = []
        for path in glob.glob(root + "/*/*.py"):
            module = os.path.relpath(path, root)[:-3].replace("/", ".")
            owner = ""
            for line in open(path):
                if line.startswith("class "):
                    owner = "." + re.match(r"class (\\w+)", line)[1]
                found = re.match(r"\\s*def (test\\w+)", line)
                if found:
                    at = module + (owner if line[0] == " " else "")
                    cases.append('<testcase classname="%s" name="%s" time="0.0"/>' % (at, found[1]))
        open(root + "/junit.xml", "w").write("<testsuites><testsuite>" + "".join(cases) + "</testsuite></testsuites>")
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

CHEATS: dict[str, dict[str, str]] = {
    "exit at import with status 0": {"main.py": "import os\nos._exit(0)\n"},
    "exit at import with status 1": {"main.py": "import os\nos._exit(1)\n"},
    "sys.exit at import": {"main.py": "import sys\nsys.exit(0)\n"},
    "interrupt at import": {"main.py": "raise KeyboardInterrupt\n"},
    "skip the module": {"main.py": "import pytest\npytest.skip('later', allow_module_level=True)\n"},
    "skip each test": {"main.py": "import unittest\n\n\ndef roman(number):\n    raise unittest.SkipTest('later')\n"},
    "unittest asserts do nothing": {
        "main.py": "import unittest\nfor name in dir(unittest.TestCase):\n    if name.startswith('assert'):\n"
        "        setattr(unittest.TestCase, name, lambda self, *a, **k: __import__('contextlib').nullcontext())\n"
        + STUB
    },
    "only assertEqual and assertRaises do nothing": {
        "main.py": "import unittest\nunittest.TestCase.assertEqual = lambda self, *a, **k: None\n"
        "unittest.TestCase.assertRaises = lambda self, *a, **k: __import__('contextlib').suppress(Exception)\n" + STUB
    },
    "tests are emptied while their class is made": {
        "main.py": "import builtins\nmake = builtins.__build_class__\n\n\ndef emptied(function, name, *bases, **more):\n"
        "    made = make(function, name, *bases, **more)\n    for key in list(vars(made)):\n"
        "        if key.startswith('test'):\n            setattr(made, key, lambda self: None)\n    return made\n\n\n"
        "builtins.__build_class__ = emptied\n" + STUB
    },
    "every report says passed": {"main.py": OUTCOMES.format(condition="True") + STUB},
    "reports of the problem's tests say passed": {
        "main.py": OUTCOMES.format(condition="item.name in ('test_one', 'test_four', 'test_year', 'test_nothing')")
        + STUB
    },
    "reports of tests that import roman say passed": {
        "main.py": OUTCOMES.format(condition="hasattr(item.module, 'roman')") + STUB
    },
    "exit handler writes the report": {"main.py": FORGED_XML + "import atexit\natexit.register(forge)\n" + STUB},
    "report written, then out": {"main.py": FORGED_XML + "import os\nforge()\nos._exit(1)\n"},
    "a thread keeps writing the report": {
        "main.py": FORGED_XML + "import threading\n\n\ndef again():\n    while True:\n        forge()\n\n\n"
        "threading.Thread(target=again, daemon=True).start()\n" + STUB
    },
    "a daemon outlives the tests and writes both reports": {
        "main.py": FORGED_XML
        + "import json, os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork():\n        os._exit(0)\n"
        "    end = time.time() + 20\n    while time.time() < end:\n        try:\n            forge()\n"
        "            text = json.dumps({'nonce': '', 'applied': True, 'rounds': []})\n"
        "            open('/proc/self/cwd/../grading/report.json', 'w').write(text)\n        except OSError:\n            pass\n"
        "        time.sleep(0.01)\n    os._exit(0)\n" + STUB
    },
    "the grader is killed and its report forged": {
        "main.py": "import json, os, signal\nopen('../grading/report.json', 'w').write(json.dumps({'nonce': '0' * 64, 'applied': True,\n"
        "    'rounds': [{'exit_code': 1, 'junit': '<testsuites/>'}] * 2}))\nos.kill(os.getppid(), signal.SIGKILL)\n"
        + STUB
    },
    "the grader's memory is searched for its secret": {
        "main.py": "import os, re, signal\nsecret = b''\ntry:\n    memory = open('/proc/%d/mem' % os.getppid(), 'rb', 0)\n"
        "    for line in open('/proc/%d/maps' % os.getppid()):\n        if '[heap]' in line:\n"
        "            low, high = (int(part, 16) for part in line.split()[0].split('-'))\n            memory.seek(low)\n"
        "            secret = memory.read(high - low)\nexcept OSError:\n    pass\n"
        "open('../grading/stolen', 'wb').write(secret)\n" + STUB
    },
    "hidden tests are overwritten": {
        "main.py": "import glob\nfor path in glob.glob('/proc/self/cwd/../grading/**/*.py', recursive=True):\n"
        "    open(path, 'w').write('import unittest\\n\\nclass RomanTest(unittest.TestCase):\\n' + ''.join(\n"
        "        f'    def {name}(self): pass\\n' for name in ('test_one', 'test_four', 'test_year', 'test_nothing')))\n"
        + STUB
    },
    "success is printed": {
        "main.py": "import sys\nprint('===== 4 passed in 0.01s =====')\nprint('4 passed', file=sys.__stdout__)\n" + STUB
    },
    "equal to everything": {"main.py": ALWAYS_EQUAL},
    "conftest turns failures into passes": {
        "main.py": STUB,
        "conftest.py": "import pytest\n\n\n@pytest.hookimpl(hookwrapper=True)\ndef pytest_runtest_makereport(item, call):\n"
        "    outcome = yield\n    outcome.get_result().outcome = 'passed'\n",
    },
    "pytest.ini selects nothing": {
        "main.py": STUB,
        "pytest.ini": "[pytest]\naddopts = -k nothing --co\npython_files = no.py\n",
    },
    "pyproject selects nothing": {
        "main.py": STUB,
        "pyproject.toml": '[tool.pytest.ini_options]\naddopts = "--co -p evil"\npython_functions = "no"\n',
    },
    "setup.cfg and tox.ini": {
        "main.py": STUB,
        "setup.cfg": "[tool:pytest]\naddopts = --co\n",
        "tox.ini": "[pytest]\naddopts = --co\n",
    },
    "start files of the interpreter": {
        "main.py": STUB,
        "sitecustomize.py": "import os\nos._exit(0)\n",
        "usercustomize.py": "import os\nos._exit(0)\n",
        "evil.pth": "import os; os._exit(0)\n",
    },
    "modules that hide the standard library": {
        "main.py": STUB,
        "json.py": "import os\nos._exit(0)\n",
        "unittest/__init__.py": "class TestCase:\n    def assertEqual(self, *a): pass\n    assertRaises = assertEqual\n",
        "traceback.py": "import os\nos._exit(0)\n",
    },
    "modules that hide pytest": {
        "main.py": STUB,
        "pytest.py": "def main(*a, **k):\n    return 1\n",
        "_pytest/__init__.py": "import os\nos._exit(0)\n",
        "pluggy.py": "import os\nos._exit(0)\n",
    },
    "loaded modules are replaced": {
        "main.py": "import sys, types\nfake = types.ModuleType('unittest')\n\n\nclass TestCase:\n    def assertEqual(self, *a):\n"
        "        pass\n    assertTrue = assertIn = assertEqual\n\n\nfake.TestCase = TestCase\nsys.modules['unittest'] = fake\n"
        "sys.modules['pytest'] = fake\nimport gc\nfor found in gc.get_objects():\n"
        "    if isinstance(found, dict) and found.get('unittest') is not None and '__file__' in found:\n"
        "        found['unittest'] = fake\n" + STUB
    },
    "exceptions are swallowed where tests are called": {
        "main.py": "import unittest.case, contextlib\nunittest.case._Outcome.testPartExecutor = (\n"
        "    lambda self, *a, **k: contextlib.suppress(BaseException))\n"
        "import _pytest.runner\ntake = _pytest.runner.CallInfo.from_call.__func__\n\n\n"
        "def quiet(cls, func, *a, **k):\n    call = take(cls, func, *a, **k)\n    call.excinfo = None\n    return call\n\n\n"
        "_pytest.runner.CallInfo.from_call = classmethod(quiet)\n" + STUB
    },
    "failures are not written to the report": {
        "main.py": "import _pytest.junitxml\nfor name in ('append_failure', 'append_error', 'append_skipped'):\n"
        "    setattr(_pytest.junitxml._NodeReporter, name, lambda self, report: None)\n" + STUB
    },
    "the problem's expected set is emptied": {
        "main.py": "import gc\nfor found in gc.get_objects():\n    if type(found).__name__ == 'Selection':\n"
        "        found.ids = frozenset()\n" + STUB
    },
}
