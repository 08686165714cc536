//! What names a daemon: HOST, HOST:PORT or a URL of these. What is none is refused with what is wrong in it.

use std::net::Ipv6Addr;

use tonic::transport::Uri;

use crate::error::Error;
use crate::output::format::quoted;

/// The port of an address that names none.
const PORT: u16 = 50051;

/// The URL of a daemon. A bare HOST or HOST:PORT is completed.
pub(crate) fn url(address: &str) -> Result<String, Error> {
    let address = address.trim();
    if address.is_empty() {
        return Err(refuse("the daemon's address is empty".to_owned(), address));
    }
    let rest = match address.split_once("://") {
        None => address,
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
            return Err(Error::usage(format!("this client cannot speak TLS, which {address} asks for"))
                .hint("use http://, over a network that you trust or through a tunnel (ssh -L)"));
        }
        Some((scheme, rest)) => {
            return Err(wrong(address, &format!("a daemon is not reached by {}", quoted(scheme)))
                .hint(format!("write --daemon http://{rest}")));
        }
    };
    let authority = rest.trim_end_matches('/');
    if let Some(end) = authority.find(['/', '?', '#', '\\']) {
        let plain = authority.get(..end).unwrap_or_default();
        return Err(wrong(address, "an address has a host and a port, but no path")
            .hint(if plain.is_empty() { usual() } else { format!("write --daemon {plain}") }));
    }
    if let Some((_, plain)) = authority.rsplit_once('@') {
        return Err(wrong(address, "a daemon knows no user names").hint(format!("write --daemon {plain}")));
    }
    let (host, port) = split(address, authority)?;
    let url = format!("http://{host}:{port}");
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let is_name = host.starts_with('[') || host.chars().all(fits);
    match url.parse::<Uri>() {
        Ok(parsed) if is_name && parsed.host() == Some(host) => Ok(url),
        _ => Err(bad(address)),
    }
}

/// Host and port. A host of numbers and colons stands in brackets.
fn split<'a>(address: &str, authority: &'a str) -> Result<(&'a str, u16), Error> {
    let end_of_host = if authority.starts_with('[') {
        let end =
            authority.find(']').ok_or_else(|| wrong(address, "the bracket is not closed").hint(usual()))?;
        let inside = authority.get(1..end).unwrap_or_default();
        if inside.parse::<Ipv6Addr>().is_err() {
            return Err(wrong(address, &format!("{} is no IPv6 address", quoted(inside))).hint(usual()));
        }
        end + 1
    } else if authority.matches(':').count() > 1 {
        return Err(without_brackets(address, authority));
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at_checked(end_of_host).unwrap_or((authority, ""));
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => return check_host(address, host).map(|()| (host, PORT)),
        None => return Err(bad(address)),
        Some(port) => port,
    };
    if host.is_empty() {
        return Err(wrong(address, "the host is missing").hint(format!("write --daemon 127.0.0.1:{port}")));
    }
    if port.is_empty() {
        return Err(wrong(address, "the port is missing").hint(format!("write --daemon {host}:{PORT}")));
    }
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong(address, &format!("the port {} is no number", quoted(port))).hint(usual()));
    }
    match port.parse() {
        Ok(number) if number > 0 => Ok((host, number)),
        _ => Err(wrong(address, &format!("there is no port {port}; ports go from 1 to 65535")).hint(usual())),
    }
}

/// A number alone is taken for an IPv4 address by the system, and is meant as a port.
fn check_host(address: &str, host: &str) -> Result<(), Error> {
    if host.is_empty() {
        return Err(bad(address));
    }
    if host.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong(address, "the host is missing").hint(format!("write --daemon 127.0.0.1:{host}")));
    }
    Ok(())
}

fn without_brackets(address: &str, authority: &str) -> Error {
    let host_and_port = authority.rsplit_once(':').filter(|(host, port)| {
        host.parse::<Ipv6Addr>().is_ok() && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    let whole = authority.parse::<Ipv6Addr>().is_ok();
    let write = match (host_and_port, whole) {
        (Some((host, port)), true) => {
            format!("write --daemon [{host}]:{port}, or [{authority}]:{PORT} if all of it is the host")
        }
        (Some((host, port)), false) => format!("write --daemon [{host}]:{port}"),
        (None, true) => format!("write --daemon [{authority}]:{PORT}"),
        (None, false) => return bad(address),
    };
    wrong(address, "an IPv6 address stands in brackets").hint(write)
}

/// What is no address in any way that could be named.
pub(crate) fn bad(address: &str) -> Error {
    refuse(format!("{} is no address of a daemon", quoted(address)), address)
}

fn wrong(address: &str, why: &str) -> Error {
    let place = if is_from_environment(address) { " (from HONE_DAEMON)" } else { "" };
    Error::usage(format!("{}{place} is no address of a daemon: {why}", quoted(address)))
}

fn refuse(message: String, address: &str) -> Error {
    let place = if is_from_environment(address) { " (from HONE_DAEMON)" } else { "" };
    Error::usage(format!("{message}{place}")).hint(usual())
}

fn usual() -> String {
    "write --daemon HOST:PORT or --daemon http://HOST:PORT".to_owned()
}

/// Whether the user may not even see the address, because it was not typed.
fn is_from_environment(address: &str) -> bool {
    std::env::var("HONE_DAEMON").is_ok_and(|value| value.trim() == address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_bare_address_gets_its_scheme_and_its_port() {
        for (address, expected) in [
            ("gpu:50051", "http://gpu:50051"),
            ("[::1]:50051", "http://[::1]:50051"),
            ("[::1]", "http://[::1]:50051"),
            ("gpu", "http://gpu:50051"),
            ("localhost", "http://localhost:50051"),
            ("10.0.0.7", "http://10.0.0.7:50051"),
            (" http://gpu:50051/ ", "http://gpu:50051"),
            ("HTTP://gpu", "http://gpu:50051"),
        ] {
            assert_eq!(url(address).as_deref(), Ok(expected), "{address}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is_wrong_and_what_to_write() {
        for (address, why, write) in [
            ("", "is empty", "--daemon HOST:PORT"),
            ("::1:50061", "stands in brackets", "write --daemon [::1]:50061"),
            ("http://::1:50061", "stands in brackets", "write --daemon [::1]:50061"),
            ("::1:5005", "stands in brackets", "write --daemon [::1]:5005, or [::1:5005]:50051 if"),
            ("::1", "stands in brackets", "write --daemon [::1]:50051"),
            ("fe80::1", "stands in brackets", "[fe80::1]:50051"),
            ("[::1", "not closed", "HOST:PORT"),
            ("[gpu]:50051", "\"gpu\" is no IPv6 address", "HOST:PORT"),
            ("gpu:", "the port is missing", "write --daemon gpu:50051"),
            (":50051", "the host is missing", "write --daemon 127.0.0.1:50051"),
            ("http://:50051", "the host is missing", "write --daemon 127.0.0.1:50051"),
            ("50051", "the host is missing", "write --daemon 127.0.0.1:50051"),
            ("gpu:http", "the port \"http\" is no number", "HOST:PORT"),
            ("gpu:+5", "the port \"+5\" is no number", "HOST:PORT"),
            ("gpu:0", "there is no port 0", "HOST:PORT"),
            ("gpu:65536", "ports go from 1 to 65535", "HOST:PORT"),
            ("gpu:99999999999", "ports go from 1 to 65535", "HOST:PORT"),
            ("http://gpu:1/path", "but no path", "write --daemon gpu:1"),
            ("gpu:1?x=1", "but no path", "write --daemon gpu:1"),
            ("me@gpu:50051", "no user names", "write --daemon gpu:50051"),
            ("https://gpu:50051", "cannot speak TLS", "use http://"),
            ("grpc://gpu:50051", "not reached by \"grpc\"", "write --daemon http://gpu:50051"),
            ("a b", "no address", "HOST:PORT"),
            ("http://", "no address", "HOST:PORT"),
            ("gpu,50051", "no address", "HOST:PORT"),
        ] {
            let error = url(address).expect_err(address);
            assert_eq!(error.kind(), Kind::Usage, "{address}");
            assert!(error.message().contains(why), "{address}: {error}");
            let hint = error.hint_text().unwrap_or_default();
            assert!(hint.contains(write), "{address}: {hint}");
        }
    }
}
