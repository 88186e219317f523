import shutil
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import ROOT, draw_image, encode_image, execute, restructure, write_images
from near_data import draw_scene
from relearn import cli
from relearn.commands import init
from relearn.commands.init import choose_network, run_init
from relearn.commands.pretrained import PRETRAINED, can_be_fetched
from relearn.errors import SourceError
from relearn.params.networks import BUNDLED_WEIGHTS
from relearn.params.pipeline import read_params
from relearn.storage.files import hash_file


@pytest.fixture
def home(workspace, monkeypatch):
    """No weights anywhere, and no internet."""
    monkeypatch.setenv("KERAS_HOME", str(workspace / "keras"))
    monkeypatch.setattr(init, "can_be_fetched", lambda _: False)
    (workspace / "keras" / "models").mkdir(parents=True)
    return workspace / "keras" / "models"


def run(source, agrees=True, network="auto"):
    before = Path("params.yaml").read_text()
    run_init(source, network, lambda _: agrees, is_added=False)
    return before, Path("params.yaml").read_text()


def test_photos_in_folders_with_the_usual_mess(home, capsys):
    write_images(Path("photos"), [f"{label}/{n}.png" for label in ("Äpfel", "pears") for n in range(150)])
    Path("photos/pears/broken.jpg").write_bytes(b"\xff\xd8\xff")
    Path("photos/pears/iphone.heic").write_bytes(encode_image(draw_image(1), "HEIC"))
    Path("photos/pears/list.pdf").write_bytes(b"%PDF-1.7")
    Path("photos/.DS_Store").write_bytes(b"x")
    Path("photos/plums").mkdir()
    before, after = run("photos/")
    changed = [line for line in after.splitlines() if line not in before.splitlines()]
    assert changed[0] == "  source: photos                   # a folder, a .zip or a .tar(.gz, .bz2, .xz)"
    assert [line.split("#")[0].split() for line in changed[1:]] == [["stratify:", "true"]]
    out = capsys.readouterr().out
    rows = [line.split()[1:] for line in out.splitlines() if line.startswith(("  Äpfel", "  pears"))]
    assert rows == [["91", "30", "30"], ["90", "30", "30"]]
    assert "photos: 301 images of 2 classes, layout class_folders\n  300 PNG, 1 HEIC; 12 x 10 to 12 x 10 px" in out
    assert "  no image that can be used: plums (it has no file)\n" in out
    assert "  not used: 1 file, such as pears/list.pdf (not an image (" in out
    assert " are read): a PDF; save its pages as PNG)\n" in out
    assert "network mini_vgg: it is bundled, and no ImageNet weights are on this machine or can be fetched. " in out
    assert "  +  source: photos  " in out
    assert out.endswith("Next: `make repro`. `dvc add photos` keeps the images by their hash.\n")
    assert run("photos") == (after, after)
    assert "params.yaml fits it as it is.\n" in capsys.readouterr().out


def test_what_cannot_be_used_is_said_and_let_pass(home, capsys):
    """A class of nothing but notes, and one file in ten that is no image: the gate would stop each run."""
    write_images(Path("photos"), [f"{label}/{n}.png" for label in "ab" for n in range(150)])
    for n in range(33):
        Path(f"photos/a/{n}.txt").write_text("text")
    Path("photos/notes").mkdir()
    Path("photos/notes/a.pdf").write_bytes(b"%PDF-1.7")
    run("photos")
    out = capsys.readouterr().out
    assert "  no image that can be used: notes (all of its files are excluded)\n" in out
    assert (
        "  10.2% of the files cannot be used, so validate.excluded_share.max becomes 0.11: look at them first\n" in out
    )
    assert "  all files of a class cannot be used, so validate.lost_classes becomes a warning\n" in out
    rules = read_params(Path("params.yaml")).validate_
    assert (rules.excluded_share.max, rules.lost_classes.severity) == (0.11, "warn")
    shutil.rmtree("photos/notes")
    for path in Path("photos/a").glob("*.txt"):
        path.unlink()
    run("photos")
    rules = read_params(Path("params.yaml")).validate_
    assert (rules.excluded_share.max, rules.lost_classes.severity) == (0.05, "error")


def test_splits_in_a_folder_around_everything(home):
    names = [f"set/{split}/{c}/{n}.png" for split in ("train", "val", "test") for c in "ab" for n in range(20)]
    write_images(Path("photos"), names)
    run("photos")
    params = read_params(Path("params.yaml")).restructure
    assert (params.layout, params.subfolder) == ("split_class_folders", "set")
    assert params.splits.model_dump() == {"training": "train", "validation": "val", "evaluation": "test"}


def test_a_table_with_other_columns(home):
    write_images(Path("photos"), [f"{n}.png" for n in range(60)])
    rows = [f"{n}.png,{'ab'[n % 2]},{['train', 'valid', 'test'][n % 3]}" for n in range(60)]
    Path("photos/list.csv").write_text("\n".join(["file,species,set", *rows]))
    run("photos")
    params = read_params(Path("params.yaml"))
    assert params.restructure.labels_csv == "list.csv"
    assert params.restructure.csv_columns.model_dump() == {"path": "file", "label": "species", "split": "set"}
    assert params.validate_.min_images.min == 10


def test_small_classes_get_a_minimum_that_they_meet_and_what_it_means(home, capsys):
    names = [
        f"{split}/{c}/{n}.png" for split in ("train", "test") for c in "ab" for n in range(9 if split == "test" else 60)
    ]
    write_images(Path("photos"), names)
    run("photos")
    out = capsys.readouterr().out
    smallest = read_params(Path("params.yaml")).validate_.min_images.min
    assert smallest <= 9
    assert f"so validate.min_images.min becomes {smallest}; by 9 for evaluation its recall is known to within" in out
    # More images: the minimum rises again.
    write_images(
        Path("photos"), [f"{split}/{c}/x{n}.png" for split in ("train", "test") for c in "ab" for n in range(150)]
    )
    run("photos")
    assert read_params(Path("params.yaml")).validate_.min_images.min == 20


def test_few_images_to_evaluate_are_judged_in_folds(home, capsys, set_params):
    write_images(Path("photos"), [*(f"cat/{n}.png" for n in range(100)), *(f"owl/{n}.png" for n in range(30))])
    _, after = run("photos")
    line = "  owl has 6 images in evaluation, so evaluate.by becomes folds: all 30 are judged, each by a head that was"
    assert line in capsys.readouterr().out
    assert [line.split()[1] for line in after.splitlines() if line.startswith("  by:")] == ["folds"]
    set_params({"evaluate.by": "split", "finetune.epochs": 2})
    run("photos")
    assert read_params(Path("params.yaml")).evaluate.by == "split"
    set_params({"finetune.epochs": 0, "train.n_folds": 31})
    run("photos")
    assert read_params(Path("params.yaml")).evaluate.by == "split"
    # Another source, which names its splits.
    set_params({"evaluate.by": "folds"})
    write_images(Path("named"), [f"{s}/{c}/{n}.png" for s in ("train", "val", "test") for c in "ab" for n in range(6)])
    run("named")
    assert read_params(Path("params.yaml")).evaluate.by == "split"


def test_a_table_of_a_spreadsheet(home, capsys):
    write_images(Path("photos"), [f"{n}.png" for n in range(60)])
    Path("photos/list.tsv").write_text("\n".join(["file\tspecies", *(f"{n}.png\t{'ab'[n % 2]}" for n in range(60))]))
    run("photos")
    params = read_params(Path("params.yaml")).restructure
    assert (params.layout, params.labels_csv, params.csv_columns.label) == ("csv", "list.tsv", "species")
    assert "  not used: 1 file, such as list.tsv (the table of labels)\n" in capsys.readouterr().out


def test_odd_classes_are_named(home, capsys):
    write_images(Path("photos"), [f"robin/{n}.png" for n in range(5)])
    run("photos")
    out = capsys.readouterr().out
    assert "photos: 5 images of 1 class, layout class_folders\n" in out
    assert "  one class alone: nothing can be learned until there are images of another one\n" in out
    write_images(Path("sets"), [f"{s}/{c}/{n}.png" for s in ("train", "test", "extra") for c in "ab" for n in range(5)])
    run("sets")
    assert (
        "  test, train: names of splits, but taken for classes, because extra is beside them; if they are splits, move "
        "the others out of the source\n"
    ) in capsys.readouterr().out


def test_images_without_labels_get_the_layouts(home):
    write_images(Path("photos"), [f"cat.{n}.png" for n in range(5)])
    with pytest.raises(SourceError, match=r"see the reasons above; docs/own-images\.md has the layouts: a folder per"):
        run("photos")


def test_corrections_are_applied(home, capsys):
    write_images(Path("photos"), [*(f"{c}/{n}.png" for c in ("cat", "dog") for n in range(150)), "dgo/1.png"])
    rows = [("dgo/1.png", "relabel,dog"), ("cat/1.png", "drop,")]
    with Path("data/corrections.csv").open("a") as file:
        file.writelines(f"{hash_file(Path('photos', name))},{action},,\n" for name, action in rows)
    run("photos")
    out = capsys.readouterr().out
    assert "photos: 300 images of 2 classes, layout class_folders\n" in out
    shown = [line.split() for line in out.splitlines() if line.startswith(("  cat", "  dog"))]
    assert [(name, sum(map(int, counts))) for name, *counts in shown] == [("cat", 149), ("dog", 151)]
    assert "no image that can be used" not in out
    assert "  not used: 1 file, such as cat/1.png (dropped by a correction)\n" in out
    assert read_params(Path("params.yaml")).validate_.lost_classes.severity == "error"


def test_a_class_of_one_image_is_named(home, capsys):
    write_images(Path("photos"), [*(f"cat/{n}.png" for n in range(100)), "owl/1.png"])
    run("photos")
    out = capsys.readouterr().out
    assert "so the data will not pass the gate: add images of owl" in out
    assert "  owl: fewer than 5 images, too few to learn from or to judge by; add images, or move the class out" in out


def test_names_that_a_person_gave_to_labels_stay(home, set_params):
    write_images(Path("photos"), [f"{s}/{c}_{n}.png" for s in ("train", "val", "test") for c in "01" for n in range(9)])
    run("photos")
    assert read_params(Path("params.yaml")).restructure.labels == {"0": "0", "1": "1"}
    set_params({"restructure.labels": {"0": "other", "1": "food"}})
    run("photos")
    assert read_params(Path("params.yaml")).restructure.labels == {"0": "other", "1": "food"}


def test_nothing_is_written_without_consent(home, capsys):
    write_images(Path("photos"), ["cat/1.png", "dog/1.png"])
    before, after = run("photos", agrees=False)
    assert before == after
    assert capsys.readouterr().out.endswith("Nothing was written.\n")
    answer = CliRunner().invoke(cli.app, ["init", "photos"])
    assert answer.exit_code == 2
    assert "wanted --yes, or a terminal to ask on" in answer.output
    assert Path("params.yaml").read_text() == before


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "photos: wanted images, got none in 0 files; name the folder or the archive that holds the images"),
        ({"a.pdf": b"x"}, "photos: wanted images, got none in 1 file; name"),
        ({"cat/a.jpg": b"x"}, "photos: wanted images that can be used, got none; see the reasons above"),
    ],
)
def test_sources_without_images(home, capsys, files, message):
    before = Path("params.yaml").read_bytes()
    Path("photos").mkdir()
    for name, content in files.items():
        (Path("photos") / name).parent.mkdir(exist_ok=True)
        (Path("photos") / name).write_bytes(content)
    with pytest.raises(SourceError) as caught:
        run("photos")
    assert message in str(caught.value)
    assert Path("params.yaml").read_bytes() == before


def test_a_network_with_a_typo_is_answered(home):
    answer = CliRunner().invoke(cli.app, ["init", "photos", "--network", "mobilnet_v2"], terminal_width=2000)
    assert answer.exit_code == 2
    assert "did you mean mobilenet_v2?" in answer.output


def test_weights_that_are_here_come_first(home, monkeypatch):
    assert choose_network("auto").network == "mini_vgg"
    assert PRETRAINED[0].address in choose_network("auto").reason
    monkeypatch.setattr(init, "can_be_fetched", lambda _: True)
    assert choose_network("auto")[:2] == ("mobilenet_v2", "its ImageNet weights, 9 MB, are fetched when it runs first")
    (home / PRETRAINED[2].file).write_bytes(b"x")
    choice = choose_network("auto")
    assert (choice.network, choice.is_ready) == ("resnet50", True)
    assert choose_network("xception") == ("xception", "as you asked", False)


class Weights(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200 if self.path == "/here" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_an_address_is_asked_before_it_is_promised():
    server = HTTPServer(("127.0.0.1", 0), Weights)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    assert can_be_fetched(PRETRAINED[0]._replace(address=f"{address}/here"))
    assert not can_be_fetched(PRETRAINED[0]._replace(address=f"{address}/gone"))
    server.shutdown()
    server.server_close()
    assert not can_be_fetched(PRETRAINED[0]._replace(address=f"{address}/here"))


@pytest.mark.slow
@pytest.mark.parametrize("pretrained", PRETRAINED, ids=lambda pretrained: pretrained.network)
def test_keras_looks_for_the_weights_under_this_name(pretrained, monkeypatch):
    import keras

    from relearn.params.networks import NETWORKS

    asked = []

    def _ask(name, address, *_, **__):
        asked.append((name, address))
        raise FileNotFoundError

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", _ask)
    with pytest.raises(FileNotFoundError):
        getattr(keras.applications, NETWORKS[pretrained.network])(include_top=False, input_shape=(224, 224, 3))
    assert asked == [(pretrained.file, pretrained.address)]


@pytest.mark.slow
def test_the_time_is_measured_on_some_images(home, capsys):
    Path("pretraining").mkdir()
    shutil.copy(ROOT / BUNDLED_WEIGHTS, "pretraining")
    write_images(Path("photos"), [f"{label}/{n}.png" for label in "ab" for n in range(20)])
    run("photos")
    out = capsys.readouterr().out
    # 40 images of 6,144 float32 features, twice.
    assert "The features of all images take about 1 s on this machine, and 2 MB; two copies of the images" in out


@pytest.mark.slow
@pytest.mark.long
def test_own_photos_in_three_commands(clone):
    write_images(clone / "data" / "raw" / "own", [f"{label}/{n}.png" for label in "ab" for n in range(60)])
    answer = execute(clone, "relearn", "init", "data/raw/own", "--yes", "--add", "--network", "mini_vgg")
    assert answer.returncode == 0, answer.stderr
    assert (clone / "data" / "raw" / "own.dvc").exists()
    answer = execute(clone, "flows.repro")
    assert answer.returncode == 0, answer.stderr
    assert "data/raw/own: 120 images kept" in answer.stdout + answer.stderr
    answer = execute(clone, "relearn", "predict", "data/raw/own/a/0.png")
    assert answer.stdout.split()[1] in ("a", "b")


def test_near_duplicates_are_counted_as_they_will_be_cut(home):
    for number in range(12):
        scene = draw_scene(number, (64, 48))
        for name, image in (("a", scene), ("b", scene.resize((48, 36))), ("c", scene.resize((32, 24)))):
            path = Path(f"photos/{'cat' if number % 2 else 'dog'}/{number}{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_image(image))
    block = read_params(Path("params.yaml")).restructure
    counts = init.read_source("photos", block).counts
    alone = init.read_source(
        "photos", block.model_copy(update={"source": "photos", "stratify": True, "group_by": "none"})
    )
    run("photos")
    kept, _ = restructure()
    assert counts == Counter((row.split, row.label) for row in kept.values()) != alone.counts
    assert not list(Path("data").glob(".init-*"))
