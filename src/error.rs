//! The one error type. Every room returns it; only `cli` prints it and only `main` turns it into an exit code.
//! A message names the file or the operation and the thing that is wrong; `hint` says what to do next.

use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    // === What the user typed, or a configuration says ===
    #[error("{message}")]
    Usage { message: String, hint: String },

    // === Files ===
    /// A file that is not what it should be: `thing` is a tensor, a key, a byte offset, an entry.
    #[error("{}: {thing}: {problem}", path.display())]
    Format { path: PathBuf, thing: String, problem: String, hint: String },
    /// A setting that is understood, would change the result, and is not built.
    #[error("{}: {key} = {value} is not supported", path.display())]
    Unsupported { path: PathBuf, key: String, value: String, hint: String },
    #[error("{}: cannot {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },

    // === Engine ===
    #[error("{op}: {message}")]
    Shape { op: &'static str, message: String },
    #[error("shader {file}: {message}")]
    Shader { file: String, message: String },

    // === Device ===
    #[error("no GPU adapter: {message}")]
    NoAdapter { message: String },
    #[error("{adapter}: device lost: {message}")]
    DeviceLost { adapter: String, message: String },
    #[error("{adapter}: out of memory: {what} needs {needed} bytes")]
    OutOfMemory { adapter: String, what: String, needed: u64 },
    #[error("{adapter}: the driver refused {what}: {message}")]
    Validation { adapter: String, what: String, message: String },
    #[error("{adapter}: no answer within {seconds:.0} s while waiting for {what}")]
    Timeout { adapter: String, what: String, seconds: f64 },
    #[error("{adapter}: wrong numbers from {kernels}")]
    WrongNumbers { adapter: String, kernels: String },

    // === Numbers ===
    #[error("{what} is not finite at step {step}")]
    NonFinite { what: String, step: u64 },

    // === Stopped by the user ===
    #[error("stopped by a signal; {saved}")]
    Interrupted { saved: String },
}

impl Error {
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    pub fn format(path: &Path, thing: impl Into<String>, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Format { path: path.to_path_buf(), thing: thing.into(), problem: problem.into(), hint: hint.into() }
    }

    pub fn unsupported(path: &Path, key: impl Into<String>, value: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_path_buf(), key: key.into(), value: value.into(), hint: hint.into() }
    }

    /// For `map_err`: `fs::read(p).map_err(Error::io(p, "read"))`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }

    pub fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Self::Shape { op, message: message.into() }
    }

    /// The process's exit code: 2 usage, 3 bad input file, 4 device, 5 out of GPU memory, 6 storage, 7 non-finite,
    /// 130 stopped.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::Shape { .. } => 2,
            Self::Format { .. } | Self::Unsupported { .. } => 3,
            Self::NoAdapter { .. }
            | Self::DeviceLost { .. }
            | Self::Validation { .. }
            | Self::Timeout { .. }
            | Self::WrongNumbers { .. }
            | Self::Shader { .. } => 4,
            Self::OutOfMemory { .. } => 5,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 3,
            Self::Io { .. } => 6,
            Self::NonFinite { .. } => 7,
            Self::Interrupted { .. } => 130,
        }
    }

    /// One sentence that says what to try next.
    pub fn hint(&self) -> String {
        match self {
            Self::Usage { hint, .. } | Self::Format { hint, .. } | Self::Unsupported { hint, .. } => hint.clone(),
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => "check the path".into(),
                std::io::ErrorKind::PermissionDenied => "check the permissions of the folder".into(),
                std::io::ErrorKind::StorageFull => "free some disk space; what was saved before is intact".into(),
                _ => "check the disk; what was saved before is intact".into(),
            },
            Self::Shape { .. } => "the model's configuration does not fit its weights or input size".into(),
            Self::Shader { .. } => "this is a defect of deme: please report it with the output of `deme doctor`".into(),
            Self::NoAdapter { .. } => "install a Vulkan driver (scripts/setup.sh does), or see `deme doctor`".into(),
            Self::DeviceLost { .. } => "the driver reset the GPU; `--resume` continues from the last checkpoint".into(),
            Self::OutOfMemory { .. } => {
                "try a smaller --batch (training: --recompute, or fewer images --at-once), or close other programs"
                    .into()
            }
            Self::Validation { .. } => "run `deme doctor`; a newer driver or another --backend may help".into(),
            Self::Timeout { .. } => "the GPU is hung or much slower than planned for; try a smaller --batch".into(),
            Self::WrongNumbers { .. } => {
                "update the driver or try another --adapter or --backend, and report it".into()
            }
            Self::NonFinite { .. } => "lower --lr; the last good checkpoint is kept".into(),
            Self::Interrupted { .. } => {
                "the same command continues where this stopped (finetune: with --resume)".into()
            }
        }
    }
}
