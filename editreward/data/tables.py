"""Tables as people have them, row by row in bounded memory: CSV, JSON Lines, JSON lists and Parquet files.

The one reader of such files: scoring, imports and the Space's batches go through it. What a file's makers may have
done, and what becomes of it:

- UTF-8 with or without a byte order mark, UTF-16 with one; any other encoding by its name (`encoding`).
- CSV with commas, semicolons, tabs or bars, which the header tells, or Excel's `sep=;` in a line before it; line ends
  of any system, also within quotes; empty rows, which are left out; blanks after a separator.
- JSON Lines end with `\\n` alone: U+2028, U+0085 and the like are text. A file of that name that holds a JSON list, or
  objects over several lines, is read as what it is.
- A row that cannot be read is there with its `fault`; the rows after it are read.
"""

import codecs
import csv
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow.parquet as pq

CSV_SUFFIXES = (".csv", ".tsv")
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
TEXT_SUFFIXES = (*CSV_SUFFIXES, *JSON_LINES_SUFFIXES, ".json")
TABLE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet")

OUTPUT_SUFFIXES = (".csv", ".jsonl", ".parquet")
"""Of files of scores (`editreward.scorers.score_files`)."""

SEPARATORS = ",;\t|"
ROWS_PER_BATCH = 16
"""Rows of a Parquet file that are held at a time."""

BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
CODE_PAGES = ("cp1252", "cp1251", "gb18030", "shift_jis")
"""What a file that is no UTF-8 may be, for the message that says so."""

BROKEN_TEXT = re.compile("[\ud800-\udfff]")
READ_CHUNK = 1 << 20


FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\u2212")
"""What makes spreadsheets take a cell for a formula (OWASP, CSV injection); signs of full width and a minus count."""


def unformula(text: str) -> str:
    """A text that spreadsheets show as it is: one that starts as a formula gets an apostrophe in front.

    Blanks and characters that nobody sees before such a start do not hide it: programs drop them.
    """
    for character in text:
        if unicodedata.normalize("NFKC", character).startswith(FORMULA_STARTS):
            return "'" + text
        if not (character.isspace() or unicodedata.category(character) in ("Cc", "Cf")):
            break
    return text


class TableError(ValueError):
    """A table that cannot be read at all; the message names the file, the cause and the fix."""


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        number: of the row, counted from 0; empty rows do not count.
        values: its cells by the names of their columns: texts in a CSV, whatever JSON or Parquet hold elsewhere.
        line: of a text file, where the row begins, counted from 1 as editors do.
        fault: why it cannot be read; empty for a sound row.
        file: its name, where there are several.
    """

    number: int
    values: Mapping[str, object] = field(default_factory=dict)
    line: int | None = None
    fault: str = ""
    file: str = ""

    @property
    def place(self) -> str:
        """Where it is, for messages: "line 5", or "row 3" of files without lines; "b.csv, line 5" of several files."""
        where = f"line {self.line}" if self.line is not None else f"row {self.number}"
        return f"{self.file}, {where}" if self.file else where


def read_table(
    path: str | os.PathLike[str],
    *,
    encoding: str | None = None,
    separator: str | None = None,
    under: str | None = None,
) -> Iterator[TableRow]:
    """The rows of a table, one at a time.

    Args:
        path: a file with one of `TABLE_SUFFIXES`.
        encoding: of a text file, by a name that Python knows; by default what the module says.
        separator: of a CSV; by default what its header tells.
        under: of a JSON file that is one object, the name in it of the list of rows.

    Raises:
        FileNotFoundError: there is no such file.
        TableError: it has another suffix, is not in its format or encoding, or a CSV has no header, or two columns of
            one name.
    """
    path = Path(path)
    check_table_path(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path)
    if suffix in CSV_SUFFIXES:
        chosen = _encoding_of(path, encoding, strict=True)
        return _csv_rows(path, chosen, separator or ("\t" if suffix == ".tsv" else None))
    chosen = _encoding_of(path, encoding, strict=suffix == ".json")
    beginning = _beginning(path, chosen)
    if under is not None and beginning[:1] == "{":
        return _json_rows(path, chosen, f"{under}.item")
    if suffix == ".json" or beginning[:1] == "[" or _is_over_several_lines(beginning):
        return _json_rows(path, chosen, "item" if suffix == ".json" or beginning[:1] == "[" else "")
    return _json_line_rows(path, chosen)


def check_table_path(path: str | os.PathLike[str]) -> None:
    """Be sure that a file is there and has the suffix of a table.

    Raises:
        FileNotFoundError: there is no such file.
        TableError: it has another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        hint = " Save the sheet as CSV UTF-8." if path.suffix.lower() in (".xlsx", ".xls", ".ods", ".numbers") else ""
        raise TableError(f"{path} is no table that can be read: it must end in {', '.join(TABLE_SUFFIXES)}.{hint}")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Check the path.")


def check_output(path: str | os.PathLike[str]) -> None:
    """Raise a `ValueError` unless a file of scores can have this name."""
    if Path(path).suffix not in OUTPUT_SUFFIXES:
        raise ValueError(f"`--output {path}` must end in {', '.join(OUTPUT_SUFFIXES)}.")


# Encodings


def _encoding_of(path: Path, given: str | None, strict: bool) -> str:
    """The encoding of a text file; `strict` reads all of it to be sure that it is that."""
    with path.open("rb") as file:
        head = file.read(4)
    marked = next((name for mark, name in BOMS if head.startswith(mark)), None)
    if given is not None:
        try:
            codecs.lookup(given)
        except LookupError as error:
            raise TableError(f"There is no encoding {given!r}. Names are such as utf-8, utf-16 or cp1252.") from error
    chosen = given or marked or "utf-8"
    if strict or chosen != "utf-8":
        _check_encoding(path, chosen)
    return chosen


def _check_encoding(path: Path, encoding: str) -> None:
    """Raise a `TableError` unless all of a file is in an encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    with path.open("rb") as file:
        while True:
            chunk = file.read(READ_CHUNK)
            try:
                line += decoder.decode(chunk, final=not chunk).count("\n")
            except UnicodeDecodeError as error:
                around = bytes(error.object)[: error.end + 40]
                line += around[: error.start].count(b"\n")
                broken = around[around.rfind(b"\n", 0, error.start) + 1 :].split(b"\n")[0]
                raise TableError(_no_such_text(path, encoding, line, broken)) from error
            if not chunk:
                return


def _no_such_text(path: Path, encoding: str, line: int, broken: bytes) -> str:
    guesses = []
    for page in CODE_PAGES:
        try:
            guesses.append(f"{page} ({broken.decode(page).strip()[:60]!r})")
        except UnicodeDecodeError:
            continue
    listed = f" In other encodings that line begins so: {', '.join(guesses)}." if guesses else ""
    return (
        f"{path} is no {encoding.upper()} text from line {line} on. Save it as CSV UTF-8, or name its encoding "
        f"(`--encoding`).{listed}"
    )


def _beginning(path: Path, encoding: str) -> str:
    with path.open(encoding=encoding, errors="replace") as file:
        return file.read(READ_CHUNK).lstrip("\ufeff \t\r\n")


def _is_over_several_lines(beginning: str) -> bool:
    """Whether a file begins with a JSON object that its first line does not end."""
    first, _, rest = beginning.partition("\n")
    if not first.startswith("{") or not rest:
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        # A first line that is broken, in a file of lines, is followed by another object.
        return not rest.lstrip().startswith("{")
    return False


# Formats


def _csv_rows(path: Path, encoding: str, separator: str | None) -> Iterator[TableRow]:
    with path.open(encoding=encoding, newline="") as file:
        first = file.readline()
        said = re.fullmatch(r'"?sep=(.)"?', first.strip("\ufeff\r\n "), re.IGNORECASE)
        header_line = file.readline() if said else first
    separator = separator or (said[1] if said else _separator_of(header_line))
    with path.open(encoding=encoding, newline="") as file:
        skipped = 1 if said else 0
        for _ in range(skipped):
            file.readline()
        reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
        try:
            header = [cell.strip("\ufeff\u00a0 \t") for cell in next((cells for cells in reader if any(cells)), [])]
        except csv.Error as error:
            raise TableError(f"{path} has no header that can be read: {error}.") from error
        names = [name for name in header if name]
        if not names:
            raise TableError(f"{path} is empty: its first row must name the columns.")
        if twice := [name for name in names if names.count(name) > 1]:
            raise TableError(f"{path} has more than one column `{twice[0]}`. Give each a name of its own.")
        number = 0
        while True:
            line = skipped + reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield TableRow(number, line=line, fault=f"it is no row of a CSV ({error}): is a quote left open?")
            else:
                if not any(cell.strip() for cell in cells):
                    continue
                yield _csv_row(number, line, header, cells)
            number += 1


def _separator_of(line: str) -> str:
    """The separator that occurs most in a header, outside of quotes; a comma where there is none."""
    bare = re.sub(r'"[^"]*"', "", line)
    return max(SEPARATORS, key=bare.count)


def _csv_row(number: int, line: int, header: list[str], cells: list[str]) -> TableRow:
    named = len(header)
    unnamed = [cell for name, cell in zip(header, cells, strict=False) if not name] + cells[named:]
    if any(cell.strip() for cell in unnamed):
        fault = "it has more cells than the table has named columns: quote texts that hold the separator"
        return TableRow(number, line=line, fault=fault)
    if any("\0" in cell for cell in cells):
        return TableRow(number, line=line, fault="it holds a NUL character: is this a text file?")
    filled = [*cells, *[""] * (named - len(cells))]  # some programs leave out the last empty ones
    values = {name: cell for name, cell in zip(header, filled, strict=False) if name}
    return TableRow(number, values, line)


def _json_line_rows(path: Path, encoding: str) -> Iterator[TableRow]:
    # Bytes that are no UTF-8 become halves of surrogate pairs, which cost their own row only.
    with path.open(encoding=encoding, errors="surrogateescape", newline="\n") as file:
        number = 0
        for line, text in enumerate(file, start=1):
            if line == 1:
                text = text.removeprefix("\ufeff")
            if not text.strip():
                continue
            try:
                values = json.loads(text)
            except RecursionError:
                yield TableRow(number, line=line, fault="it is no JSON: it is nested too deep")
            except ValueError as error:
                yield TableRow(number, line=line, fault=f"it is no JSON: {error}")
            else:
                yield _json_row(number, values, line)
            number += 1


def _json_row(number: int, values: object, line: int | None = None) -> TableRow:
    if not isinstance(values, dict):
        fault = f"it must be an object, {{...}}, not {type(values).__name__}"
        return TableRow(number, line=line, fault=fault)
    if BROKEN_TEXT.search(json.dumps(values, ensure_ascii=False)):
        fault = "it is no valid text: it holds bytes that are no UTF-8, or half of a surrogate pair"
        return TableRow(number, line=line, fault=fault)
    return TableRow(number, values, line)


def _json_rows(path: Path, encoding: str, place: str) -> Iterator[TableRow]:
    """Rows of a JSON list ("item"), of a list in an object ("NAME.item"), or of objects one after another ("")."""
    import ijson

    if place == "item" and _beginning(path, encoding)[:1] != "[":
        raise TableError(f"{path} is not a JSON list of rows.")
    number = -1
    with path.open("rb") as file:
        if encoding == "utf-8-sig":
            file.seek(len(codecs.BOM_UTF8))
        is_utf8 = encoding in ("utf-8", "utf-8-sig")
        source = file if is_utf8 else codecs.EncodedFile(file, "utf-8", encoding)
        items = ijson.items(source, place, use_float=True, multiple_values=not place)
        try:
            for number, values in enumerate(items):
                yield _json_row(number, values)
        except ijson.JSONError as error:
            where = f"after row {number}" if number >= 0 else "at its start"
            raise TableError(f"{path} is not valid JSON {where}: {error}") from error


def _parquet_rows(path: Path) -> Iterator[TableRow]:
    import pyarrow.parquet as pq

    with naming_parquet_faults(str(path)), pq.ParquetFile(path, pre_buffer=False) as table:
        for number, values in parquet_rows(table):
            yield TableRow(number, values)


def parquet_rows(table: "pq.ParquetFile", start: int = 0) -> Iterator[tuple[int, dict[str, object]]]:
    """Rows of an open `pyarrow.parquet.ParquetFile` with their numbers, from `start` on, a few in memory at a time."""
    place = 0
    for group in range(table.num_row_groups):
        size = table.metadata.row_group(group).num_rows
        skip = max(0, start - place)
        if skip < size:
            batches = table.iter_batches(ROWS_PER_BATCH, row_groups=[group], use_threads=False)
            rows = (values for batch in batches for values in batch.to_pylist())
            yield from enumerate(islice(rows, skip, None), place + skip)
        place += size


@contextmanager
def naming_large_row_groups(name: str) -> Iterator[None]:
    """Have pyarrow's errors on row groups over 2 GiB name the file, the cause and the fix.

    Args:
        name: the file or dataset that is read within.

    Raises:
        TableError: a row group is too large to be read.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowNotImplementedError, pa.ArrowCapacityError) as error:
        raise TableError(
            f"{name} has a row group whose column is over 2 GiB, which pyarrow cannot read in parts ({error}). Write "
            "it anew with smaller ones: `pyarrow.parquet.write_table(table, file, row_group_size=100)`."
        ) from error


@contextmanager
def naming_parquet_faults(name: str) -> Iterator[None]:
    """As `naming_large_row_groups`, and a file that is not complete is named, too."""
    import pyarrow as pa

    try:
        with naming_large_row_groups(name):
            yield
    except pa.ArrowInvalid as error:
        raise TableError(f"{name} is not a complete Parquet file: {error}") from error
