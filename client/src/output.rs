//! The one place that writes: results to standard output, notes and progress to standard error.
//!
//! People get text, programs (`--json`) get one JSON object a line. Colour and bars go to terminals only.

pub(crate) mod data;
pub(crate) mod dry_run;
pub(crate) mod epochs;
pub(crate) mod format;
pub(crate) mod json;
pub(crate) mod serving;
pub(crate) mod spec;
pub(crate) mod table;
pub(crate) mod unreadable;

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::error::{Error, Kind};

/// What stands behind the two streams.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terminal {
    /// Columns of standard output, if it is a terminal.
    pub out: Option<usize>,
    /// Columns of standard error, if it is a terminal.
    pub err: Option<usize>,
    /// Whether colour is welcome where there is a terminal.
    pub color: bool,
}

/// Everything that the client says.
pub(crate) struct Output<'a> {
    out: &'a mut (dyn Write + Send),
    err: &'a mut (dyn Write + Send),
    terminal: Terminal,
    json: bool,
    bar: Option<ProgressBar>,
}

impl<'a> Output<'a> {
    pub(crate) fn new(
        out: &'a mut (dyn Write + Send),
        err: &'a mut (dyn Write + Send),
        terminal: Terminal,
        json: bool,
    ) -> Self {
        Self { out, err, terminal, json, bar: None }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn set_json(&mut self, json: bool) {
        self.json = json;
    }

    /// Columns of standard output, if it is a terminal.
    pub(crate) fn width(&self) -> Option<usize> {
        self.terminal.out
    }

    /// The colours of standard output.
    pub(crate) fn paint(&self) -> Paint {
        Paint { on: self.terminal.color && self.terminal.out.is_some() }
    }

    /// Writes lines of text to standard output.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Error> {
        let mut block = String::with_capacity(text.len() + 1);
        block.push_str(text);
        if !text.ends_with('\n') {
            block.push('\n');
        }
        self.raw(block.as_bytes())
    }

    /// Writes one JSON object as one line to standard output.
    pub(crate) fn json(&mut self, value: &Value) -> Result<(), Error> {
        self.raw(format!("{value}\n").as_bytes())
    }

    /// Writes bytes to standard output as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Self { out, bar, .. } = self;
        let write = || -> io::Result<()> {
            out.write_all(bytes)?;
            out.flush()
        };
        match bar {
            Some(bar) => bar.suspend(write)?,
            None => {
                let mut write = write;
                write()?;
            }
        }
        Ok(())
    }

    /// Tells the user something that is no result.
    pub(crate) fn note(&mut self, text: &str) {
        self.aside(text);
    }

    /// Tells the user what failed and what to do about it.
    pub(crate) fn error(&mut self, error: &Error) {
        self.end_progress();
        if error.kind() == Kind::OutputClosed {
            return;
        }
        let label = self.err_paint().red("error:");
        self.aside(&format!("{label} {}", format::one_line(error.message())));
        if let Some(hint) = error.hint_text() {
            let label = self.err_paint().bold("hint:");
            self.aside(&format!("{label} {}", format::one_line(hint)));
        }
    }

    /// Says what clap has to say: help and version are results, the rest is an error. Returns the exit code.
    pub(crate) fn usage(&mut self, error: &clap::Error) -> u8 {
        let is_result = !error.use_stderr();
        let columns = if is_result { self.terminal.out } else { self.terminal.err };
        let rendered = error.render();
        let text = if self.terminal.color && columns.is_some() {
            rendered.ansi().to_string()
        } else {
            rendered.to_string()
        };
        if is_result {
            return self.text(&text).map_or_else(|error| error.kind().exit_code(), |()| 0);
        }
        self.aside(text.trim_end());
        Kind::Usage.exit_code()
    }

    /// Whether a bar can be drawn; if not, plain lines take its place.
    pub(crate) fn has_bar(&self) -> bool {
        !self.json && self.terminal.err.is_some()
    }

    /// Columns that a bar may take.
    pub(crate) fn bar_width(&self) -> usize {
        self.terminal.err.unwrap_or(80).saturating_sub(1)
    }

    /// Draws the line of progress, in place of the one before it.
    pub(crate) fn progress(&mut self, line: String) {
        if !self.has_bar() {
            return;
        }
        self.bar.get_or_insert_with(new_bar).set_message(line);
    }

    /// Takes the line of progress away.
    pub(crate) fn end_progress(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Nobody can be told that standard error is closed, so a failure to write to it is passed over.
    pub(crate) fn aside(&mut self, text: &str) {
        let Self { err, bar, .. } = self;
        let write = || {
            let _ = err.write_all(format!("{text}\n").as_bytes());
            let _ = err.flush();
        };
        match bar {
            Some(bar) => bar.suspend(write),
            None => {
                let mut write = write;
                write();
            }
        }
    }

    fn err_paint(&self) -> Paint {
        Paint { on: self.terminal.color && self.terminal.err.is_some() }
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        self.end_progress();
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template("{msg}") {
        bar.set_style(style);
    }
    bar
}

/// Colours, or none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("1;33", text)
    }
}
