"""What a handler raises, found by following its calls through the source."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from app.web.problems import Problem

Raised = set[type[Problem]]


def raised_by(called: Callable[..., Any]) -> Raised:
    """The problems that a function or an ASGI class raises, less those in whose place it raises something else.

    Names are followed wherever they stand, so a function that is passed on counts as called; an attribute is followed
    as a method of each class that is named in the function, or in the class of the method.
    """
    if isinstance(called, type) or not inspect.isroutine(called):
        called = (called if isinstance(called, type) else type(called)).__call__
    return _Walk().through(getattr(called, "__func__", called))


class _Walk:
    def __init__(self) -> None:
        self._found: dict[FunctionType, Raised] = {}

    def through(self, function: Callable[..., Any]) -> Raised:
        function = inspect.unwrap(function)
        if not isinstance(function, FunctionType) or not function.__module__.startswith("app."):
            return set()
        if function not in self._found:
            self._found[function] = set()  # for one that comes back to itself
            self._found[function] = self._in(_tree(function), function, set(_classes_named(function)))
        return self._found[function]

    def _in(self, node: ast.AST, function: FunctionType, classes: set[type]) -> Raised:
        raised: Raised = set()
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Try):
            tried = set().union(*(self._in(each, function, classes) for each in node.body))
            raised |= {each for each in tried if not _replaced(each, node.handlers, function)}
            children = [*node.handlers, *node.orelse, *node.finalbody]
        elif isinstance(node, ast.ExceptHandler):
            children = list(node.body)
        elif isinstance(node, ast.Raise | ast.Call):
            made = _value(node.exc if isinstance(node, ast.Raise) else node.func, function)
            raised |= {made} if isinstance(made, type) and issubclass(made, Problem) else set()
        elif isinstance(node, ast.Name | ast.Attribute):
            named = _value(node, function)
            raised |= self.through(named) if callable(named) else set()
            if isinstance(node, ast.Attribute) and named is None:
                methods = (inspect.getattr_static(each, node.attr, None) for each in classes)
                raised |= set().union(*(self.through(each) for each in methods if isinstance(each, FunctionType)))
        return raised.union(*(self._in(each, function, classes) for each in children))


def _tree(source: FunctionType | type) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(source)))


def _value(node: ast.AST | None, function: FunctionType) -> Any:
    """What a name, or a name in a module, stands for."""
    if isinstance(node, ast.Name):
        return function.__globals__.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(module := _value(node.value, function), ModuleType):
        return getattr(module, node.attr, None)
    return None


def _classes_named(function: FunctionType) -> Iterator[type]:
    owner = getattr(sys.modules[function.__module__], function.__qualname__.partition(".")[0], None)
    if isinstance(owner, type):
        yield owner
    for node in ast.walk(_tree(owner if isinstance(owner, type) else function)):
        named = _value(node, function)
        if isinstance(named, type) and named.__module__.startswith("app."):
            yield named


def _replaced(problem: type[Problem], handlers: list[ast.ExceptHandler], function: FunctionType) -> bool:
    """Whether it is caught, and something else raised from it."""
    for each in handlers:
        named = each.type.elts if isinstance(each.type, ast.Tuple) else [each.type]
        caught = [_value(one, function) for one in named]
        if any(issubclass(problem, one) for one in caught if isinstance(one, type | tuple)):
            return isinstance(each.body[-1], ast.Raise) and each.body[-1].cause is not None
    return False
