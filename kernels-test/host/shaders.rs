//! Every variant of every card, rendered for the parameters of the examples: parses, validates, agrees with its card,
//! stays within WebGPU's defaults and translates. Called by `host.rs`; needs no GPU.

use deme::kernels::EXAMPLES;
use deme::shader::card::{Access, Card, Constants, DEFAULT_LIMITS, FieldKind, Limits, Variant, WINDOW_ELEMENTS};
use deme::shader::{cards, elements, template, translate};
use naga::valid::{GlobalUse, ModuleInfo};
use naga::{AddressSpace, Module, ScalarKind, TypeInner};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of workgroup memory and storage buffers that every adapter grants.
const WORKGROUP_BYTES: u32 = 16384;
const STORAGE_BUFFERS: usize = 8;

/// Parameter words by kernel word, from the examples.
fn parameters() -> BTreeMap<&'static str, BTreeSet<Vec<u32>>> {
    let mut of = BTreeMap::<_, BTreeSet<Vec<u32>>>::new();
    for example in EXAMPLES {
        for op in example().unwrap().ops {
            of.entry(op.card.word).or_default().insert(op.params);
        }
    }
    of
}

/// The distinct texts of a variant over these parameters, each with the binding that it takes in windows.
fn renderings(variant: &Variant, parameters: &BTreeSet<Vec<u32>>) -> BTreeMap<Constants, (String, Option<usize>)> {
    // Cooperative matrices of both edges.
    let limits = [translate::LIMITS, Limits { cooperative: 16, ..translate::LIMITS }];
    let calls = limits.iter().flat_map(|limits| parameters.iter().map(move |p| (p, limits)));
    calls
        .filter(|(p, limits)| (variant.fits)(p, limits))
        .flat_map(|(p, limits)| variant.tilings(p).into_iter().map(move |tiling| (tiling, limits)))
        .map(|(tiling, limits)| (variant.text(tiling.constants, limits), tiling.windows.map(|w| w.binding)))
        .map(|(constants, windowed)| {
            let text = template::render(variant, &constants).unwrap();
            (constants, (text, windowed))
        })
        .collect()
}

fn parse(text: &str) -> Result<(Module, ModuleInfo), String> {
    translate::parse("shader", text).map_err(|e| e.to_string())
}

/// `struct Params` is the card's: names, types, offsets, size; after them the window's number, where there are windows.
fn check_params(card: &Card, windowed: Option<usize>, module: &Module) -> Result<(), String> {
    let first = |g: &naga::GlobalVariable| g.binding.is_some_and(|b| b.binding == 0);
    let found = module.global_variables.iter().find(|(_, g)| g.space == AddressSpace::Uniform && first(g));
    let (_, global) = found.ok_or("no uniform variable at binding 0")?;
    let binding = global.binding.map(|b| (b.group, b.binding));
    if global.name.as_deref() != Some("params") || binding != Some((0, 0)) {
        return Err(format!("the uniform is {:?} at {binding:?}, not `params` at (0, 0)", global.name));
    }
    let TypeInner::Struct { members, span } = &module.types[global.ty].inner else {
        return Err("params is not a struct".into());
    };
    let wgsl: Vec<_> = members
        .iter()
        .map(|m| {
            let kind = match module.types[m.ty].inner {
                TypeInner::Scalar(s) if s.width == 4 && s.kind == ScalarKind::Uint => Some(FieldKind::U32),
                TypeInner::Scalar(s) if s.width == 4 && s.kind == ScalarKind::Float => Some(FieldKind::F32),
                _ => None,
            };
            (m.name.clone().unwrap_or_default(), kind, m.offset)
        })
        .collect();
    let fields = card.params.iter().map(|f| (f.name, f.kind)).chain(windowed.map(|_| ("window", FieldKind::U32)));
    let rust: Vec<_> =
        (0..).zip(fields).map(|(i, (name, kind)): (u32, _)| (name.to_string(), Some(kind), 4 * i)).collect();
    if wgsl != rust || *span != 4 * rust.len() as u32 {
        return Err(format!("struct Params is {wgsl:?}, its card says {rust:?}"));
    }
    Ok(())
}

/// Bindings are the card's: names, access, order, group 0, storage but for the one in windows; every variable is used.
fn check_bindings(card: &Card, windowed: Option<usize>, module: &Module, info: &ModuleInfo) -> Result<(), String> {
    let mut wgsl = Vec::new();
    for (_, g) in module.global_variables.iter() {
        let writable = match g.space {
            AddressSpace::Storage { access } => access.contains(naga::StorageAccess::STORE),
            AddressSpace::Uniform => false,
            _ => continue,
        };
        let b = g.binding.ok_or("storage without a binding")?;
        if b.binding == 0 {
            continue;
        }
        let uniform = g.space == AddressSpace::Uniform;
        if uniform != (windowed == Some(b.binding as usize - 1)) {
            return Err(format!("binding {} is in {:?}, the one in windows is {windowed:?}", b.binding, g.space));
        }
        if uniform && module.types[g.ty].inner.size(module.to_ctx()) > 4 * WINDOW_ELEMENTS as u32 {
            return Err(format!("binding {} is above 64 KiB", b.binding));
        }
        wgsl.push((b.binding, b.group, g.name.clone().unwrap_or_default(), writable));
    }
    wgsl.sort();
    let rust: Vec<_> =
        (1..).zip(card.bindings).map(|(i, b)| (i, 0, b.name.to_string(), b.access != Access::Read)).collect();
    if wgsl != rust {
        return Err(format!("bindings (number, group, name, writable) are {wgsl:?}, its card says {rust:?}"));
    }
    if rust.len() > STORAGE_BUFFERS {
        return Err(format!("{} storage buffers, at most {STORAGE_BUFFERS} are granted", rust.len()));
    }
    let entry = info.get_entry_point(0);
    let uses = module.global_variables.iter().map(|(handle, g)| (g, entry[handle]));
    for (g, usage) in uses {
        let name = g.name.clone().unwrap_or_default();
        if usage.is_empty() {
            return Err(format!("{name} is never used"));
        }
        if let Some(b) = card.bindings.iter().find(|b| b.name == name && g.binding.is_some()) {
            let wanted = match b.access {
                Access::Read => GlobalUse::READ,
                Access::Write => GlobalUse::WRITE,
                Access::Update => GlobalUse::READ | GlobalUse::WRITE,
            };
            if !usage.contains(wanted)
                || (b.access == Access::Write && windowed.is_none() && usage.contains(GlobalUse::READ))
            {
                return Err(format!("{name} is used as {usage:?}, its card says {:?}", b.access));
            }
        }
    }
    Ok(())
}

/// One entry point, called as the file, within the limits.
fn check_entry(variant: &Variant, module: &Module) -> Result<(), String> {
    let names: Vec<_> = module.entry_points.iter().map(|e| e.name.as_str()).collect();
    if names != [variant.stem] {
        return Err(format!("entry points {names:?}, expected {:?}", variant.stem));
    }
    let size = module.entry_points[0].workgroup_size;
    if size.iter().product::<u32>() > DEFAULT_LIMITS.invocations || size[2] > 64 {
        return Err(format!("workgroup of {size:?}"));
    }
    let bytes: u32 = module
        .global_variables
        .iter()
        .filter(|(_, g)| g.space == AddressSpace::WorkGroup)
        .map(|(_, g)| module.types[g.ty].inner.size(module.to_ctx()))
        .sum();
    if bytes > WORKGROUP_BYTES {
        return Err(format!("{bytes} bytes of workgroup memory"));
    }
    Ok(())
}

#[test]
fn every_variant_is_well_formed_and_agrees_with_its_card() {
    let parameters = parameters();
    let mut failures = Vec::new();
    let mut texts = 0;
    for card in cards::all() {
        let none = BTreeSet::new();
        let known = parameters.get(card.word).unwrap_or(&none);
        for variant in card.variants {
            let renderings = renderings(variant, known);
            if renderings.is_empty() {
                failures.push(format!("{}: no example fits it (kernels::EXAMPLES)", variant.stem));
            }
            for (constants, (text, windowed)) in &renderings {
                // Windows are of f32.
                let halves = if windowed.is_some() { 0 } else { card.halves() };
                for (half, pairs) in
                    BTreeSet::from([0, halves]).into_iter().flat_map(|half| [(half, false), (half, true)])
                {
                    texts += 1;
                    let kept = in_f16(card, variant, text, half).and_then(|text| match pairs {
                        true => elements::in_pairs(variant.stem, &text, card.bindings).map_err(|e| e.to_string()),
                        false => Ok(text),
                    });
                    let result = kept.and_then(|text| parse(&text)).and_then(|(module, info)| {
                        check_params(card, *windowed, &module)?;
                        check_bindings(card, *windowed, &module, &info)?;
                        check_entry(variant, &module)?;
                        translate::translate(&module, &info, variant.stem).map(|_| ()).map_err(|e| e.to_string())
                    });
                    if let Err(e) = result {
                        failures.push(format!("{} {constants:?}, f16 {half:b}, pairs {pairs}: {e}", variant.stem));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {texts} shaders:\n{}", failures.len(), failures.join("\n"));
    assert!(texts >= cards::all().count());
}

fn in_f16(card: &Card, variant: &Variant, text: &str, half: u32) -> Result<String, String> {
    elements::in_f16(variant.stem, text, card.bindings, half).map_err(|e| e.to_string())
}

/// Each binding that may be f16, alone and beside those that are: the rewriting of one does not depend on another's.
#[test]
fn every_binding_may_be_in_f16_by_itself() {
    let (parameters, none) = (parameters(), BTreeSet::new());
    let mut checked = 0;
    for card in cards::all().filter(|card| card.halves() != 0) {
        let known = parameters.get(card.word).unwrap_or(&none);
        for variant in card.variants {
            // Texts of a variant differ in constants.
            let renderings = renderings(variant, known);
            let (text, _) = renderings.values().find(|(_, windowed)| windowed.is_none()).unwrap();
            for bit in (0..card.bindings.len()).filter(|bit| card.halves() >> bit & 1 == 1) {
                for half in [1 << bit, card.halves() & !(1 << bit)] {
                    let rewritten = in_f16(card, variant, text, half).unwrap();
                    let parsed =
                        parse(&rewritten).and_then(|(module, info)| check_bindings(card, None, &module, &info));
                    assert_eq!(parsed, Ok(()), "{} {half:b}\n{rewritten}", variant.stem);
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 150, "{checked}");
}

/// Large matrices and images, where every tile can be worth it.
fn large() -> Vec<(&'static Card, Vec<u32>)> {
    use deme::shader::card::Params;
    use deme::shader::cards::{conv, gemm};
    let p = gemm::MatmulParams::plain(1024, 1024, 1024).words();
    let c = conv::Conv2dParams {
        batch: 16,
        in_h: 32,
        in_w: 32,
        cin: 128,
        out_h: 32,
        out_w: 32,
        cout: 128,
        kh: 3,
        kw: 3,
        stride: 1,
        pad_top: 1,
        pad_left: 1,
        has_bias: 1,
        chunk: 64,
        addend: 0,
    };
    let c = c.words();
    let matmuls = [&gemm::MATMUL_FORWARD, &gemm::MATMUL_BACKWARD_WEIGHT].map(|card| (card, p.clone()));
    let convs = conv::CARDS.iter().map(|&card| (card, c.clone()));
    matmuls.into_iter().chain(convs).collect()
}

#[test]
fn menus_begin_with_the_default_and_name_each_tiling_once() {
    let mut known: Vec<(&Card, Vec<u32>)> = large();
    for (word, all) in parameters() {
        known.extend(all.into_iter().map(|p| (cards::find(word).unwrap(), p)));
    }
    for (card, p) in known {
        for variant in card.variants.iter().filter(|v| (v.fits)(&p, &translate::LIMITS)) {
            let (tilings, menu) = (variant.tilings(&p), (variant.menu)(&p));
            assert_eq!(tilings[0], variant.tiling(&p), "{} {p:?}", variant.stem);
            assert!(menu.is_empty() || tilings.iter().all(|t| !t.name.is_empty()), "{}", variant.stem);
            let names: BTreeSet<_> = tilings.iter().map(|t| &t.name).collect();
            let texts: BTreeSet<_> = tilings.iter().map(|t| &t.constants).collect();
            assert_eq!((names.len(), texts.len()), (tilings.len(), tilings.len()), "{} {p:?}", variant.stem);
            assert!(tilings.iter().all(|t| t.groups > 0 && !t.name.contains(' ')), "{}", variant.stem);
        }
    }
}

/// 16x32 to 128x128, each well-formed in all languages.
#[test]
fn large_shapes_are_offered_every_tile() {
    for (card, p) in large() {
        let variant = card.variants.iter().find(|v| v.stem.ends_with("_tiled")).unwrap();
        let tilings = variant.tilings(&p);
        for wanted in ["16x32", "32x32", "32x64", "64x32", "64x64", "64x128", "128x64", "128x128"] {
            assert!(tilings.iter().any(|t| t.name.split('r').next() == Some(wanted)), "{} {wanted}", variant.stem);
        }
        for tiling in tilings {
            let text = template::render(variant, &tiling.constants).unwrap();
            let checked = parse(&text).and_then(|(module, info)| {
                check_entry(variant, &module)?;
                translate::translate(&module, &info, variant.stem).map(|_| ()).map_err(|e| e.to_string())
            });
            assert_eq!(checked, Ok(()), "{} {}", variant.stem, tiling.name);
        }
    }
}

/// The checks above notice what they are for.
#[test]
fn a_wrong_shader_is_noticed() {
    let card = cards::find("scale").unwrap();
    let text = template::render(&card.variants[0], &vec![("WIDTH", 1)]).unwrap();
    let check = |from: &str, to: &str| -> Result<(), String> {
        assert!(text.contains(from), "{from}");
        let (module, info) = parse(&text.replace(from, to))?;
        check_params(card, None, &module)?;
        check_bindings(card, None, &module, &info)?;
        check_entry(&card.variants[0], &module)
    };
    assert_eq!(check("y[i] =", "y[i] ="), Ok(()));
    for (from, to, needle) in [
        ("factor: f32", "factor: f32, more: u32", "struct Params"),
        ("count: u32, factor: f32", "factor: f32, count: u32", "struct Params"),
        ("factor", "gain", "struct Params"),
        ("@binding(2)", "@binding(3)", "bindings"),
        ("@group(0) @binding(1)", "@group(1) @binding(1)", "bindings"),
        ("read> x", "read_write> x", "bindings"),
        ("x[i]", "1.0", "x is never used"),
        ("y[i] =", "y[i] +=", "its card says Write"),
        ("fn scale", "fn scales", "entry points"),
        ("workgroup_size(64)", "workgroup_size(512)", "workgroup of"),
        ("y[i] =", "y[i] = 1u +", ""),
        ("params.factor *", "params.count *", ""),
    ] {
        let e = check(from, to).expect_err(to);
        assert!(e.contains(needle), "{to}: {e}");
    }
}
