"""A store as a Parquet file, which anything can read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from weighted_stream.errors import StoreError
from weighted_stream.store.file import failure
from weighted_stream.store.record import Ids

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("loss", pa.float32()),
        pa.field("last_loss", pa.float32()),
        pa.field("weight", pa.float32()),
        pa.field("similarity", pa.float32()),
        pa.field("visits", pa.int64(), nullable=False),
        pa.field("last_step", pa.int64()),
        pa.field("group", pa.int64()),
        pa.field("nonfinite", pa.int64(), nullable=False),
    ]
)


def write_parquet(
    file: str | os.PathLike[str], chunks: Iterable[tuple[Ids, dict[str, npt.NDArray[np.generic]]]]
) -> int:
    """Write chunks of (ids, fields), one row group each; the file appears when it is complete.

    What a sample does not have (NaN, or -1) is null.

    Returns:
        The number of rows.

    Raises:
        StoreError: if the file cannot be written.
    """
    path = Path(file)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    rows = 0
    try:
        try:
            with pq.ParquetWriter(draft, _SCHEMA, compression="zstd") as writer:
                for ids, fields in chunks:
                    rows += ids.size
                    writer.write_table(_table(ids, fields))
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except StoreError:
        raise
    except OSError as error:
        raise failure(
            f"Cannot write {path}.",
            error,
            expected="a path that can be written",
            do="check the directory, its permissions and the disk's free space",
        ) from error
    return rows


def _table(ids: Ids, fields: dict[str, npt.NDArray[np.generic]]) -> pa.Table:
    arrays = [pa.array(ids)]
    for field in list(_SCHEMA)[1:]:
        values = fields[field.name]
        unknown = (np.isnan(values) if pa.types.is_floating(field.type) else values == -1) if field.nullable else None
        arrays.append(pa.array(values, field.type, mask=unknown))
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)
