//! What every command has in common: help, usage errors, closed pipes, colours.

use std::io::Read;
use std::process::{Command, Stdio};

use super::run::{deme, emoji};

#[test]
fn help_lists_commands_global_options_and_exit_codes() {
    let help = deme(["--help"]).exits(0).out;
    for word in ["merge", "inspect", "doctor", "--adapter", "--backend", "--quiet", "--verbose", "130 stopped"] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
    assert_eq!(deme(["--version"]).exits(0).out, concat!("deme ", env!("CARGO_PKG_VERSION"), "\n"));
}

/// Every command's help explains every option, and names a value only where there is one.
#[test]
fn every_option_is_explained() {
    let help = deme(["--help"]).exits(0).out;
    let commands = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    // A description's second line stands further to the right.
    let commands = commands.filter(|l| !l.starts_with("   "));
    let mut options = 0;
    for command in commands.map(|l| l.split_whitespace().next().unwrap()) {
        let text = deme([command, "--help"]).exits(0).out;
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate().filter(|(_, l)| l.trim_start().starts_with("--")) {
            let explained = line.trim_start().split_once("  ").map(|(_, t)| t.trim()).filter(|t| !t.is_empty());
            let below = lines.get(i + 1).filter(|l| l.starts_with("          ")).map(|l| l.trim());
            assert!(explained.or(below).is_some_and(|t| t.len() > 5), "deme {command}: {line}");
            options += 1;
        }
    }
    assert!(options >= 12, "{options} options were found");
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [&["nonsense"][..], &[], &["merge"], &["inspect"], &["doctor", "--quiet", "--verbose"]] {
        let ran = deme(arguments).exits(2);
        assert!(ran.out.is_empty() && !ran.err.is_empty());
    }
    let hint = "use vulkan, metal, dx12 or gl";
    deme(["doctor", "--backend", "glide"]).complains(2, "--backend glide is not known", hint);
}

#[test]
fn a_closed_pipe_is_no_error_and_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_deme"))
        .args(["inspect", "--tensors"])
        .arg(emoji())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_below_stdout_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_deme"));
    let output = command.arg("inspect").arg(emoji()).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: standard output: cannot write: "));
}

#[test]
fn colours_only_where_they_are_asked_for() {
    let run = |name: &str, value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deme"));
        command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").env(name, value);
        String::from_utf8(command.args(["inspect", "/nowhere"]).output().unwrap().stderr).unwrap()
    };
    assert!(run("CLICOLOR_FORCE", "1").contains("\u{1b}["));
    assert!(!run("NO_COLOR", "1").contains('\u{1b}'));
    assert!(!run("TERM", "xterm-256color").contains('\u{1b}'));
}

/// A signal ends a command that has nothing to save at once, with 130.
#[cfg(unix)]
#[test]
fn a_signal_exits_with_130() {
    // The list of names is larger than a pipe holds: after its first byte the command waits for a reader, for ever.
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("many.safetensors");
    let names: Vec<String> = (0..20_000).map(|i| format!("tensor.{i}")).collect();
    let tensors: Vec<_> = names.iter().map(|n| (n.as_str(), &[1u64][..], &[0.0f32][..])).collect();
    deme::io::writer::write(&file, &tensors, &Default::default()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_deme"));
    let mut child = command.args(["inspect", "--tensors"]).arg(&file).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
