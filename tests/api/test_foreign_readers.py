"""No product code reads or parses foreign texts without a limit, or writes through links: new places fail here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

_JSON = "parse it with parse_row, parse_line or parse_text of rft_api.exact_json, or read_json of rft_api.foreign.files"
_FILE = "read it with read_file, read_json, read_document or open_file of rft_api.foreign.files, which have limits"
_YAML = "parse it with rft_api.foreign.yaml_text"
_CODE = "never unpickle: read safetensors, JSON or Parquet"
_WRITE = "write with atomic_write, atomic_file, open_new or open_in_place of rft_api.files, which follow no link"
_MODEL = "pass trust_remote_code=False: code that comes with a model is never executed"

FUNCTIONS = {
    "json.load": _JSON, "json.loads": _JSON, "orjson.loads": _JSON, "json.JSONDecoder": _JSON,
    "yaml.load": _YAML, "yaml.load_all": _YAML, "yaml.safe_load": _YAML, "yaml.safe_load_all": _YAML,
    "yaml.full_load": _YAML, "yaml.unsafe_load": _YAML,
    "pickle.load": _CODE, "pickle.loads": _CODE, "torch.load": _CODE, "np.load": _CODE, "numpy.load": _CODE,
}  # fmt: skip
"""Functions that must not be called, with what to do instead."""
METHODS = {"read_text": _FILE, "read_bytes": _FILE, "write_text": _WRITE, "write_bytes": _WRITE}
"""The same for methods of pathlib; `open` and `read` depend on their arguments."""

_PROC = "the kernel writes it"
_PROC_WRITE = "a file of the kernel"
_OWN = "this program has written it"
_ALLOWED = {
    # rft_api
    "api exact_json _STRICT json.JSONDecoder": "the strict reader itself",
    "api exact_json _MARKING json.JSONDecoder": "the strict reader itself",
    "api exact_json _LENIENT json.JSONDecoder": "the lenient reader itself",
    "api generate write_files write_text": "a developer's command, in the repository",
    "api generate write_files read_text": "a developer's command, in the repository",
    "api manifests _documents open": "may be a pipe of the shell; read to a limit",
    "api reward_document document_violation json.loads": _OWN,
    "charts * *": "a developer's command, in the repository",
    # cli
    "cli score _write open": "the user names the file, which may be a pipe",
    # gateway
    "gateway cluster.api_server * orjson.loads": "the API server's answer, which is read to a limit",
    "gateway files.checker _find_problems orjson.loads": "the answer of the gateway's own process",
    "gateway large_bodies _read_elsewhere orjson.loads": "the answer of the gateway's own process",
    "gateway requests parse_body orjson.loads": "a request, whose bytes and values are limited",
    "gateway large_bodies _parse_answer orjson.loads": "an answer whose bytes and values are limited",
    "gateway logs.record conversation_line orjson.loads": "an answer that has been parsed before, within limits",
    "gateway server_errors _stated_error orjson.loads": "an answer that has been read to a limit",
    "gateway streams _parse orjson.loads": "an event of a limited size",
    # operator
    "operator rft_job.world read_run_configuration json.loads": "the operator's own ConfigMap",
    "operator kube.cluster * json.loads": "the API server's answer",
    "operator kube.store * json.loads": _OWN,
    # adapter-loader
    "adapter-loader memory leave_verdict write_text": "the kubelet's file for the termination message",
    # reward-server
    "reward-server code_files write_code write_text": "in a folder that was just made for it",
    "reward-server packages install write_text": "in a folder that was just made for it",
    "reward-server sandbox * write_text": _PROC_WRITE,
    "reward-server samples * *": "a request, whose size is limited; what orjson refuses is looked at once more",
    "reward-server worker * json.loads": "the server's own configuration of a worker",
    "reward-server replies * *": "an answer whose bytes and values were counted; an exception means that it is garbled",
    "reward-server main * read_text": "the token, from a Secret or the command line's own folder",
    "reward-server companions * read_text": _PROC,
    "reward-server watch * *": _PROC,
    "reward-server processes * read_text": _PROC,
    "reward-server sandbox * read_text": _PROC,
    "reward-server remote.* * *": "an answer that has been read to a limit",
    "reward-server graders.* * *": "runs in a worker's sandbox, whose memory and time are limited",
    # trainer
    "trainer-image own_disks _read open": "files of a checkpoint of this run, of a size that is known",
    "trainer-image launcher _available_cpus read_text": _PROC,
    "trainer-image processor * read_text": _PROC,
    "trainer-image process_group * read_text": _PROC,
    "trainer-image ending * write_text": "the kubelet's file for the termination message, or the launcher's own",
    "trainer-image base_model _record_commit write_text": "the cache of the hub's library, as that writes it",
    "trainer-image modeling export_adapter write_text": "in a folder that was just made for it",
}
"""The places that do it all the same, with the reason: PACKAGE MODULE FUNCTION CALL, of which * stands for any."""


def test_what_is_foreign_is_read_in_one_way():
    faults = []
    unused = set(_ALLOWED)
    for place, call, line, advice in _calls():
        entries = [entry for entry in _ALLOWED if _covers(entry, place)]
        unused -= set(entries)
        if not entries:
            faults.append(f"{line}: {call}: {advice}; or add {place!r} with a reason to _ALLOWED of this test")
    assert not faults, "\n".join(faults)
    assert not unused, f"no code needs these entries of _ALLOWED any more: {sorted(unused)}"


def test_models_are_loaded_without_their_code():
    """`Auto*` classes of transformers run code of a model if they are asked to; the library's default may change."""
    count, faults = 0, []
    for file, tree in _modules():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = ast.unparse(node.func.value)
            if node.func.attr in ("from_pretrained", "from_config") and owner.startswith("Auto"):
                count += 1
                values = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if values.get("trust_remote_code") != "False":
                    faults.append(f"{file.relative_to(ROOT)}:{node.lineno}: {owner}.{node.func.attr}: {_MODEL}")
            elif any(k.arg == "trust_remote_code" and ast.unparse(k.value) != "False" for k in node.keywords):
                faults.append(f"{file.relative_to(ROOT)}:{node.lineno}: {_MODEL}")
    assert count >= 4
    assert not faults, "\n".join(faults)


def test_the_walk_sees_what_it_must():
    source = """
def reads(path):
    json.loads(path.read_text())
    yaml.safe_load(open(path).read())
    path.open("w"); path.open(mode="ab"); open(path, "x"); path.open(); path.open("rb")
    file.read(10); file.read()
"""
    calls = [name for _, name, _ in _calls_of(ast.parse(source))]
    assert sorted(calls) == sorted(
        ["json.loads", "read_text", "yaml.safe_load", "open", "read", "open", "open", "open", "open", "open", "read"]
    )


def _modules() -> Iterator[tuple[Path, ast.Module]]:
    files = sorted(ROOT.glob("*/src/*/**/*.py"))
    assert len(files) > 200
    for file in files:
        yield file, ast.parse(file.read_text(encoding="utf-8"))


def _calls() -> Iterator[tuple[str, str, str, str]]:
    """The calls in question: their place as in `_ALLOWED`, what is called, FILE:LINE, and what to do instead."""
    for file, tree in _modules():
        package, _, _, *parts = file.relative_to(ROOT).with_suffix("").parts
        if (package == "api" and parts[0] == "foreign") or (package, parts) == ("api", ["files"]):
            continue  # the readers and writers themselves
        for function, name, node in _calls_of(tree):
            advice = FUNCTIONS.get(name) or METHODS.get(name) or _FILE
            line = f"{file.relative_to(ROOT)}:{node.lineno}"
            yield f"{package} {'.'.join(parts)} {function} {name}", name, line, advice


def _calls_of(tree: ast.AST, function: str = "-") -> Iterator[tuple[str, str, ast.Call]]:
    for node in ast.iter_child_nodes(tree):
        inner = node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and function == "-" else function
        if isinstance(tree, ast.Module) and isinstance(node, ast.Assign):
            inner = ast.unparse(node.targets[0])
        if isinstance(node, ast.Call) and (name := _name(node)):
            yield inner, name, node
        yield from _calls_of(node, inner)


def _name(node: ast.Call) -> str | None:
    """The name of a call that is in question, else None."""
    whole = ast.unparse(node.func)
    method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if whole in FUNCTIONS:
        return whole
    if method in METHODS and not (method == "read_text" and len(node.args) == 2):  # openai_chat.read_text(value, place)
        return method
    if method == "read" and not node.args and isinstance(node.func, ast.Attribute):
        # A `read` without a limit; objects of ours have such a method, too, and files have telling names.
        owner = ast.unparse(node.func.value)
        is_file = (
            owner.endswith(("file", "stream", "response", "body", "Payload']", "stdout", "raw")) or "open(" in owner
        )
        return "read" if is_file else None
    is_path_open = method == "open" and not whole.startswith(("os.", "gzip.", "self.", "Sources", "_MODEL"))
    if whole == "open" or (is_path_open and "sources" not in whole.lower()):
        return "open"
    return None


def _covers(entry: str, place: str) -> bool:
    def covers(pattern: str, part: str) -> bool:
        return pattern in ("*", part) or (pattern.endswith(".*") and part.startswith(pattern[:-1]))

    patterns, parts = entry.split(" "), place.split(" ")
    return len(patterns) <= len(parts) and all(map(covers, patterns, parts))
