//! The id of a request to start a job.

use hone::v1;
use prost::Message as _;

use crate::serve::reference::shown;
use hone_base::digest;
use hone_base::error::{Error, Result};
use hone_storage::StartRequest;

/// Characters of an id at most.
const MAX_ID: usize = 64;

/// The request as it may be repeated; `None` when it has no id, and is a new job whenever it comes.
pub fn request(wire: &v1::StartJobRequest) -> Result<Option<StartRequest>> {
    let Some(id) = &wire.request_id else { return Ok(None) };
    let is_good = (1..=MAX_ID).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if !is_good {
        return Err(Error::invalid(format!(
            "`request_id`: an id has 1 to {MAX_ID} letters, digits, '-' and '_'; got {}",
            shown(id)
        )));
    }
    // What was sent, not what the daemon made of it: a repetition is the same bytes, whatever the defaults are by now.
    let spec = wire.spec.clone().unwrap_or_default().encode_to_vec();
    Ok(Some(StartRequest { id: id.clone(), digest: digest::of_bytes(&spec) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(id: &str, name: &str) -> v1::StartJobRequest {
        let spec = v1::JobSpec { name: Some(name.into()), ..Default::default() };
        v1::StartJobRequest { spec: Some(spec), request_id: Some(id.into()) }
    }

    #[test]
    fn the_same_specification_has_the_same_digest_and_another_one_another() {
        let digest = |name| request(&with("r-1", name)).unwrap().unwrap().digest;
        assert_eq!(digest("a"), digest("a"));
        assert_ne!(digest("a"), digest("b"));
        assert_eq!(request(&v1::StartJobRequest::default()).unwrap(), None);
    }

    #[test]
    fn an_id_that_is_none_is_refused() {
        for id in ["", "a b", "\u{fc}", &"x".repeat(65)] {
            let error = request(&with(id, "a")).unwrap_err();
            assert!(error.message().starts_with("`request_id`: "), "{error}");
        }
    }
}
