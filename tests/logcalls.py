"""Every log call of the program, read from its source: the name of the log event, its levels and its fields."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from tests.pages import PROJECT

WRAPPERS = {"_say": "error", "News": "warning"}
"""Our functions and types that take a log event, and the level at which it is logged."""

OF_ERRORS = {"error", "traceback"}
"""What the log adds to the fields if it is given an exception."""


@dataclass
class LogEvent:
    """The levels and fields of all calls with one name."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def log_events() -> dict[str, LogEvent]:
    found: dict[str, LogEvent] = {}
    for path in sorted((PROJECT / "app").rglob("*.py")):
        module = ast.parse(path.read_text())
        for scope in [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]:
            for name, levels, fields in _calls(scope, module):
                event = found.setdefault(name, LogEvent())
                event.levels |= levels
                event.fields |= fields
    found["request"].fields |= _request_fields()
    found["worker_hung"].fields |= {"doing", "traceback"}  # logged for another process
    return found


def _calls(scope: ast.AST, module: ast.Module) -> Iterator[tuple[str, set[str], set[str]]]:
    for node in ast.walk(scope):
        if isinstance(node, ast.Tuple) and len(node.elts) == 4 and ast.unparse(node.elts[0]) == "time()":  # a `Line`
            yield from _call(node.elts[2], _strings(node.elts[1]), node.elts[3], scope, module)
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {each.arg: each.value for each in node.keywords}
        if called in WRAPPERS:
            event, fields = node.args[-2:]
            yield from _call(event, {WRAPPERS[called]}, fields, scope, module)
        elif called.endswith("log.write"):
            yield from _call(node.args[0], _strings(given.get("level")) or {"info"}, node.args[1], scope, module)
        elif called.startswith("logger."):
            level = called.removeprefix("logger.")
            chosen = {"exception": {"error"}, "log": _levels(node.args[0])}.get(level, {level})
            extra = given.get("extra")
            fields = extra.values[0] if isinstance(extra, ast.Dict) else ast.Dict(keys=[], values=[])
            added = OF_ERRORS if level == "exception" or "exc_info" in given else set()
            for name, levels, named in _call(node.args[level == "log"], chosen, fields, scope, module):
                yield name, levels, named | added


def _call(
    event: ast.expr, levels: set[str], fields: ast.expr, scope: ast.AST, module: ast.Module
) -> Iterator[tuple[str, set[str], set[str]]]:
    if isinstance(event, ast.Constant):
        yield str(event.value), levels, _keys(fields, scope, module)
    else:
        assert ast.unparse(event) in ("event", "change.event"), "a wrapper that is not in WRAPPERS"


def _keys(fields: ast.expr, scope: ast.AST, module: ast.Module) -> set[str]:
    """The keys that a mapping may have."""
    if isinstance(fields, ast.Dict):
        return {ast.literal_eval(key) for key in fields.keys if key}
    if isinstance(fields, ast.BinOp):
        return _keys(fields.left, scope, module) | _keys(fields.right, scope, module)
    if isinstance(fields, ast.IfExp):
        return _keys(fields.body, scope, module) | _keys(fields.orelse, scope, module)
    if isinstance(fields, ast.Name):
        values = [value for node in ast.walk(scope) if (value := _assigned(node, fields.id))]
        assert values, f"{fields.id} is assigned elsewhere"
        return set(chain.from_iterable(_keys(value, scope, module) for value in values))
    if isinstance(fields, ast.Call):
        name = ast.unparse(fields.func).rpartition(".")[2]
        made = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef) and node.name == name]
        returned = [node.value for each in made for node in ast.walk(each) if isinstance(node, ast.Return)]
        return set(chain.from_iterable(_keys(value, made[0], module) for value in returned if value))
    raise AssertionError(f"the fields of {ast.unparse(fields)} cannot be read")


def _assigned(node: ast.AST, name: str) -> ast.expr | None:
    """The value that a statement gives this name."""
    if isinstance(node, ast.Assign):
        return node.value if any(ast.unparse(target) == name for target in node.targets) else None
    if isinstance(node, ast.AnnAssign):
        return node.value if ast.unparse(node.target) == name else None
    return None


def _request_fields() -> set[str]:
    """The fields that any module adds to the line of a request."""
    added: set[str] = set()
    for path in (PROJECT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = [each for each in getattr(node, "targets", []) if isinstance(each, ast.Subscript)]
            lines = ("line", "scope['state']['line']")
            added |= {ast.literal_eval(each.slice) for each in targets if ast.unparse(each.value) in lines}
    return added


def _strings(node: ast.AST | None) -> set[str]:
    """The texts that an expression chooses from."""
    if isinstance(node, ast.IfExp):
        return _strings(node.body) | _strings(node.orelse)
    return {str(node.value)} if isinstance(node, ast.Constant) else set()


def _levels(node: ast.AST) -> set[str]:
    return {each.attr.lower() for each in ast.walk(node) if isinstance(each, ast.Attribute)}
