//! From the hub into the cache, by the crate hf-hub.
//!
//! The crate waits for ever, keeps whatever arrives under the name that the hub gives it, and panics at some odd
//! answers. So its calls run on a thread that is given up when it falls silent, names are looked at first, and every
//! file is compared with what the hub announced.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, StorageFull};
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, Metadata};
use hf_hub::api::{Progress, RepoInfo};
use hf_hub::{Cache, Repo, RepoType};

use super::{HubConfig, is_revision};
use crate::folder::{CONFIG, lacking_of};
use hone_base::digest;
use hone_base::error::{Error, Kind, Result, quoted};
use hone_engine::model::weights_file::{INDEX, WEIGHTS, parse_index};

/// In this order: what is small tells early whether the repository can be used at all.
const FILES: [&str; 6] = [
    CONFIG,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "vocab.txt",
];

/// What RoBERTa has where there is no `tokenizer.json`.
const PAIRS: [&str; 2] = ["vocab.json", "merges.txt"];

/// How often the progress of a file is told.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// One repository on its way into the cache.
pub(super) struct Download<'a> {
    hub: &'a HubConfig,
    id: &'a str,
    revision: &'a str,
    progress: &'a mut dyn FnMut(String),
    api: Api,
    cache: Cache,
}

impl<'a> Download<'a> {
    pub(super) fn new(
        hub: &'a HubConfig,
        id: &'a str,
        revision: &'a str,
        progress: &'a mut dyn FnMut(String),
    ) -> Result<Self> {
        let cache = Cache::new(hub.cache.clone());
        // A retry of the crate may append the whole file to its part; a later try of ours goes on from the part.
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(hub.endpoint.clone())
            .with_token(hub.token.clone())
            .with_user_agent("hone", env!("CARGO_PKG_VERSION"))
            .with_progress(false)
            .with_retries(0)
            .build()
            .map_err(|error| Error::internal(format!("cannot prepare a download: {error}")))?;
        Ok(Self { hub, id, revision, progress, api, cache })
    }

    /// Downloads what is not there yet. Returns the snapshot's folder.
    pub(super) fn run(mut self) -> Result<PathBuf> {
        (self.progress)(format!("looking for {} at {}", self.id, self.hub.endpoint));
        let info = self.info()?;
        let names: BTreeSet<String> = info.siblings.iter().map(|file| file.rfilename.clone()).collect();
        let has = |name: &str| names.contains(name);
        if let Some(lacking) = lacking_of(&names, self.id) {
            return Err(Error::precondition(format!(
                "{} has no {lacking}; choose a repository with safetensors weights and a tokenizer, or convert it \
                 (transformers: save_pretrained) and pass the folder",
                self.id
            )));
        }
        // All files are those of one commit, should the branch move meanwhile.
        let repo = self.repo(&info.sha);
        let snapshot = self.cache.repo(repo.clone()).pointer_path(&info.sha);
        fs::create_dir_all(&snapshot).map_err(|error| Error::io("create", &snapshot, &error))?;
        let pairs = PAIRS.into_iter().filter(|_| !has("tokenizer.json"));
        for name in FILES.into_iter().chain(pairs).filter(|name| has(name)) {
            self.fetch(name, &repo)?;
        }
        for name in self.weights(&names, &repo, &snapshot)? {
            self.fetch(&name, &repo)?;
        }
        let reference = self.cache.repo(self.repo(self.revision));
        reference.create_ref(&info.sha).map_err(|error| Error::io("write to", &self.hub.cache, &error))?;
        Ok(snapshot)
    }

    /// The files of the weights; the index says which they are where there are several.
    fn weights(
        &mut self,
        names: &BTreeSet<String>,
        repo: &Repo,
        snapshot: &Path,
    ) -> Result<BTreeSet<String>> {
        if names.contains(WEIGHTS) {
            return Ok(BTreeSet::from([WEIGHTS.to_owned()]));
        }
        self.fetch(INDEX, repo)?;
        let path = snapshot.join(INDEX);
        let text = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, &error))?;
        let index = parse_index(&text).map_err(|error| error.of_named().within(self.id))?;
        let shards: BTreeSet<String> = index.into_values().collect();
        match shards.difference(names).next() {
            None => Ok(shards),
            Some(missing) => {
                Err(Error::precondition(format!("{} has no {missing}, which its {INDEX} names", self.id)))
            }
        }
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.id.to_owned(), RepoType::Model, revision.to_owned())
    }

    /// The revision's commit and files. The first question to the hub, so it has a time limit for everything.
    fn info(&self) -> Result<RepoInfo> {
        let request = self.api.repo(self.repo(self.revision)).info_request().config();
        let request = request.timeout_global(Some(self.hub.patience)).http_status_as_error(false).build();
        let mut response = request.call().map_err(|error| self.unavailable(error))?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        match response.status().as_u16() {
            200 => (),
            status => return Err(self.refused(status, header("x-error-code"), header("x-error-message"))),
        }
        let info: RepoInfo = response.body_mut().read_json().map_err(|error| self.not_a_hub(error))?;
        if !is_file_name(&info.sha) {
            return Err(self.not_a_hub(format_args!("the commit is {}", quoted(&info.sha))));
        }
        Ok(info)
    }

    /// Brings a file into the snapshot, unless it is there.
    fn fetch(&mut self, name: &str, repo: &Repo) -> Result<()> {
        let (api, remote) = (self.api.clone(), self.api.repo(repo.clone()));
        let url = remote.url(name);
        let asked = url.clone();
        let announced = self.watch(name, || (), move |_pulse| api.metadata(&asked))?;
        let (etag, commit) = (announced.etag(), announced.commit_hash());
        if commit != repo.revision() || !is_file_name(etag.trim_start_matches("W/")) {
            return Err(self.not_a_hub(format_args!(
                "{name} has the etag {} and the commit {}",
                quoted(etag),
                quoted(commit)
            )));
        }
        let cached = self.cache.repo(repo.clone());
        let (blob, file) = (cached.blob_path(etag), cached.pointer_path(commit).join(name));
        if check(&file, &announced).is_ok() {
            return Ok(());
        }
        (self.progress)(format!("downloading {name} ({}) from {url}", megabytes(announced.size())));
        // The crate would keep the old link, and cannot go on from a part that is whole or too long.
        remove(&file);
        let part = blob.with_extension("part");
        if fs::metadata(&part).is_ok_and(|part| part.len() >= announced.size() as u64) {
            remove(&part);
        }
        // A call that was given up holds its lock as long as it waits.
        let lock = blob.with_extension("lock");
        let give_up = || remove(&lock);
        let asked = name.to_owned();
        self.watch(name, give_up, move |pulse| remote.download_with_progress(&asked, pulse))?;
        check(&file, &announced).map_err(|fault| {
            remove(&file);
            remove(&blob);
            self.unavailable(format_args!("{name}: {fault}"))
        })
    }

    /// Makes a call of the crate, and gives it up when nothing is heard of it for too long.
    fn watch<T: Send + 'static>(
        &mut self,
        name: &str,
        give_up: impl FnOnce(),
        call: impl FnOnce(Pulse) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T> {
        let (pulse, heard) = mpsc::channel();
        let thread = thread::Builder::new().name("download".to_owned()).spawn(move || call(Pulse(pulse)));
        let thread = thread.map_err(|error| Error::internal(format!("cannot start a thread: {error}")))?;
        let (mut size, mut told) = (0, Instant::now());
        loop {
            match heard.recv_timeout(self.hub.patience) {
                Ok(bytes) => size += bytes,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    give_up();
                    return Err(self.unavailable(format_args!(
                        "{name}: silence for {} s",
                        self.hub.patience.as_secs_f64()
                    )));
                }
            }
            if told.elapsed() >= TOLD_EVERY {
                told = Instant::now();
                (self.progress)(format!("downloading {name}: {} are here", megabytes(size)));
            }
        }
        match thread.join() {
            Ok(result) => result.map_err(|error| self.failed(name, &error)),
            Err(_) => Err(self.not_a_hub(format_args!("{name} makes no sense to hf-hub"))),
        }
    }

    fn failed(&self, name: &str, error: &ApiError) -> Error {
        // The crate passes on what its HTTP client says, but not the client's types.
        let words = error.to_string();
        match (words.rsplit_once("http status: ").map(|(_, status)| status), error) {
            (Some("401" | "403"), _) => self.refused(403, None, None),
            (_, ApiError::LockAcquisition(lock)) => self.unavailable(format_args!(
                "another process is downloading {name} and holds {}",
                lock.display()
            )),
            (_, ApiError::IoError(error))
                if matches!(error.kind(), StorageFull | QuotaExceeded | PermissionDenied) =>
            {
                Error::io("write to", &self.hub.cache, error)
            }
            _ => self.unavailable(format_args!("{name}: {words}")),
        }
    }

    fn refused(&self, status: u16, code: Option<&str>, message: Option<&str>) -> Error {
        let (id, endpoint) = (self.id, &self.hub.endpoint);
        match (status, code) {
            (404, Some("RevisionNotFound")) => {
                Error::not_found(format!("{id} at {endpoint} has no revision {}", quoted(self.revision)))
            }
            (403, _) | (401, Some("GatedRepo")) => Error::precondition(format!(
                "{endpoint} does not give {id} to everyone: accept its terms there and set HF_TOKEN on the daemon's \
                 machine, or pass a folder"
            )),
            (401 | 404, _) => Error::not_found(format!(
                "there is no {id} at {endpoint}, or it is private: check the name, or set HF_TOKEN on the daemon's \
                 machine"
            )),
            _ => {
                let message = message.map_or(String::new(), |message| format!(" ({message})"));
                self.unavailable(format_args!("it answers status {status}{message}"))
            }
        }
    }

    fn not_a_hub(&self, why: impl Display) -> Error {
        self.unavailable(format_args!("it does not answer like a Hugging Face hub ({why})"))
    }

    fn unavailable(&self, why: impl Display) -> Error {
        let (id, endpoint) = (self.id, &self.hub.endpoint);
        let way_out = "try again, or pass the folder of an encoder on the daemon's machine";
        Error::new(Kind::Unavailable, format!("cannot download {id} from {endpoint}: {why}; {way_out}"))
    }
}

/// Tells how many bytes came. Stops a call that nobody waits for any more before it writes them.
struct Pulse(Sender<usize>);

impl Progress for Pulse {
    fn init(&mut self, _size: usize, _name: &str) {}

    fn update(&mut self, bytes: usize) {
        if self.0.send(bytes).is_err() {
            panic::resume_unwind(Box::new("given up"));
        }
    }

    fn finish(&mut self) {}
}

/// Whether the file is what the hub announced.
fn check(file: &Path, announced: &Metadata) -> Result<(), String> {
    let (size, expected) =
        (fs::metadata(file).map_err(|error| error.to_string())?.len(), announced.size() as u64);
    if size != expected {
        return Err(format!("{size} bytes arrived of {expected}"));
    }
    let etag = announced.etag();
    if etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let digest = digest::of_file(file, String::new()).map_err(|error| error.to_string())?.sha256;
        if !digest.eq_ignore_ascii_case(etag) {
            return Err(format!("the bytes that arrived have another SHA-256 ({digest})"));
        }
    }
    Ok(())
}

fn is_file_name(name: &str) -> bool {
    is_revision(name) && !name.contains('/')
}

/// What cannot be removed is noticed by whoever writes there next.
fn remove(file: &Path) {
    let _ = fs::remove_file(file);
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use sha2::{Digest, Sha256};

    use super::super::{EncoderName, is_complete};
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A hub on this machine that has one repository and remembers what it was asked.
    struct Hub {
        endpoint: String,
        asked: Arc<Mutex<Vec<String>>>,
    }

    /// How the hub answers for one file.
    #[derive(Clone)]
    struct Served {
        body: Vec<u8>,
        etag: String,
        /// What the hub says of the file.
        announced: usize,
        /// What it says of its answer.
        length: usize,
        /// After how many bytes it falls silent.
        silent_after: Option<usize>,
    }

    fn served(body: &str) -> Served {
        let etag = format!("\"{:040x}\"", body.len());
        let size = body.len();
        Served { body: body.as_bytes().to_vec(), etag, announced: size, length: size, silent_after: None }
    }

    fn weights(body: &str) -> Served {
        let digest: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
        Served { etag: format!("\"{digest}\""), ..served(body) }
    }

    fn whole_repository() -> HashMap<&'static str, Served> {
        HashMap::from([
            ("config.json", served("{}")),
            ("tokenizer.json", served("{\"version\": 1}")),
            ("model.safetensors", weights("the weights")),
        ])
    }

    impl Hub {
        /// Serves `files` of `org/name` at `main`, `v1` and the commit.
        fn start(files: HashMap<&'static str, Served>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::new(Mutex::new(vec![]));
            let hub = Self { endpoint, asked: asked.clone() };
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let (files, asked) = (files.clone(), asked.clone());
                    // The client may hang up early.
                    thread::spawn(move || answer(stream.unwrap(), &files, &asked));
                }
            });
            hub
        }

        fn config(&self, cache: &Path) -> HubConfig {
            HubConfig {
                cache: cache.to_owned(),
                endpoint: self.endpoint.clone(),
                offline: false,
                token: Some("secret".to_owned()),
                patience: Duration::from_secs(5),
            }
        }

        fn asked(&self) -> Vec<String> {
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
        let range = headers.iter().find_map(|line| {
            let (name, value) = line.split_once(": bytes=")?;
            name.eq_ignore_ascii_case("range").then(|| value.split_once('-')).flatten()
        });
        let path = request.trim_start_matches("GET ").trim_end_matches(" HTTP/1.1").to_owned();
        let words = range.map_or(path.clone(), |(from, to)| format!("{path} {from}-{to}"));
        asked.lock().unwrap().push(words);
        let status = |line: &str| format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n");
        let error = |code: &str| status(&format!("404 Not Found\r\nX-Error-Code: {code}"));
        let moved = |to: String| status(&format!("307 Temporary Redirect\r\nLocation: {to}"));
        let listing = || {
            let names: Vec<String> =
                files.keys().map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
            let json = format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", names.join(", "));
            (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", json.len()), json.into_bytes())
        };
        let mut silent = false;
        let (head, body) = match path.split('/').collect::<Vec<_>>()[..] {
            // A repository that was renamed.
            ["", "api", "models", "old", "name", "revision", revision] => {
                (moved(format!("/api/models/org/name/revision/{revision}")), vec![])
            }
            ["", "old", "name", "resolve", revision, file] => {
                (moved(format!("/org/name/resolve/{revision}/{file}")), vec![])
            }
            ["", "api", "models", "org", "name", _, "main" | "v1" | "refs%2Fpr%2F1" | COMMIT] => listing(),
            ["", "api", "models", "org", "gated" | "odd", ..] => listing(),
            ["", "api", "models", "org", "name", ..] => (error("RevisionNotFound"), vec![]),
            ["", "api", "models", "org", "busy", ..] => (status("503 Busy"), vec![]),
            ["", "api", "models", "org", "other", ..] => (status("200 OK"), vec![]),
            ["", "org", "name", "resolve", COMMIT, file] => {
                let (served, (from, to)) = (&files[file], range.unwrap());
                let from: usize = from.parse().unwrap();
                let to = to.parse().map_or(served.length, |last: usize| last + 1);
                silent = from == 0 && to > 1 && served.silent_after.is_some();
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\nETag: {}\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: {}\r\n\
                     Content-Range: bytes {from}-{}/{}\r\n",
                    served.etag,
                    to - from,
                    to - 1,
                    served.announced
                );
                let end = served.silent_after.filter(|_| silent).unwrap_or(to.min(served.body.len()));
                (head, served.body[from..end].to_vec())
            }
            ["", "org", "gated", ..] => (status("403 Forbidden"), vec![]),
            ["", "org", "odd", ..] => {
                (status(&format!("304 Not Modified\r\nETag: x\r\nX-Repo-Commit: {COMMIT}")), vec![])
            }
            _ => (error("RepoNotFound"), vec![]),
        };
        stream.write_all(head.as_bytes())?;
        stream.write_all(b"Connection: close\r\n\r\n")?;
        stream.write_all(&body)?;
        if silent {
            thread::sleep(Duration::from_secs(2));
            return stream.write_all(b"later");
        }
        Ok(())
    }

    fn name(text: &str) -> EncoderName {
        EncoderName::parse(text).unwrap()
    }

    fn refusal(hub: &Hub, text: &str) -> Error {
        let cache = tempfile::tempdir().unwrap();
        let config = hub.config(cache.path());
        let error = config.resolve(&name(text), &mut |_| ()).unwrap_err();
        assert_eq!(config.find_local(&name(text)).unwrap(), None);
        error
    }

    #[test]
    fn a_model_is_downloaded_once_and_then_found_without_the_hub() {
        let hub = Hub::start(whole_repository());
        let cache = tempfile::tempdir().unwrap();
        let config = hub.config(cache.path());
        let mut told = vec![];
        let folder = config.resolve(&name("org/name"), &mut |words| told.push(words)).unwrap();
        assert_eq!(folder, cache.path().join("models--org--name/snapshots").join(COMMIT));
        assert!(is_complete(&folder));
        assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "the weights");
        let url = format!("{}/org/name/resolve/{COMMIT}/model.safetensors", hub.endpoint);
        assert!(told.contains(&format!("downloading model.safetensors (0.0 MB) from {url}")), "{told:?}");
        // The branch is asked for once; everything else is of its commit.
        let asked = hub.asked();
        assert_eq!(asked.iter().filter(|request| request.ends_with("/main")).count(), 1, "{asked:?}");
        let blobs = fs::read_dir(cache.path().join("models--org--name/blobs")).unwrap();
        assert!(
            blobs.into_iter().all(|blob| blob.unwrap().path().extension().is_none_or(|end| end == "lock"))
        );

        assert_eq!(config.resolve(&name("org/name"), &mut |_| ()).unwrap(), folder);
        assert_eq!(config.resolve(&name(&format!("org/name@{COMMIT}")), &mut |_| ()).unwrap(), folder);
        assert_eq!(hub.asked(), Vec::<String>::new());

        // Another branch of the same commit costs questions, but no bytes.
        assert_eq!(config.resolve(&name("org/name@v1"), &mut |_| ()).unwrap(), folder);
        let asked = hub.asked();
        assert!(asked.iter().all(|asked| asked.contains("/api/") || asked.ends_with(" 0-0")), "{asked:?}");
        assert!(config.find_local(&name("org/name@v1")).unwrap().is_some());
    }

    #[test]
    fn revisions_with_slashes_and_renamed_repositories_are_found() {
        let hub = Hub::start(whole_repository());
        for text in ["org/name@refs/pr/1", "old/name"] {
            let cache = tempfile::tempdir().unwrap();
            let config = hub.config(cache.path());
            let folder = config.resolve(&name(text), &mut |_| ()).unwrap();
            assert_eq!(config.find_local(&name(text)).unwrap(), Some(folder));
        }
    }

    #[test]
    fn what_the_hub_does_not_give_is_told_by_its_name() {
        let hub = Hub::start(whole_repository());
        for (text, kind, expected) in [
            ("org/none", Kind::NotFound, "there is no org/none at http://127.0.0.1"),
            ("org/name@v9", Kind::NotFound, "has no revision \"v9\""),
            ("org/gated", Kind::Precondition, "set HF_TOKEN"),
            ("org/busy", Kind::Unavailable, "it answers status 503; try again, or pass the folder"),
            ("org/busy", Kind::Unavailable, "cannot download org/busy from http://127.0.0.1"),
            ("org/other", Kind::Unavailable, "does not answer like a Hugging Face hub"),
            // The crate panics at this one.
            ("org/odd", Kind::Unavailable, "does not answer like a Hugging Face hub"),
        ] {
            let error = refusal(&hub, text);
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.message().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_repository_without_safetensors_or_tokenizer_is_refused() {
        let without = |file: &str| {
            let mut files = whole_repository();
            files.remove(file);
            refusal(&Hub::start(files), "org/name")
        };
        for (file, expected) in [
            ("config.json", "org/name has no config.json"),
            ("model.safetensors", "org/name has no model.safetensors"),
            ("tokenizer.json", "org/name has no tokenizer.json or vocab.txt"),
        ] {
            let error = without(file);
            assert_eq!(error.kind(), Kind::Precondition, "{error}");
            assert!(error.message().contains(expected), "{error}");
            assert!(error.message().contains("pass the folder"), "{error}");
        }
    }

    const INDEX_TEXT: &str = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;

    fn sharded() -> HashMap<&'static str, Served> {
        let mut files = whole_repository();
        files.remove("model.safetensors");
        files.insert("model.safetensors.index.json", served(INDEX_TEXT));
        files.insert("model-00001-of-00002.safetensors", weights("the first"));
        files.insert("model-00002-of-00002.safetensors", weights("the second"));
        files
    }

    #[test]
    fn weights_in_several_files_are_downloaded_with_their_index() {
        let hub = Hub::start(sharded());
        let cache = tempfile::tempdir().unwrap();
        let config = hub.config(cache.path());
        let folder = config.resolve(&name("org/name"), &mut |_| ()).unwrap();
        let shard = folder.join("model-00002-of-00002.safetensors");
        assert_eq!(fs::read_to_string(&shard).unwrap(), "the second");
        assert_eq!(config.find_local(&name("org/name")).unwrap(), Some(folder.clone()));
        // A part that was lost is fetched again.
        fs::remove_file(&shard).unwrap();
        assert_eq!(config.find_local(&name("org/name")).unwrap(), None);
        assert_eq!(config.resolve(&name("org/name"), &mut |_| ()).unwrap(), folder);
        assert_eq!(fs::read_to_string(&shard).unwrap(), "the second");
    }

    #[test]
    fn an_index_that_names_what_the_repository_lacks_or_leaves_the_folder_is_refused() {
        let mut lacks = sharded();
        lacks.remove("model-00002-of-00002.safetensors");
        let mut leaves = sharded();
        let index = INDEX_TEXT.replace("model-00002", "../../model-00002");
        leaves.insert("model.safetensors.index.json", served(&index));
        for (files, expected) in [
            (
                lacks,
                "org/name has no model-00002-of-00002.safetensors, which its model.safetensors.index.json names",
            ),
            (leaves, "which is no safetensors file of this folder"),
        ] {
            let error = refusal(&Hub::start(files), "org/name");
            assert_eq!(error.kind(), Kind::Precondition, "{error}");
            assert!(error.message().contains(expected), "{error}");
        }
    }

    #[test]
    fn byte_pairs_are_downloaded_where_there_is_no_other_tokenizer() {
        let mut files = whole_repository();
        files.insert("vocab.json", served("{}"));
        files.insert("merges.txt", served("#version: 0.2"));
        let download = |files| {
            let cache = tempfile::tempdir().unwrap();
            let hub = Hub::start(files);
            let folder = hub.config(cache.path()).resolve(&name("org/name"), &mut |_| ()).unwrap();
            ["vocab.json", "merges.txt"].map(|name| folder.join(name).exists())
        };
        assert_eq!(download(files.clone()), [false, false]);
        files.remove("tokenizer.json");
        assert_eq!(download(files), [true, true]);
    }

    #[test]
    fn weights_that_arrive_cut_or_changed_are_not_accepted() {
        let good = || weights("the weights");
        for (weights, expected) in [
            (Served { announced: 20, length: 20, ..good() }, "model.safetensors: "),
            (Served { announced: 20, ..good() }, "11 bytes arrived of 20"),
            (Served { body: b"the w8ights".to_vec(), ..good() }, "have another SHA-256"),
            (
                Served { etag: "\"../../../x\"".to_owned(), ..good() },
                "does not answer like a Hugging Face hub",
            ),
        ] {
            let mut files = whole_repository();
            files.insert("model.safetensors", weights);
            let hub = Hub::start(files);
            let cache = tempfile::tempdir().unwrap();
            let config = hub.config(cache.path());
            let error = config.resolve(&name("org/name"), &mut |_| ()).unwrap_err();
            assert_eq!(error.kind(), Kind::Unavailable, "{error}");
            assert!(error.message().contains(expected), "{error}");
            for revision in ["main", COMMIT] {
                assert_eq!(config.find_local(&name(&format!("org/name@{revision}"))).unwrap(), None);
            }
        }
    }

    #[test]
    fn a_download_that_falls_silent_is_given_up_and_the_next_try_goes_on_from_there() {
        let mut files = whole_repository();
        files.insert("model.safetensors", Served { silent_after: Some(4), ..weights("the weights") });
        let hub = Hub::start(files);
        let cache = tempfile::tempdir().unwrap();
        let config = HubConfig { patience: Duration::from_millis(500), ..hub.config(cache.path()) };
        let error = config.resolve(&name("org/name"), &mut |_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(error.message().contains("model.safetensors: silence for 0.5 s"), "{error}");
        hub.asked();
        let folder = config.resolve(&name("org/name"), &mut |_| ()).unwrap();
        assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "the weights");
        let asked = hub.asked();
        assert!(asked.iter().any(|asked| asked.ends_with("/model.safetensors 4-")), "{asked:?}");
    }

    #[test]
    fn what_an_earlier_download_left_behind_does_no_harm() {
        let hub = Hub::start(whole_repository());
        let cache = tempfile::tempdir().unwrap();
        let config = hub.config(cache.path());
        let folder = config.resolve(&name("org/name"), &mut |_| ()).unwrap();
        let weights = folder.join("model.safetensors");
        let blob = fs::canonicalize(&weights).unwrap();
        for left_over in ["the w", "the weights", "the w8ights", "the weights and more"] {
            fs::remove_file(cache.path().join("models--org--name/refs/main")).unwrap();
            fs::write(&blob, "x").unwrap();
            fs::write(blob.with_extension("part"), left_over).unwrap();
            config.resolve(&name("org/name"), &mut |_| ()).unwrap();
            assert_eq!(fs::read_to_string(&weights).unwrap(), "the weights");
        }
    }

    #[test]
    fn a_hub_that_is_down_or_silent_is_given_up_soon() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // Connections are taken by the operating system, and nobody answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        for address in [closed, silent.local_addr().unwrap()] {
            let cache = tempfile::tempdir().unwrap();
            let config = HubConfig {
                cache: cache.path().to_owned(),
                endpoint: format!("http://{address}"),
                offline: false,
                token: None,
                patience: Duration::from_millis(200),
            };
            let start = Instant::now();
            let error = config.resolve(&name("org/name"), &mut |_| ()).unwrap_err();
            assert!(start.elapsed() < Duration::from_secs(5));
            assert_eq!(error.kind(), Kind::Unavailable, "{error}");
            assert!(error.message().contains(&address.to_string()), "{error}");
            assert!(error.message().contains("pass the folder"), "{error}");
        }
    }
}
