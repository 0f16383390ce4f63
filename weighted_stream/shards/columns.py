"""The columns of samples: their types, found by reading, and what a format can hold of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.types as t

from weighted_stream.errors import SourceError
from weighted_stream.shards.blocks import Block


def survey(blocks: Iterable[Block], schema: pa.Schema | None = None) -> pa.Schema:
    """The columns of all samples, in order of appearance; a field is nullable if a sample lacks it or has None there.

    Ints and floats in one column become floats; dicts become structs with the keys of all of them.

    Args:
        blocks: all samples.
        schema: the types, where they are known; then only nulls are looked for.

    Raises:
        SourceError: if there are no samples, or a column holds values of several kinds, or of a kind that cannot be
            stored. It names the column and the place.

    Example:
        >>> survey([Block("a", 0, [{"text": "x", "n": 1}]), Block("a", 1, [{"text": "y", "n": None}])])
        text: string not null
        n: int64
    """
    types = {} if schema is None else {field.name: field.type for field in schema}
    seen: dict[str, int] = dict.fromkeys(types, 0)
    rows = 0
    for block in blocks:
        rows += len(block.rows)
        for name in dict.fromkeys(key for row in block.rows for key in row):
            values = [row.get(name) for row in block.rows]
            seen[name] = seen.get(name, 0) + sum(value is not None for value in values)
            if schema is None:
                types[name] = _merged(types.get(name, pa.null()), _type_of(values, name, block), name, block)
    if not rows:
        raise SourceError("There are no samples.", found="0 samples", expected="at least one", do="check the file")
    return pa.schema([pa.field(name, kind, nullable=seen[name] < rows) for name, kind in types.items()])


def _type_of(values: list[Any], name: str, block: Block) -> pa.DataType:
    try:
        return pa.array(values).type
    except UnicodeEncodeError as error:
        place = next(at for at, value in enumerate(values) if not _encodes(value))
        raise SourceError(
            f"The column {name!r} holds text that no file of text can hold.",
            found=f"half a surrogate pair in sample {block.start + place} of {block.file}: {values[place]!r:.100}",
            expected="Unicode text",
            do='mend the text, e.g. text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
        ) from error
    except (pa.ArrowException, OverflowError) as error:
        raise _mixed(name, f"{error}", block) from error


def _encodes(value: Any) -> bool:
    try:
        pa.array([value])
    except UnicodeEncodeError:
        return False
    except (pa.ArrowException, OverflowError):
        pass
    return True


def _merged(known: pa.DataType, found: pa.DataType, name: str, block: Block) -> pa.DataType:
    if known == found:
        return known
    try:
        schemas = [pa.schema([(name, known)]), pa.schema([(name, found)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field(name).type
    except pa.ArrowException as error:
        raise _mixed(name, f"{found} after {known}", block) from error


def _mixed(name: str, found: str, block: Block) -> SourceError:
    return SourceError(
        f"The values of the column {name!r} cannot be stored together.",
        found=f"{found}, in {block.file}, samples {block.start} to {block.start + len(block.rows) - 1}",
        expected="in one column only strings, ints of 64 bits, floats, bools, bytes, lists or dicts",
        do="make the values of the column alike, or leave the column out",
    )


def json_safe(kind: pa.DataType) -> bool:
    """Whether JSON can hold values of this type and gives them back as they were.

    Example:
        >>> json_safe(pa.list_(pa.int64())), json_safe(pa.binary()), json_safe(pa.timestamp("s"))
        (True, False, False)
    """
    if t.is_struct(kind):
        return all(json_safe(field.type) for field in kind)
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind) or t.is_dictionary(kind):
        return json_safe(kind.value_type)
    return is_text(kind) or t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind) or t.is_null(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are str."""
    return bool(t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values of this type are bytes."""
    return bool(t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind) or t.is_binary_view(kind))


def unsupported(field: pa.Field, form: str) -> SourceError:
    """The error for a column that a format cannot hold."""
    return SourceError(
        f"{form} cannot hold the column {field.name!r}.",
        found=f"values of type {field.type}",
        expected="str, int, float, bool, bytes, or lists and dicts of them (bytes only by themselves)",
        do="convert to parquet, or change or leave out the column",
    )


def names(schema: pa.Schema) -> Iterator[str]:
    """The columns' names, checked to be different.

    Raises:
        SourceError: if two columns have one name.
    """
    known: set[str] = set()
    for name in schema.names:
        if name in known:
            raise SourceError(
                "Two columns have one name.",
                found=repr(name),
                expected="a name per column",
                do="rename one of the columns",
            )
        known.add(name)
        yield name
