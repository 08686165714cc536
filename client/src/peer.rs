//! What answers at an address where no Hone daemon does: a look at the first bytes that it sends.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::output::format::one_line;

/// What an HTTP/2 client says first, with empty settings. A web server of the first version takes it for a request.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// A daemon greets at once; this is only as long as a slow network needs.
const PATIENCE: Duration = Duration::from_secs(2);
const ENOUGH: usize = 512;

/// Who answers at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peer {
    /// HTTP/2, which a daemon speaks, but not only a daemon.
    Http2,
    /// A web server of the first version of HTTP.
    Http1,
    /// A port that wants TLS.
    Tls,
    /// Secure Shell.
    Ssh,
    /// Another protocol of text, and the line with which it greets.
    Text(String),
    /// Something else.
    Unknown,
    /// Accepts a connection and says nothing.
    Silent,
    /// Accepts a connection and ends it at once.
    Closes,
    /// Accepts no connection.
    Absent,
}

impl Peer {
    /// Connects to HOST:PORT and looks.
    pub(crate) async fn at(address: &str) -> Self {
        let Ok(Ok(mut stream)) = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await else {
            return Self::Absent;
        };
        // A peer that closes may still have said something before.
        let _ = stream.write_all(GREETING).await;
        let mut bytes = Vec::new();
        let mut is_closed = false;
        let read = async {
            while bytes.len() < ENOUGH {
                match stream.read_buf(&mut bytes).await {
                    Ok(0) | Err(_) => {
                        is_closed = true;
                        return;
                    }
                    Ok(_) if Self::greeted(&bytes).is_some() => return,
                    Ok(_) => {}
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, read).await;
        match Self::greeted(&bytes) {
            Some(peer) => peer,
            None if !bytes.is_empty() => Self::text(&bytes),
            None if is_closed => Self::Closes,
            None => Self::Silent,
        }
    }

    /// What the first bytes show without doubt.
    fn greeted(bytes: &[u8]) -> Option<Self> {
        // A settings frame: its length is a multiple of six, its type 4, its stream 0.
        if let [0, _, length, 4, _, 0, 0, 0, 0, ..] = bytes
            && length % 6 == 0
        {
            return Some(Self::Http2);
        }
        if let [0x15 | 0x16, 3, 0..=4, ..] = bytes {
            return Some(Self::Tls);
        }
        if bytes.starts_with(b"SSH-") {
            return Some(Self::Ssh);
        }
        if bytes.starts_with(b"HTTP/1.") {
            // Web servers that want TLS say so in words, which may come a little later.
            let wants_tls = bytes.windows(5).any(|window| window.eq_ignore_ascii_case(b"HTTPS"));
            let is_whole = bytes.len() >= ENOUGH;
            return match (wants_tls, is_whole) {
                (true, _) => Some(Self::Tls),
                (false, true) => Some(Self::Http1),
                (false, false) => None,
            };
        }
        None
    }

    /// What is no protocol that is known by its first bytes.
    fn text(bytes: &[u8]) -> Self {
        if bytes.starts_with(b"HTTP/1.") {
            return Self::Http1;
        }
        let line = bytes.split(|&byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        match std::str::from_utf8(line) {
            Ok(line) if !line.trim().is_empty() && !line.contains(|c: char| c.is_control()) => {
                Self::Text(one_line(line).chars().take(60).collect())
            }
            _ => Self::Unknown,
        }
    }

    /// What is told of it, after the address. None where the peer may be a daemon, or nobody is there.
    pub(crate) fn words(&self) -> Option<String> {
        Some(match self {
            Self::Http2 | Self::Absent => return None,
            Self::Http1 => "a web server answers there, not a Hone daemon".to_owned(),
            Self::Tls => "a server that wants TLS answers there, which this client does not speak".to_owned(),
            Self::Ssh => "an SSH server answers there, not a Hone daemon".to_owned(),
            Self::Text(line) => format!("another server answers there, not a Hone daemon; it says \"{line}\""),
            Self::Unknown => "another server answers there, not a Hone daemon".to_owned(),
            Self::Silent => {
                "something accepts the connection but says nothing; it is no Hone daemon, or one that hangs"
                    .to_owned()
            }
            Self::Closes => {
                "something accepts the connection and closes it at once; it is no Hone daemon, or stands before one \
                 that is not reached"
                    .to_owned()
            }
        })
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Tls => {
                "name the daemon's own port, which speaks plain HTTP/2, with --daemon URL or HONE_DAEMON; encrypt \
                 with a tunnel (ssh -L)"
            }
            _ => "name the daemon's address with --daemon URL or HONE_DAEMON",
        }
    }
}
