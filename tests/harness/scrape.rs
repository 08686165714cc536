//! What a daemon's metrics say.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Samples by name and labels, as the text format has them.
pub(crate) struct Samples(BTreeMap<String, f64>);

/// Reads the metrics of a daemon as Prometheus does.
pub(crate) async fn scrape(address: SocketAddr) -> Samples {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').expect("a series and its value");
        (series.to_owned(), value.parse().expect("a number"))
    };
    Samples(body.lines().filter(|line| !line.starts_with('#')).map(sample).collect())
}

impl Samples {
    /// The value of a series, if it is there.
    pub(crate) fn get(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// Asserts the values of series.
    pub(crate) fn assert(&self, expected: &[(&str, f64)]) {
        for (series, value) in expected {
            assert_eq!(self.get(series), Some(*value), "{series}; there are {:#?}", self.0);
        }
    }

    /// Every series with its value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(series, value)| (series.as_str(), *value))
    }
}
