"""Checks a checkpoint written by Hone, and the scores Hone serves from it,
against Hugging Face transformers.

    python check_checkpoint.py FOLDER SCORES.jsonl [--tolerance 1e-4]

FOLDER is the checkpoint. Each line of SCORES.jsonl is what Hone's client
printed for one text:

    {"text": "...", "label": "positive", "score": 0.98,
     "scores": {"negative": 0.02, "positive": 0.98}}

The checkpoint must load without missing, unexpected or mismatched weights, its
id2label and label2id must be each other's inverse, and transformers' tokenizer
must give the ids of tokenizer.json. Every score must lie within the tolerance
of transformers' score in float32, and every label must be the arg max. Texts
are cut as the truncation in tokenizer.json says, or else at the model's
maximum positions.

Exits with 0 if everything holds; otherwise says what does not, and exits with 1.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

SHOWN = 10


class CheckFailed(Exception):
    pass


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckFailed(f"{path}: {error}") from error


def read_scores(path):
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise CheckFailed(f"{path}: {error}") from error
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text, label, scores = record["text"], record["label"], record["scores"]
            scores = {name: float(score) for name, score in scores.items()}
            score = float(record["score"])
            if not isinstance(text, str) or not isinstance(label, str):
                raise TypeError("text and label must be strings")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckFailed(
                f"{path}, line {number}: not a score record ({error!r})"
            ) from error
        records.append((f"line {number}", text, label, score, scores))
    if not records:
        raise CheckFailed(f"{path} holds no scores")
    return records


def check_labels(config):
    """The label of each class, in order."""
    for key in ("id2label", "label2id"):
        if not isinstance(config.get(key), dict) or not config[key]:
            raise CheckFailed(f"config.json has no {key}")
    id2label = {int(i): label for i, label in config["id2label"].items()}
    if sorted(id2label) != list(range(len(id2label))):
        raise CheckFailed(f"id2label does not number the labels from 0: {id2label}")
    if config["label2id"] != {label: i for i, label in id2label.items()}:
        raise CheckFailed(
            f"id2label and label2id disagree: {id2label}, {config['label2id']}"
        )
    return [id2label[i] for i in range(len(id2label))]


def load_model(folder, labels):
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32
        )
    except Exception as error:
        raise CheckFailed(f"transformers cannot load the model: {error}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info.get(kind):
            raise CheckFailed(f"loading reports {kind}: {sorted(map(str, info[kind]))}")
    if model.num_labels != len(labels):
        raise CheckFailed(
            f"the model has {model.num_labels} classes, config.json names {len(labels)}"
        )
    return model.eval()


def load_tokenizer(folder, model):
    """A function from a text to the model's inputs."""
    settings = read_json(folder / "tokenizer.json").get("truncation")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:
        raise CheckFailed(f"transformers cannot load the tokenizer: {error}") from error
    positions = model.config.max_position_embeddings
    # Calling a transformers tokenizer replaces the truncation of tokenizer.json
    # by its arguments, so that has to be passed along.
    if settings is None:
        length = positions
        plain.enable_truncation(positions)
    else:
        length = settings["max_length"]
        tokenizer.truncation_side = settings.get("direction", "Right").lower()
        if length > positions:
            raise CheckFailed(
                f"tokenizer.json truncates at {length} tokens, "
                f"the model has {positions} positions"
            )
    plain.no_padding()

    def encode(where, text):
        inputs = tokenizer(
            text, truncation=True, max_length=length, return_tensors="pt"
        )
        ids = inputs["input_ids"][0].tolist()
        expected = plain.encode(text).ids
        if ids != expected:
            raise CheckFailed(
                f"{where}: transformers' tokenizer gives the ids {ids}, "
                f"tokenizer.json {expected}, for {text!r}"
            )
        return inputs

    return encode


def compare(record, reference, tolerance):
    """What is wrong with one record, and the largest difference in it."""
    where, _, label, score, scores = record
    if scores.keys() != reference.keys():
        return [f"{where}: the labels are {list(scores)}, not {list(reference)}"], 0.0
    problems = []
    differences = {name: abs(scores[name] - reference[name]) for name in reference}
    for name, difference in differences.items():
        # Written so that a score that is not a number fails.
        if not difference <= tolerance:
            problems.append(
                f"{where}: the score of {name!r} is {scores[name]:.7f}, "
                f"transformers gives {reference[name]:.7f}"
            )
    if label not in scores or scores[label] != max(scores.values()):
        best = max(scores, key=scores.get)
        problems.append(f"{where}: the label is {label!r}, the highest score is {best!r}'s")
    elif reference[label] < max(reference.values()) - 2 * tolerance:
        best = max(reference, key=reference.get)
        problems.append(f"{where}: the label is {label!r}, transformers gives {best!r}")
    elif score != scores[label]:
        problems.append(f"{where}: score is {score}, but scores[{label!r}] {scores[label]}")
    return problems, max(differences.values())


def check(folder, scores_path, tolerance):
    """The number of texts and the largest difference; raises CheckFailed."""
    if not folder.is_dir():
        raise CheckFailed(f"{folder} is not a folder")
    records = read_scores(scores_path)
    labels = check_labels(read_json(folder / "config.json"))
    model = load_model(folder, labels)
    encode = load_tokenizer(folder, model)

    problems, largest = [], 0.0
    for record in records:
        with torch.inference_mode():
            logits = model(**encode(*record[:2])).logits[0]
        reference = dict(zip(labels, torch.softmax(logits, dim=0).tolist()))
        found, difference = compare(record, reference, tolerance)
        problems += found
        largest = max(largest, difference)
    if problems:
        shown = "\n".join(problems[:SHOWN])
        more = len(problems) - SHOWN
        raise CheckFailed(
            f"{len(problems)} wrong in {len(records)} texts, "
            f"largest difference {largest:.2e}:\n{shown}"
            + (f"\n... and {more} more" if more > 0 else "")
        )
    return len(records), largest


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("scores", type=Path, metavar="SCORES.jsonl")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    try:
        count, largest = check(args.folder, args.scores, args.tolerance)
    except CheckFailed as error:
        print(f"check_checkpoint: FAILED: {error}", file=sys.stderr)
        return 1
    print(f"check_checkpoint: {count} texts, largest difference {largest:.2e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
