"""The one table reader: files of other systems, broken rows, and anything that hypothesis thinks of."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editreward.data.tables import TableError, naming_parquet_faults, read_table

ROW = {"instruction": "mets un béret", "source": "a.png", "edited": "b.png"}
CSV = "instruction,source,edited\nmets un béret,a.png,b.png\n"


def rows_of(path, **options):
    """Values of the sound rows, and the places of the others."""
    rows = list(read_table(path, **options))
    assert [row.number for row in rows] == list(range(len(rows)))
    return [dict(row.values) for row in rows if not row.fault], [row.place for row in rows if row.fault]


@pytest.mark.parametrize(
    "content",
    [
        CSV.encode(),
        ("\ufeff" + CSV).encode(),
        CSV.encode("utf-16"),
        CSV.replace(",", ";").encode(),
        CSV.replace(",", "\t").encode(),
        CSV.replace(",", "|").encode(),
        CSV.replace("\n", "\r\n").encode() + b"\r\n\r\n",
        CSV.replace("\n", "\r").encode(),
        CSV.replace(",", ", ").encode(),
        CSV.encode() + b",,\n,,\n\n",
        b"sep=;\r\n" + CSV.replace(",", ";").encode(),
        b"\n\n" + CSV.encode(),
        CSV.replace("\n", ",,\n").encode(),
        '"instruction","source","edited"\n"mets un béret","a.png","b.png"'.encode(),
    ],
)
def test_a_csv_is_read_whatever_program_wrote_it(content, tmp_path):
    (tmp_path / "rows.csv").write_bytes(content)
    assert rows_of(tmp_path / "rows.csv") == ([ROW], [])


def test_quotes_keep_separators_line_ends_and_quotes(tmp_path):
    text = 'add a hat, and\r\na "red" scarf;\u2028now'
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["instruction", "source"], [text, "a"], ["x", "b"]])
    first, second = read_table(tmp_path / "rows.csv")
    assert (first.values["instruction"], first.line) == (text, 2)
    assert (second.values["instruction"], second.line) == ("x", 4), "as an editor counts lines"


def test_a_code_page_is_named_and_read_by_its_name(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(b"instruction,source,edited\nfine,a,b\n" + CSV.split("\n", 1)[1].encode("cp1252"))
    with pytest.raises(
        TableError, match=r"rows.csv is no UTF-8 text from line 3 on.*--encoding.*cp1252 \('mets un béret"
    ):
        list(read_table(file))
    assert rows_of(file, encoding="cp1252")[0][1] == ROW
    with pytest.raises(TableError, match="no encoding 'latin-one'"):
        list(read_table(file, encoding="latin-one"))


def test_bad_rows_of_a_csv_are_named_and_cost_no_other(tmp_path):
    (tmp_path / "rows.csv").write_text('a,b\n1,2\n1,2,3\n"x" y,2\n3,4\n5\n\0,6\n')
    sound, faulty = rows_of(tmp_path / "rows.csv")
    assert sound == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}, {"a": "5", "b": ""}]
    assert faulty == ["line 3", "line 4", "line 7"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", b"", "is empty"),
        ("rows.csv", b"a,b,a\n1,2,3\n", "more than one column `a`"),
        ("rows.xlsx", b"PK", "Save the sheet as CSV"),
        ("rows.json", b'{"a": 1}', "not a JSON list"),
        ("rows.json", b'[{"a": 1}, {"a"', "not valid JSON after row 0"),
        ("rows.parquet", b"PAR1", "rows.parquet is not a complete Parquet file"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=message):
        list(read_table(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="There is no file .*none.csv"):
        read_table(tmp_path / "none.csv")


TEXTS = ["give the cat a hat", "a sign that says\u2028OPEN", "no dog\u0085keep the rest", "x\x1cy", "\u2029"]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_lines_end_with_a_line_feed_alone(mark, tmp_path):
    lines = [json.dumps({"instruction": text}, ensure_ascii=False) for text in TEXTS]
    (tmp_path / "rows.jsonl").write_text(mark + "\r\n".join(lines) + "\n\n", encoding="utf-8", newline="")
    assert rows_of(tmp_path / "rows.jsonl") == ([{"instruction": text} for text in TEXTS], [])


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".ndjson"])
def test_a_json_list_is_read_under_any_name(suffix, tmp_path):
    file = (tmp_path / "rows").with_suffix(suffix)
    file.write_text("\ufeff" + json.dumps([ROW, ROW], indent=1), encoding="utf-8")
    assert rows_of(file) == ([ROW, ROW], [])


def test_objects_over_several_lines_are_read(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(ROW, indent=2) for _ in range(3)))
    assert rows_of(tmp_path / "rows.jsonl") == ([ROW] * 3, [])


def test_bad_lines_are_named_and_cost_no_other(tmp_path):
    good = json.dumps({"a": "é"}, ensure_ascii=False).encode()
    bad = [b"{", b"[1]", b'"\\ud800"', b'{"a": "\\ud800"}', b'{"a": "\xe9"}', b"[" * 100_000, b"NaN,"]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([good, *bad, good]))
    sound, faulty = rows_of(tmp_path / "rows.jsonl")
    assert sound == [{"a": "é"}] * 2 and faulty == [f"line {number}" for number in range(2, 2 + len(bad))]
    (tmp_path / "first.jsonl").write_bytes(b"{\n" + good)  # a broken first line is no object over several lines
    assert rows_of(tmp_path / "first.jsonl") == ([{"a": "é"}], ["line 1"])


def test_parquet_rows_come_with_their_numbers(tmp_path):
    table = pa.table({"instruction": [f"{number}" for number in range(50)], "source": [b"x"] * 50})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=20)
    rows = list(read_table(tmp_path / "rows.parquet"))
    assert [(row.number, row.values["instruction"], row.place) for row in rows] == [
        (number, str(number), f"row {number}") for number in range(50)
    ]


@pytest.mark.parametrize(
    "error",
    [
        pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs"),
        pa.ArrowCapacityError("array cannot contain more than 2147483646 bytes"),
    ],
)
def test_a_row_group_that_is_too_large_is_named_with_cause_and_fix(error):
    with pytest.raises(TableError, match="shard-7.parquet has a row group.*over 2 GiB.*row_group_size=100"):
        with naming_parquet_faults("shard-7.parquet"):
            raise error


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)


@given(
    st.lists(st.tuples(CELLS, CELLS), max_size=6),
    st.sampled_from(",;\t|"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_what_a_csv_writer_wrote_is_read_back(tmp_path_factory, rows, separator, encoding):
    file = tmp_path_factory.mktemp("csv") / "rows.csv"
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writerows([["a", "b"], *rows])
    file.write_bytes(text.getvalue().encode(encoding))
    expected = [{"a": a, "b": b} for a, b in rows if a.strip() or b.strip()]
    assert rows_of(file) == (expected, [])


@given(
    st.lists(
        st.dictionaries(CELLS, st.none() | st.booleans() | st.integers(-(2**62), 2**62) | CELLS | st.lists(CELLS)),
        max_size=6,
    )
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_what_json_wrote_is_read_back_from_lines_and_from_a_list(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("json")
    (folder / "rows.jsonl").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8"
    )
    (folder / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    assert rows_of(folder / "rows.jsonl") == (rows, [])
    assert rows_of(folder / "rows.json") == (rows, [])


@given(
    st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet"]),
    st.binary(max_size=200) | st.text().map(str.encode),
)
@settings(max_examples=200, derandomize=True, deadline=None)
def test_any_bytes_are_rows_faults_or_a_table_error(tmp_path_factory, suffix, content):
    file = tmp_path_factory.mktemp("any") / f"rows{suffix}"
    file.write_bytes(content)
    try:
        rows = list(read_table(file))
    except TableError as error:
        assert file.name in str(error)
    else:
        assert all(row.fault or isinstance(row.values, dict) for row in rows)


def test_a_dataset_whose_row_groups_are_too_large_is_named(tmp_path, monkeypatch):
    from editreward.data import sources

    def rows():
        yield {"group_id": "first"}
        raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")

    read = sources._read("org/large", rows())
    assert next(read) == {"group_id": "first"}
    with pytest.raises(TableError, match="org/large has a row group.*row_group_size=100"):
        next(read)


def test_files_of_json_lines_may_begin_with_a_byte_order_mark(tmp_path):
    from editreward.data.benchmark_items import BENCHMARK_FILE, BenchmarkItem, read_benchmark
    from editreward.groups.rating_files import read_ratings

    item = BenchmarkItem("own", "pairs", "a\u2028b", [0, 1])
    (tmp_path / BENCHMARK_FILE).write_text(f"\ufeff{item.to_json()}\n", encoding="utf-8")
    assert list(read_benchmark(tmp_path)) == [item]
    rating = {"annotator": "ann\u2028", "group_id": "g", "candidate": 0, "scores": {"visual_quality": 3}}
    line = json.dumps(rating, ensure_ascii=False)
    (tmp_path / "ratings.jsonl").write_text(f"\ufeff{line}\r\n", encoding="utf-8", newline="")
    assert [one.annotator for one in read_ratings(tmp_path / "ratings.jsonl")] == ["ann\u2028"]
