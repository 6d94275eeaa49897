//! Measures the parts that are missing, one after the other, each saved as soon as it is done; and what each depends on and costs.
//! Called by `analyze`.

use std::cell::OnceCell;

use serde_json::{Map, Value, json};

use super::AnalyzeArgs;
use super::parts::{Found, Part, Settings, save};
use crate::cli::{Global, interrupt, opened};
use crate::data::dataset::Dataset;
use crate::deme::analyze::directions::PlaneBasis;
use crate::deme::analyze::gradients::{self, Amounts};
use crate::deme::analyze::landscape::{Around, Judge, line_places, no_plane};
use crate::deme::analyze::vectors::{self, Vectors};
use crate::deme::analyze::{Subject, activations};
use crate::deme::ranges::Ranges;
use crate::diffusion::pretrained::Pretrained;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::io::hash::Hash;
use crate::io::source::TensorSource;

/// Everything that the parts share.
pub struct Analysis<'a> {
    pub args: &'a AnalyzeArgs,
    pub global: &'a Global,
    pub base: &'a Pretrained,
    pub experts: &'a [Pretrained],
    pub ranges: &'a Ranges,
    pub dataset: &'a Dataset,
    /// Of the split.
    pub images: Vec<usize>,
    /// The experts whose task vectors span the plane.
    pub plane: [usize; 2],
}

impl Analysis<'_> {
    /// What each part's numbers depend on, but for the order of sums (batch, adapter, kernels).
    pub fn settings(&self) -> Result<Settings> {
        let weights = |m: &Pretrained| -> Result<Value> {
            Ok(opened::hashes(m.folder.weights.path())?.into_iter().map(|(_, _, hash)| hash).collect())
        };
        let base = weights(self.base)?;
        let experts = self.experts.iter().map(weights).collect::<Result<Vec<_>>>()?;
        let args = self.args;
        let of = |part: Part| -> Map<String, Value> {
            let images = args.images(&self.images, part);
            let mut pixels = Hash::default();
            images.iter().for_each(|&i| pixels.bytes(self.dataset.pixels_u8(i)));
            let judged = json!({
                "ranges": self.ranges.bounds(), "images": images, "pixels": pixels.finish(), "seed": args.seed,
                "precision": self.global.precision().name(), "projections": self.base.placement.name(),
            });
            let (judged, own, experts) = match part {
                Part::Gradients => {
                    let Amounts { bounds, groups, images } = self.amounts();
                    (judged, json!({ "bounds": bounds, "groups": groups, "group_images": images }), None)
                }
                Part::Activations => (judged, json!({ "pairs": args.pairs }), Some(&experts)),
                Part::Landscape => {
                    let own =
                        json!({ "pairs": args.pairs, "grid": args.grid, "points": args.points, "radius": args.radius });
                    (judged, own, Some(&experts))
                }
                Part::Plane => {
                    (judged, json!({ "pairs": args.pairs, "grid": args.grid, "plane": self.plane }), Some(&experts))
                }
                Part::Vectors => (json!({}), json!({}), Some(&experts)),
            };
            let models = json!({ "base": base, "experts": experts });
            [models, judged, own]
                .iter()
                .filter_map(Value::as_object)
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        };
        Ok(Part::ALL.map(of))
    }

    fn amounts(&self) -> Amounts {
        let AnalyzeArgs { buckets, groups, group_images, .. } = *self.args;
        Amounts {
            bounds: gradients::bounds(self.ranges, buckets),
            groups: groups as usize,
            images: group_images as usize,
        }
    }

    /// Pairs that the landscape and the plane judge each point on.
    fn pairs(&self) -> u64 {
        let images = self.args.images(&self.images, Part::Landscape).len() as u64;
        u64::from(self.args.pairs).div_ceil(images) * images * u64::from(self.ranges.len())
    }

    /// Forward passes of one image; a backward pass is two.
    pub fn passes(&self, part: Part) -> u64 {
        let (grid, points) = (u64::from(self.args.grid), u64::from(self.args.points));
        let experts = self.experts.len() as u64;
        match part {
            Part::Gradients => {
                let Amounts { bounds, groups, images } = self.amounts();
                3 * ((bounds.len() - 1) * groups * images) as u64
            }
            Part::Activations => 2 * self.pairs(),
            Part::Landscape => self.pairs() * (1 + grid * grid + experts * points),
            Part::Plane => self.pairs() * (1 + grid * grid),
            Part::Vectors => 0,
        }
    }

    /// What the gradients take on disk while they are compared.
    pub fn gradient_bytes(&self) -> u64 {
        let Amounts { bounds, groups, .. } = self.amounts();
        4 * self.base.layout.slabs.iter().sum::<u64>() * ((bounds.len() - 1) * groups) as u64
    }

    /// Measures and saves.
    pub fn measure(&self, missing: &[Part], settings: &Settings, found: &mut Found) -> Result<()> {
        let out = &self.args.out;
        let opened = OnceCell::new();
        let listening = interrupt::listen();
        for &part in missing {
            if part == Part::Vectors {
                let vectors = found.vectors.insert(self.vectors()?);
                save(out, part, settings, vectors)?;
                continue;
            }
            let gpu = match opened.get() {
                Some(gpu) => gpu,
                None => {
                    let all = missing.iter().map(|&part| self.passes(part)).sum::<u64>();
                    let gpu = self.args.tune.open(self.global, all / u64::from(self.args.batch))?;
                    opened.get_or_init(|| gpu)
                }
            };
            match part {
                Part::Gradients => save(out, part, settings, found.gradients.insert(self.gradients(gpu)?))?,
                Part::Activations => save(out, part, settings, found.activations.insert(self.activations(gpu)?))?,
                Part::Landscape => save(out, part, settings, found.landscape.insert(self.landscape(gpu)?))?,
                Part::Plane => {
                    let basis = self.basis(found.vectors.as_ref())?;
                    save(out, part, settings, found.plane.insert(self.task_plane(gpu, &basis)?))?;
                }
                Part::Vectors => {}
            }
        }
        drop(listening);
        Ok(())
    }

    /// Runs `work` on the part's images under a progress bar in forward passes; the batches it hears of count `each` an image.
    fn with_subject<T>(
        &self,
        gpu: &Gpu,
        part: Part,
        each: u64,
        work: impl FnOnce(Subject, &mut dyn FnMut(usize) -> Result<()>) -> Result<T>,
    ) -> Result<T> {
        let images = self.args.images(&self.images, part);
        let subject = Subject {
            gpu,
            base: self.base,
            experts: self.experts,
            ranges: self.ranges,
            images: &images,
            image: &|i, out| self.dataset.write_pixels(i, false, out),
            side: self.dataset.size(),
            batch: self.args.batch,
            seed: self.args.seed,
        };
        let bar = self.global.progress(self.passes(part), &part.word(), "forward passes");
        let result = work(subject, &mut |images| {
            bar.inc(each * images as u64);
            if interrupt::requested() { Err(self.interrupted()) } else { Ok(()) }
        });
        bar.finish_and_clear();
        result
    }

    fn interrupted(&self) -> Error {
        Error::Interrupted { saved: format!("the parts that were done are in {}", self.args.out.display()) }
    }

    fn gradients(&self, gpu: &Gpu) -> Result<gradients::Gradients> {
        let folder = self.args.out.join("gradients.tmp");
        self.with_subject(gpu, Part::Gradients, 3, |subject, on_batch| {
            gradients::measure(&subject, &self.amounts(), &folder, on_batch)
        })
    }

    fn activations(&self, gpu: &Gpu) -> Result<activations::Activations> {
        let pairs = self.args.pairs as usize;
        self.with_subject(gpu, Part::Activations, 1, |subject, on_batch| {
            activations::measure(&subject, pairs, on_batch)
        })
    }

    fn landscape(&self, gpu: &Gpu) -> Result<Around> {
        let AnalyzeArgs { pairs, grid, points, radius, .. } = *self.args;
        self.with_subject(gpu, Part::Landscape, 1, |subject, on_batch| {
            let mut judge = Judge::new(subject, pairs as usize, on_batch)?;
            let random = judge.random_plane(radius, grid as usize, on_batch)?;
            let places = line_places(points as usize);
            let lines = (0..subject.experts.len()).map(|i| judge.line(i, &places, on_batch)).collect::<Result<_>>()?;
            Ok(Around { random, lines })
        })
    }

    fn task_plane(&self, gpu: &Gpu, basis: &PlaneBasis) -> Result<crate::deme::analyze::landscape::TaskPlane> {
        let AnalyzeArgs { pairs, grid, .. } = *self.args;
        self.with_subject(gpu, Part::Plane, 1, |subject, on_batch| {
            Judge::new(subject, pairs as usize, on_batch)?.task_plane(self.plane, basis, grid as usize, on_batch)
        })
    }

    /// Of the plane's two task vectors: from all of them where they have been measured, else from reading these two.
    fn basis(&self, measured: Option<&Vectors>) -> Result<PlaneBasis> {
        let products = match measured {
            Some(vectors) => self.plane.map(|i| self.plane.map(|j| vectors.whole.products[i][j])),
            None => {
                let own = self.read_vectors(&self.plane)?.whole.products;
                [0, 1].map(|i| [0, 1].map(|j| own[i][j]))
            }
        };
        PlaneBasis::new(products).ok_or_else(|| no_plane(self.plane))
    }

    fn vectors(&self) -> Result<Vectors> {
        self.read_vectors(&(0..self.experts.len()).collect::<Vec<_>>())
    }

    fn read_vectors(&self, experts: &[usize]) -> Result<Vectors> {
        let names = || self.base.layout.params.iter().map(|p| p.name.as_str());
        let bar = self.global.progress(names().count() as u64, "vectors", "tensors");
        let read =
            |i: usize, name: &str| if i == 0 { self.base.read(name) } else { self.experts[experts[i - 1]].read(name) };
        let all = vectors::measure(names(), experts.len(), &read, &mut || {
            bar.inc(1);
            if interrupt::requested() { Err(self.interrupted()) } else { Ok(()) }
        });
        bar.finish_and_clear();
        all
    }
}
