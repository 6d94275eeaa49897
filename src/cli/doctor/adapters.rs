//! The list of adapters, in the order that `--adapter INDEX` counts, with limits and features.
//! Called by `doctor`.

use serde_json::{Map, Value, json};

use crate::cli::terminal::{bytes, grouped, say};
use crate::error::Result;
use crate::gpu::adapter::adapters;
use crate::gpu::{AdapterChoice, AdapterSummary, Gpu};
use crate::shader::Class;

/// An adapter and its optional features.
pub struct Examined {
    summary: AdapterSummary,
    features: Vec<(&'static str, bool)>,
}

/// All adapters of the chosen backends.
pub fn examine(choice: &AdapterChoice) -> Result<Vec<Examined>> {
    let each = |(index, summary): (usize, AdapterSummary)| {
        let this = AdapterChoice { adapter: Some(index.to_string()), ..choice.clone() };
        Ok(Examined { summary, features: Gpu::describe_features(&this)? })
    };
    adapters(choice)?.into_iter().enumerate().map(each).collect()
}

fn class(adapter: &AdapterSummary) -> &'static str {
    if adapter.class == Class::Cpu { "software" } else { "hardware" }
}

pub fn print(found: &[Examined]) -> Result<()> {
    if found.is_empty() {
        say!("no GPU adapter answers")?;
    }
    for (index, Examined { summary, features }) in found.iter().enumerate() {
        say!("{index}: {summary}")?;
        let present: Vec<_> = features.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
        say!("   {}; {}", class(summary), if present.is_empty() { "no extras".into() } else { present.join(", ") })?;
        if let Some(compiler) = summary.compiler {
            say!("   HLSL compiler: {compiler}")?;
        }
    }
    Ok(())
}

pub fn json(found: &[Examined]) -> Value {
    let each = |(index, e): (usize, &Examined)| {
        let (a, features) = (&e.summary, e.features.iter().map(|(name, there)| (name.to_string(), json!(there))));
        json!({"index": index, "name": a.name, "backend": a.backend, "kind": a.kind, "driver": a.driver,
               "class": class(a), "hlsl_compiler": a.compiler, "features": features.collect::<Map<_, _>>()})
    };
    found.iter().enumerate().map(each).collect()
}

/// The adapter in use, with the limits that it grants.
pub fn opened(gpu: &Gpu) -> Value {
    let limits: Map<_, _> = gpu.describe_limits().into_iter().map(|(name, n)| (name.to_string(), json!(n))).collect();
    json!({"adapter": gpu.summary().name, "backend": gpu.summary().backend, "limits": limits})
}

pub fn print_opened(gpu: &Gpu) -> Result<()> {
    say!("in use: {}", gpu.summary())?;
    for (name, n) in gpu.describe_limits() {
        let sized = ["largest buffer", "largest binding", "workgroup memory"].contains(&name);
        say!("   {name}: {}", if sized { bytes(n) } else { grouped(n) })?;
    }
    Ok(())
}
