//! Plain HTTP: requests whose every wait ends, by itself or when the work shall end.
//!
//! The HTTP client blocks. So a request runs on a thread of its own that hands over what arrives, and its owner waits for
//! that and for the token. A token that is asked closes the sockets, which ends the thread's read; a name that is being
//! looked up and a connection that is being made cannot be interrupted, so there the thread is left to its time limit,
//! and does nothing after it.

use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ureq::Agent;
use ureq::http::response::Parts;
use ureq::http::{Uri, header};

use hone_base::cancel::Cancel;
use hone_base::error::Error;

/// How often the token is looked at while nothing arrives.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The most bytes that are handed over at once.
const PIECE: usize = 1 << 17;
/// Pieces that wait for their owner.
const QUEUE: usize = 4;
/// The longest chain of redirects.
const MAX_REDIRECTS: usize = 10;

/// Why there is no answer, or no more of it.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The work shall end.
    Cancelled(Error),
    /// What went wrong, for people.
    Failed(String),
}

/// Which bytes of a file are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Range {
    /// The first one: the answer's headers are what counts.
    First,
    /// From this one to the end.
    From(u64),
}

/// Which redirects are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// Those to the same server.
    SameServer,
    /// All. The token is sent to the first server alone.
    Everywhere,
}

/// Asks one server, and those that it redirects to.
#[derive(Debug)]
pub(crate) struct Client<'a> {
    agent: Agent,
    patience: Duration,
    /// The server that gets the token, and its token.
    server: Option<Server>,
    token: Option<&'a str>,
    cancel: &'a Cancel,
}

/// A scheme, host and port.
type Server = (Option<String>, Option<String>);

/// An answer whose body is still arriving.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    head: Parts,
    url: Uri,
    arriving: Arriving<'a>,
}

/// What a request's thread hands over: first the head, then the body.
enum Heard {
    Head(Box<Parts>),
    Bytes(Vec<u8>),
}

#[derive(Debug)]
struct Arriving<'a> {
    heard: Receiver<Result<Heard, ureq::Error>>,
    thread: Option<JoinHandle<()>>,
    agent: Agent,
    patience: Duration,
    cancel: &'a Cancel,
}

impl<'a> Client<'a> {
    /// A client that waits `patience` for each of a name's address, a connection, an answer and its next bytes, and sends
    /// `token` to the server of `endpoint` alone. Proxies are those of `HTTPS_PROXY`, `ALL_PROXY`, `HTTP_PROXY` and
    /// `NO_PROXY`.
    pub(crate) fn new(
        endpoint: &str,
        token: Option<&'a str>,
        patience: Duration,
        cancel: &'a Cancel,
    ) -> Self {
        let limit = Some(patience);
        let config = Agent::config_builder()
            .user_agent(concat!("hone/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(limit)
            .timeout_connect(limit)
            .timeout_recv_response(limit)
            .timeout_per_read(limit)
            .timeout_per_write(limit);
        let server = endpoint.parse().ok().map(|endpoint| server_of(&endpoint));
        Self { agent: config.build().into(), patience, server, token, cancel }
    }

    /// Gets what is at an address.
    ///
    /// # Errors
    /// [`Fault::Cancelled`] once the token is asked; [`Fault::Failed`] when there is no answer. An answer with a status
    /// that says so is none of these.
    pub(crate) fn get(&self, url: &str, range: Option<Range>, follow: Follow) -> Result<Answer<'a>, Fault> {
        let mut url: Uri =
            url.parse().map_err(|error| Fault::Failed(format!("{url} is no address: {error}")))?;
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.send(&url, range)?;
            let Some(next) = answer.redirect()? else { return Ok(answer) };
            if follow == Follow::SameServer && server_of(&next) != server_of(&url) {
                return Ok(answer);
            }
            url = next;
        }
        Err(Fault::Failed(format!("it redirects more than {MAX_REDIRECTS} times")))
    }

    fn send(&self, url: &Uri, range: Option<Range>) -> Result<Answer<'a>, Fault> {
        let mut request = self.agent.get(url);
        request = match range {
            None => request,
            Some(Range::First) => request.header(header::RANGE, "bytes=0-0"),
            Some(Range::From(first)) => request.header(header::RANGE, format!("bytes={first}-")),
        };
        if let Some(token) = self.token.filter(|_| self.server.as_ref() == Some(&server_of(url))) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let (sender, heard) = mpsc::sync_channel(QUEUE);
        let work = move || match request.call() {
            Ok(response) => hand_over(response, &sender),
            // Nobody waits for it any more.
            Err(error) => drop(sender.send(Err(error))),
        };
        let thread = thread::Builder::new().name("download".to_owned()).spawn(work);
        let thread = thread.map_err(|error| Fault::Failed(format!("cannot start a thread: {error}")))?;
        let mut arriving = Arriving {
            heard,
            thread: Some(thread),
            agent: self.agent.clone(),
            patience: self.patience,
            cancel: self.cancel,
        };
        match arriving.next()? {
            Some(Heard::Head(head)) => Ok(Answer { head: *head, url: url.clone(), arriving }),
            _ => Err(Fault::Failed("the answer has no head".to_owned())),
        }
    }
}

impl Answer<'_> {
    /// The status code.
    pub(crate) fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    /// A header's value, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Where a redirect leads.
    ///
    /// # Errors
    /// [`Fault::Failed`] when that is no address.
    pub(crate) fn redirect(&self) -> Result<Option<Uri>, Fault> {
        let Some(to) = self.header("location").filter(|_| self.head.status.is_redirection()) else {
            return Ok(None);
        };
        let unusable = |why: &str| Fault::Failed(format!("it redirects to {to}, {why}"));
        let next: Uri = to.parse().map_err(|_| unusable("which is no address"))?;
        if next.host().is_some() {
            let is_http = ["http", "https"].contains(&next.scheme_str().unwrap_or_default());
            return if is_http { Ok(Some(next)) } else { Err(unusable("which is not HTTP")) };
        }
        let mut parts = self.url.clone().into_parts();
        parts.path_and_query = next.into_parts().path_and_query;
        Uri::from_parts(parts).map(Some).map_err(|_| unusable("which is no address"))
    }

    /// The next bytes of the body; `None` at its end.
    ///
    /// # Errors
    /// [`Fault::Cancelled`] once the token is asked; [`Fault::Failed`] when the body breaks off.
    pub(crate) fn bytes(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        match self.arriving.next()? {
            Some(Heard::Bytes(bytes)) => Ok(Some(bytes)),
            _ => Ok(None),
        }
    }

    /// The whole body, which may have `limit` bytes.
    ///
    /// # Errors
    /// As [`Answer::bytes`], and when the body has more.
    pub(crate) fn body(mut self, limit: usize) -> Result<Vec<u8>, Fault> {
        let mut body = Vec::new();
        while let Some(bytes) = self.bytes()? {
            body.extend(bytes);
            if body.len() > limit {
                return Err(Fault::Failed(format!("it answers more than {limit} bytes")));
            }
        }
        Ok(body)
    }
}

impl Arriving<'_> {
    /// Waits for the next thing that arrives; `None` when all has.
    fn next(&mut self) -> Result<Option<Heard>, Fault> {
        loop {
            if let Err(asked) = self.cancel.check() {
                self.agent.clone().shutdown();
                return Err(Fault::Cancelled(asked));
            }
            match self.heard.recv_timeout(LOOK_EVERY) {
                Ok(Ok(heard)) => return Ok(Some(heard)),
                Ok(Err(error)) => return Err(Fault::Failed(words(error, self.patience))),
                Err(RecvTimeoutError::Timeout) => (),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => {
                Err(Fault::Failed("the HTTP client failed; its message is in the log".to_owned()))
            }
            _ => Ok(None),
        }
    }
}

/// Hands an answer over, until nobody wants it any more.
fn hand_over(response: ureq::http::Response<ureq::Body>, to: &SyncSender<Result<Heard, ureq::Error>>) {
    let (head, body) = response.into_parts();
    if to.send(Ok(Heard::Head(Box::new(head)))).is_err() {
        return;
    }
    let mut body = body.into_reader();
    loop {
        let mut bytes = vec![0; PIECE];
        let heard = match body.read(&mut bytes) {
            Ok(0) => return,
            Ok(read) => {
                bytes.truncate(read);
                Ok(Heard::Bytes(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(ureq::Error::from(error)),
        };
        let is_last = heard.is_err();
        if to.send(heard).is_err() || is_last {
            return;
        }
    }
}

fn server_of(url: &Uri) -> Server {
    (url.scheme_str().map(str::to_owned), url.authority().map(|host| host.as_str().to_ascii_lowercase()))
}

fn words(error: ureq::Error, patience: Duration) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("silence for {} s", patience.as_secs_f64()),
        ureq::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}
