//! Writes every shader as the drivers' compilers get it, for scripts/check-shaders.sh.
//! Called by `doctor --dump-shaders`; needs no GPU.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Error, Result};
use crate::kernels::EXAMPLES;
use crate::shader::{template, translate};

/// Every variant, rendered for the parameters of the kernels' examples; returns the number of files.
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
                let (module, info) = translate::parse(variant.stem, &template::render(variant, &constants)?)?;
                for made in translate::translate(&module, &info, variant.stem)? {
                    let path = dir.join(format!("{name}.{}.{}", made.mode, made.extension));
                    std::fs::write(&path, made.bytes).map_err(Error::io(&path, "write"))?;
                    files += 1;
                }
            }
        }
    }
    Ok(files)
}
