//! Runs one op on the GPU with guard words round every buffer and poison in every output.
//! Called by `family`, `fault` and `gradient`'s neighbours; the one adapter is shared by all tests.

use super::case::POISON;
use deme::gpu::{AdapterChoice, Externals, Gpu, Plan, PlanOptions};
use deme::kernels::EXAMPLES;
use deme::recording::{Op, Recording, Tensor};
use deme::shader::card::{Card, Class, Precision, Variant};
use deme::shape::DType;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Guard words on each side of every buffer.
pub const GUARD: usize = 1024;
/// A NaN of its own, so that reading it shows as well as writing over it.
pub const GUARD_WORD: u32 = 0x7fc1_1e57;

/// The adapter under test; without one the tests fail.
pub fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| {
        // With its cooperative matrices, though only ops that are forced into them take them.
        Gpu::open(&AdapterChoice::default())
            .map(|gpu| gpu.at(Precision::F32))
            .unwrap_or_else(|e| panic!("conformance needs an adapter (lavapipe will do): {e}; {}", e.hint()))
    })
}

/// The card with this variant alone, so that the plan has no choice.
pub fn forced(card: &'static Card, variant: &'static Variant) -> &'static Card {
    static FORCED: Mutex<BTreeMap<&'static str, &'static Card>> = Mutex::new(BTreeMap::new());
    FORCED.lock().unwrap().entry(variant.stem).or_insert_with(|| single(card, variant, variant.stem, variant.source))
}

/// A card of one variant, which takes its text from here.
pub fn single(card: &Card, variant: &Variant, stem: &'static str, source: &'static str) -> &'static Card {
    let only = Variant { stem, source, class: Class::Any, ..*variant };
    Box::leak(Box::new(Card { variants: Box::leak(Box::new([only])), ..*card }))
}

/// The variants of an op's card that can run it here.
pub fn fitting(op: &Op) -> Vec<&'static Variant> {
    let card: &'static Card = op.card;
    let limits = gpu().limits();
    card.variants.iter().filter(|v| (v.fits)(&op.params, &limits)).collect()
}

/// Whether this adapter can run the variant at all: at the shapes of the kernels' examples.
pub fn runs_here(word: &str, variant: &Variant) -> bool {
    let limits = gpu().limits();
    let examples: Vec<_> = EXAMPLES.iter().map(|example| example().unwrap()).collect();
    let mut ops = examples.iter().flat_map(|recording| &recording.ops).filter(|op| op.card.word == word);
    ops.any(|op| (variant.fits)(&op.params, &limits))
}

/// The words of the buffers that an op binds, by buffer index.
pub type Words = BTreeMap<usize, Vec<u32>>;

/// Element ranges of `buffer` that the op may write.
fn written(op: &Op, buffer: usize) -> Vec<std::ops::Range<usize>> {
    let outputs = op.writes.iter().chain(&op.updates).filter(|t| t.buffer.0 as usize == buffer);
    outputs.map(|t| t.offset as usize..(t.offset + t.elements()) as usize).collect()
}

/// The buffers of the op's bindings in f16.
fn halves(op: &Op) -> BTreeSet<usize> {
    let all = op.tensors().enumerate().filter(|(i, _)| op.half >> i & 1 == 1);
    all.map(|(_, (_, t))| t.buffer.0 as usize).collect()
}

/// The bits of an f32 once it has been stored in f16.
pub fn through_f16(word: u32) -> u32 {
    half::f16::from_f32(f32::from_bits(word)).to_f32().to_bits()
}

/// What the op finds: `before`, with poison where it must write.
pub fn poisoned(op: &Op, before: &[Vec<u32>]) -> Words {
    let mut words: Words = op.tensors().map(|(_, t)| t.buffer.0 as usize).map(|b| (b, before[b].clone())).collect();
    for t in &op.writes {
        let range = t.offset as usize..(t.offset + t.elements()) as usize;
        words.get_mut(&(t.buffer.0 as usize)).unwrap()[range].fill(POISON);
    }
    words
}

/// Errors if anything but the op's outputs changed: `after` still has its guard words. Returns the buffers without them.
pub fn untouched(op: &Op, before: &Words, after: &Words) -> Result<Words, String> {
    let mut inner = Words::new();
    for (&b, guarded) in after {
        let n = before[&b].len();
        if guarded.len() != n + 2 * GUARD {
            return Err(format!("buffer {b} has {} words, expected {}", guarded.len(), n + 2 * GUARD));
        }
        let guard = if halves(op).contains(&b) { through_f16(GUARD_WORD) } else { GUARD_WORD };
        let bands = guarded[..GUARD].iter().chain(&guarded[GUARD + n..]);
        if let Some(i) = bands.enumerate().find(|(_, w)| **w != guard).map(|(i, _)| i) {
            let place = if i < GUARD { i as i64 - GUARD as i64 } else { (i - GUARD + n) as i64 };
            return Err(format!("stray write at element {place} of buffer {b} of {n}"));
        }
        let outputs = written(op, b);
        let words = guarded[GUARD..GUARD + n].to_vec();
        let changed = (0..n).find(|&i| words[i] != before[&b][i] && !outputs.iter().any(|r| r.contains(&i)));
        if let Some(i) = changed {
            return Err(format!("element {i} of buffer {b} changed, but the op does not write there"));
        }
        inner.insert(b, words);
    }
    Ok(inner)
}

/// Runs the op `runs` times from the same contents; the buffers after each run, with their guard words.
pub fn run(op: &Op, dtypes: &[DType], before: &Words, checked: bool, runs: usize) -> Result<Vec<Words>, String> {
    run_in(None, op, dtypes, before, checked, runs)
}

/// The same in its only variant's tiling of this name.
pub fn run_in(
    tiling: Option<&str>,
    op: &Op,
    dtypes: &[DType],
    before: &Words,
    checked: bool,
    runs: usize,
) -> Result<Vec<Words>, String> {
    // wgpu 30 asserts in a wait when another thread submits meanwhile.
    static BUSY: Mutex<()> = Mutex::new(());
    let _alone = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
    let gpu = gpu();
    let fail = |e: deme::error::Error| format!("{e}");
    let mut rec = Recording::new(op.label());
    let mut externals = Externals::new();
    let mut place = BTreeMap::new();
    for (&b, words) in before {
        let elements = (words.len() + 2 * GUARD) as u64;
        let key = format!("b{b}");
        let id = rec.external_as(&key, elements, dtypes[b]);
        let storage = gpu.storage_as(&key, elements, dtypes[b]).map_err(fail)?;
        externals.insert(key, storage);
        place.insert(b, id);
    }
    let moved = |ts: &[Tensor]| -> Vec<Tensor> {
        let shift =
            |t: &Tensor| Tensor { buffer: place[&(t.buffer.0 as usize)], offset: t.offset + GUARD as u64, ..*t };
        ts.iter().map(shift).collect()
    };
    rec.ops.push(Op {
        card: op.card,
        params: op.params.clone(),
        reads: moved(&op.reads),
        writes: moved(&op.writes),
        updates: moved(&op.updates),
        half: op.half,
    });
    // Named where it has tilings, and where it is a card's only variant: of cooperative matrices none is chosen by itself.
    let suffix = op.card.variants[0].stem.strip_prefix(op.card.word).unwrap_or_default().trim_start_matches('_');
    let named = tiling.is_some() || op.card.variants.len() == 1;
    let options = PlanOptions { checked, variant: named.then(|| suffix.to_owned()), tiling: tiling.map(str::to_owned) };
    let mut plan = Plan::new(gpu, rec, &externals, &options).map_err(fail)?;
    let band = vec![GUARD_WORD; GUARD];
    let mut results = Vec::new();
    for _ in 0..runs {
        for (b, words) in before {
            let all = [&band, words, &band].into_iter().flatten().map(|w| f32::from_bits(*w)).collect::<Vec<_>>();
            gpu.write(&externals[&format!("b{b}")], 0, &all).map_err(fail)?;
        }
        plan.run(&[]).map_err(fail)?;
        plan.wait().map_err(fail)?;
        let mut after = Words::new();
        for (&b, words) in before {
            let count = (words.len() + 2 * GUARD) as u64;
            let values = gpu.read(&externals[&format!("b{b}")], 0, count).map_err(fail)?;
            after.insert(b, values.iter().map(|v| v.to_bits()).collect());
        }
        results.push(after);
    }
    Ok(results)
}
