//! The list of adapters, in the order that `--adapter INDEX` counts.
//! Called by `doctor`.

use serde_json::{Value, json};

use crate::cli::terminal::say;
use crate::error::Result;
use crate::gpu::adapter::adapters;
use crate::gpu::{AdapterChoice, AdapterSummary};
use crate::shader::Class;

fn class(adapter: &AdapterSummary) -> &'static str {
    if adapter.class == Class::Cpu { "software" } else { "hardware" }
}

/// All adapters as text.
pub fn print(choice: &AdapterChoice) -> Result<()> {
    let found = adapters(choice)?;
    if found.is_empty() {
        say!("No GPU adapter answers.")?;
    }
    for (index, adapter) in found.iter().enumerate() {
        say!("{index}: {adapter}, {}", class(adapter))?;
        if let Some(compiler) = adapter.compiler {
            say!("   HLSL compiler: {compiler}")?;
        }
    }
    Ok(())
}

/// All adapters as JSON.
pub fn json(choice: &AdapterChoice) -> Result<Value> {
    let list = adapters(choice)?.into_iter().enumerate().map(|(index, a)| {
        json!({"index": index, "name": a.name, "backend": a.backend, "kind": a.kind, "driver": a.driver,
               "class": class(&a), "compiler": a.compiler})
    });
    Ok(Value::Array(list.collect()))
}
