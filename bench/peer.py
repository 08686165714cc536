#!/usr/bin/env python3
"""Measures what Hone is compared with: PyTorch and Hugging Face transformers on the same
files, with the same batches. `compare.py` runs it beside `hone-bench`, whose commands,
options and keys it shares.

    peer.py step     --model DIR [--batch 16] [--length 128] [--steps 7]
    peer.py epoch    --model DIR --train CSV [--limit N] [--max-length 256] [--batch 16]
    peer.py classify --model DIR [--batch 32] [--length 128] [--passes 20]
    peer.py evaluate --model DIR --file CSV [--limit N] [--max-length 256]
    peer.py quality  --model DIR --train CSV --test CSV [--epochs 3] [--seed 1 2 3]
    peer.py init     --config config.json --tokenizer DIR --to DIR

step      one training step on sequences of one length: forward and loss, backward, then
          clipping + AdamW + zero_grad, each timed; medians after 2 steps of warm-up
classify  a pass without gradients over sequences of one length; the median after 2 of warm-up
epoch     one epoch through Trainer with its defaults, padded to the longest of a batch
evaluate  Trainer.predict with batches of 64
quality   accuracy on a test file after some epochs, once for each seed
init      a folder with random weights of the shape that a config.json gives, for Hone,
          which takes no encoder without weights (here --random-init does the same)

CSV files have the header text,label. Every result is one JSON object a line on standard
output. `gflop` is the arithmetic of a step (matrix products and attention, forward and
backward), `tokens` counts real tokens, `seconds` of an epoch leaves reading and
tokenizing out. Needs torch, transformers and accelerate.
"""

import argparse
import csv
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

WARM_UP = 2
EVALUATION_BATCH = 64
TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]


def report(what, **results):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = {"what": what, **results, "peak_rss_bytes": peak, "torch": torch.__version__}
    if torch.cuda.is_available():
        line["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(line), flush=True)


def rows(path, limit=None):
    csv.field_size_limit(1 << 30)
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))[:limit]


def class_names(examples):
    return sorted({row["label"] for row in examples})


def make_model(args, labels):
    config = AutoConfig.from_pretrained(args.model, num_labels=labels)
    if args.random_init:
        return AutoModelForSequenceClassification.from_config(config)
    # A head for other labels is made anew, as Hone does.
    return AutoModelForSequenceClassification.from_pretrained(
        args.model, config=config, ignore_mismatched_sizes=True
    )


def make_tokenizer(args):
    return AutoTokenizer.from_pretrained(args.tokenizer or args.model)


class Rows(torch.utils.data.Dataset):
    """Tokens and class numbers of examples, not padded."""

    def __init__(self, examples, labels, tokenizer, max_length):
        classes = {label: i for i, label in enumerate(labels)}
        texts = [row["text"] for row in examples]
        encoded = tokenizer(texts, truncation=True, max_length=max_length)
        self.items = [
            {name: values[i] for name, values in encoded.items()}
            | {"labels": classes[row["label"]]}
            for i, row in enumerate(examples)
        ]
        self.tokens = sum(map(len, encoded["input_ids"]))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def make_trainer(args, model, tokenizer, train=None, **settings):
    arguments = TrainingArguments(
        output_dir=os.path.join(tempfile.gettempdir(), "hone-peer"),
        per_device_eval_batch_size=EVALUATION_BATCH,
        bf16=args.precision == "bf16",
        torch_compile=args.compile,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **settings,
    )
    collator = DataCollatorWithPadding(tokenizer)
    trainer = Trainer(model=model, args=arguments, train_dataset=train, data_collator=collator)
    # It prints to standard output, which is for results.
    trainer.remove_callback(PrinterCallback)
    return trainer


def gigaflops(config, batch, length):
    """The arithmetic of one step: the backward pass costs twice the forward pass."""
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or config.hidden_dim
    products = 2 * batch * length * (4 * hidden * hidden + 2 * hidden * inner)
    attention = 4 * batch * length * length * hidden
    return 3 * config.num_hidden_layers * (products + attention) / 1e9


def the_device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def now(device):
    """The time when the device's work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def sequences(args, vocabulary, device):
    shape = (args.batch, args.length)
    ids = torch.randint(min(1000, vocabulary // 2), vocabulary, shape, device=device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def classify(args):
    set_seed(args.seed[0])
    device = the_device()
    model = make_model(args, labels=2).to(device).eval()
    gflop = gigaflops(model.config, args.batch, args.length) / 3
    if args.compile:
        model = torch.compile(model)
    inputs = sequences(args, model.config.vocab_size, device)
    times = []
    with torch.inference_mode(), torch.autocast(
        device.type, torch.bfloat16, enabled=args.precision == "bf16"
    ):
        for _ in range(WARM_UP + args.passes):
            start = now(device)
            # What a caller gets is on the host.
            model(**inputs).logits.float().cpu()
            times.append(now(device) - start)
    seconds = statistics.median(times[WARM_UP:])
    report("classify", seconds_median=seconds, samples_per_second=args.batch / seconds, gflop=gflop)


def step(args):
    set_seed(args.seed[0])
    device = the_device()
    model = make_model(args, labels=2).to(device).train()
    gflop = gigaflops(model.config, args.batch, args.length)
    # As Trainer has it: no weight decay on biases and norms, the fused implementation.
    decayed, other = [], []
    for name, parameter in model.named_parameters():
        plain = name.endswith("bias") or "norm" in name.lower()
        (other if plain else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-5, fused=True)
    parameters = [*decayed, *other]
    if args.compile:
        model = torch.compile(model)
    inputs = sequences(args, model.config.vocab_size, device)
    inputs["labels"] = torch.arange(args.batch, device=device) % 2
    times = []
    for _ in range(WARM_UP + args.steps):
        start = now(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            loss = model(**inputs).loss
        forward = now(device)
        loss.backward()
        backward = now(device)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        end = now(device)
        times.append((end - start, forward - start, backward - forward, end - backward))
    whole, forward, backward, update = zip(*times[WARM_UP:])
    report(
        "step",
        seconds_median=statistics.median(whole),
        seconds=list(whole),
        forward=statistics.median(forward),
        backward=statistics.median(backward),
        optimizer=statistics.median(update),
        gflop=gflop,
    )


def epoch(args):
    set_seed(args.seed[0])
    examples = rows(args.train, args.limit)
    labels = class_names(examples)
    tokenizer = make_tokenizer(args)
    start = time.perf_counter()
    data = Rows(examples, labels, tokenizer, args.max_length)
    tokenizing = time.perf_counter() - start
    trainer = make_trainer(
        args,
        make_model(args, len(labels)),
        tokenizer,
        data,
        num_train_epochs=1,
        per_device_train_batch_size=args.batch,
        seed=args.seed[0],
    )
    start = time.perf_counter()
    steps = trainer.train().global_step
    seconds = time.perf_counter() - start
    report(
        "epoch",
        samples_per_second=len(data) / seconds,
        seconds=seconds,
        tokens=data.tokens,
        steps=steps,
        tokenize_seconds=tokenizing,
    )


def evaluate(args):
    set_seed(args.seed[0])
    examples = rows(args.file, args.limit)
    labels = class_names(examples)
    tokenizer = make_tokenizer(args)
    data = Rows(examples, labels, tokenizer, args.max_length)
    trainer = make_trainer(args, make_model(args, len(labels)), tokenizer)
    start = time.perf_counter()
    trainer.predict(data)
    seconds = time.perf_counter() - start
    report(
        "evaluate",
        samples_per_second=len(data) / seconds,
        seconds=seconds,
        tokens=data.tokens,
    )


def quality(args):
    train = rows(args.train, args.limit)
    labels = class_names(train)
    tokenizer = make_tokenizer(args)
    data = Rows(train, labels, tokenizer, args.max_length)
    test = Rows(rows(args.test), labels, tokenizer, args.max_length)
    for seed in args.seed:
        set_seed(seed)
        trainer = make_trainer(
            args,
            make_model(args, len(labels)),
            tokenizer,
            data,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.batch,
            learning_rate=args.lr,
            weight_decay=0.01,
            # A number below 1 is a ratio of all steps.
            warmup_steps=0.1,
            seed=seed,
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        predicted = trainer.predict(test)
        right = predicted.predictions.argmax(axis=-1) == predicted.label_ids
        report("quality", seed=seed, accuracy=float(right.mean()), seconds=seconds)


def init(args):
    set_seed(args.seed[0])
    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(args.config))
    # The encoder alone, as a pretrained one is published.
    model.base_model.save_pretrained(args.to)
    for name in TOKENIZER_FILES:
        source = Path(args.tokenizer) / name
        if source.is_file():
            shutil.copy(source, args.to)
    report("init", parameters=sum(p.numel() for p in model.base_model.parameters()))


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(run):
        sub = commands.add_parser(run.__name__)
        sub.set_defaults(run=run)
        sub.add_argument("--threads", type=int, help="default: PyTorch's choice")
        sub.add_argument("--seed", type=int, nargs="+", default=[42])
        return sub

    def on_model(run):
        sub = command(run)
        sub.add_argument("--model", required=True, help="folder in Hugging Face layout")
        sub.add_argument("--tokenizer", help="folder, where --model has no tokenizer")
        sub.add_argument("--random-init", action="store_true", help="--model has only a config.json")
        sub.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
        sub.add_argument("--compile", action="store_true", help="with torch.compile")
        return sub

    def on_rows(run):
        sub = on_model(run)
        sub.add_argument("--limit", type=int, help="only the first rows")
        sub.add_argument("--max-length", type=int, default=256)
        return sub

    sub = on_model(step)
    sub.add_argument("--batch", type=int, default=16)
    sub.add_argument("--length", type=int, default=128)
    sub.add_argument("--steps", type=int, default=7)
    sub = on_model(classify)
    sub.add_argument("--batch", type=int, default=32)
    sub.add_argument("--length", type=int, default=128)
    sub.add_argument("--passes", type=int, default=20)
    sub = on_rows(epoch)
    sub.add_argument("--train", required=True)
    sub.add_argument("--batch", type=int, default=16)
    sub = on_rows(evaluate)
    sub.add_argument("--file", required=True)
    sub = on_rows(quality)
    sub.add_argument("--train", required=True)
    sub.add_argument("--test", required=True)
    sub.add_argument("--batch", type=int, default=16)
    sub.add_argument("--epochs", type=float, default=3)
    sub.add_argument("--lr", type=float, default=2e-5)
    sub = command(init)
    sub.add_argument("--config", required=True)
    sub.add_argument("--tokenizer", required=True, help="folder to take the tokenizer from")
    sub.add_argument("--to", required=True)
    return parser.parse_args()


def main():
    args = parse()
    disable_progress_bar()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.run(args)


if __name__ == "__main__":
    main()
