//! Printing: results to stdout, everything else to stderr. A closed pipe is no error: the work goes on unheard.
//! Called by all commands. Colour follows NO_COLOR, CLICOLOR and whether a terminal is there.

use std::fmt::{Arguments, Display};
use std::io::{ErrorKind, Write};
use std::path::Path;

use clap::builder::styling::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Global;
use crate::error::{Error, Result};

/// Prints one line of the result: `say!("{} tensors", n)?`.
macro_rules! say {
    ($($argument:tt)*) => { $crate::cli::terminal::result(format_args!($($argument)*)) };
}
pub(crate) use say;

/// One line to stdout.
pub fn result(line: Arguments) -> Result<()> {
    match writeln!(anstream::stdout().lock(), "{line}") {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io(Path::new("standard output"), "write")(e)),
        _ => Ok(()),
    }
}

/// `error: <message>`, `hint: <hint>`.
pub fn error(error: &Error) {
    labelled(AnsiColor::Red.on_default().bold(), "error", error);
    labelled(AnsiColor::Cyan.on_default().bold(), "hint", &error.hint());
}

fn labelled(style: Style, label: &str, text: &dyn Display) {
    // Nowhere is left to report a stderr that cannot be written.
    let _ = writeln!(anstream::stderr().lock(), "{style}{label}:{style:#} {text}");
}

impl Global {
    /// One line to stderr about what happens, unless --quiet.
    pub fn note(&self, line: Arguments) {
        if !self.quiet {
            let _ = writeln!(anstream::stderr().lock(), "{line}");
        }
    }

    /// One line to stderr with --verbose only.
    pub fn detail(&self, line: Arguments) {
        if self.verbose {
            self.note(line);
        }
    }

    /// A line to stderr that a user should not miss, whatever the verbosity.
    pub fn warn(&self, text: &dyn Display) {
        labelled(AnsiColor::Yellow.on_default().bold(), "warning", text);
    }

    /// A progress bar on stderr; none with --quiet or without a terminal. `unit` is a plural.
    pub fn progress(&self, total: u64, what: &str, unit: &str) -> ProgressBar {
        let target = if self.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let template = format!("{{prefix}} [{{bar:30}}] {{pos}}/{{len}} {unit} {{msg}} {{eta}} left");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::with_draw_target(Some(total), target)
            .with_style(style.progress_chars("=> "))
            .with_prefix(what.to_owned())
    }

    /// A count on stderr of what has no known end.
    pub fn counter(&self, what: &str, unit: &str) -> ProgressBar {
        let style = ProgressStyle::with_template(&format!("{{prefix}} {{pos}} {unit}"));
        self.progress(0, what, unit).with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
    }
}

/// 1536 -> "1.5 KiB".
pub fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// 35746307 -> "35,746,307".
pub fn grouped(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}
