import html
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import commit, execute, git, make_split, make_train_params, repro, write_images, write_rows
from relearn import cli, paths
from relearn.commands.suspects import HEADER, describe_suspects, find_suspects, write_suspects
from relearn.dataset.assignments import write_assignments
from relearn.dataset.corrections import read_corrections
from relearn.dataset.manifest import SPLITS, ManifestRow, read_manifest, write_manifest
from relearn.errors import IntegrityError
from relearn.evaluation.predictions import Predictions, write_predictions
from relearn.features.shards import hash_features
from relearn.params.pipeline import read_params
from relearn.stages.train import run
from relearn.storage.files import hash_file, read_csv, write_folder, write_json

EVIL = "</script><script>alert(1)</script>,\"' &amp;"
CORRECTIONS = paths.Path("data/corrections.csv")
PARAMS = make_train_params()
RECORD = paths.CLASSIFIER / "classifier.json"
PLANTED = {"training": [3, 20, 34], "validation": [7], "evaluation": [11]}
NAMES = {"class 0": "cat", "class 1": "dog", "class 2": EVIL}


@pytest.fixture
def planted(workspace):
    """A trained classifier of three classes; returns the SHA-256 of the images that have the label of the next class,
    by split."""
    manifest, values, wrong = [], [], {}
    for seed, split in enumerate(SPLITS):
        part = make_split(seed)
        labels = [NAMES[label] for label in part.labels]
        wrong[split] = [part.sha256[number] for number in PLANTED[split]]
        for number in PLANTED[split]:
            labels[number] = NAMES[f"class {(number + 1) % 3}"]
        rows = zip(part.sha256, labels, strict=True)
        manifest += [
            ManifestRow(f"{split}/{label.strip('</')[:3]}/{sha256[:9]}.png", split, label, sha256, 1, 1, 1, "L", "PNG")
            for sha256, label in rows
        ]
        values.append(part.features)
    write_manifest(paths.MANIFEST, manifest)
    write_assignments(paths.SPLITS, {})
    with write_folder(paths.FEATURES) as folder:
        write_rows(folder, manifest, np.concatenate(values))
    write_json(paths.VERIFICATION_REPORT, {"passed": True, "findings": [], **hash_features(paths.FEATURES)})
    run(PARAMS)
    write_evaluation([row for row in manifest if row.split == "evaluation"], wrong["evaluation"])
    write_images(paths.DATASET, [row.path for row in manifest if row.sha256 in {*wrong["training"]}])
    return wrong


def write_evaluation(rows, wrong):
    """Write predictions that are right but for the images whose label is wrong."""
    classes = sorted(NAMES.values())
    predicted = [next(name for name in classes if (name != row.label) == (row.sha256 in wrong)) for row in rows]
    probabilities = np.array([[0.8 if name == answer else 0.1 for name in classes] for answer in predicted])
    columns = ([row.path for row in rows], [row.sha256 for row in rows], [row.label for row in rows], predicted)
    write_predictions(paths.PREDICTIONS, Predictions(classes, *columns, probabilities))


def test_planted_errors_come_first_and_evaluation_images_are_apart(planted):
    found = find_suspects(4, PARAMS, CORRECTIONS)
    assert {suspect.image.sha256 for suspect in found.suspects} == {*planted["training"], *planted["validation"]}
    assert [suspect.image.sha256 for suspect in found.evaluation] == planted["evaluation"]
    for suspect in found.suspects:
        number = PLANTED[suspect.image.split][planted[suspect.image.split].index(suspect.image.sha256)]
        assert suspect.suggested == NAMES[f"class {number % 3}"]
        assert suspect.margin == pytest.approx(suspect.p_label - suspect.p_suggested)
        assert suspect.p_wrong > 0.5
    assert found.n_images == 120
    assert 3 < found.expected <= 4
    assert found.expected <= found.expected_of_all < 8


def test_a_head_that_cannot_rank_says_so(planted):
    tree = make_train_params("decision_tree", {"max_depth": 2})
    assert not any("Take care" in text for text in describe_suspects(find_suspects(30, PARAMS, CORRECTIONS)))
    run(tree)
    (text,) = (text for text in describe_suspects(find_suspects(30, tree, CORRECTIONS)) if "Take care" in text)
    assert re.match(
        r"Take care: decision_tree gives only \d+ different margins to these images, so their order and", text
    )


def test_suspects_are_the_same_each_time_and_need_no_evaluation_image(planted):
    found = find_suspects(50, PARAMS, CORRECTIONS)
    write_suspects(50, read_params(paths.PARAMS))
    before = paths.SUSPECTS.read_bytes(), paths.SUSPECTS_PAGE.read_bytes()
    write_suspects(50, read_params(paths.PARAMS))
    assert (paths.SUSPECTS.read_bytes(), paths.SUSPECTS_PAGE.read_bytes()) == before
    for shard in paths.FEATURES.glob("evaluation*.npy"):
        shard.write_bytes(b"not to be read")
    assert find_suspects(50, PARAMS, CORRECTIONS) == found


def test_what_a_person_has_looked_at_is_left_out(planted):
    kept, moved = planted["training"][:2]
    with CORRECTIONS.open("a") as file:
        file.write(f"{kept},keep,,,\n{moved},relabel,cat,,\n{planted['evaluation'][0]},keep,,,\n")
    found = find_suspects(4, PARAMS, CORRECTIONS)
    assert not {kept, moved} & {suspect.image.sha256 for suspect in found.suspects}
    assert (found.evaluation, found.n_images) == ([], 118)


def test_table_and_page_say_the_same_and_hostile_names_stay_text(planted, set_params):
    answer = CliRunner().invoke(cli.app, ["suspects", "--n", "5"])
    assert answer.exit_code == 0, answer.output
    assert "Look at these first: 5 of the 120 training and validation images." in answer.output
    assert "evaluation images, apart: 1" in answer.output
    rows = [dict(zip(HEADER, row, strict=True)) for row in read_csv(paths.SUSPECTS, HEADER)]
    assert [row["split"] for row in rows].count("evaluation") == 1
    assert rows[-1]["probability_wrong"] == ""
    assert EVIL in {row[key] for row in rows for key in ("label", "suggested")}
    page = paths.SUSPECTS_PAGE.read_text()
    assert page.count("<script>") == page.count("</script>") == 1
    assert re.findall('data-sha256="(.+?)"', page) == [row["sha256"] for row in rows]
    assert page.count("<figure>") == 6 * len(rows)
    assert len(re.findall(r"(?:src|href)=\"(?!data:image/jpeg)", page)) == 0


def test_classes_are_on_the_page_once_however_many_cards(planted):
    found = find_suspects(50, PARAMS, CORRECTIONS)
    write_suspects(50, read_params(paths.PARAMS))
    page = paths.SUSPECTS_PAGE.read_text()
    (listed,) = re.findall('<datalist id="classes">(.+?)</datalist>', page, re.DOTALL)
    assert [html.unescape(name) for name in re.findall('<option value="(.+?)">', listed)] == found.classes
    assert page.count("<option") == len(found.classes)
    fields = re.findall('<input class="new" list="classes" .*?placeholder="(.+?)" data-old="(.+?)"', page)
    shown = [*found.suspects, *found.evaluation]
    assert [tuple(map(html.unescape, field)) for field in fields] == [(s.suggested, s.image.label) for s in shown]


def test_the_page_has_a_limit():
    answer = CliRunner().invoke(cli.app, ["suspects", "--n", "1001"])
    assert answer.exit_code == 2
    assert "less than or equal to 1000" in answer.output


def test_lines_of_the_page_are_corrections(planted):
    """What the script puts together is what `restructure` reads: the columns and actions come from there."""
    write_suspects(1, read_params(paths.PARAMS))
    page = paths.SUSPECTS_PAGE.read_text()
    (sha256, *_) = re.findall('data-sha256="(.+?)"', page)
    (columns,) = re.findall("for the file of corrections: (.+?)</label>", page)
    assert '[card.dataset.sha256, action, label, card.querySelector(".reason").value, who.value]' in page
    CORRECTIONS.write_text(
        "\n".join(
            [
                columns,
                *(
                    f'{n}{sha256[1:]},{action},{"cat" * (action == "relabel")},"a, ""b""",me'
                    for n, action in enumerate(re.findall('data-action="(.+?)"', page)[:3])
                ),
            ]
        )
    )
    assert [row.action for row in read_corrections(CORRECTIONS).values()] == ["keep", "relabel", "drop"]
    assert {row.reason for row in read_corrections(CORRECTIONS).values()} == {'a, "b"'}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (RECORD.unlink, "classifier.json"),
        (paths.PREDICTIONS.unlink, "reports/predictions.csv: no such file; run `dvc repro`"),
        (
            lambda: paths.PREDICTIONS.write_text(paths.PREDICTIONS.read_text().replace(",cat,", ",dog,", 1)),
            "reports/predictions.csv: wanted the images of the manifest, got others; run `dvc repro`",
        ),
        (
            lambda: paths.MANIFEST.write_text(paths.MANIFEST.read_text().replace(",cat,", ",dog,", 1)),
            "data/features: wanted the images of the manifest, got others; run `dvc repro`",
        ),
    ],
)
def test_files_of_other_images_are_an_error(planted, spoil, message):
    spoil()
    with pytest.raises((IntegrityError, FileNotFoundError), match=message):
        find_suspects(5, PARAMS, CORRECTIONS)


def test_classifier_of_other_features_is_an_error(planted):
    with write_folder(paths.FEATURES) as folder:
        write_rows(folder, [], np.zeros((0, 8), np.float32))
    with pytest.raises(IntegrityError, match=r"models/classifier: wanted a classifier of data/features, got another"):
        find_suspects(5, PARAMS, CORRECTIONS)


@pytest.mark.slow
def test_correction_goes_from_the_page_to_the_classifier_and_its_lineage(ran):
    answer = execute(ran, "relearn", "suspects", "--n", "3")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("Look at these first: 3 of the 22 training and validation images.\n")
    assert (ran / paths.SUSPECTS_PAGE).read_text().count("<figure>") >= 3 * 7  # each with an evidence map
    assert git(ran, "status", "--porcelain") == ""  # neither file is for git

    first = dict(zip(HEADER, read_csv(ran / paths.SUSPECTS, HEADER)[0], strict=True))
    with (ran / CORRECTIONS).open("a") as file:
        file.write(f"{first['sha256']},relabel,{first['suggested']},looked at it,me\n")
    answer = repro(ran)
    assert answer.returncode == 0, answer.stderr
    assert "data/corrections.csv: 1 image corrected (keep 0, relabel 1, drop 0)" in answer.stderr
    (row,) = (row for row in read_manifest(ran / paths.MANIFEST) if row.sha256 == first["sha256"])
    assert (row.split, row.label) == (first["split"], first["suggested"])
    assert "Corrections" in (ran / paths.VALIDATION_PAGE).read_text()
    assert execute(ran, "dvc", "metrics", "diff").returncode == 0
    commit(ran)
    answer = execute(ran, "relearn", "lineage", "HEAD")
    assert f"corrections  1 (relabel 1), sha256 {hash_file(ran / CORRECTIONS)}" in answer.stdout
