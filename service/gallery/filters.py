"""The filter language of a search, compiled to SQL over the table `attribute_values`.

    {"brand": "小米"}                          equal
    {"brand": {"in": ["小米", "华为"]}}        one of
    {"price": {"gte": 100, "lt": 200}}         lte, gt and ne likewise

Several fields, and several operators of a field, must all hold. For an attribute that is a list, it is enough
that one element fits; `ne` holds where no element is equal, so also where the attribute is missing. Numbers
compare with numbers and texts with texts (by code point); true is 1 and false is 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cnclip.errors import InputError
from service.gallery.types import Scalar, check_scalar

MAX_CONDITIONS = 64
_COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
OPERATORS = ("in", "ne", *_COMPARISONS)

# In SQLite every number sorts before every text, and '' before any other text. Bounding the other side keeps
# the comparison within one type, and an index range.
_ONLY_NUMBERS, _ONLY_TEXTS = "value < ''", "value >= ''"

_Condition = tuple[str, list[Scalar | str]]


def compile_filter(filter: Mapping[str, Any]) -> _Condition:
    """SQL that selects the `num` of every item that `filter` lets through, and its parameters.

    Raises:
        InputError: naming the field, and the operator where it is unknown.
    """
    if not isinstance(filter, Mapping):
        raise InputError(f"filter: must be an object, not {type(filter).__name__}")
    positive: list[_Condition] = []
    negative: list[_Condition] = []
    for name, wanted in filter.items():
        where = f"filter: field {str(name)[:80]!r}"
        operators = wanted if isinstance(wanted, Mapping) else {"in": [wanted]}
        if not operators:
            raise InputError(f"{where}: no operator (known: {', '.join(OPERATORS)})")
        if isinstance(wanted, list | tuple):
            raise InputError(f'{where}: a list of values is written {{"in": […]}}')
        if not isinstance(check_scalar(name, where), str):
            raise InputError(f"{where}: the name of a field must be a text")
        for operator, operand in operators.items():
            conditions = negative if operator == "ne" else positive
            conditions.append(_condition(name, operator, operand, where))
    if len(positive) + len(negative) > MAX_CONDITIONS:
        raise InputError(f"filter: more than {MAX_CONDITIONS} conditions")
    sql = " INTERSECT ".join(text for text, _ in positive) or "SELECT num FROM items"
    sql += "".join(f" EXCEPT {text}" for text, _ in negative)
    return sql, [parameter for _, parameters in positive + negative for parameter in parameters]


def _condition(name: str, operator: str, operand: Any, where: str) -> _Condition:
    select = "SELECT num FROM attribute_values WHERE field = ? AND "
    if operator == "in":
        if not isinstance(operand, list | tuple):
            raise InputError(f'{where}: operator "in" needs a list')
        values = [check_scalar(value, where) for value in operand]
        return select + "value IN (SELECT value FROM json_each(?))", [name, json.dumps(values)]
    if operator == "ne":
        return select + "value = ?", [name, check_scalar(operand, where)]
    if operator not in _COMPARISONS:
        raise InputError(f"{where}: unknown operator {str(operator)[:40]!r} (known: {', '.join(OPERATORS)})")
    bound = check_scalar(operand, where)
    within = _ONLY_TEXTS if isinstance(bound, str) else _ONLY_NUMBERS
    return select + f"value {_COMPARISONS[operator]} ? AND {within}", [name, bound]
