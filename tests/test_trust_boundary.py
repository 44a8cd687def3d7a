"""What SECURITY.md says that a model folder and a dataset may do, from both sides of the line."""

import builtins
import http.server
import json
import shutil
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from editreward.data.images import read_image
from editreward.data.rows import edit_group
from editreward.data.schema import encode_image
from editreward.data.sources import numbered_rows
from editreward.editors.instructions import dataset_instructions
from editreward.resources import resource
from editreward.scorers.baselines import decode
from editreward.scorers.loading import ModelError, load_model_and_processor
from processing_editreward import ImageError, image_size, load_image
from tests.helpers.pictures import picture

TOKENIZER = """
open({mark!r}, "w").write("ran")
from transformers import PreTrainedTokenizerFast
class T(PreTrainedTokenizerFast): pass
"""


@pytest.fixture
def folder(tmp_path):
    """A copy of the bundled model whose files can be changed."""
    return shutil.copytree(resource("checkpoints/editreward-tiny"), tmp_path / "model")


def change(file, **entries):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **entries}))


def test_a_tokenizers_own_code_is_neither_run_nor_asked_about(folder, tmp_path, monkeypatch):
    (folder / "tok.py").write_text(TOKENIZER.format(mark=str(tmp_path / "ran")))
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "tok.T"]}, tokenizer_class="T")
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked on the terminal"))
    with pytest.raises(ModelError, match="auto_map.*not run"):
        load_model_and_processor(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_folders_copies_of_the_hub_files_are_not_run(folder, tmp_path, monkeypatch):
    for name in ("configuration", "modeling", "processing", "pipeline"):
        (folder / f"{name}_editreward.py").write_text(TOKENIZER.format(mark=str(tmp_path / "ran")))
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked on the terminal"))
    model, processor = load_model_and_processor(str(folder))
    assert model.config.dimensions == processor.dimensions
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def links(tmp_path):
    """A path and a URL to a good image, and what was asked of the server."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(picture(1))

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "private.png").write_bytes(picture(1))
    yield [str(tmp_path / "private.png"), f"http://127.0.0.1:{server.server_port}/a.png"], asked
    server.shutdown()
    server.server_close()


READERS = {
    "the processor": (load_image, ImageError),
    "sizes for batches": (image_size, ImageError),
    "checks, hashes and reports": (read_image, FileNotFoundError),
    "baselines": (decode, FileNotFoundError),
    "what writes groups": (encode_image, ValueError),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_follows_a_path_or_url_of_a_row(reader, links):
    read, error = READERS[reader]
    places, asked = links
    for place in places:
        with pytest.raises(error, match="not followed"):
            read({"bytes": None, "path": place})
    assert asked == []


def test_scored_rows_keep_links_from_the_scorer(links, tmp_path):
    places, asked = links
    rows = [
        {
            "group_id": str(number),
            "instruction": "x",
            "source_images": [{"bytes": picture(0), "path": None}],
            "candidates": [{"image": {"bytes": None, "path": place}}],
        }
        for number, place in enumerate(places)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for _, row in numbered_rows(str(tmp_path / "rows.parquet"), "train"):
        (edited,) = edit_group(row).edited
        with pytest.raises(ImageError, match="not followed"):
            load_image(edited)
    assert asked == []


def test_a_folder_of_images_may_be_read_and_nothing_outside_of_it(links, tmp_path):
    (outside, _), _ = links
    inside = tmp_path / "images"
    inside.mkdir()
    (inside / "a.png").write_bytes(picture(2))
    (inside / "metadata.jsonl").write_text('{"file_name": "a.png", "instruction": "x"}\n')
    assert dataset_instructions(str(inside)).read(0).source_images == (picture(2),)
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    for place in (outside, str(inside / ".." / "private.png")):
        features = {
            "info": {"features": {"image": {"_type": "Image"}, "instruction": {"dtype": "string", "_type": "Value"}}}
        }
        schema = pa.schema({"image": image, "instruction": pa.string()}, {"huggingface": json.dumps(features)})
        table = pa.Table.from_pylist([{"image": {"bytes": None, "path": place}, "instruction": "x"}], schema=schema)
        pq.write_table(table, tmp_path / "stranger.parquet")
        with pytest.raises(ValueError, match="not followed"):
            dataset_instructions(str(tmp_path / "stranger.parquet")).read(0)
