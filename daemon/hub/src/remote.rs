//! What a hub is asked: a revision's commit and files, what a file is, and its bytes.

use std::collections::BTreeSet;
use std::fmt::Display;

use serde::Deserialize;

use super::HubConfig;
use super::http::{Answer, Client, Fault, Follow, Range};
use super::names::is_file_name;
use hone_base::cancel::Cancel;
use hone_base::error::{Error, Kind, Result, quoted};

/// The longest list of files that is read.
const MAX_LISTING: usize = 64 << 20;

/// A repository on a hub.
#[derive(Debug)]
pub(crate) struct Remote<'a> {
    client: Client<'a>,
    endpoint: &'a str,
    id: &'a str,
    revision: &'a str,
}

/// A revision as the hub describes it.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The commit that a branch or tag is at.
    pub(crate) commit: String,
    /// The files' paths.
    pub(crate) names: BTreeSet<String>,
}

/// What the hub says of a file before it sends it.
#[derive(Debug)]
pub(crate) struct Announced {
    /// The name of its blob: the SHA-256 of a large file, something else of a small one.
    pub(crate) etag: String,
    /// Bytes.
    pub(crate) size: u64,
}

/// The form in which a hub lists a revision.
#[derive(Deserialize)]
struct Revision {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Announced {
    /// The SHA-256 of the file, where the hub tells it.
    pub(crate) fn sha256(&self) -> Option<&str> {
        let is_digest = self.etag.len() == 64 && self.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_digest.then_some(self.etag.as_str())
    }
}

impl<'a> Remote<'a> {
    /// The repository `id` at the hub's endpoint; nothing is asked.
    pub(crate) fn new(hub: &'a HubConfig, id: &'a str, revision: &'a str, cancel: &'a Cancel) -> Self {
        let client = Client::new(&hub.endpoint, hub.token.as_deref(), hub.patience, cancel);
        Self { client, endpoint: &hub.endpoint, id, revision }
    }

    /// The revision's commit and files.
    ///
    /// # Errors
    /// [`Kind::NotFound`] and [`Kind::Precondition`] for what the hub does not have or give; [`Kind::Unavailable`] when it
    /// cannot be reached or is no hub; [`Kind::Cancelled`].
    pub(crate) fn listing(&self) -> Result<Listing> {
        let (endpoint, id) = (self.endpoint, self.id);
        let url = format!("{endpoint}/api/models/{id}/revision/{}", self.revision.replace('/', "%2F"));
        let answer =
            self.client.get(&url, None, Follow::Everywhere).map_err(|fault| self.failed(None, fault))?;
        if answer.status() != 200 {
            return Err(self.refused(&answer));
        }
        let body = answer.body(MAX_LISTING).map_err(|fault| self.failed(None, fault))?;
        let revision: Revision = serde_json::from_slice(&body).map_err(|error| self.not_a_hub(error))?;
        if !is_file_name(&revision.sha) {
            return Err(self.not_a_hub(format_args!("the commit is {}", quoted(&revision.sha))));
        }
        let names = revision.siblings.into_iter().map(|file| file.rfilename).collect();
        Ok(Listing { commit: revision.sha, names })
    }

    /// The address of a commit's file.
    pub(crate) fn url(&self, commit: &str, name: &str) -> String {
        format!("{}/{}/resolve/{commit}/{name}", self.endpoint, self.id)
    }

    /// What a commit's file is.
    ///
    /// # Errors
    /// As [`Remote::listing`].
    pub(crate) fn announced(&self, commit: &str, name: &str) -> Result<Announced> {
        let failed = |fault| self.failed(Some(name), fault);
        let url = self.url(commit, name);
        // The headers that count are the hub's, not those of the storage that it redirects to.
        let answer = self.client.get(&url, Some(Range::First), Follow::SameServer).map_err(failed)?;
        if answer.status() >= 400 && answer.status() != 416 {
            return Err(self.refused_file(name, &answer));
        }
        let lacks = |what: &str| self.not_a_hub(format_args!("it answers for {name} without {what}"));
        let said = answer.header("x-repo-commit").ok_or_else(|| lacks("a commit"))?;
        let etag = answer.header("x-linked-etag").or_else(|| answer.header("etag"));
        let etag = etag.ok_or_else(|| lacks("an etag"))?;
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        if said != commit || !is_file_name(&etag) {
            return Err(self.not_a_hub(format_args!(
                "{name} has the etag {} and the commit {}",
                quoted(&etag),
                quoted(said)
            )));
        }
        let linked = answer.header("x-linked-size").and_then(|size| size.parse().ok());
        let size = match (linked, answer.redirect().map_err(failed)?) {
            (Some(size), _) => Some(size),
            (None, None) => size_of(&answer),
            (None, Some(storage)) => {
                let storage = storage.to_string();
                let answer = self.client.get(&storage, Some(Range::First), Follow::Everywhere);
                size_of(&answer.map_err(failed)?)
            }
        };
        Ok(Announced { etag, size: size.ok_or_else(|| lacks("a size"))? })
    }

    /// The bytes of a commit's file from the byte `first` on, and whether the hub heeded that: it may send all.
    ///
    /// # Errors
    /// As [`Remote::listing`].
    pub(crate) fn content(&self, commit: &str, name: &str, first: u64) -> Result<(Answer<'a>, bool)> {
        let answer = self.client.get(&self.url(commit, name), Some(Range::From(first)), Follow::Everywhere);
        let answer = answer.map_err(|fault| self.failed(Some(name), fault))?;
        match answer.status() {
            200 => Ok((answer, false)),
            206 => {
                let range = answer.header("content-range").unwrap_or("none");
                match range
                    .strip_prefix("bytes ")
                    .and_then(|range| range.split('-').next()?.parse::<u64>().ok())
                {
                    Some(start) if start == first => Ok((answer, true)),
                    _ => Err(self.not_a_hub(format_args!(
                        "asked for {name} from byte {first} on, it sends the range {}",
                        quoted(range)
                    ))),
                }
            }
            _ => Err(self.refused_file(name, &answer)),
        }
    }

    /// A fault of HTTP as an error; `name` is the file that was asked for.
    pub(crate) fn failed(&self, name: Option<&str>, fault: Fault) -> Error {
        match (fault, name) {
            (Fault::Cancelled(error), _) => error,
            (Fault::Failed(words), None) => self.unavailable(words),
            (Fault::Failed(words), Some(name)) => self.unavailable(format_args!("{name}: {words}")),
        }
    }

    fn refused_file(&self, name: &str, answer: &Answer<'_>) -> Error {
        match answer.status() {
            401 | 403 => self.not_given(),
            status => self.unavailable(format_args!("{name}: it answers status {status}")),
        }
    }

    fn refused(&self, answer: &Answer<'_>) -> Error {
        let (id, endpoint) = (self.id, self.endpoint);
        match (answer.status(), answer.header("x-error-code")) {
            (404, Some("RevisionNotFound")) => {
                Error::not_found(format!("{id} at {endpoint} has no revision {}", quoted(self.revision)))
            }
            (403, _) | (401, Some("GatedRepo")) => self.not_given(),
            (401 | 404, _) => Error::not_found(format!(
                "there is no {id} at {endpoint}, or it is private: check the name, or set HF_TOKEN on the daemon's \
                 machine"
            )),
            (status, _) => {
                let message = answer.header("x-error-message").map(|message| format!(" ({message})"));
                self.unavailable(format_args!("it answers status {status}{}", message.unwrap_or_default()))
            }
        }
    }

    fn not_given(&self) -> Error {
        Error::precondition(format!(
            "{} does not give {} to everyone: accept its terms there and set HF_TOKEN on the daemon's machine, or pass a \
             folder",
            self.endpoint, self.id
        ))
    }

    fn not_a_hub(&self, why: impl Display) -> Error {
        self.unavailable(format_args!("it does not answer like a Hugging Face hub ({why})"))
    }

    /// The hub cannot be used for now.
    pub(crate) fn unavailable(&self, why: impl Display) -> Error {
        let (id, endpoint) = (self.id, self.endpoint);
        let way_out = "try again, or pass the folder of an encoder on the daemon's machine";
        Error::new(Kind::Unavailable, format!("cannot download {id} from {endpoint}: {why}; {way_out}"))
    }
}

/// The size of the whole file of which an answer has the first byte, or all, or (of an empty one) nothing.
fn size_of(answer: &Answer<'_>) -> Option<u64> {
    match answer.status() {
        200 => answer.header("content-length")?.parse().ok(),
        206 | 416 => answer.header("content-range")?.rsplit('/').next()?.parse().ok(),
        _ => None,
    }
}
