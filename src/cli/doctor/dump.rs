//! Writes every shader as the drivers' compilers get it, for scripts/check-shaders.sh.
//! Called by `doctor --dump-shaders`; needs no GPU.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Error, Result};
use crate::kernels::EXAMPLES;
use crate::shader::{elements, template, translate};

/// Every variant, rendered for the parameters of the kernels' examples, in f32 and with all that may be so in f16 (`-f16`);
/// returns the number of files.
pub fn run(dir: &Path) -> Result<usize> {
    std::fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
    let (mut seen, mut files) = (BTreeSet::new(), 0);
    for example in EXAMPLES {
        for op in example()?.ops {
            for variant in op.card.variants.iter().filter(|v| (v.fits)(&op.params, &translate::LIMITS)) {
                let constants = variant.text((variant.constants)(&op.params), &translate::LIMITS);
                let name = constants.iter().fold(variant.stem.to_string(), |n, (_, v)| format!("{n}-{v}"));
                if !seen.insert(name.clone()) {
                    continue;
                }
                let text = template::render(variant, &constants)?;
                let half = op.card.halves();
                // Windows are of f32.
                let apt =
                    half != 0 && (variant.windows)(&op.params).is_none_or(|windows| op.card.takes(&windows, half));
                for (half, suffix) in [(0, ""), (half, "-f16")].into_iter().filter(|(half, _)| *half == 0 || apt) {
                    let text = elements::in_f16(variant.stem, &text, op.card.bindings, half)?;
                    let (module, info) = translate::parse(variant.stem, &text)?;
                    for made in translate::translate(&module, &info, variant.stem)? {
                        let path = dir.join(format!("{name}{suffix}.{}.{}", made.mode, made.extension));
                        std::fs::write(&path, made.bytes).map_err(Error::io(&path, "write"))?;
                        files += 1;
                    }
                }
            }
        }
    }
    Ok(files)
}
