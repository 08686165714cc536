//! A hub on this machine, for tests: it speaks just enough HTTP.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::HubConfig;

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub on this machine that has one repository and remembers what it was asked.
pub(super) struct Hub {
    pub(super) endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

/// How the hub answers for one file.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) body: Vec<u8>,
    pub(super) etag: String,
    pub(super) announced: usize,
}

fn served(body: &str) -> Served {
    let etag = format!("\"{:040x}\"", body.len());
    Served { body: body.as_bytes().to_vec(), etag, announced: body.len() }
}

pub(super) fn weights(body: &str) -> Served {
    let digest: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    Served { etag: format!("\"{digest}\""), ..served(body) }
}

pub(super) fn whole_repository() -> HashMap<&'static str, Served> {
    HashMap::from([
        ("config.json", served("{}")),
        ("tokenizer.json", served("{\"version\": 1}")),
        ("model.safetensors", weights("the weights")),
    ])
}

impl Hub {
    /// Serves `files` of `org/name` at `main`, `v1` and the commit.
    pub(super) fn start(files: HashMap<&'static str, Served>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(vec![]));
        let hub = Self { endpoint, asked: asked.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // The client may hang up early.
                let _ = answer(stream.unwrap(), &files, &asked);
            }
        });
        hub
    }

    pub(super) fn config(&self, cache: &Path) -> HubConfig {
        HubConfig {
            cache: cache.to_owned(),
            endpoint: self.endpoint.clone(),
            offline: false,
            token: Some("secret".to_owned()),
            patience: Duration::from_secs(5),
        }
    }

    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn answer(
    mut stream: TcpStream,
    files: &HashMap<&str, Served>,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap()?;
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    assert!(
        headers.iter().any(|line| line.eq_ignore_ascii_case("authorization: Bearer secret")),
        "{headers:?}"
    );
    let request = request.trim_end_matches(" HTTP/1.1").to_owned();
    asked.lock().unwrap().push(request.clone());
    let (method, path) = request.split_once(' ').unwrap();
    let error =
        |code: &str| format!("HTTP/1.1 404 Not Found\r\nX-Error-Code: {code}\r\nContent-Length: 0\r\n");
    let mut body = &[][..];
    let head = match path.split('/').collect::<Vec<_>>()[..] {
        // A repository that was renamed.
        ["", "old", "name", "resolve", revision, file] => {
            let location = format!("/org/name/resolve/{revision}/{file}");
            format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\n")
        }
        ["", "org", "name", "resolve", "main" | "v1" | "refs%2Fpr%2F1" | COMMIT, file] => {
            match files.get(file) {
                Some(Served { body: bytes, etag, announced }) => {
                    body = if method == "GET" { bytes.as_slice() } else { &[] };
                    format!(
                        "HTTP/1.1 200 OK\r\nETag: {etag}\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: {announced}\r\n"
                    )
                }
                None => error("EntryNotFound"),
            }
        }
        ["", "org", "name", ..] => error("RevisionNotFound"),
        ["", "org", "busy", ..] => "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n".to_owned(),
        ["", "org", "gated", ..] => "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n".to_owned(),
        ["", "org", "other", ..] => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n".to_owned(),
        _ => error("RepoNotFound"),
    };
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"Connection: close\r\n\r\n")?;
    stream.write_all(body)
}
