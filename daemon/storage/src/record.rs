//! Records as text: JSON that can be read back.

use serde::Serialize;
use serde::de::DeserializeOwned;

use hone_base::error::{Error, Result};

/// The text that a value is stored as.
///
/// # Errors
///
/// When the text could not be read back, because a number in it is not finite: such a record would be there and of no
/// use.
pub(crate) fn encode<T: Serialize + DeserializeOwned>(value: &T) -> Result<String> {
    let failed = |error| Error::internal(format!("a record cannot be written: {error}"));
    let text = serde_json::to_string(value).map_err(failed)?;
    serde_json::from_str::<T>(&text).map_err(|error| {
        Error::internal(format!("a record was not written, because it could not be read again ({error})"))
    })?;
    Ok(text)
}

/// The value that a text was stored from.
///
/// # Errors
///
/// [`Kind::Corrupt`](hone_base::error::Kind::Corrupt) when the text is not that of such a value.
pub(crate) fn decode<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| Error::corrupt(format!("a record of the database cannot be read: {error}")))
}
