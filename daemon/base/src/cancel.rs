//! The wish that work which takes long ends before its time.
//!
//! Whoever starts such work keeps a clone of the token that it hands over, and sets it; the work looks at it between two
//! pieces that each take a fraction of a second: rows, texts, micro-batches, blocks of a download.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{Error, Kind, Result};

/// Why work shall end. A reason outweighs those that stand before it here, whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The daemon goes down; the work goes on when it is back.
    Shutdown = 1,
    /// A user wants it to go on later.
    Paused = 2,
    /// Nobody wants its result any more.
    Cancelled = 3,
}

/// A token that says whether work shall end. Clones are the same token; a new one says nothing until it is asked.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Token>);

#[derive(Debug, Default)]
struct Token {
    asked: AtomicU8,
    parent: Option<Cancel>,
}

/// Asks the work to end when it is dropped, because whoever waited for the result has gone.
#[derive(Debug)]
pub struct AskOnDrop(Cancel);

impl Cancel {
    /// A token that can be asked by itself, and is asked whenever this one is.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(Arc::new(Token { asked: AtomicU8::default(), parent: Some(self.clone()) }))
    }

    /// Asks the work to end.
    pub fn ask(&self, reason: Reason) {
        self.0.asked.fetch_max(reason as u8, Ordering::AcqRel);
    }

    /// Asks the work to end, as [`Reason::Cancelled`], when the result is dropped.
    pub fn ask_on_drop(&self) -> AskOnDrop {
        AskOnDrop(self.clone())
    }

    /// Why the work shall end, if it shall. An atomic load, and one for its parent.
    pub fn reason(&self) -> Option<Reason> {
        let own = match self.0.asked.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Reason::Shutdown),
            2 => Some(Reason::Paused),
            _ => Some(Reason::Cancelled),
        };
        own.max(self.0.parent.as_ref().and_then(Self::reason))
    }

    /// Whether the work shall end. As cheap as [`Cancel::reason`].
    pub fn is_asked(&self) -> bool {
        self.reason().is_some()
    }

    /// Goes on only while nobody asked to end, for `?` inside of loops.
    ///
    /// # Errors
    /// [`Kind::Cancelled`], and nothing else, once [`Cancel::ask`] was called.
    pub fn check(&self) -> Result<()> {
        let why = match self.reason() {
            None => return Ok(()),
            Some(Reason::Shutdown) => "the daemon is going down",
            Some(Reason::Paused) => "it was paused",
            Some(Reason::Cancelled) => "it was cancelled",
        };
        Err(Error::new(Kind::Cancelled, format!("stopped before it was done: {why}")))
    }
}

impl Drop for AskOnDrop {
    fn drop(&mut self) {
        self.0.ask(Reason::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_quiet_until_it_is_asked_and_all_its_clones_hear_it() {
        let cancel = Cancel::default();
        let heard = cancel.clone();
        assert_eq!((heard.reason(), heard.is_asked()), (None, false));
        assert_eq!(heard.check(), Ok(()));
        cancel.ask(Reason::Paused);
        assert_eq!((heard.reason(), heard.is_asked()), (Some(Reason::Paused), true));
        let error = heard.check().unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (Kind::Cancelled, "stopped before it was done: it was paused")
        );
    }

    #[test]
    fn a_child_hears_its_parent_and_not_the_other_way_round() {
        let parent = Cancel::default();
        let (first, second) = (parent.child(), parent.child());
        drop(first.ask_on_drop());
        assert_eq!((first.reason(), second.reason()), (Some(Reason::Cancelled), None));
        assert_eq!(parent.reason(), None);
        parent.ask(Reason::Shutdown);
        assert_eq!((first.reason(), second.reason()), (Some(Reason::Cancelled), Some(Reason::Shutdown)));
    }

    #[test]
    fn the_weightiest_reason_stands_whichever_comes_first() {
        let reasons = [Reason::Shutdown, Reason::Paused, Reason::Cancelled];
        for first in reasons {
            for second in reasons {
                let cancel = Cancel::default();
                cancel.ask(first);
                cancel.ask(second);
                assert_eq!(cancel.reason(), Some(first.max(second)));
            }
        }
    }
}
