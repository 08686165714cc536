#!/usr/bin/env python3
"""What Hone's answers are compared with: ONNX Runtime in the same process as its caller, without a network.

    serving_peer.py --model CHECKPOINT --texts CSV [--precision fp32|int8] [--threads 2] [--max-length 256]
                    [--batch 32] [--passes 3] [--alone 200] [--cache FOLDER]

CHECKPOINT is a classifier in Hugging Face layout, as `client models download` writes it; CSV has the header text,label. The
whole file is classified in batches of texts of like length (sorted by their tokens), tokenizing included, then the
first --alone texts one at a time. int8 is ONNX Runtime's dynamic quantisation with weights in int8. The ONNX files are
made once and kept in --cache. Prints one JSON object. Needs torch, transformers, onnx, onnxscript and onnxruntime.
"""

import argparse
import csv
import hashlib
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy
import onnxruntime
from tokenizers import Tokenizer

INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


def exported(model, precision, cache):
    """The checkpoint as ONNX, named after its weights."""
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    full, quantised = (cache / f"{digest}.{name}.onnx" for name in ("fp32", "int8"))
    if not full.exists():
        export(model, full)
    if precision == "fp32":
        return full
    if not quantised.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        made = quantised.with_suffix(".part")
        quantize_dynamic(full, made, weight_type=QuantType.QInt8)
        made.rename(quantised)
    return quantised


def export(model, path):
    import torch
    from transformers import AutoModelForSequenceClassification

    classifier = AutoModelForSequenceClassification.from_pretrained(model).eval()
    words = torch.ones((2, 8), dtype=torch.long)
    made = path.with_suffix(".part")
    torch.onnx.export(
        classifier,
        (words, words, torch.zeros_like(words)),
        str(made),
        input_names=INPUTS,
        output_names=["logits"],
        dynamic_axes={name: {0: "texts", 1: "tokens"} for name in INPUTS},
        opset_version=17,
        dynamo=False,
    )
    made.rename(path)


class Classifier:
    def __init__(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        path = exported(args.model, args.precision, args.cache)
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
        self.tokenizer.enable_truncation(args.max_length)
        self.tokenizer.no_padding()

    def logits(self, rows):
        """Of rows of token ids, padded to the longest of them."""
        shape = (len(rows), max(map(len, rows)))
        ids, mask = numpy.zeros(shape, numpy.int64), numpy.zeros(shape, numpy.int64)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        inputs = dict(zip(INPUTS, (ids, mask, numpy.zeros_like(ids))))
        return self.session.run(["logits"], inputs)[0]

    def classes(self, texts, batch):
        """The class of each text, by batches of like length."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        classes = numpy.zeros(len(rows), numpy.int64)
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            classes[part] = self.logits([rows[row] for row in part]).argmax(axis=-1)
        return classes

    def alone(self, text):
        return self.logits([self.tokenizer.encode(text).ids])


def timed(work):
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--alone", type=int, default=200, help="texts that are classified one at a time")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/hone-bench")
    args = parser.parse_args()

    csv.field_size_limit(1 << 30)
    with open(args.texts, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[: args.limit]
    texts = [row["text"] for row in rows]
    classifier = Classifier(args)
    classifier.classes(texts[: 4 * args.batch], args.batch)
    passes = [timed(lambda: classifier.classes(texts, args.batch)) for _ in range(args.passes)]
    for text in texts[:20]:
        classifier.alone(text)
    alone = [timed(lambda: classifier.alone(text))[0] * 1e3 for text in texts[: args.alone]]
    labels = json.loads((args.model / "config.json").read_text())["id2label"]
    right = [labels[str(number)] == row["label"] for number, row in zip(passes[-1][1], rows)]
    result = {
        "what": "serving_peer",
        "precision": args.precision,
        "texts": len(texts),
        "texts_per_second": len(texts) / statistics.median(seconds for seconds, _ in passes),
        "accuracy": sum(right) / len(right),
        "alone_ms": statistics.median(alone) if alone else None,
        "threads": args.threads,
        "onnxruntime": onnxruntime.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
