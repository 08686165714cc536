//! Connections of clients: at most so many at once, each of which must begin to speak.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming};

/// How long nothing is accepted after the system had no room for a connection.
const PAUSE: Duration = Duration::from_millis(200);

/// The bytes that a client sends first (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// Files that the daemon may have open besides connections.
const FILES: u64 = 256;

/// The connections that come in, as a server takes them.
#[derive(Debug)]
pub struct Connections {
    incoming: TcpIncoming,
    places: Arc<Semaphore>,
    most: usize,
    idle: Duration,
    pause: Option<Pin<Box<Sleep>>>,
    /// Whether the log has been told that there are too many, since there was room.
    told: bool,
}

/// A connection, which has its place until it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Until when the preface must be there, and how much of it is missing.
    preface: Option<(Pin<Box<Sleep>>, usize)>,
    _place: OwnedSemaphorePermit,
}

impl Connections {
    /// At most `most` connections of a listener at once; one more is closed at once, so that its client knows. A
    /// connection that does not send HTTP/2's preface within `idle` is closed too.
    pub fn new(listener: TcpListener, most: usize, idle: Duration) -> Self {
        let incoming = TcpIncoming::from(listener)
            .with_nodelay(Some(true))
            .with_keepalive(Some(Duration::from_secs(60)));
        let places = Arc::new(Semaphore::new(most));
        Self { incoming, places, most, idle, pause: None, told: false }
    }

    fn take(&mut self, stream: TcpStream) -> Option<Connection> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            if !self.told {
                let most = self.most;
                tracing::warn!(
                    "there are {most} connections, as many as may be (--max-connections); closing others"
                );
            }
            self.told = true;
            return None;
        };
        self.told = false;
        let sleep = Box::pin(tokio::time::sleep(self.idle));
        Some(Connection { stream, preface: Some((sleep, PREFACE)), _place: place })
    }
}

impl Stream for Connections {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(Pin::new(&mut self.incoming).poll_next(context)) {
                Some(Ok(stream)) => {
                    if let Some(connection) = self.take(stream) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                // The client is gone again; the next one may be there.
                Some(Err(error)) if is_of_the_client(&error) => {}
                // No file or memory is left for a connection: trying again at once would only keep a core busy.
                Some(Err(error)) => {
                    tracing::warn!(%error, "a connection cannot be accepted; trying again");
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some((until, missing)) = &mut self.preface else { return polled };
        let read = buffer.filled().len() - before;
        if read < *missing {
            *missing -= read;
            if polled.is_pending() && until.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        } else {
            self.preface = None;
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

/// Lets this process have as many files open as it may, and says how many connections of `wanted` that leaves room for.
pub fn room_for(wanted: usize) -> usize {
    let Some(limit) = open_files() else { return wanted };
    let room = usize::try_from(limit.saturating_sub(FILES).max(limit / 2)).unwrap_or(usize::MAX);
    if room < wanted {
        tracing::warn!(
            "this process may have {limit} files open (ulimit -n), so it takes {room} connections and not {wanted} \
             (--max-connections)"
        );
    }
    wanted.min(room)
}

/// How many files this process may have open, now that it was raised to what is allowed; `None` for any number.
#[cfg(unix)]
fn open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

#[cfg(not(unix))]
fn open_files() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    async fn listen(most: usize, idle: Duration) -> (Connections, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Connections::new(listener, most, idle), address)
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_and_a_place_that_is_free_again_is_taken() {
        let (mut connections, address) = listen(1, LONG).await;
        let _first = TcpStream::connect(address).await.unwrap();
        let taken = connections.next().await.unwrap().unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        assert!(futures::poll!(connections.next()).is_pending());
        assert_eq!(second.read(&mut [0; 1]).await.unwrap(), 0);
        drop(taken);
        let _third = TcpStream::connect(address).await.unwrap();
        connections.next().await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_never_sends_the_whole_preface_is_given_up() {
        let (mut connections, address) = listen(1, Duration::from_millis(50)).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let mut taken = connections.next().await.unwrap().unwrap();
        let error = taken.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_connection_that_has_begun_may_say_nothing_for_a_long_time() {
        let (mut connections, address) = listen(1, Duration::from_millis(50)).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut taken = connections.next().await.unwrap().unwrap();
        taken.read_exact(&mut [0; PREFACE]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
        client.write_all(b"more").await.unwrap();
        let mut more = [0; 4];
        taken.read_exact(&mut more).await.unwrap();
        assert_eq!(&more, b"more");
    }
}
