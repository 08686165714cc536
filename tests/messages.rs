//! What every message of the daemon keeps to.

use std::path::Path;

/// The folder of the GPU, because an error of its driver has no other form.
const ESCAPING: [&str; 1] = ["cuda"];

fn debug_formats(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !ESCAPING.contains(&name.as_str()) {
                debug_formats(&path, found);
            }
        } else if name.ends_with(".rs") && !["tests.rs", "testing.rs"].contains(&name.as_str()) {
            let text = std::fs::read_to_string(&path).unwrap();
            let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
            let of_a_test = |line: &&str| ["assert", "panic!"].iter().any(|word| line.contains(word));
            let lines = text[..end].lines().filter(|line| line.contains(":?}") && !of_a_test(line));
            found.extend(lines.map(|line| format!("{}: {}", path.display(), line.trim())));
        }
    }
}

#[test]
fn no_message_is_written_in_the_debug_form() {
    let mut found = Vec::new();
    let daemon = Path::new(env!("CARGO_MANIFEST_DIR")).join("daemon");
    for part in ["src", "base", "engine", "data", "hub", "train", "storage"] {
        debug_formats(&daemon.join(part), &mut found);
    }
    assert_eq!(found, [""; 0], "quote names with `error::quoted`");
}
