"""Notebook parameters: read from the cell tagged `parameters`, checked before anything runs.

The cell holds one literal per line, `name: type = default`. Papermill only warns about unknown
names and believes every value; here both are refused, with the list of what is known.
"""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from airlib.documents import parse_json, read_json
from airlib.errors import AirlibError

LARGEST = 2**26  # bytes of a notebook with its outputs
TYPES = {"bool": bool, "int": int, "float": float, "str": str, "dict": dict, "list": list}


def parameter_cell(notebook: Path) -> dict[str, Any]:
    """The parameters of a notebook file and their defaults: name -> value.

    Raises AirlibError if the file is not a notebook, has no or several cells tagged `parameters`,
    or holds anything but assignments of literals in it.
    """
    cells = read_notebook(notebook)["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    if len(tagged) != 1:
        raise AirlibError(f"{notebook.name} needs one cell tagged 'parameters', not {len(tagged)}")
    try:
        statements = ast.parse("".join(tagged[0]["source"])).body
        return dict(_assignment(statement) for statement in statements)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise AirlibError(
            f"the parameters cell of {notebook.name} may hold only lines such as "
            f"`seed: int = 0` ({error})"
        ) from error


def read_notebook(path: Path) -> dict[str, Any]:
    """The content of a notebook file: `metadata`, and `cells` with cell_type, metadata and source.

    Raises AirlibError if the file is missing, damaged, too large or no notebook.
    """
    content = read_json(path, advice := "get the notebook again, or take it away", LARGEST)
    try:
        tables = [content, content.setdefault("metadata", {})]
        for cell in content["cells"]:
            tables += [cell, cell["metadata"]]
            texts = [cell["cell_type"], "".join(cell["source"])]
            tags = cell["metadata"].get("tags", [])
            if not all(isinstance(text, str) for text in [*texts, *tags]):
                raise TypeError
    except (KeyError, TypeError, AttributeError) as error:
        raise AirlibError(f"{path} is not a valid notebook; {advice}") from error
    if not all(isinstance(table, dict) for table in tables):
        raise AirlibError(f"{path} is not a valid notebook; {advice}")
    return content


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
        value = parse_json(text.lower() if kind is bool else text)
    except ValueError:
        value = None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        examples = {bool: "true", int: "3", float: "0.5", list: '["a"]', dict: '{"a.b": 1}'}
        raise AirlibError(
            f"parameter {name} must be of type {kind.__name__}, such as {examples[kind]}, "
            f"not {text[:80]!r}"
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
