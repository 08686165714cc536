//! Where Prometheus reads the metrics: plain HTTP at an address of its own (`--metrics-listen`), beside the services' port.
//!
//! An answer fits into memory and is made at once, so a connection that is not done soon is that of a slow reader, and is
//! closed. Each connection is for one request; a scrape every few seconds needs no more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::metrics::{self, Metrics};
use hone_base::error::{Error, Kind, Result};

/// Connections at once; further ones are closed.
const MOST: usize = 16;

/// How long a connection may take, from its request's first byte to its answer's last.
const LIMIT: Duration = Duration::from_secs(10);

/// Bytes of a request's head at most.
const HEAD: usize = 16 << 10;

/// How long nothing is accepted after the system had no room for a connection.
const PAUSE: Duration = Duration::from_millis(200);

/// The path under which the metrics are.
pub const PATH: &str = "/metrics";

/// The route to the metrics, to be merged with others.
pub fn metrics_routes(metrics: Arc<Metrics>) -> Router {
    Router::new().route(PATH, get(async move || ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics.render())))
}

/// The listener for scrapes.
#[derive(Debug)]
pub struct Scrape {
    listener: TcpListener,
    address: SocketAddr,
}

impl Scrape {
    /// Listens at an address.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be listened at.
    pub async fn bind(address: &str) -> Result<Self> {
        let failed = |error| {
            Error::new(Kind::Unavailable, format!("cannot listen on {address} (--metrics-listen): {error}"))
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until it is dropped, and its connections with it.
    pub async fn serve(self, metrics: Arc<Metrics>) {
        let routes = metrics_routes(metrics);
        let mut open = JoinSet::new();
        loop {
            let accepted = self.listener.accept().await;
            while open.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) if open.len() < MOST => {
                    open.spawn(answer(stream, routes.clone()));
                }
                Ok(_) => tracing::debug!("there are {MOST} connections for metrics; closing another"),
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics cannot be accepted; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn answer(stream: TcpStream, routes: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIMIT)
        .max_buf_size(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    match tokio::time::timeout(LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics failed"),
        Err(_) => tracing::debug!("a connection for metrics took longer than {} s", LIMIT.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn start() -> (SocketAddr, JoinSet<()>) {
        let scrape = Scrape::bind("127.0.0.1:0").await.unwrap();
        let (address, mut tasks) = (scrape.address(), JoinSet::new());
        tasks.spawn(scrape.serve(Arc::new(Metrics::new().unwrap())));
        (address, tasks)
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn the_metrics_are_at_their_path_alone() {
        let (address, _tasks) = start().await;
        let text = get(address, PATH).await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
        assert!(text.contains("\nhone_build_info{version="), "{text}");
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404 "));
    }

    #[tokio::test]
    async fn connections_that_say_nothing_have_no_more_than_their_places() {
        let (address, _tasks) = start().await;
        let mut silent = Vec::new();
        for _ in 0..MOST {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut closed = TcpStream::connect(address).await.unwrap();
        assert_eq!(closed.read(&mut [0; 1]).await.unwrap_or(0), 0);
        drop(silent);
        while !get_or_nothing(address).await.starts_with("HTTP/1.1 200") {
            tokio::task::yield_now().await;
        }
    }

    /// The answer, empty when the connection was closed.
    async fn get_or_nothing(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut text = String::new();
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let _ = stream.read_to_string(&mut text).await;
        text
    }
}
