//! `cargo bench --bench kernels -- [--filter TEXT] [--smoke] ...` is `deme bench kernels ...`.
//! The work is in `deme::bench`, which walks the cases and `kernels::EXAMPLES`.

use clap::Parser;

fn main() -> std::process::ExitCode {
    // Cargo adds `--bench` to what stands after `--`.
    let arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let cli = deme::cli::Cli::parse_from(["deme", "bench", "kernels"].map(String::from).into_iter().chain(arguments));
    match deme::cli::run(&cli) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            deme::cli::terminal::error(&error);
            std::process::ExitCode::from(error.exit_code())
        }
    }
}
