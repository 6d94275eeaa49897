//! What the project knows of a kernel without a GPU: its word, parameter struct, bindings, variants and cost.
//! The cards themselves are in `cards/`; `gpu::plan` turns a card and its parameters into a dispatch.

use crate::shape::DType;

/// How a kernel uses a binding. Bindings are numbered from 1 (0 is the parameter struct) in the order reads, writes,
/// updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`, every element in range is written, none is read.
    Write,
    /// `var<storage, read_write>`, read and written in place.
    Update,
}

/// One storage binding: the WGSL variable's name and its access.
#[derive(Debug, Clone, Copy)]
pub struct Binding {
    pub name: &'static str,
    pub access: Access,
    /// Whether its elements may be f16: activations and weights, as recordings in f16 store them.
    pub half: bool,
}

impl Binding {
    /// Its elements may be f16.
    pub const fn or_half(self) -> Self {
        Self { half: true, ..self }
    }
}

pub const fn read(name: &'static str) -> Binding {
    Binding { name, access: Access::Read, half: false }
}

pub const fn write(name: &'static str) -> Binding {
    Binding { name, access: Access::Write, half: false }
}

pub const fn update(name: &'static str) -> Binding {
    Binding { name, access: Access::Update, half: false }
}

/// Scalar type of a parameter field; every field is four bytes, so offset = 4 x index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    U32,
    F32,
}

/// Rust type of a parameter field, for the `params!` macro.
pub trait ParamScalar: bytemuck::Pod {
    const KIND: FieldKind;
}
impl ParamScalar for u32 {
    const KIND: FieldKind = FieldKind::U32;
}
impl ParamScalar for f32 {
    const KIND: FieldKind = FieldKind::F32;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub kind: FieldKind,
}

/// A kernel's parameter struct: the same fields, in the same order, as `struct Params` in its WGSL (a test reads them
/// back from naga).
pub trait Params: bytemuck::Pod {
    const FIELDS: &'static [Field];

    /// The struct behind an op's parameter words.
    fn of(words: &[u32]) -> Self {
        bytemuck::pod_read_unaligned(bytemuck::cast_slice(words))
    }

    fn words(&self) -> Vec<u32> {
        bytemuck::pod_collect_to_vec(std::slice::from_ref(self))
    }
}

/// Declares a parameter struct of u32 and f32 fields together with its field list.
#[macro_export]
macro_rules! params {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $ty:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(C)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty),+ }
        impl $crate::shader::card::Params for $name {
            const FIELDS: &'static [$crate::shader::card::Field] = &[
                $($crate::shader::card::Field {
                    name: stringify!($field),
                    kind: <$ty as $crate::shader::card::ParamScalar>::KIND,
                }),+
            ];
        }
    };
}

/// What an adapter allows, as far as a variant's choice depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub invocations: u32,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// Lanes of a subgroup, where subgroup operations are offered and all subgroups are of one size; else 0.
    pub subgroup: u32,
    /// Edge of the square cooperative matrices with factors in f16 and sums in f32 that may be used, 8 or 16; else 0.
    pub cooperative: u32,
    /// Whether the driver loads once what is the same for all lanes of a subgroup.
    pub uniform_loads: bool,
}

/// WebGPU's defaults, which every adapter grants.
pub const DEFAULT_LIMITS: Limits =
    Limits { invocations: 256, workgroup_memory: 16384, subgroup: 0, cooperative: 0, uniform_loads: false };

/// What activations and weights are stored in; sums, gradients and the optimizer's state are f32 in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// f16: what is stored, and, where there are cooperative matrices, what they multiply, forward and backward: training scales its
    /// loss, so that gradients keep their range.
    F16,
}

impl Precision {
    /// The element type of activations, and of weights that are not trained.
    pub fn stored(self) -> DType {
        if self == Self::F32 { DType::F32 } else { DType::F16 }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::F32 { "f32" } else { "f16" })
    }
}

/// Which adapters a variant is the default for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Any,
    /// Hardware GPUs.
    Gpu,
    /// CPU rasterisers (lavapipe, SwiftShader, WARP).
    Cpu,
}

/// Text constants of a template, `${NAME}`.
pub type Constants = Vec<(&'static str, u32)>;

/// One WGSL file that computes the kernel.
pub struct Variant {
    /// File stem, entry point and GPU label: the word itself, `<word>_v1`, `<word>_tiled`, `<word>_subgroup`,
    /// `<word>_uniform`, `<word>_coop`.
    pub stem: &'static str,
    /// The template's text.
    pub source: &'static str,
    pub class: Class,
    /// Text constants for these parameters. Equal constants share a pipeline.
    pub constants: fn(&[u32]) -> Constants,
    /// Whether the variant can run these parameters within these limits.
    pub fits: fn(&[u32], &Limits) -> bool,
    /// Number of workgroups; the plan folds it into a grid of at most 65,535 a dimension, and the shader unfolds it with
    /// `group_index` of `shared/index.wgsl`.
    pub groups: fn(&[u32]) -> u64,
    /// Whether one of the read bindings is taken in windows for these parameters.
    pub windows: fn(&[u32]) -> Option<Windows>,
    /// The ways to cut the work of these parameters, the first being what `constants`, `groups` and `windows` say; none
    /// where there is only that one.
    pub menu: fn(&[u32]) -> Vec<Tiling>,
}

/// What the stems of variants with cooperative matrices end in.
pub const COOP: &str = "_coop";

/// One way of a variant to cut the work of some parameters: its text constants, and what follows from them. All of a
/// variant's compute the same within the kernel's tolerance; which is fastest depends on adapter and parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiling {
    /// What it is, in text (`64x64r4`, `r8v4`): caches and records of runs name it so. Empty where there is only one.
    pub name: String,
    pub constants: Constants,
    /// As `Variant::groups`.
    pub groups: u64,
    /// As `Variant::windows`.
    pub windows: Option<Windows>,
}

/// What may run an op: a variant in one of its tilings.
pub type Candidate = (&'static Variant, Tiling);

impl Variant {
    /// The way that is taken without tuning.
    pub fn tiling(&self, words: &[u32]) -> Tiling {
        let name = (self.menu)(words).first().map(|first| first.name.clone()).unwrap_or_default();
        let (constants, groups, windows) = ((self.constants)(words), (self.groups)(words), (self.windows)(words));
        Tiling { name, constants, groups, windows }
    }

    /// All ways, the first being the one that is taken without tuning.
    pub fn tilings(&self, words: &[u32]) -> Vec<Tiling> {
        let menu = (self.menu)(words);
        if menu.is_empty() { vec![self.tiling(words)] } else { menu }
    }

    /// Whether this is the naive variant, which stays as a reference and as the last resort.
    pub fn is_naive(&self) -> bool {
        self.stem.ends_with("_v1")
    }

    /// Whether this is a `_coop` variant: products of cooperative matrices, whose factors are rounded to f16.
    pub fn cooperative(&self) -> bool {
        self.stem.ends_with(COOP)
    }

    /// The template's constants within these limits: a tiling's, and of cooperative matrices the EDGE.
    pub fn text(&self, mut constants: Constants, limits: &Limits) -> Constants {
        if self.cooperative() {
            constants.push(("EDGE", limits.cooperative));
        }
        constants
    }
}

/// A read binding that the shader sees as a uniform buffer, one window of it a dispatch: loads from uniform buffers cost
/// CPU rasterisers less than half of loads from storage. The shader's Params end with one more word, `window`: which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// Which of the card's bindings, counted from 0.
    pub binding: usize,
    /// Elements of each window, at most `WINDOW_ELEMENTS`.
    pub elements: u64,
    /// First element of each; windows may overlap.
    pub starts: Vec<u64>,
}

/// What every adapter binds as a uniform buffer: 64 KiB.
pub const WINDOW_ELEMENTS: u64 = 16384;

/// No binding is taken in windows.
pub fn whole(_: &[u32]) -> Option<Windows> {
    None
}

/// There is one way to cut the work.
pub fn single(_: &[u32]) -> Vec<Tiling> {
    Vec::new()
}

/// Everything about one kernel.
pub struct Card {
    /// The one word: WGSL stem, builder, CPU twin, test, bench id, GPU label.
    pub word: &'static str,
    pub params: &'static [Field],
    /// In binding order 1, 2, ...: reads, then writes, then updates.
    pub bindings: &'static [Binding],
    /// In order of preference; the last fits everything.
    pub variants: &'static [Variant],
    /// Floating-point operations for these parameters (a multiply-add is two).
    pub flops: fn(&[u32]) -> u64,
}

impl Card {
    pub fn count(&self, access: Access) -> usize {
        self.bindings.iter().filter(|b| b.access == access).count()
    }

    /// All bindings that may be f16, bit by bit.
    pub fn halves(&self) -> u32 {
        (0..).zip(self.bindings).map(|(i, b)| u32::from(b.half) << i).sum()
    }

    /// Whether windows can do with these bindings in f16: they are of f32, and passes over several of them add up in the output.
    pub fn takes(&self, windows: &Windows, half: u32) -> bool {
        let in_f32 = |i: usize| half >> i & 1 == 0;
        let mut outputs = (0..self.bindings.len()).filter(|&i| self.bindings[i].access != Access::Read);
        in_f32(windows.binding) && outputs.all(in_f32)
    }

    /// The ways of a variant that can do with these bindings in f16, in the order of its menu.
    pub fn tilings(&self, variant: &Variant, words: &[u32], half: u32) -> Vec<Tiling> {
        let mut tilings = variant.tilings(words);
        tilings.retain(|tiling| tiling.windows.as_ref().is_none_or(|windows| self.takes(windows, half)));
        tilings
    }

    /// What this adapter takes without tuning: the first variant that fits among those for its class or for any, in the first
    /// tiling that can do with these bindings in f16.
    pub fn choose(&self, words: &[u32], class: Class, limits: &Limits, half: u32) -> Option<Candidate> {
        let first = |v: &'static Variant| self.tilings(v, words, half).into_iter().next().map(|t| (v, t));
        self.apt(words, class, limits).find_map(first)
    }

    fn apt(&self, words: &[u32], class: Class, limits: &Limits) -> impl Iterator<Item = &'static Variant> {
        self.variants.iter().filter(move |v| (v.class == Class::Any || v.class == class) && (v.fits)(words, limits))
    }

    /// What tuning chooses among, the default first: the variants for this adapter in all their tilings. A naive variant
    /// competes only where it is the default.
    pub fn candidates(&self, words: &[u32], class: Class, limits: &Limits, half: u32) -> Vec<Candidate> {
        let competing = self.apt(words, class, limits).enumerate().filter(|(i, v)| *i == 0 || !v.is_naive());
        competing.flat_map(|(_, v)| self.tilings(v, words, half).into_iter().map(move |tiling| (v, tiling))).collect()
    }
}

impl std::fmt::Debug for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word)
    }
}

/// The stem and text of `shaders/<stem>.wgsl`.
#[macro_export]
macro_rules! wgsl {
    ($stem:literal) => {
        ($stem, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $stem, ".wgsl")))
    };
}

/// A variant without text constants that fits everywhere: `groups` workgroups of a plain kernel.
pub const fn plain(file: (&'static str, &'static str), groups: fn(&[u32]) -> u64) -> Variant {
    Variant {
        stem: file.0,
        source: file.1,
        class: Class::Any,
        constants: |_| Vec::new(),
        fits: |_, _| true,
        groups,
        windows: whole,
        menu: single,
    }
}

/// Workgroups of 64 invocations, one element each: the plain pointwise kernels.
pub fn per64(elements: u32) -> u64 {
    u64::from(elements).div_ceil(64)
}
