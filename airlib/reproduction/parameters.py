"""Notebook parameters: read from the cell tagged `parameters`, checked before anything runs.

The cell holds one literal per line, `name: type = default`. Papermill only warns about unknown
names and believes every value; here both are refused, with the list of what is known.
"""

import ast
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from airlib.errors import AirlibError

TYPES = {"bool": bool, "int": int, "float": float, "str": str, "dict": dict, "list": list}


def parameter_cell(notebook: Path) -> dict[str, Any]:
    """The parameters of a notebook file and their defaults: name -> value.

    Raises AirlibError if the file is not a notebook, has no or several cells tagged `parameters`,
    or holds anything but assignments of literals in it.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
        source = "".join(tagged[0]["source"]) if len(tagged) == 1 else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AirlibError(f"{notebook} is not a valid notebook ({error})") from error
    if source is None:
        raise AirlibError(f"{notebook.name} needs one cell tagged 'parameters', not {len(tagged)}")
    try:
        return dict(_assignment(statement) for statement in ast.parse(source).body)
    except (SyntaxError, ValueError) as error:
        raise AirlibError(
            f"the parameters cell of {notebook.name} may hold only lines such as "
            f"`seed: int = 0` ({error})"
        ) from error


def parse_parameters(
    given: Iterable[tuple[str, str]], cells: Mapping[Path, Mapping[str, Any]]
) -> dict[Path, dict[str, Any]]:
    """Parameter values for each notebook, from the texts of a command line.

    given: pairs (name, text); each goes to every notebook that knows the name. cells: notebook ->
    its parameters and defaults, as `parameter_cell` reads them. Returns notebook -> name -> value.

    Raises AirlibError for a name that no notebook knows and for text that does not say a value of
    the type of the default.
    """
    values: dict[Path, dict[str, Any]] = {path: {} for path in cells}
    for name, text in given:
        knowing = [path for path, defaults in cells.items() if name in defaults]
        if not knowing:
            known = sorted(set().union(*cells.values()))
            raise AirlibError(f"unknown parameter {name!r}; known: {', '.join(known)}")
        for path in knowing:
            values[path][name] = parse_value(name, text, type(cells[path][name]))
    return values


def parse_value(name: str, text: str, kind: type) -> Any:
    """Read `text` as a value of type `kind`: as it stands for str, as JSON for the others.

    Raises AirlibError, which calls the parameter `name`, if the text is no such value.
    """
    if kind is str:
        return text
    try:
        value = json.loads(text.lower() if kind is bool else text, parse_constant=_refuse)
    except ValueError:
        value = None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        examples = {bool: "true", int: "3", float: "0.5", list: '["a"]', dict: '{"a.b": 1}'}
        raise AirlibError(
            f"parameter {name} must be of type {kind.__name__}, such as {examples[kind]}, "
            f"not {text!r}"
        )
    return value


def _assignment(statement: ast.stmt) -> tuple[str, Any]:
    target: ast.expr
    declared: str | None
    if isinstance(statement, ast.AnnAssign):
        target, declared = statement.target, ast.unparse(statement.annotation)
    elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target, declared = statement.targets[0], None
    else:
        raise ValueError(f"`{ast.unparse(statement)}` is not an assignment")
    if not isinstance(target, ast.Name) or statement.value is None:
        raise ValueError(f"`{ast.unparse(statement)}` does not give one name a value")
    value = ast.literal_eval(statement.value)
    if declared == "float" and type(value) is int:
        value = float(value)
    kind = type(value).__name__ if declared is None else declared
    if TYPES.get(kind) is not type(value):
        raise ValueError(f"{target.id} = {value!r} is not one of {', '.join(TYPES)} as declared")
    return target.id, value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")
