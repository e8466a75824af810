"""The builtin Code: what it runs, how it scores, and what a completion that cheats gets."""

import functools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_reward.graders.code_answer import extract
from rft_reward.graders.code_cases import read_tests
from rft_reward.graders.code_tests import BadTests, Tests
from rft_reward.graders.code_values import References, decode, encode

ADD = "assert add(1, 2) == 3\nassert add(2, 2) == 4"
MORE_OF_ADD = ADD + "\nassert abs(add(1, 2) - 3) < 1e-6\nassert 3 in [add(1, 2)]"


# Other tests may keep the processors busy: what answers at all has the time to. HASTY is for what never would.
PATIENT = {"timeout": "80s", "builtin": {"name": "Code", "code": {"timeout": "8s"}}}
HASTY = {"timeout": "40s", "builtin": {"name": "Code", "code": {"timeout": "4s"}}}


@pytest.fixture(scope="module")
def server(server_for):
    return server_for(PATIENT)


def score_at(server, code, tests):
    row = server.score_one(code, None, {"tests": tests})
    assert row.get("error") is None, row
    return row["aggregate_reward_score"]


@pytest.fixture(scope="module")
def score(server):
    return functools.partial(score_at, server)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```python\nx = 1\n```\nor\n```py\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nOutput:\n```\n1\n```", "x = 1\n"),
        ("```\nx = 1\n```\n```bash\nls\n```", "x = 1\n"),
        ("~~~python title=a\nx = 1\n~~~", "x = 1\n"),
        ("```python\nx = 1", "```python\nx = 1"),
        ("", ""),
    ],
)
def test_extract(text, code):
    assert extract(text) == code


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet="`~\n pyx=1", max_size=60))
def test_extract_survives_any_text(text):
    assert extract(text) in text


@pytest.mark.parametrize(
    ("tests", "problem"),
    [
        ("add(1, 2)", "hold no assert"),
        ("assert add(1,", "not valid Python: line 1"),
        ("def check(f):\n    assert f(1, 2) == 3", "define check, but never call it"),
        ("class TestAdd:\n    def test(self):\n        assert add(1, 2) == 3", "define TestAdd, but never call it"),
    ],
)
def test_tests_that_would_pass_for_any_code_are_refused(tests, problem):
    with pytest.raises(BadTests, match=problem):
        Tests([tests])


STACK = """
class Empty(ValueError):
    pass

class Stack:
    def __init__(self): self.items = []
    def push(self, item): self.items.append(item)
    def pop(self):
        if not self.items: raise Empty("nothing here")
        return self.items.pop()
    def __len__(self): return len(self.items)
    def __eq__(self, other): return self.items == other.items
    def __add__(self, other):
        both = Stack(); both.items = self.items + other.items
        return both
"""
USE_OF_STACK = """
a, b = Stack(), Stack()
a.push(1)
b.push(2)
assert len(a + b) == 2
assert (a + b).items == [1, 2]
assert a != b
try:
    Stack().pop()
    raised = False
except ValueError as error:
    raised = "nothing" in str(error)
assert raised
"""


@pytest.mark.parametrize(
    ("code", "tests", "expected"),
    [
        ("def add(a, b): return a + b", ADD, 1.0),
        ("def add(a, b): return 3", ADD, 0.5),
        ("def add(a, b): return a + b", ADD.splitlines(), 1.0),
        ("def add(a, b):\n  return a +", ADD, 0.0),
        ("def subtract(a, b): return a - b", ADD, 0.0),
        ("from math import sqrt\ndef root(x): return sqrt(x)", "import math\nassert math.isclose(root(4), 2)", 1.0),
        ("def f(): return (1, {2}, {'a': None, 4: .5}, b'x')", "assert f() == (1, {2}, {'a': None, 4: .5}, b'x')", 1.0),
        ("from collections import Counter\ndef f(x): return Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}", 1.0),
        ("def f():\n  yield 1\n  yield 2", "assert list(f()) == [1, 2]", 1.0),
        ("def f(items): items.sort()", "items = [2, 1]\nf(items)\nassert items == [1, 2]", 1.0),
        ("def f(g, x): return g(g(x))", "assert f(lambda x: x + 1, 1) == 3", 1.0),
        ("def f(n): return lambda x: x * n", "assert f(2)(3) == 6", 1.0),
        ("def f(n): return [lambda x: x * n]", "assert f(2)[0](3) == 6", 1.0),
        ("def f(): return 10 ** 5000", "assert f() == 10 ** 5000", 1.0),
        (STACK, USE_OF_STACK, 1.0),
        ("def f(): return 1\nif __name__ == '__main__': f(input())", "assert f() == 1", 1.0),
        ("def f(x): return x", "def check(g):\n    for i in range(3):\n        assert g(i) == i\ncheck(f)", 1.0),
        ("def f(x): return []", "for item in f(1):\n    assert item == 1", 0.0),
        ("def f(): return '\\ud800'", "assert f() == '\\ud800'", 1.0),
    ],
)  # fmt: skip
def test_asserts(score, code, tests, expected):
    assert score(f"```python\n{code}\n```", tests) == expected


DOUBLE = [{"input": "2\n", "output": "4\n"}, {"input": "5\n", "output": "10"}]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print(2 * int(input()))", 1.0),
        ("import sys\nfor line in sys.stdin:\n    print(2 * int(line), '  ')\nprint()\nexit()", 1.0),
        ("print(4)", 0.5),
        ("print(2 * int(input()))\nraise ValueError", 0.0),
        ("import sys\nprint(2 * int(input()))\nsys.exit(1)", 0.0),
        ("import threading\nthreading.Thread(target=lambda: print(2 * int(input()))).start()", 1.0),
        ("print('x' * 10**8)", 0.0),
        ("x = bytearray(10**9)\nprint(2 * int(input()))", 0.0),
        ("def f(:", 0.0),
    ],
)
def test_programs(score, code, expected):
    assert score(code, DOUBLE) == expected


def test_a_program_without_an_end_has_what_it_passed_before(server_for):
    assert score_at(server_for(HASTY), "n = int(input())\nwhile n == 5: pass\nprint(2 * n)", DOUBLE) == 0.5


CHEATS = {
    "an object that equals everything": """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __hash__(self): return 3
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __contains__ = __sub__
    def __bool__(self): return True
    def __float__(self): return 3.0
def add(a, b): return Any()""",
    "a number that equals everything": """
class Any(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __reduce__(self): return (int, (3,))
def add(a, b): return Any(99)""",
    "exit with success": "import sys\nsys.exit(0)",
    "end at once with success": "import os\nos._exit(0)",
    "end with success when called": "import os\ndef add(a, b): os._exit(0)",
    "raise what ends a test runner": "def add(a, b): raise SystemExit(0)",
    "replace builtins": """
import builtins
builtins.AssertionError = type("Never", (BaseException,), {})
builtins.all = builtins.sorted = builtins.isinstance = lambda *x: True
def isinstance(a, b): return True
def abs(x): return 0
def add(a, b): return None""",
    "define names of the harness": """
__builtins__ = {}
def __an_assert_passed__(): pass
def print(*x): pass
def add(a, b): return None""",
    "look for the tests in frames and objects": """
import gc, sys
def add(a, b):
    frame, seen = sys._getframe(), []
    while frame:
        seen.append(repr(frame.f_locals) + repr(frame.f_globals))
        frame = frame.f_back
    seen += [repr(o) for o in gc.get_objects() if type(o) in (str, bytes, dict, list)][:5000]
    wanted = "assert" + " add"  # not to find itself
    return 3 if wanted in "".join(seen) and a == 1 else None""",
    "look for the tests in files and other processes": """
import glob
found = ""
for name in glob.glob("/proc/[0-9]*/*") + glob.glob("/proc/[0-9]*/fd/*") + glob.glob("**/*", recursive=True):
    if name.rsplit("/", 1)[1:] in (["environ"], ["cmdline"], ["mem"], ["maps"]) or "candidate" not in name:
        try:
            found += open(name, errors="replace").read(4096)
        except OSError:
            pass
def add(a, b): return {(1, 2): 3, (2, 2): 4}[a, b] if "assert" + " add" in found else None""",
    "write verdicts to every open file": """
import os
for descriptor in range(3, 128):
    for text in (b"1", b"11", b'{"value": true, "arguments": []}\\n'):
        try: os.write(descriptor, text)
        except OSError: pass
def add(a, b): return None""",
    "answer in place of the server": """
import os, json
def add(a, b):
    for descriptor in range(3, 128):
        try: os.write(descriptor, b'{"value": {"object": 0}, "arguments": [1, 2]}\\n' * 4)
        except OSError: pass
    return None""",
    "kill the processes around": """
import os, signal
for process in {os.getppid(), os.getpgid(0), *(int(p) for p in os.listdir("/proc") if p.isdigit())} - {os.getpid()}:
    for number in (signal.SIGKILL, signal.SIGUSR1, signal.SIGALRM):
        try: os.kill(process, number)
        except OSError: pass
def add(a, b): return None""",
    "limit the processes around": """
import os, resource
for process in [int(p) for p in os.listdir("/proc") if p.isdigit()]:
    if process != os.getpid():
        try: resource.prlimit(process, resource.RLIMIT_CPU, (0, 0))
        except OSError: pass
def add(a, b): return None""",
    "leave a process behind": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
def add(a, b): return None""",
    "recurse": "def add(a, b): return add(a, b)",
    "send too much": "def add(a, b): return 'x' * 40_000_000",
    "send something deep": "def add(a, b):\n  x = []\n  for _ in range(10**5): x = [x]\n  return x",
    "fill the disk": "open('big', 'wb').write(b'x' * 10**7)\ndef add(a, b): return None",
}


def test_hanging_scores_nothing(server_for):
    assert score_at(server_for(HASTY), "import time\ndef add(a, b): time.sleep(60)", MORE_OF_ADD) == 0.0


@pytest.mark.parametrize("cheat", CHEATS)
def test_cheating_scores_nothing(score, cheat):
    assert score(CHEATS[cheat], MORE_OF_ADD) == 0.0


def test_a_cheat_costs_no_other_sample(server, build_sample):
    samples = []
    for number, cheat in enumerate(CHEATS):
        if cheat != "send too much":  # it takes time, and that is bounded for a batch as a whole
            samples.append(build_sample(f"bad {number}", CHEATS[cheat], None, {"tests": ADD}))
        samples.append(build_sample(f"good {number}", "def add(a, b): return a + b", None, {"tests": ADD}))
    for row in server.score(samples):
        assert row["aggregate_reward_score"] == float(row["id"].startswith("good")), row
    assert server.metric('rft_reward_worker_restarts_total{reason="crashed"}') == 0
    assert server.metric('rft_reward_worker_restarts_total{reason="leftover_processes"}') == 0


def test_components_and_where_tests_stand(server, build_sample):
    code = "def add(a, b): return 3"
    rows = server.score(
        [
            build_sample("metadata", code, "a model solution", {"tests": ADD}),
            build_sample("object", code, {"tests": ADD, "solution": "..."}),
            build_sample("text", code, ADD),
            build_sample("list", code, ADD.splitlines()),
            build_sample("none", code, {"solution": "..."}),
            build_sample("bad", code, [1, 2]),
            build_sample("empty", code, None, {"tests": []}),
        ]
    )
    assert [row["aggregate_reward_score"] for row in rows] == [0.5, 0.5, 0.5, 0.5, None, None, None]
    assert rows[0]["metrics_list"] == [
        {"name": "passed", "value": 0.5, "type": "Reward"},
        {"name": "all_passed", "value": 0.0, "type": "Metric"},
        {"name": "tests", "value": 2.0, "type": "Metric"},
    ]
    assert "has no tests" in rows[4]["error"]
    assert "neither asserts" in rows[5]["error"]


TWICE = "def f(x): return 2 * x"
SOLUTION = "class Solution:\n    def f(self, nums, k):\n        return (nums[0] + k, nums)"
CALL = {"input": "[2]", "output": "4", "fn_name": "f", "type": "function_call"}


@pytest.mark.parametrize(
    ("code", "tests", "row", "expected"),
    [
        # PrimeIntellect, open-r1: arguments as a list.
        (TWICE, [CALL], {}, 1.0),
        ("def f(x): return 3 * x", [CALL], {}, 0.0),
        ("def g(x): return 2 * x", [CALL], {}, 0.0),
        (TWICE, [{**CALL, "input": [2], "output": 4}, {**CALL, "output": "5"}], {}, 0.5),
        (TWICE, [{**CALL, "input": '["a"]', "output": "aa"}], {}, 1.0),
        ("def f(x): return x['a']", [{**CALL, "input": '[{"a": 4}]'}], {}, 1.0),
        (TWICE, {"language": "python", "test_cases": [CALL]}, {}, 1.0),
        ("def sum(x): return 5", [{**CALL, "fn_name": "sum", "input": "[[2]]", "output": "2"}], {}, 0.0),
        # APPS, TACO: lists of inputs and outputs, also as text; a result may stand in a list of its own.
        (TWICE, {"inputs": [[2], [3]], "outputs": [4, [6]], "fn_name": "f"}, {}, 1.0),
        (TWICE, json.dumps({"inputs": [[2], [3]], "outputs": [4, [7]], "fn_name": "f"}), {}, 0.5),
        ("print(2 * int(input()))", {"inputs": ["2\n", "3"], "outputs": ["4\n", "7"]}, {}, 0.5),
        ("print(input() + input())", {"inputs": [["a", "b"]], "outputs": [["ab"]]}, {}, 1.0),
        # LiveCodeBench: arguments one a line; the row names the function.
        (SOLUTION, json.dumps([{"input": "[1, 2]\n3", "output": "[4, [1, 2]]", "testtype": "functional"}]),
         {"func_name": "f"}, 1.0),
        (TWICE, [{"input": "[1]", "output": "[1, 1]", "testtype": "functional"}], {"fn_name": "f"}, 1.0),
        (TWICE, [{"input": "2", "output": "[4]", "testtype": "functional"}], {"fn_name": "f"}, 0.0),
        ("print(2 * int(input()))", [{"input": "2", "output": "4", "testtype": "stdin"}], {"fn_name": "f"}, 1.0),
        ("print(2 * int(input()))", [{"input": "2", "output": "4", "type": "stdin_stdout", "fn_name": None}], {}, 1.0),
    ],
)  # fmt: skip
def test_the_forms_of_public_datasets(server, code, tests, row, expected):
    scored = server.score_one(f"```python\n{code}\n```", None, {"tests": tests, **row})
    assert scored.get("error") is None, scored
    assert scored["aggregate_reward_score"] == expected


def test_a_reference_answer_may_be_such_an_object(server):
    assert server.score_one(TWICE, {"inputs": [[2]], "outputs": [4], "fn_name": "f"})["aggregate_reward_score"] == 1.0


@pytest.mark.parametrize(
    ("tests", "problem"),
    [
        ([{**CALL, "weight": 2}], "have a field weight, which Code does not know"),
        ({"inputs": ["1"], "outputs": ["1"], "timeout": 3}, "have a field timeout, which Code does not know"),
        ({"inputs": ["1"], "outputs": []}, "have 1 inputs but 0 outputs"),
        ({"inputs": [], "outputs": []}, "at least one element"),
        ({"inputs": [3], "outputs": ["1"]}, "inputs of a program has to be text, or a list of lines, not int"),
        ([{"input": "1"}], "needs input and output"),
        ([{**CALL, "type": "pytest"}], "no tests of type pytest"),
        ([{**CALL, "fn_name": None}], "needs its name, fn_name"),
        ([{**CALL, "fn_name": "a.b"}], "fn_name has to be the name of a function, not 'a.b'"),
        ([CALL, {"input": "1", "output": "1"}], "use one kind in a row"),
        ([{**CALL, "input": {"x": 2}}], "input of a call has to be the list of its arguments, not an object"),
        ([{**CALL, "input": '{"x": 2}'}], "input of a call has to be the list of its arguments, not an object"),
        (
            {"inputs": [{"x": 2}], "outputs": [4], "fn_name": "f"},
            "inputs of a call has to be the list of its arguments, not an object",
        ),
        ([{**CALL, "input": "x = 2, y = 3"}], "has to be the values of its arguments as JSON, without names: 'x = 2"),
        ({"language": "rust", "test_cases": [CALL]}, "the language of the tests is rust"),
    ],
)
def test_tests_that_code_cannot_read_are_refused_by_name(tests, problem):
    with pytest.raises(BadTests, match=problem):
        read_tests(tests, {})


@pytest.mark.parametrize("cheat", [name for name in CHEATS if name not in ("send too much", "fill the disk")])
def test_cheating_at_calls_scores_nothing(score, cheat):
    cases = [{"input": "[1, 2]", "output": "3", "fn_name": "add"}, {"input": "[2, 2]", "output": "4", "fn_name": "add"}]
    assert score(CHEATS[cheat], cases) == 0.0


def test_all_or_nothing_under_another_key(server_for):
    options = {"requireAll": True, "testsKey": "cases", "timeout": "8s"}
    server = server_for({"timeout": "80s", "builtin": {"name": "Code", "code": options}})
    assert server.score_one("print(4)", None, {"cases": DOUBLE})["aggregate_reward_score"] == 0.0
    row = server.score_one("print(2 * int(input()))", None, {"cases": DOUBLE})
    assert row["aggregate_reward_score"] == 1.0
    assert [(metric["name"], metric["type"]) for metric in row["metrics_list"]][:2] == [
        ("passed", "Metric"),
        ("all_passed", "Reward"),
    ]


def test_without_namespaces(server_for, build_sample):
    server = server_for(PATIENT, namespaces=False)
    for cheat in (
        "kill the processes around",
        "leave a process behind",
        "look for the tests in files and other processes",
    ):
        assert server.score_one(CHEATS[cheat], ADD)["aggregate_reward_score"] == 0.0
    assert server.score_one("def add(a, b): return a + b", ADD)["aggregate_reward_score"] == 1.0


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5)
    | st.fractions() | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner)
    | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3) | st.sets(st.integers(), max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(PLAIN)
def test_plain_data_crosses_unchanged(value):
    references = References()
    crossed = decode(encode(value, references.number), lambda kind, number: pytest.fail("a reference"))
    assert crossed == value
    assert type(crossed) is type(value)


EVERY_CASE = """
cases = [((1, 2), 3), ((2, 2), 4)]
assert all(map(lambda case: add(*case[0]) == case[1], cases))
"""
FORMS_OF_TESTS = {
    "asserts": MORE_OF_ADD,
    "all and map": EVERY_CASE,
    "a list of asserts": ADD.splitlines(),
    "no mismatch": "assert not [1 for _ in filter(lambda case: add(*case) != sum(case), [(1, 2), (2, 2)])]",
    "no difference": "from itertools import starmap\nassert set(starmap(add, [(1, 2), (2, 1)])) <= {3}",
    "until the end": "seen = []\nassert len(list(iter(lambda: add(1, 2), 3))) == 0",
    "a function": "def check(f):\n    for _ in map(lambda x: f(x, x), [1, 2]):\n        assert _ in (2, 4)\n"
    "    assert all(map(lambda x: f(x, x) == 2 * x, [1, 2]))\ncheck(add)",
    "calls": [{"input": f"[{a}, 2]", "output": str(a + 2), "fn_name": "add"} for a in (1, 2)],
    "a table of calls": {"inputs": [[1, 2], [2, 2]], "outputs": [3, 4], "fn_name": "add"},
}  # fmt: skip
EXCEPTIONS = {
    "StopIteration": "raise StopIteration",
    "StopIteration with a value": "raise StopIteration(3)",
    "a class of its own": "raise type('End', (StopIteration,), {})",
    "StopAsyncIteration": "raise StopAsyncIteration",
    "GeneratorExit": "raise GeneratorExit",
    "SystemExit": "raise SystemExit(0)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "BaseException": "raise BaseException",
    "a BaseException of its own": "raise type('Pass', (BaseException,), {})",
    "a group": "raise BaseExceptionGroup('x', [SystemExit(0), StopIteration()])",
    "RecursionError": "return add(a, b)",
    "AssertionError": "raise AssertionError",
    "EOFError": "raise EOFError",
    "MemoryError": "raise MemoryError",
    "the end of another iterator": "return next(iter([]))",
}


@pytest.mark.parametrize("form", FORMS_OF_TESTS)
def test_code_that_raises_passes_no_form_of_tests(server, build_sample, form):
    tests = FORMS_OF_TESTS[form]
    codes = {name: f"def add(a, b):\n    {statement}" for name, statement in EXCEPTIONS.items()}
    samples = [build_sample(name, code, None, {"tests": tests}) for name, code in codes.items()]
    rows = server.score([*samples, build_sample("good", "def add(a, b): return a + b", None, {"tests": tests})])
    assert {row["id"]: row["aggregate_reward_score"] for row in rows} == {**dict.fromkeys(codes, 0.0), "good": 1.0}


def test_iterators_of_a_completion_end_as_in_python(score):
    code = "def f():\n    yield 1"
    tests = (
        "it = f()\nassert next(it) == 1\nassert next(it, 'end') == 'end'\nended = False\n"
        "try:\n    next(f2 := iter(f())), next(f2)\nexcept StopIteration:\n    ended = True\nassert ended"
    )
    assert score(code, tests) == 1.0
