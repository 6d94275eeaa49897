//! Run files: TOML whose keys are a command's long options (`--config FILE`), and the echo of all settings into a run's folder.
//! Called by `Cli::parse_arguments` before clap sees the command line, and by `finetune` and `train`.

use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, ArgAction, Command, ValueEnum};
use serde::{Serialize, Serializer};
use toml::{Table, Value};

use super::Global;
use crate::error::{Error, Result};

/// Commands that take run files.
const COMMANDS: [&str; 2] = ["finetune", "train"];
/// Options that no run file has: they say what to do with a run, not what it is.
const NOT_KEYS: [&str; 6] = ["config", "help", "quiet", "verbose", "resume", "dry-run"];

/// The command line with the options of its run file added, where it names one: those that are on the command line already are
/// left out, so the command line wins.
///
/// # Errors
/// `Io` and `Format` for a file that cannot be read or is not TOML, `Format` with the nearest option for an unknown key.
pub fn expand(arguments: Vec<OsString>, cli: &Command) -> Result<Vec<OsString>> {
    let Some(at) = command_at(&arguments) else { return Ok(arguments) };
    let Some(command) = cli.find_subcommand(&arguments[at]) else { return Ok(arguments) };
    let Some(file) = value_of(&arguments[at..], "--config") else { return Ok(arguments) };
    let path = Path::new(&file);
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    let table: Table = text.parse().map_err(|e| broken(path, &text, &e))?;
    let mut added = Vec::new();
    for (key, value) in &table {
        let option = option(path, key, command.get_name(), command, Some(cli))?;
        let long = option.get_long().unwrap_or_default();
        // Of options that exclude each other, too, the one on the command line counts.
        let excluded = match option.is_global_set() {
            true => Vec::new(),
            false => command.get_arg_conflicts_with(option),
        };
        let longs = excluded.iter().filter_map(|other| other.get_long()).chain([long]);
        if !longs.into_iter().any(|long| given(&arguments, long)) {
            added.extend(tokens(path, long, option, value)?);
        }
    }
    let (before, after) = arguments.split_at(at + 1);
    Ok([before, &added, after].concat())
}

/// The error for a file that is not TOML, or not the TOML that was expected.
pub fn broken(path: &Path, text: &str, e: &toml::de::Error) -> Error {
    let line = e.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    Error::format(path, format!("line {line}"), e.message(), "run files are TOML: key = value, a line each")
}

/// A table of options in the file `path` as words for the command.
///
/// # Errors
/// `Format` with the nearest option for an unknown key.
pub fn words(path: &Path, name: &str, command: &Command, table: &Table) -> Result<Vec<OsString>> {
    let mut words = Vec::new();
    for (key, value) in table {
        let option = option(path, key, name, command, None)?;
        words.extend(tokens(path, option.get_long().unwrap_or_default(), option, value)?);
    }
    Ok(words)
}

/// Where the command stands: the first word that is neither an option nor the value of a global one.
fn command_at(arguments: &[OsString]) -> Option<usize> {
    let mut at = 1;
    while let Some(word) = arguments.get(at).and_then(|a| a.to_str()) {
        match word {
            "--adapter" | "--backend" | "--precision" => at += 2,
            _ if word.starts_with('-') => at += 1,
            _ => return COMMANDS.contains(&word).then_some(at),
        }
    }
    None
}

/// The value of `--option VALUE` or `--option=VALUE`.
fn value_of(arguments: &[OsString], option: &str) -> Option<OsString> {
    arguments.iter().enumerate().find_map(|(i, word)| match word.to_str() {
        Some(word) if word == option => arguments.get(i + 1).cloned(),
        Some(word) => word.strip_prefix(option)?.strip_prefix('=').map(OsString::from),
        None => None,
    })
}

fn given(arguments: &[OsString], long: &str) -> bool {
    let names = |word: &str| word.strip_prefix("--").is_some_and(|w| w.split('=').next() == Some(long));
    arguments.iter().any(|word| names(&word.to_string_lossy()))
}

/// The option of the command, or of `cli` for all commands, that a key names; underscores count as dashes.
fn option<'a>(path: &Path, key: &str, name: &str, command: &'a Command, cli: Option<&'a Command>) -> Result<&'a Arg> {
    let wanted = key.replace('_', "-");
    let globals = cli.into_iter().flat_map(Command::get_arguments).filter(|arg| arg.is_global_set());
    let known: Vec<(&str, &Arg)> = command
        .get_arguments()
        .chain(globals)
        .filter_map(|arg| Some((arg.get_long()?, arg)))
        .filter(|(long, _)| !NOT_KEYS.contains(long))
        .collect();
    if let Some((_, option)) = known.iter().find(|(long, _)| *long == wanted) {
        return Ok(option);
    }
    let likeness = |long: &str| strsim::jaro_winkler(&wanted, long);
    let nearest = known.iter().max_by(|a, b| likeness(a.0).total_cmp(&likeness(b.0))).map_or("", |(long, _)| long);
    let problem = format!("is no setting of deme {name}");
    let hint = format!("the nearest is {nearest}; keys are the long options of `deme {name} --help`");
    Err(Error::format(path, key, problem, hint))
}

/// The words that say the same on a command line.
fn tokens(path: &Path, long: &str, option: &Arg, value: &Value) -> Result<Vec<OsString>> {
    if matches!(option.get_action(), ArgAction::SetTrue) {
        let Value::Boolean(on) = value else {
            return Err(Error::format(path, long, format!("is {value}"), "expected true or false"));
        };
        return Ok(if *on { vec![format!("--{long}").into()] } else { Vec::new() });
    }
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(on) => Ok(on.to_string()),
        other => Err(Error::format(path, long, format!("is {other}"), "expected a string, a number, true or false")),
    };
    let value = match value {
        Value::Array(values) => values.iter().map(text).collect::<Result<Vec<_>>>()?.join(","),
        single => text(single)?,
    };
    Ok(vec![format!("--{long}={value}").into()])
}

/// A command's settings, with those that every command has.
#[derive(Serialize)]
struct All<'a, T> {
    #[serde(flatten)]
    command: &'a T,
    #[serde(flatten)]
    global: &'a Global,
}

/// Every setting of a run as a run file. The folder is left out: a run is repeated in another one.
///
/// # Errors
/// `Usage` for a path that is not UTF-8, which TOML cannot hold.
pub fn echo(command: &str, settings: &impl Serialize, global: &Global) -> Result<String> {
    let fail = |e: toml::ser::Error| {
        let hint = "paths must be UTF-8 to be kept in run.toml";
        Error::usage(format!("the settings cannot be written as TOML: {e}"), hint)
    };
    let body = toml::to_string(&All { command: settings, global }).map_err(fail)?;
    Ok(format!("# Every setting of this run; to repeat it: deme {command} --config THIS_FILE --out DIR\n{body}"))
}

/// For serde: an enum of the command line by the word that the command line has for it.
pub fn word<S: Serializer>(value: &impl ValueEnum, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&super::training::options::name(value))
}

/// For serde: TOML's integers end at 2^63 - 1, a larger one is a text.
pub fn integer<S: Serializer>(value: &u64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    match i64::try_from(*value) {
        Ok(small) => serializer.serialize_i64(small),
        Err(_) => serializer.serialize_str(&value.to_string()),
    }
}
