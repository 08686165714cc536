//! How the daemon's process ends when its encoder cannot be used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes a folder bad.
type Harm = fn(&Path);

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny_roberta")
}

fn harmed(harm: Harm) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixture().join(name), folder.path().join(name)).expect("a copy");
    }
    harm(folder.path());
    folder
}

/// The exit code of a daemon with this encoder, and what it says.
fn start(model: &str) -> (Option<i32>, String) {
    let data = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_daemon"))
        .args([
            "--listen",
            "127.0.0.1:0",
            "--device",
            "cpu",
            "--threads",
            "1",
            "--model",
            model,
            "--data-dir",
        ])
        .arg(data.path())
        .env_remove("HONE_ISA")
        .output()
        .expect("the daemon ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{model}");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn every_encoder_that_cannot_be_used_ends_the_daemon_with_the_same_code() {
    let write = |folder: &Path, name: &str, text: &str| fs::write(folder.join(name), text).expect("written");
    let cases: [(&str, Harm); 12] = [
        ("config.json", |folder| fs::remove_file(folder.join("config.json")).expect("removed")),
        ("config.json", |folder| fs::write(folder.join("config.json"), "[1]").expect("written")),
        ("config.json", |folder| fs::write(folder.join("config.json"), "").expect("written")),
        ("model.safetensors", |folder| fs::remove_file(folder.join("model.safetensors")).expect("removed")),
        ("git lfs pull", |folder| {
            let pointer = "version https://git-lfs.github.com/spec/v1\n";
            fs::write(folder.join("model.safetensors"), pointer).expect("written");
        }),
        ("truncated", |folder| {
            let file =
                fs::File::options().write(true).open(folder.join("model.safetensors")).expect("a file");
            file.set_len(5000).expect("cut");
        }),
        ("is not a file", |folder| {
            fs::remove_file(folder.join("model.safetensors")).expect("removed");
            fs::create_dir(folder.join("model.safetensors")).expect("a folder");
        }),
        ("tokenizer.json or vocab.txt", |folder| {
            fs::remove_file(folder.join("tokenizer.json")).expect("removed");
        }),
        ("tokenizer.json", |folder| fs::write(folder.join("tokenizer.json"), "{}").expect("written")),
        ("is a link to", |folder| {
            fs::remove_file(folder.join("tokenizer.json")).expect("removed");
            std::os::unix::fs::symlink("gone", folder.join("tokenizer.json")).expect("a link");
        }),
        ("vocab_size", |folder| {
            let text = fs::read_to_string(folder.join("config.json")).expect("a file");
            fs::write(folder.join("config.json"), text.replace(": 329", ": 337")).expect("written");
        }),
        ("adapter", |folder| {
            fs::remove_file(folder.join("model.safetensors")).expect("removed");
            fs::write(folder.join("adapter_config.json"), "{}").expect("written");
        }),
    ];
    for (expected, harm) in cases {
        let folder = harmed(harm);
        let (code, said) = start(&folder.path().to_string_lossy());
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("error: --model: ") && said.contains(expected), "{expected}: {said}");
    }
    let folder = harmed(|_| ());
    write(folder.path(), "model.onnx", "x");
    for name in ["/no/such/folder", "no such name", "", &folder.path().join("model.onnx").to_string_lossy()] {
        let (code, said) = start(name);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("error: --model: "), "{said}");
    }
}
