//! Other servers where a daemon is looked for: each is told for what it is.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use super::stub::Stub;
use super::{Ran, client_with};
use crate::{Interrupt, Terminal};

/// What a server that is no daemon does with a connection.
#[derive(Debug, Clone, Copy)]
enum Does {
    /// Says this once it is spoken to, then closes.
    Answers(&'static [u8]),
    /// Says this at once, and waits.
    Greets(&'static [u8]),
    Closes,
    Nothing,
}

async fn server(does: Does) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                match does {
                    Does::Answers(words) => {
                        let _ = stream.read(&mut buffer).await;
                        let _ = stream.write_all(words).await;
                    }
                    Does::Greets(words) => {
                        let _ = stream.write_all(words).await;
                        while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
                    }
                    Does::Closes => {}
                    Does::Nothing => std::future::pending().await,
                }
            });
        }
    });
    address
}

async fn jobs(address: &str) -> Ran {
    client_with(address, &["--timeout", "1", "jobs"], Terminal::default(), Interrupt::never()).await
}

#[tokio::test]
async fn a_server_that_is_no_daemon_is_told_for_what_it_is() {
    let web = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<h1>Bad Request</h1>";
    let web_with_tls = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    for (does, words) in [
        (Does::Answers(web), "a web server answers there, not a Hone daemon"),
        (Does::Answers(web_with_tls), "a server that wants TLS answers there"),
        (Does::Answers(b"\x15\x03\x03\x00\x02\x02\x46"), "a server that wants TLS answers there"),
        (Does::Greets(b"SSH-2.0-OpenSSH_9.6\r\n"), "an SSH server answers there"),
        (Does::Greets(b"220 mail.example ESMTP\r\n"), "it says \"220 mail.example ESMTP\""),
        (Does::Answers(b"-ERR unknown command 'PRI'\r\n"), "it says \"-ERR unknown command 'PRI'\""),
        (Does::Greets(b"J\0\0\0\x0a8.0.36\0"), "another server answers there, not a Hone daemon"),
        (Does::Closes, "closes it at once"),
        (Does::Nothing, "accepts the connection but says nothing"),
    ] {
        let ran = jobs(&server(does).await).await;
        assert_eq!((ran.code, ran.out.as_str()), (3, ""), "{does:?}: {ran:?}");
        assert!(ran.err.contains(words), "{does:?}: {ran:?}");
        assert!(ran.err.contains("hint: name the daemon's"), "{does:?}: {ran:?}");
        assert!(!ran.err.contains("frame"), "{does:?}: {ran:?}");
    }
}

#[tokio::test]
async fn another_grpc_server_is_no_daemon_whether_or_not_it_tells_its_health() {
    for tells_health in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("another.v1.Service", tonic_health::ServingStatus::Serving).await;
        let mut routes = tonic::service::Routes::default();
        if tells_health {
            routes = routes.add_service(health);
        }
        let server = tonic::transport::Server::builder().add_routes(routes);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        for args in [&["jobs"][..], &["classify", "a"], &["health"], &["watch", "01j"]] {
            let ran = client_with(&address, args, Terminal::default(), Interrupt::never()).await;
            assert_eq!(ran.code, 3, "{args:?}: {ran:?}");
            assert!(ran.err.contains("answers, but it is no Hone daemon"), "{args:?}: {ran:?}");
        }
    }
}

#[tokio::test]
async fn a_daemon_that_lacks_a_request_is_told_from_another_server() {
    let stub = Stub::start().await;
    stub.script().start = Some(tonic::Status::unimplemented(""));
    let ran = super::client(&stub, &["train", "--detach"]).await;
    assert!(ran.err.contains("does not know this request"), "{ran:?}");
    assert!(ran.err.contains("client and daemon should be of the same version"), "{ran:?}");
}

#[tokio::test]
async fn tls_is_refused_in_words() {
    let ran = jobs("https://127.0.0.1:50051").await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("cannot speak TLS") && ran.err.contains("hint: use http://"), "{ran:?}");
}
