//! Between the wire and the domain. What comes in is checked here, once; what goes out needs no check.

pub mod columns;
pub mod dataset;
pub mod dry_run;
pub mod event;
pub mod hyperparameters;
pub mod inference;
pub mod job;
pub mod model;
pub mod open_inference;
pub mod record;
pub mod spec;
pub mod start;
pub mod tei;
pub mod tensors;

use hone::v1;

use hone_base::error::{Error, Result};
use hone_data::{LabelCount, Quantiles};
use hone_storage::Time;

/// A value made of another: `From`, for two types neither of which is of this crate.
pub trait Convert<T> {
    /// The value.
    fn convert(value: T) -> Self;
}

/// The same from the other side: `value.wire()`.
pub trait Wire: Sized {
    /// The value that `self` becomes.
    fn wire<U: Convert<Self>>(self) -> U {
        U::convert(self)
    }
}

impl<T> Wire for T {}

/// A value of the domain, read from one of the wire.
pub trait Parse<T>: Sized {
    /// The value.
    ///
    /// # Errors
    /// When the caller's input is wrong; the message names the field.
    fn parse(wire: T) -> Result<Self>;
}

/// The same from the other side: `wire.parsed()`.
pub trait Parsed: Sized {
    /// The value that `self` says.
    ///
    /// # Errors
    /// Those of [`Parse::parse`].
    fn parsed<U: Parse<Self>>(self) -> Result<U> {
        U::parse(self)
    }
}

impl<T> Parsed for T {}

impl Convert<Time> for prost_types::Timestamp {
    fn convert(time: Time) -> Self {
        Self { seconds: time.0.div_euclid(1000), nanos: time.0.rem_euclid(1000) as i32 * 1_000_000 }
    }
}

impl Convert<&LabelCount> for v1::LabelCount {
    fn convert(count: &LabelCount) -> Self {
        Self { label: count.label.clone(), rows: count.rows }
    }
}

impl Convert<Quantiles> for v1::LengthQuantiles {
    fn convert(lengths: Quantiles) -> Self {
        let Quantiles { min, p50, p90, p95, p99, max, mean } = lengths;
        Self { min, p50, p90, p95, p99, max, mean }
    }
}

pub(super) fn all<'a, A: 'a, B: Convert<&'a A>>(items: impl IntoIterator<Item = &'a A>) -> Vec<B> {
    items.into_iter().map(B::convert).collect()
}

/// The value of an enum's number; the unspecified one, 0, is no value.
fn known<E: TryFrom<i32>>(field: &str, number: Option<i32>) -> Result<Option<E>> {
    let Some(number) = number.filter(|number| *number != 0) else { return Ok(None) };
    E::try_from(number).map(Some).map_err(|_| {
        Error::invalid(format!("{field} has the unknown value {number}; the client may be too new"))
    })
}
