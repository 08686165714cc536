//! A hub on this machine for tests: it serves one repository and remembers what it was asked.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::{EncoderName, HubConfig};
use hone_base::cancel::{Cancel, Reason};

/// The commit of `main` and `v1`.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The files of a repository, by name.
pub(crate) type Files = HashMap<&'static str, Served>;

/// A hub that has the repository `org/name`.
pub(crate) struct Hub {
    pub(crate) endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
    hung_up: Receiver<()>,
}

/// How the hub answers for one file.
#[derive(Clone, Default)]
pub(crate) struct Served {
    pub(crate) body: Vec<u8>,
    pub(crate) etag: String,
    /// What the hub says of the file.
    pub(crate) announced: usize,
    /// What it says of its answer.
    pub(crate) length: usize,
    /// After how many bytes it falls silent.
    pub(crate) silent_after: Option<usize>,
    /// Whether it always sends all.
    pub(crate) whole: bool,
    /// The address that it redirects to.
    pub(crate) stored_at: Option<String>,
}

/// A file that is no large one.
pub(crate) fn served(body: &str) -> Served {
    let (etag, size) = (format!("\"{:040x}\"", body.len()), body.len());
    Served { body: body.as_bytes().to_vec(), etag, announced: size, length: size, ..Served::default() }
}

/// A large file, whose etag is its SHA-256.
pub(crate) fn weights(body: &str) -> Served {
    let digest: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    Served { etag: format!("\"{digest}\""), ..served(body) }
}

pub(crate) fn whole_repository() -> Files {
    HashMap::from([
        ("config.json", served("{}")),
        ("tokenizer.json", served("{\"version\": 1}")),
        ("model.safetensors", weights("the weights")),
    ])
}

/// A name that a user may write.
pub(crate) fn name(text: &str) -> EncoderName {
    EncoderName::parse(text).unwrap()
}

impl Hub {
    /// Serves `files` of `org/name` at `main`, `v1` and the commit.
    pub(crate) fn start(files: Files) -> Self {
        Self::start_with(files, Cancel::default())
    }

    /// The same, and asks the token when it falls silent.
    pub(crate) fn start_with(files: Files, silence: Cancel) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(vec![]));
        let (closed, hung_up) = mpsc::channel();
        let hub = Self { endpoint, asked: asked.clone(), hung_up };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let server = Server {
                    files: files.clone(),
                    asked: asked.clone(),
                    silence: silence.clone(),
                    closed: closed.clone(),
                };
                // The client may hang up early.
                thread::spawn(move || server.answer(stream.unwrap()));
            }
        });
        hub
    }

    pub(crate) fn config(&self, cache: &Path) -> HubConfig {
        HubConfig {
            cache: cache.to_owned(),
            endpoint: self.endpoint.clone(),
            offline: false,
            token: Some("secret".to_owned()),
            patience: Duration::from_secs(5),
        }
    }

    /// What it was asked since the last time: paths, and ranges of bytes.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Waits until somebody to whom the hub was silent hangs up.
    pub(crate) fn wait_for_hanging_up(&self) {
        self.hung_up.recv().unwrap();
    }
}

struct Server {
    files: Files,
    asked: Arc<Mutex<Vec<String>>>,
    silence: Cancel,
    closed: Sender<()>,
}

impl Server {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().unwrap()?;
        let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let has_token = headers.iter().any(|line| line.eq_ignore_ascii_case("authorization: Bearer secret"));
        let range = headers.iter().find_map(|line| {
            let (name, value) = line.split_once(": bytes=")?;
            name.eq_ignore_ascii_case("range").then(|| value.split_once('-')).flatten()
        });
        let path = request.trim_start_matches("GET ").trim_end_matches(" HTTP/1.1").to_owned();
        // What is stored elsewhere has an address that nobody guesses, and needs no token.
        assert_eq!(has_token, !path.starts_with("/storage/"), "{headers:?}");
        let words = range.map_or(path.clone(), |(from, to)| format!("{path} {from}-{to}"));
        self.asked.lock().unwrap().push(words);
        let status = |line: &str| format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n");
        let error = |code: &str| status(&format!("404 Not Found\r\nX-Error-Code: {code}"));
        let moved = |to: String| status(&format!("307 Temporary Redirect\r\nLocation: {to}"));
        let mut is_silent = false;
        let (head, body) = match path.split('/').collect::<Vec<_>>()[..] {
            // A repository that was renamed.
            ["", "api", "models", "old", "name", "revision", revision] => {
                (moved(format!("/api/models/org/name/revision/{revision}")), vec![])
            }
            ["", "old", "name", "resolve", revision, file] => {
                (moved(format!("/org/name/resolve/{revision}/{file}")), vec![])
            }
            ["", "api", "models", "org", "name", _, "main" | "v1" | "refs%2Fpr%2F1" | COMMIT] => {
                self.listing()
            }
            ["", "api", "models", "org", "gated" | "odd", ..] => self.listing(),
            ["", "api", "models", "org", "name", ..] => (error("RevisionNotFound"), vec![]),
            ["", "api", "models", "org", "busy", ..] => (status("503 Busy"), vec![]),
            ["", "api", "models", "org", "other", ..] => (status("200 OK"), vec![]),
            ["", "api", "models", "org", "circle", ..] => (moved(path.clone()), vec![]),
            ["", "api", "models", "org", "silent", ..] => {
                is_silent = true;
                ("HTTP/1.1 200 OK\r\n".to_owned(), vec![])
            }
            ["", "org", "name", "resolve", COMMIT, file] if self.files[file].stored_at.is_some() => {
                let served = &self.files[file];
                let to = format!("{}/storage/{file}", served.stored_at.as_deref().unwrap());
                let more =
                    format!("X-Linked-ETag: {}\r\nX-Repo-Commit: {COMMIT}\r\nETag: \"x\"", served.etag);
                (status(&format!("302 Found\r\n{more}\r\nLocation: {to}")), vec![])
            }
            ["", "org", "name", "resolve", COMMIT, file] | ["", "storage", file] => {
                let (served, (from, to)) = (&self.files[file], range.unwrap());
                let from: usize = from.parse().unwrap();
                let to = to.parse().map_or(served.length, |last: usize| last + 1);
                is_silent = from == 0 && to > 1 && served.silent_after.is_some();
                content(served, from, to, is_silent)
            }
            ["", "org", "gated", ..] => (status("403 Forbidden"), vec![]),
            ["", "org", "odd", ..] => {
                (status(&format!("304 Not Modified\r\nETag: x\r\nX-Repo-Commit: {COMMIT}")), vec![])
            }
            _ => (error("RepoNotFound"), vec![]),
        };
        stream.write_all(head.as_bytes())?;
        if is_silent && body.is_empty() {
            return self.fall_silent(stream);
        }
        stream.write_all(b"Connection: close\r\n\r\n")?;
        stream.write_all(&body)?;
        if is_silent { self.fall_silent(stream) } else { Ok(()) }
    }

    fn listing(&self) -> (String, Vec<u8>) {
        let names: Vec<String> =
            self.files.keys().map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
        let json = format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", names.join(", "));
        (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", json.len()), json.into_bytes())
    }

    fn fall_silent(&self, mut stream: TcpStream) -> std::io::Result<()> {
        self.silence.ask(Reason::Cancelled);
        let _ = stream.read_to_end(&mut vec![]);
        let _ = self.closed.send(());
        Ok(())
    }
}

/// The answer for the bytes `from .. to` of a file.
fn content(served: &Served, from: usize, to: usize, is_silent: bool) -> (String, Vec<u8>) {
    let said = format!("ETag: {}\r\nX-Repo-Commit: {COMMIT}\r\n", served.etag);
    if served.whole {
        let length = served.body.len();
        return (format!("HTTP/1.1 200 OK\r\n{said}Content-Length: {length}\r\n"), served.body.clone());
    }
    if from >= served.length {
        let range = format!("Content-Range: bytes */{}\r\nContent-Length: 0\r\n", served.announced);
        return (format!("HTTP/1.1 416 Range Not Satisfiable\r\n{said}{range}"), vec![]);
    }
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\n{said}Content-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\n",
        to - from,
        to - 1,
        served.announced
    );
    let end = served.silent_after.filter(|_| is_silent).unwrap_or(to.min(served.body.len()));
    (head, served.body[from..end].to_vec())
}
