//! From the hub into the cache.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::{CONFIG, HubConfig, Repository, TOKENIZERS, WEIGHTS, is_revision, missing};
use crate::error::{Error, Kind, Result};

/// In this order: what is small tells early whether the repository can be used at all.
const FILES: [&str; 6] =
    [CONFIG, "tokenizer_config.json", "special_tokens_map.json", TOKENIZERS[0], TOKENIZERS[1], WEIGHTS];

const MOST_REDIRECTS: usize = 5;
const BUFFER_BYTES: usize = 1 << 16;
/// How often the progress of a file is told.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// One repository on its way into the cache.
pub(super) struct Download<'a> {
    hub: &'a HubConfig,
    id: &'a str,
    revision: &'a str,
    repository: Repository,
    progress: &'a mut dyn FnMut(String),
    following: Agent,
    staying: Agent,
}

/// What the hub announces of a file.
struct Announced {
    commit: String,
    etag: String,
    size: Option<u64>,
}

impl<'a> Download<'a> {
    pub(super) fn new(
        hub: &'a HubConfig,
        id: &'a str,
        revision: &'a str,
        progress: &'a mut dyn FnMut(String),
    ) -> Self {
        let agent = |redirects: u32| {
            let mut config = Agent::config_builder()
                .user_agent(concat!("hone/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity")
                .http_status_as_error(false)
                .max_redirects(redirects)
                .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
                .timeout_resolve(Some(hub.patience))
                .timeout_connect(Some(hub.patience))
                .timeout_recv_response(Some(hub.patience))
                .timeout_per_read(Some(hub.patience));
            if is_this_machine(&hub.endpoint) {
                config = config.proxy(None);
            }
            config.build().into()
        };
        Self {
            hub,
            id,
            revision,
            repository: Repository::new(&hub.cache, id),
            progress,
            following: agent(10),
            staying: agent(0),
        }
    }

    /// Downloads what is not there yet. Returns the snapshot's folder.
    pub(super) fn run(mut self) -> Result<PathBuf> {
        (self.progress)(format!("looking for {} at {}", self.id, self.hub.endpoint));
        // All files are those of the commit that the first one has, should the branch move meanwhile.
        let mut commit: Option<String> = None;
        for name in FILES {
            let revision = commit.as_deref().unwrap_or(self.revision);
            let Some(announced) = self.announced(name, revision)? else { continue };
            let commit = commit.get_or_insert_with(|| announced.commit.clone());
            let snapshot = self.repository.snapshot(commit);
            let blob = self.fetch(name, commit, &announced)?;
            link(&blob, &snapshot.join(name))?;
        }
        let unusable = |missing: &str| {
            Error::precondition(format!(
                "{} has no {missing}; choose a repository with safetensors weights and a tokenizer, or convert it \
                 (transformers: save_pretrained) and pass the folder",
                self.id
            ))
        };
        let commit = commit.ok_or_else(|| unusable(CONFIG))?;
        let snapshot = self.repository.snapshot(&commit);
        if let Some(missing) = missing(&snapshot) {
            return Err(unusable(&missing));
        }
        if commit != self.revision {
            write_reference(&self.repository.reference(self.revision), &commit)?;
        }
        Ok(snapshot)
    }

    fn url(&self, name: &str, revision: &str) -> String {
        format!("{}/{}/resolve/{}/{name}", self.hub.endpoint, self.id, revision.replace('/', "%2F"))
    }

    /// What the hub announces of a file; `None` when the repository does not have it.
    fn announced(&self, name: &str, revision: &str) -> Result<Option<Announced>> {
        let url = self.url(name, revision);
        let mut at = url.clone();
        for _ in 0..MOST_REDIRECTS {
            let mut request = self.staying.head(&at);
            if let Some(token) = &self.hub.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| self.unreachable(&url, &error))?;
            let headers = response.headers();
            // A relative address leads on inside the hub (a renamed repository); an absolute one to the storage,
            // and what the hub knows of the file stands beside it.
            if response.status().is_redirection()
                && let Some(location) =
                    header(headers, "location").filter(|location| location.starts_with('/'))
            {
                at = format!("{}{location}", origin(&self.hub.endpoint));
                continue;
            }
            return match response.status().as_u16() {
                200..=399 => self.parse(&url, headers).map(Some),
                404 if header(headers, "x-error-code") == Some("EntryNotFound") => Ok(None),
                // A stand-in for the hub may not know error codes: a file may be absent, the repository may not.
                404 if header(headers, "x-error-code").is_none() && name != CONFIG => Ok(None),
                status => Err(self.refused(status, headers)),
            };
        }
        Err(Error::new(Kind::Unavailable, format!("{url} leads in a circle; {}", self.way_out())))
    }

    fn parse(&self, url: &str, headers: &HeaderMap) -> Result<Announced> {
        let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag"));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
        let commit = header(headers, "x-repo-commit");
        // Both become names of files.
        let is_name = |name: &&str| is_revision(name) && !name.contains('/');
        let (Some(etag), Some(commit)) = (etag.filter(is_name), commit.filter(is_name)) else {
            return Err(Error::new(
                Kind::Unavailable,
                format!("{url} does not answer like a Hugging Face hub; {}", self.way_out()),
            ));
        };
        let size = header(headers, "x-linked-size").or_else(|| header(headers, "content-length"));
        Ok(Announced {
            commit: commit.to_owned(),
            etag: etag.to_owned(),
            size: size.and_then(|size| size.parse().ok()),
        })
    }

    /// Brings a file's bytes into the cache, unless they are there.
    fn fetch(&mut self, name: &str, commit: &str, announced: &Announced) -> Result<PathBuf> {
        let blobs = self.repository.blobs();
        let blob = blobs.join(&announced.etag);
        if fs::metadata(&blob).is_ok_and(|blob| announced.size.is_none_or(|size| blob.len() == size)) {
            return Ok(blob);
        }
        let url = self.url(name, commit);
        let size = announced.size.map_or(String::new(), |size| format!(" ({})", megabytes(size)));
        (self.progress)(format!("downloading {name}{size} from {url}"));
        let mut request = self.following.get(&url);
        if let Some(token) = &self.hub.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let response = request.call().map_err(|error| self.unreachable(&url, &error))?;
        if response.status().as_u16() != 200 {
            return Err(self.refused(response.status().as_u16(), response.headers()));
        }
        fs::create_dir_all(&blobs).map_err(|error| Error::io("create", &blobs, &error))?;
        let mut file = new_file(&blobs).map_err(|error| Error::io("create a file in", &blobs, &error))?;
        self.copy(name, &url, announced, response, file.as_file_mut())?;
        file.as_file().sync_all().map_err(|error| Error::io("write", &blob, &error))?;
        file.persist(&blob).map_err(|error| Error::io("write", &blob, &error.error))?;
        Ok(blob)
    }

    /// Copies a body, and accepts it only when it is what was announced.
    fn copy(
        &mut self,
        name: &str,
        url: &str,
        announced: &Announced,
        response: Response<Body>,
        file: &mut fs::File,
    ) -> Result<()> {
        let mut body = response.into_body().into_reader();
        let mut digest = Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut size = 0u64;
        let mut told = Instant::now();
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => buffer.get(..read).unwrap_or_default(),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.unreachable(url, &error)),
            };
            file.write_all(read).map_err(|error| Error::io("write", &self.repository.blobs(), &error))?;
            digest.update(read);
            size += read.len() as u64;
            if told.elapsed() >= TOLD_EVERY {
                told = Instant::now();
                (self.progress)(format!("downloading {name}: {} are here", megabytes(size)));
            }
        }
        let complain = |what: String| Err(Error::new(Kind::Unavailable, format!("{url}: {what}; try again")));
        if let Some(expected) = announced.size
            && expected != size
        {
            return complain(format!("{size} bytes arrived of {expected}"));
        }
        let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if is_sha256(&announced.etag) && announced.etag != digest {
            return complain(format!("the bytes that arrived have another SHA-256 ({digest})"));
        }
        Ok(())
    }

    fn refused(&self, status: u16, headers: &HeaderMap) -> Error {
        let (id, endpoint) = (self.id, &self.hub.endpoint);
        match (status, header(headers, "x-error-code")) {
            (404, Some("RevisionNotFound")) => {
                Error::not_found(format!("{id} at {endpoint} has no revision {:?}", self.revision))
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
                let told = header(headers, "x-error-message")
                    .map_or(String::new(), |message| format!(" ({message})"));
                Error::new(
                    Kind::Unavailable,
                    format!("{endpoint} answers status {status}{told} for {id}; {}", self.way_out()),
                )
            }
        }
    }

    fn unreachable(&self, url: &str, error: &dyn std::fmt::Display) -> Error {
        Error::new(Kind::Unavailable, format!("cannot download {url}: {error}; {}", self.way_out()))
    }

    fn way_out(&self) -> &'static str {
        "try again, or pass the folder of an encoder on the daemon's machine"
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    let length = url.get(host..).and_then(|rest| rest.find('/')).map_or(url.len(), |slash| host + slash);
    url.get(..length).unwrap_or(url)
}

/// Whether a proxy must not be asked.
fn is_this_machine(endpoint: &str) -> bool {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
    ["127.", "localhost", "[::1]"].iter().any(|local| host.starts_with(local))
}

fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// A file that vanishes unless it is kept. The cache is shared: others may read it as the umask allows.
fn new_file(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.suffix(".incomplete").tempfile_in(folder)
}

/// Puts a blob into a snapshot.
fn link(blob: &Path, file: &Path) -> Result<()> {
    let failed = |error| Error::io("write", file, &error);
    let Some((folder, etag)) = file.parent().zip(blob.file_name()) else { return Ok(()) };
    fs::create_dir_all(folder).map_err(failed)?;
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), file);
    #[cfg(not(unix))]
    let linked = fs::copy(blob.with_file_name(etag), file).map(drop);
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Makes a branch or tag point at a commit.
fn write_reference(reference: &Path, commit: &str) -> Result<()> {
    let failed = |error| Error::io("write", reference, &error);
    let Some(folder) = reference.parent() else { return Ok(()) };
    fs::create_dir_all(folder).map_err(failed)?;
    let mut file = new_file(folder).map_err(failed)?;
    file.write_all(commit.as_bytes()).map_err(failed)?;
    file.persist(reference).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::stand_in::{COMMIT, Hub, Served, weights, whole_repository};
    use super::super::{EncoderName, is_complete};
    use super::*;

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
        assert_eq!(asked.iter().filter(|request| request.contains("/main/")).count(), 1, "{asked:?}");
        let left_over = fs::read_dir(cache.path().join("models--org--name/blobs")).unwrap().count();
        assert_eq!(left_over, 3);

        assert_eq!(config.resolve(&name("org/name"), &mut |_| ()).unwrap(), folder);
        assert_eq!(config.resolve(&name(&format!("org/name@{COMMIT}")), &mut |_| ()).unwrap(), folder);
        assert_eq!(hub.asked(), Vec::<String>::new());

        // Another branch of the same commit costs questions, but no bytes.
        assert_eq!(config.resolve(&name("org/name@v1"), &mut |_| ()).unwrap(), folder);
        assert!(hub.asked().iter().all(|request| request.starts_with("HEAD")));
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
            ("org/busy", Kind::Unavailable, "answers status 503 for org/busy; try again, or pass the folder"),
            ("org/other", Kind::Unavailable, "does not answer like a Hugging Face hub"),
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

    #[test]
    fn weights_that_arrive_cut_or_changed_are_not_accepted() {
        let cut = Served { announced: 20, ..weights("the weights") };
        let changed = Served { body: b"the w8ights".to_vec(), ..weights("the weights") };
        for (weights, expected) in [(cut, "/model.safetensors: "), (changed, "have another SHA-256")] {
            let mut files = whole_repository();
            files.insert("model.safetensors", weights);
            let error = refusal(&Hub::start(files), "org/name");
            assert_eq!(error.kind(), Kind::Unavailable, "{error}");
            assert!(error.message().contains(expected), "{error}");
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

    #[test]
    fn an_origin_is_scheme_and_host() {
        assert_eq!(origin("https://host:1/path/x"), "https://host:1");
        assert_eq!(origin("https://host"), "https://host");
    }
}
