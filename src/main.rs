//! The binary: parses, runs, prints the error, chooses the exit code; nothing else.

use std::process::ExitCode;

use deme::cli::{self, Cli, interrupt};

fn main() -> ExitCode {
    // Without a handler, Ctrl-C ends the program at once, which loses nothing that was saved.
    let _ = ctrlc::set_handler(|| {
        if interrupt::request() == interrupt::Answer::ExitNow {
            std::process::exit(130);
        }
    });
    match Cli::parse_arguments() {
        Ok(cli) => match cli::run(&cli) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                cli::terminal::error(&error);
                ExitCode::from(error.exit_code())
            }
        },
        Err(code) => ExitCode::from(code),
    }
}
