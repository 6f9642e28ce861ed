"""Typical mistakes of newcomers: each is answered by what is wrong and what to do, before torch is loaded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.images import make_png

# A command, and what its answer must say: the cause, and the cure.
MISTAKES = {
    "train nothere out": "nothere does not exist in",
    "score": "required: IN, OUT|CAPTION; usage: text-image-similarity score IN OUT|CAPTION [CAPTION ...] [options]",
    "scor in.csv out.csv": "did you mean score?",
    "score in.csv out.csv --modl mini": "--modl mini; did you mean --model?",
    "score in.csv out.csv --resume": "unrecognized arguments: --resume; a run resumes by itself",
    "score in.csv out.csv --threshold 0.2": "`filter --min` keeps the rows",
    "score in.csv out.csv --model-engine onnx": "--backend chooses",
    "score in.csv out.csv --batch-size abc": "--batch-size: 'abc' is not a whole number",
    "score in.csv out.csv --timeout soon": "--timeout: 'soon' is not a number",
    "score in.csv out.csv --score clip-score": "did you mean clip_score?",
    "score red.png": "required: OUT|CAPTION",
    "score red.png out.csv": "red.png is one image, so a caption must follow, but out.csv looks like a table",
    "score words red.png": "the image comes first: score red.png 'words'",
    "score others 'a dog'": "others is a folder, and 'a dog' is not the name of a table to write, such as scored.csv; the captions",
    "score others out.csv": "others holds images without captions; put each caption next to its image, as in cat.jpg and cat.txt, or",
    "score a.csv b.csv c.csv out.csv": 'if the shell expanded a pattern, put it in quotes: "tables/*.csv"',
    "score none.csv out.csv": "none.csv does not exist in ",
    "score folder out.csv": "folder contains no table; name a table, or a folder of",
    "filter scored-*.csv out.csv --min 0": "scored-*.csv matches no file; name a table, or a folder of",
    "score in.csv out": "cannot tell the format of out; use one of the extensions .csv",
    "score in.csv in.csv": "in.csv is also the input and would be overwritten; name another output",
    "score in.csv mine.csv": "mine.csv was not written by this command; name another output, or replace it with --force",
    "score in.csv none/out.csv": "the folder none does not exist",
    "score captions.csv out.csv": "did you mean 'captions'?",
    "score in.csv out.csv --url-col image": "it has the columns: url, caption; name another one with --url-col",
    "score words.csv out.csv": "columns 'url', 'caption' are missing from words.csv; it has the columns: img, txt; name",
    "match words.csv shoe": "words.csv has no columns 'id', 'name' or 'title', 'image'; it has the columns: img, txt; name the right ones with",
    "match in.csv shoe": "name the right ones with --id-col, --name-col",
    "score capitals.csv out.csv": "if you mean 'URL' and ' Caption', name them with --url-col or --caption-col",
    "score semicolons.csv out.csv": "add --delimiter ';'",
    "score latin.csv out.csv": "name its encoding, e.g. --encoding cp1252",
    "score book.csv out.csv": "an Excel workbook or another ZIP archive; save the sheet as CSV UTF-8",
    "score ragged.csv out.csv": "quote fields that contain commas, or fix the row",
    "score open.csv out.csv": "row 2 of open.csv (on lines 3 to 4) is not valid: unexpected end of data; if a quotation mark has been open since line 3, close it",
    "score quoted.csv out.csv": "double the quotation marks inside a quoted field; if quotation marks are part of the text, add --quoting none",
    "score in.csv out.csv --model minni": "did you mean 'mini'?",
    "score in.csv out.csv --model ViT-B-32::openai": "did you mean 'open_clip:ViT-B-32/openai'?",
    "score in.csv out.csv --model open_clip:ViT-B-32/laion2b_s34b_b79": "did you mean laion2b_s34b_b79k?",
    "score in.csv out.csv --model bert": "bert is a bert model; this package loads CLIP, SigLIP,",
    "score in.csv out.csv --model weightless": "open_clip_config.json but no weights; add open_clip_model.safetensors",
    "score in.csv out.csv --device gpu": "--device gpu is not one of auto, cpu, mps, cuda",
    "score in.csv out.csv --precision fp16 --device cpu": "--precision fp16 needs a GPU; with --device cpu use auto or fp32",
    "score tables others": "the folder others contains images, such as cat.jpg; name a new folder",
    "embed in.csv others": "others is a folder; name a file to write, such as vectors.parquet",
    "embed in.csv out.parquet --of captions --caption-col text": "--caption-col text; name the column of images with --col",
    "embed in.csv out.parquet --col image": "it has the columns: url, caption; name another one with --col",
    "embed red.png out.parquet": "red.png is one image; name its folder, or a table with the column url",
    "embed others out.parquet --of captions": "others holds images without captions; put each caption next to its image",
    "evaluate red.png": "red.png is one image; name a table of images and captions, or a folder of both",
    "evaluate in.csv --rating-col stars": "column 'stars' is missing from in.csv; it has the columns: url, caption; name another one with --rating-col",
    "match-table products.csv in.csv out.csv --text-col caption": "products.csv is not a catalogue; create one from it with `catalog create`",
    "evaluate others": "others holds images without captions; put each caption next to its image",
    "filter in.csv others --min 0": "others is a folder; name a file",
    "report in.csv others": "others is a folder; name a file to write",
    "export mini others": "others already exists; name a new folder",
    "export mini others --force": "others already exists; name a new folder",
    "catalog create others": "others is a folder with other files in it, not a catalogue; name a catalogue, or a new folder to create one",
    "filter in.csv out.csv --min 0.2": "score the table first, or name another column with --score-col",
    "report in.csv out.html": "columns 'similarity', 'error' are missing from in.csv; it has the columns: url, caption; score the table first",
    "match products.csv shoe --where 'pric < 5' --model fast": "the field 'pric' does not exist; the fields are price, _id, _group, _error; did you mean 'price'?",
    "match products.csv shoe --facet prize --model fast": "did you mean 'price'?",
    "match products.csv shoe --sort=-prize --model fast": "did you mean 'price'?",
    "match products.csv shoe --where 'price <' --model fast": "the filter cannot be read: price <: expected a number at the end",
    "match products.csv red.png": "red.png is the name of an image, but TEXT must be words; search for the image with --image red.png",
    "match products.csv shoe --top-k 5000": "--top-k 5000 is more than 1,000; request several pages, each with the cursor",
    "score - out.csv": "standard input and output cannot be used, because runs resume from files; name files instead",
    "embed in.csv vectors.npy": "such as vectors.parquet; with --npy FILE, `embed` also writes them as a matrix",
    "match shop shoe": "there is no catalogue at shop; create one with text-image-similarity catalog create shop --fields-from TABLE",
    "match products.csv --min-similarity 0.2": "--min-similarity has no effect without a term; give a term, or leave it out",
    "match products.csv shoe --top-k 0": "--top-k",
    "score in.csv out.csv --probability --score unit": "--probability is computed from cosines; use --score cosine",
    "score in.csv out.csv --score ref_clipscore": "--score ref_clipscore and --references-col must be used together",
    "score in.csv out.csv --precision int8 --backend torch": "--precision int8 needs ONNX Runtime; set --backend onnx or --backend auto",
    "score in.csv out.csv --batch-size 0": "--batch-size 0 must be",
    "serve --port 99999": "--port: '99999' is not a port, which is a whole number from 0 to 65535",
}
PROGRAM = """
import io, json, shlex, sys
from contextlib import redirect_stderr
from text_image_similarity.cli import main
answers = {}
for command in json.load(sys.stdin):
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            main(shlex.split(command))
    except SystemExit as ended:
        answers[command] = ended.code, said.getvalue(), "torch" in sys.modules
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, bool]]:
    """What one process answers to all of them, in which nothing else has loaded torch."""
    folder: Path = tmp_path_factory.mktemp("mistakes")
    (folder / "red.png").write_bytes(make_png())
    for name, content in {
        "in": "url,caption\nred.png,a red square\n",
        "captions": "url,captions\nred.png,a red square\n",
        "semicolons": "url;caption\nred.png;a red square\n",
        "ragged": "url,caption\nred.png,a red square, and a cow\n",
        "open": 'url,caption\nred.png,red\nred.png,"a red square\nred.png,red\n',
        "quoted": 'url,caption\nred.png,"a "red" square"\n',
        "mine": "precious\n",
        "capitals": "URL, Caption\nred.png,a red square\n",
        "words": "img,txt\nred.png,a red square\n",
        "products": "id,name,image,price\n1,shoe,red.png,10\n",
    }.items():
        (folder / f"{name}.csv").write_text(content)
    (folder / "latin.csv").write_bytes("url,caption\nred.png,un café\n".encode("latin-1"))
    with zipfile.ZipFile(folder / "book.csv", "w") as book:
        book.writestr("xl/workbook.xml", "<workbook/>")
    for name, file, content in (
        ("bert", "config.json", '{"model_type": "bert"}'),
        ("weightless", "open_clip_config.json", '{"model_cfg": {}}'),
        ("folder", ".keep", ""),
        ("others", "cat.jpg", "precious"),
        ("tables", "a.csv", "url,caption\n../red.png,a red square\n"),
    ):
        (folder / name).mkdir()
        (folder / name / file).write_text(content)
    (folder / "bert" / "model.safetensors").write_bytes(bytes(64))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        input=json.dumps(list(MISTAKES)),
        capture_output=True,
        text=True,
        check=True,
    )
    return {command: tuple(answer) for command, answer in json.loads(done.stdout).items()}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_answered_before_torch_is_loaded(command: str, answers: dict[str, tuple[int, str, bool]]) -> None:
    code, said, torch_loaded = answers[command]
    lines = [line for line in said.splitlines() if not line.startswith("see text-image-similarity ")]
    assert code in (1, 2)
    assert len(lines) == 1
    assert MISTAKES[command] in lines[0]
    assert not torch_loaded
    assert not re.search(r"\b(\w+=('|True\b|\.\.\.)|[A-Z]\w+\()", lines[0]), "Python in a message to the command line"
