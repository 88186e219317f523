"""What fine-tuning and views bring, and what they cost beside the Keras way.

Usage:
    python benchmarks/finetune.py draw ARCHIVE FOLDER N_DRAWS
    python benchmarks/finetune.py food FOOD5K FOLDER
    python benchmarks/finetune.py keras SOURCE NETWORK WEIGHTS SIZE_PX N_EPOCHS [N_IMAGES] [VARIANT.BLOCK.KEY=VALUE ...]
    python benchmarks/finetune.py draws FOLDER NETWORK WEIGHTS SIZE_PX [BLOCK.KEY=VALUE ...]
    python benchmarks/finetune.py grid SOURCE NETWORK WEIGHTS SIZE_PX [N_EPOCHS ...]

SOURCE holds training/, validation/ and evaluation/, each with a folder per class; WEIGHTS is a file of weights of
NETWORK. Each part runs in a process of its own. p is McNemar's exact test on the same evaluation images.

draw    Writes draws of CIFAR-10, of 200, 100 and 200 images per class, to FOLDER/0, FOLDER/1 and so on. ARCHIVE is a
        tar file with train/CLASS/NAME and test/CLASS/NAME. Each draw takes the next files of a class in the order of
        the hash of their names, so no image is in two draws.
food    Copies Food-5K to a folder per class.
keras   What a user of keras would do: a dense layer on the frozen network with augmentation, for N_EPOCHS, and then all
        from the network's last block on, for as many. Beside it the stages of relearn, with views of the frozen network
        and with fine-tuning. With N_IMAGES, only the first of each class and split, by the hash of their name. A change
        of a parameter is that of `views` or `tuned`, such as tuned.finetune.epochs=4.
draws   The frozen network and the tuned one, on each draw and on all: with logistic regression, the tuned one also with
        its own head, and with logistic regression at the epoch that the own head's loss would choose. The log losses of
        both heads are compared by a paired t-test.
grid    Fine-tuning with learning rates from low to too high, for each of N_EPOCHS (1 and 4): does the gate
        `finetune.keep: if_better` ever keep a network that is worse on evaluation?
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from contextlib import chdir
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML
from scipy.special import logsumexp
from scipy.stats import ttest_rel

from relearn import paths
from relearn.evaluation.intervals import compute_wilson_interval
from relearn.evaluation.paired import compare_paired
from relearn.evaluation.predictions import read_predictions
from relearn.storage.files import hash_bytes, hash_file, read_json

ROOT = Path(__file__).resolve().parent.parent
N_PER_CLASS = {"training": 200, "validation": 100, "evaluation": 200}
STAGES = ("restructure", "validate", "finetune", "extract", "verify", "train", "evaluate")
LIKE_KERAS = ("finetune", "extract", "train", "evaluate")  # what keras does too; the other stages check the data
VARIANTS = {
    "views": {
        "finetune.epochs": 0,
        "extract.views": 1,
        "augment.horizontal_flip": 0.5,
        "augment.shift": 0.125,
        "evaluate.n_explained": 0,  # the Keras way explains no mistakes
    },
    "tuned": {"finetune.epochs": 4, "evaluate.n_explained": 0},
}
LEARNING_RATES = (1e-4, 1e-3, 3e-3)
LOSSES = ("own_losses", "tuned_losses")
ANSWERS = ("frozen", "own", "tuned", "other")


# --- images


def write_draws(archive, folder, n_draws):
    contents = {}
    with tarfile.open(archive) as file:
        for member in file:
            if member.isfile():
                contents[tuple(member.name.split("/")[-3:])] = file.extractfile(member).read()
    by_class = defaultdict(list)
    for split, label, name in sorted(contents, key=lambda key: hash_bytes(key[2].encode())):
        by_class[split, label].append(name)
    n_training, n_validation, n_evaluation = N_PER_CLASS.values()
    for (split, label), names in by_class.items():
        n = n_evaluation if split == "test" else n_training + n_validation
        for number in range(n_draws):
            for place, name in enumerate(names[number * n : (number + 1) * n]):
                part = "evaluation" if split == "test" else "training" if place < n_training else "validation"
                path = folder / str(number) / part / label / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents[split, label, name])


def copy_food(source, folder):
    for path in source.glob("*/*.jpg"):
        target = folder / path.parent.name / {"0": "non_food", "1": "food"}[path.name[0]] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def copy_first(source, folder, n_images):
    """Fill a folder with the first `n_images` of each class and split."""
    for group in sorted(source.glob("*/*")):
        (folder / group.relative_to(source)).mkdir(parents=True)
        for path in sorted(group.iterdir(), key=lambda path: hash_bytes(path.name.encode()))[:n_images]:
            shutil.copyfile(path, folder / path.relative_to(source))


# --- parts, each in a process of its own


def run_part(*command):
    """Run a command; return its CPU seconds, with those of its children, its peak memory in GB, and its stdout."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        process = subprocess.Popen([sys.executable, *map(str, command)], stdout=out, stderr=error)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        error.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command}: {error.read()[-3000:]}")
        return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9, out.read()


def read_peak_gb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def train_by_keras(setting, n_epochs, first_layer):
    """Print the result of both phases as JSON: CPU seconds since the start, peak memory, labels by SHA-256."""
    import keras

    source, network, weights, size = setting
    keras.utils.set_random_seed(0)
    splits = {
        split: keras.utils.image_dataset_from_directory(
            source / split, image_size=(size, size), batch_size=32, shuffle=split == "training", seed=0
        )
        for split in N_PER_CLASS
    }
    names, files = splits["training"].class_names, splits["evaluation"].file_paths
    module = getattr(keras.applications, network)
    build = getattr(keras.applications, {"vgg16": "VGG16", "mobilenet_v2": "MobileNetV2"}[network])
    base = build(include_top=False, weights=weights, input_shape=(size, size, 3))
    layers = keras.layers
    images = keras.Input((size, size, 3))
    augment = [layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.RandomZoom(0.2)]
    features = base(module.preprocess_input(keras.Sequential(augment)(images)), training=False)
    features = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(features))
    model = keras.Model(images, layers.Dense(len(names), activation="softmax")(features))
    results, judging = {}, 0.0  # the second phase needs no answers of the first
    for phase, first, rate in (("frozen", None, 1e-3), ("tuned", first_layer, 1e-5)):
        learns = False
        base.trainable = True
        for layer in base.layers:
            learns = learns or layer.name == first
            layer.trainable = learns and not isinstance(layer, layers.BatchNormalization)
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        best = keras.callbacks.EarlyStopping(patience=n_epochs, restore_best_weights=True)
        model.fit(
            splits["training"], validation_data=splits["validation"], epochs=n_epochs, callbacks=[best], verbose=0
        )
        trained = time.process_time()
        predicted = model.predict(splits["evaluation"], verbose=0).argmax(axis=1)
        used = {"seconds": time.process_time() - judging, "memory_gb": read_peak_gb()}
        judging += time.process_time() - trained
        answers = {hash_file(Path(file)): names[number] for file, number in zip(files, predicted, strict=True)}
        results[phase] = used | {"answers": answers}
    print(json.dumps(results))


def tune_here(list_of_changes):
    """Fine-tune in a folder with params and manifest; print as JSON what is right on evaluation, and the losses.

    Once for each dict of changes of the block `finetune`. `frozen` and `tuned` are the logistic regressions on the
    features of both networks, `own` is the tuned network's own head, and `other` a logistic regression on the epoch of
    the lowest loss of that head.
    """
    from relearn.dataset.manifest import read_manifest
    from relearn.features.computation import read_prepared
    from relearn.finetuning.decision import decide
    from relearn.finetuning.exact_head import search_exact_head
    from relearn.finetuning.network import TunableNetwork
    from relearn.finetuning.progress import Limits, Progress
    from relearn.finetuning.training import Images, Training, plan_views
    from relearn.heads.scoring import judge_scores
    from relearn.params.pipeline import read_params

    class Observed(Training):
        def _train_epoch(self, progress, C):
            done = super()._train_epoch(progress, C)
            if min(done.history, key=lambda epoch: epoch.own_validation_loss) is done.history[-1]:
                self.other = done.history[-1], self._network.read_weights()
            return done

    params = read_params(paths.PARAMS)
    rows, views = read_manifest(paths.MANIFEST), plan_views(params.finetune, params.augment)
    images = Images(rows, views or 0, params.augment)
    judged = [row for row in rows if row.split == "evaluation"]
    labels = np.searchsorted(images.classes, [row.label for row in judged])
    results = []
    for number, changes in enumerate(list_of_changes):
        start, folder = time.process_time() if number else 0.0, Path(str(number))
        if number:  # only the learning differs
            folder.mkdir()
            Path(str(number - 1), "activations").rename(folder / "activations")
        finetune = params.finetune.model_copy(update=changes)
        network = TunableNetwork(params.extract, finetune, len(images.classes))
        pretrained = network.read_weights()
        training = Observed(network, images, finetune, views is None, folder)
        result = training.run(Progress(Limits(finetune.batch_size, params.extract.batch_size, True), [], [], []))
        used = {"seconds": time.process_time() - start, "memory_gb": read_peak_gb()}
        crossing = list(network.compute_crossing(read_prepared(network, row) for row in judged))

        def _judge(head, network=network, crossing=crossing):
            features = np.concatenate([network.compute_features(part) for part in crossing])
            logits = np.asarray(network.compute_logits(features), np.float64)
            own = logits.argmax(axis=1) == labels, logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]
            return judge_scores(head.fitted, head.fitted.compute_scores(features), labels), own

        (tuned, tuned_losses), (own, own_losses) = _judge(result.tuned)
        other = tuned
        epoch, weights = training.other
        if epoch.epoch != result.best_epoch:
            network.write_weights(weights)
            (other, _), _ = _judge(search_exact_head(*training._compute_splits(), len(images.classes), epoch.C))
        network.write_weights(pretrained)
        (frozen, _), _ = _judge(result.pretrained)
        keeps, reason = decide(result.paired, "if_better")
        answers = {"frozen": frozen, "own": own, "tuned": tuned, "other": other}
        answers |= {"own_losses": own_losses, "tuned_losses": tuned_losses}
        answers = {name: values.tolist() for name, values in answers.items()}
        epochs = {"best_epoch": result.best_epoch, "other_epoch": epoch.epoch}
        history = [epoch._asdict() for epoch in result.history]
        results.append(used | answers | epochs | {"history": history, "keeps": keeps, "reason": reason})
    print(json.dumps(results))


# --- relearn


def write_params(source, network, weights, size, changes):
    params = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    params["restructure"] |= {"source": str(source), "layout": "split_class_folders"}
    params["restructure"]["corrections"] = str(ROOT / "data" / "corrections.csv")
    params["validate"]["suite"] = str(ROOT / "expectations.json")
    params["extract"] |= {"network": network, "image_size_px": size}
    params["extract"] |= {"weights": str(weights), "weights_sha256": hash_file(weights)}
    for name, value in changes.items():
        block, key = name.split(".")
        params[block][key] = value
    with paths.PARAMS.open("w") as file:
        YAML().dump(params, file)


def run_stages(setting, changes):
    """Run all stages in an empty folder; return CPU seconds, peak memory, labels by SHA-256, and what finetune says.

    `seconds` are those of the stages that do what keras does, `all_seconds` of all of them.
    """
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        write_params(*setting, changes)
        used = {stage: run_part("-m", "relearn", stage) for stage in STAGES}
        predictions = read_predictions(paths.PREDICTIONS)
        return {
            "seconds": sum(used[stage][0] for stage in LIKE_KERAS),
            "all_seconds": sum(seconds for seconds, _, _ in used.values()),
            "by_stage": {stage: round(seconds, 1) for stage, (seconds, _, _) in used.items()},
            "memory_gb": max(memory for _, memory, _ in used.values()),
            "answers": dict(zip(predictions.sha256, predictions.predicted, strict=True)),
            "labels": dict(zip(predictions.sha256, predictions.labels, strict=True)),
            "reason": read_json(paths.NETWORK / "network.json")["reason"],
        }


def tune(setting, changes, list_of_changes):
    """Return what `tune_here` prints: `changes` are of all parameters, each of the list of the block `finetune`."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        write_params(*setting, changes)
        run_part("-m", "relearn", "restructure")
        results = json.loads(run_part(__file__, "tune_here", json.dumps(list_of_changes))[2].splitlines()[-1])
    return [result | {name: np.array(result[name]) for name in (*ANSWERS, *LOSSES)} for result in results]


# --- comparisons


def compare_with_keras(setting, n_epochs, n_images, changes):
    from relearn.networks.splitting import find_last_block

    source, network, weights, size = setting
    with tempfile.TemporaryDirectory() as folder:
        if n_images:
            copy_first(source, Path(folder), n_images)
            source = Path(folder)
        ours = {}
        for variant, options in VARIANTS.items():
            mine = {name.partition(".")[2]: value for name, value in changes.items() if name.startswith(f"{variant}.")}
            ours[variant] = way = run_stages((source, *setting[1:]), options | mine)
            print(f"{variant}: {options | mine}; {way['by_stage']}; {way['reason']}\n", flush=True)
        part = run_part(__file__, "train_by_keras", source, network, weights, size, n_epochs, find_last_block(network))
        keras = json.loads(part[2].splitlines()[-1])
    print("| training | accuracy | 95 % interval | p | CPU seconds | share | with all stages | peak GB |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for phase, variant in (("frozen", "views"), ("tuned", "tuned")):
        labels = ours[variant]["labels"]  # relearn leaves images out that are in another split too
        first, second = (
            np.array([way["answers"][sha256] == label for sha256, label in labels.items()])
            for way in (keras[phase], ours[variant])
        )
        for name, way, right in ((f"keras, {phase}", keras[phase], first), (variant, ours[variant], second)):
            low, high = compute_wilson_interval(int(right.sum()), len(right))
            p_value = f"{compare_paired(first, right).p_value:.2g}" if right is second else ""
            share, in_all = way["seconds"] / keras[phase]["seconds"], way.get("all_seconds", way["seconds"])
            print(
                f"| {name} | {right.mean():.4f} | {low:.4f} to {high:.4f} | {p_value} | {way['seconds']:.1f} | "
                f"{share:.2f} | {in_all:.1f} | {way['memory_gb']:.2f} |"
            )


def compare_draws(folder, network, weights, size, changes):
    print(
        "| draw | frozen | tuned, own head | tuned | p: frozen | p: own head | log loss: own head | tuned | p "
        "| epoch | kept | other epoch | CPU s |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- | ---: |")
    results = []
    for source in sorted(path for path in folder.iterdir() if path.is_dir()):
        (result,) = tune((source, network, weights, size), changes, [{}])
        results.append(result)
        print_draw(source.name, result, result["best_epoch"], result["other_epoch"])
    pooled = {name: np.concatenate([result[name] for result in results]) for name in (*ANSWERS, *LOSSES)}
    pooled["seconds"] = sum(result["seconds"] for result in results)
    pooled["keeps"] = all(result["keeps"] for result in results)
    print_draw("all", pooled, "", "")
    print("\n| draw | epoch | training loss | validation loss, accuracy | own head's | C |")
    print("| --- | ---: | ---: | --- | --- | ---: |")
    for number, result in enumerate(results):
        for epoch in result["history"]:
            print(
                "| {} | {epoch} | {training_loss:.3f} | {validation_loss:.4f}, {validation_accuracy:.4f} | "
                "{own_validation_loss:.4f}, {own_validation_accuracy:.4f} | {C:g} |".format(number, **epoch)
            )


def print_draw(name, result, best_epoch, other_epoch):
    frozen, own, tuned, other = (result[answers] for answers in ANSWERS)
    own_losses, losses = (result[name] for name in LOSSES)
    by_frozen, by_own, by_other = (compare_paired(first, tuned).p_value for first in (frozen, own, other))
    print(
        f"| {name} | {frozen.mean():.4f} | {own.mean():.4f} | {tuned.mean():.4f} | {by_frozen:.1g} | {by_own:.1g} | "
        f"{own_losses.mean():.4f} | {losses.mean():.4f} | {ttest_rel(own_losses, losses).pvalue:.1g} | "
        f"{best_epoch} | {'yes' if result['keeps'] else 'no'} | "
        f"{other.mean():.4f} ({other_epoch}), p = {by_other:.2g} | {result['seconds']:.0f} |",
        flush=True,
    )


def compare_grid(setting, numbers_of_epochs):
    print("| learning rate | epochs | frozen | tuned | p | kept | validation | in the end against frozen |")
    print("| ---: | ---: | ---: | ---: | ---: | --- | --- | --- |")
    grid = [
        {"learning_rate": rate, "head_learning_rate": rate, "epochs": n_epochs}
        for rate in LEARNING_RATES
        for n_epochs in numbers_of_epochs
    ]
    for changes, result in zip(grid, tune(setting, {"finetune.epochs": 1}, grid), strict=True):
        paired = compare_paired(result["frozen"], result["tuned"])
        end = paired.verdict if result["keeps"] else "the frozen one"
        print(
            f"| {changes['learning_rate']:g} | {changes['epochs']} | {result['frozen'].mean():.4f} | "
            f"{result['tuned'].mean():.4f} | {paired.p_value:.2g} | {'yes' if result['keeps'] else 'no'} | "
            f"{result['reason']} | {end} |"
        )


def main():
    command, *rest = sys.argv[1:] or ["help"]
    words = [word for word in rest if "=" not in word]
    changes = {name: json.loads(value) for name, _, value in (word.partition("=") for word in rest if "=" in word)}
    if command == "tune_here":
        tune_here(json.loads(rest[0]))
        return
    if command == "draw":
        write_draws(Path(words[0]), Path(words[1]), int(words[2]))
        return
    if command == "food":
        copy_food(Path(words[0]), Path(words[1]))
        return
    if command not in {"keras", "draws", "grid", "train_by_keras"}:
        raise SystemExit(__doc__)
    setting = Path(words[0]).resolve(), words[1], Path(words[2]).resolve(), int(words[3])
    if command == "train_by_keras":
        train_by_keras(setting, int(words[4]), words[5])
    elif command == "keras":
        compare_with_keras(setting, int(words[4]), int(words[5]) if words[5:] else None, changes)
    elif command == "draws":
        compare_draws(*setting, VARIANTS["tuned"] | changes)
    else:
        compare_grid(setting, [int(word) for word in words[4:]] or [1, 4])


if __name__ == "__main__":
    main()
