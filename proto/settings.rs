//! The settings of a training job that are one value each, described once: what a setting is called in the protocol and on
//! the command line, what it may be, what it is when nobody says so, and what it does.
//!
//! The daemon checks a message with [`check`]; the client makes its flags, tables and JSON from [`GROUPS`]. A method is
//! declared in two files: its field in `hone/v1/methods.proto`, and row, type and conversion in [`methods`].

pub mod methods;
mod range;
mod setting;
mod training;

pub use range::{Counts, Range};
pub use setting::{Kind, Place, Setting, Unfit, Value, Word};

use crate::v1;

/// Bytes of a text at most: an encoder's name, a label.
pub const MAX_TEXT: usize = 4096;

/// All settings, under the headings of the client's help and in its order.
pub const GROUPS: &[(&str, &[Setting])] = &[
    ("Model", training::MODEL),
    ("Optimizer", training::OPTIMIZER),
    ("Schedule", training::SCHEDULE),
    ("Evaluation", training::EVALUATION),
    (METHODS, methods::SETTINGS),
];

/// The heading of what is off by default.
pub const METHODS: &str = "Methods";

type Message = v1::Hyperparameters;

/// Every setting, in the order of the client's help.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    GROUPS.iter().flat_map(|(_, settings)| settings.iter())
}

/// What a message says, in the order of the client's help; what is not given is left out.
pub fn given(message: &Message) -> Vec<(&'static Setting, Value)> {
    let mut message = message.clone();
    all().filter_map(|setting| Some((setting, setting.get(&mut message)?))).collect()
}

/// Checks every value that a message gives.
///
/// # Errors
/// The first one that its setting cannot have.
pub fn check(message: &Message) -> Result<(), Unfit> {
    given(message).iter().try_for_each(|(setting, value)| setting.check(value))
}

#[cfg(test)]
mod tests;
