//! What this adapter can do at most, measured by kernels that do nothing else, and held to its specification.
//! Called by `kernels` and `unet`.

use serde::{Deserialize, Serialize};

use super::measure::{Effort, Stats, repeat};
use super::subject::Subject;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::peak;
use crate::recording::{Recording, Tensor};
use crate::shader::Class;
use crate::shape::Shape;

/// Best rates, and what the maker promises.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ceilings {
    pub fma_gflop_s: f64,
    pub copy_gb_s: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specified_gflop_s: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specified_gb_s: Option<f64>,
    /// They stay below 85 % of a GPU's specification, so percentages of them would flatter.
    pub void: bool,
}

/// Share of the specification that the ceilings must reach.
const ENOUGH: f64 = 0.85;

/// Seconds to look for each ceiling: rows that beat it would make no sense.
const LEAST: f64 = 1.0;

/// Name as Vulkan has it, f32 TFLOP/s without tensor cores, GB/s.
type Specification = (&'static str, f64, f64);

/// From the makers' data sheets: NVIDIA H100 and H200 product pages (SXM and PCIe columns), A100 data sheet (40 and 80 GB),
/// the GA102, Ada (AD102) and RTX Blackwell (GB202) architecture papers, AMD's page of the RX 7900 XTX.
const SPECIFICATIONS: &[Specification] = &[
    ("NVIDIA H200", 66.9, 4800.0),
    ("NVIDIA H100 80GB HBM3", 66.9, 3352.0),
    ("NVIDIA H100 PCIe", 51.2, 2039.0),
    ("NVIDIA A100-SXM4-40GB", 19.5, 1555.0),
    ("NVIDIA A100-PCIE-40GB", 19.5, 1555.0),
    ("NVIDIA A100-SXM4-80GB", 19.5, 2039.0),
    ("NVIDIA A100 80GB PCIe", 19.5, 1935.0),
    ("NVIDIA GeForce RTX 3090", 35.6, 936.0),
    ("NVIDIA GeForce RTX 4090", 82.6, 1008.0),
    ("NVIDIA GeForce RTX 5090", 104.8, 1792.0),
    ("AMD Radeon RX 7900 XTX", 61.4, 960.0),
];

/// The specification of this name. Drivers may add something in brackets; "RTX 4090 Laptop GPU" is another device.
fn specification(name: &str) -> Option<Specification> {
    let bare = name.split(" (").next().unwrap_or(name);
    SPECIFICATIONS.iter().copied().find(|(known, ..)| *known == bare)
}

fn of(rec: &mut Recording, elements: u64) -> [Tensor; 2] {
    let shape = Shape::new([elements as u32]);
    ["x", "y"].map(|key| Tensor { buffer: rec.external(key, elements), offset: 0, shape })
}

/// Elements of the multiply-adds, rounds of them, elements of the copy: about a millisecond each on a large adapter.
fn sizes(class: Class) -> (u64, u32, u64) {
    match class {
        Class::Cpu => (1 << 16, 64, 32 << 20),
        Class::Gpu | Class::Any => (4 << 20, 256, 64 << 20),
    }
}

impl Ceilings {
    /// Also in a smoke run of several: the first touches memory that the driver has yet to map.
    pub fn measure(gpu: &Gpu, effort: Effort) -> Result<Self> {
        let effort = Effort { smoke: false, seconds: if effort.smoke { 0.0 } else { effort.seconds.max(LEAST) } };
        let (elements, rounds, copied) = sizes(gpu.class());
        let mut rec = Recording::new("peak_fma");
        let [x, y] = of(&mut rec, elements);
        peak::peak_fma(&mut rec, &x, &y, rounds)?;
        let fma = rate(gpu, rec, effort, |cost| cost.flops)?;
        let mut rec = Recording::new("peak_copy");
        // What every adapter can bind: 128 MiB, or the whole where there is room.
        let [x, y] = of(&mut rec, copied.min(gpu.largest_binding() / 4 / 4 * 4));
        peak::peak_copy(&mut rec, &x, &y)?;
        let copy = rate(gpu, rec, effort, |cost| cost.bytes)?;
        Ok(Self::judge(&gpu.summary().name, gpu.class(), fma, copy))
    }

    fn judge(name: &str, class: Class, fma_gflop_s: f64, copy_gb_s: f64) -> Self {
        let known = specification(name);
        let (specified_gflop_s, specified_gb_s) = (known.map(|k| 1e3 * k.1), known.map(|k| k.2));
        let below = |measured: f64, specified: Option<f64>| specified.is_some_and(|s| measured < ENOUGH * s);
        let void = class != Class::Cpu && (below(fma_gflop_s, specified_gflop_s) || below(copy_gb_s, specified_gb_s));
        Self { fma_gflop_s, copy_gb_s, specified_gflop_s, specified_gb_s, void }
    }

    /// One sentence.
    pub fn describe(&self) -> String {
        let measured = format!("{:.1} GFLOP/s of FMA, {:.1} GB/s of copying", self.fma_gflop_s, self.copy_gb_s);
        match (self.specified_gflop_s, self.specified_gb_s) {
            (Some(flops), Some(bytes)) => {
                let shares = [100.0 * self.fma_gflop_s / flops, 100.0 * self.copy_gb_s / bytes];
                let verdict = if self.void { "; below 85 %, so percentages are void" } else { "" };
                format!("{measured}: {:.0} % and {:.0} % of the specification{verdict}", shares[0], shares[1])
            }
            _ => format!("{measured}; specification unknown"),
        }
    }
}

fn rate(gpu: &Gpu, rec: Recording, effort: Effort, amount: fn(crate::recording::cost::Cost) -> u64) -> Result<f64> {
    let amount = amount(rec.cost()) as f64;
    let mut plan = Subject::of(rec).plan(gpu, None)?;
    let best = Stats::of(&repeat(effort, || plan.timed(&[]))?).best;
    Ok(if best > 0.0 { amount / best / 1e9 } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_below_its_specification_voids_the_percentages() {
        let judge = |name, fma, copy| Ceilings::judge(name, Class::Gpu, fma, copy);
        assert!(!judge("NVIDIA GeForce RTX 4090", 75e3, 900.0).void);
        assert!(judge("NVIDIA GeForce RTX 4090", 60e3, 900.0).void);
        assert!(judge("NVIDIA H200", 60e3, 4000.0).void);
        assert!(judge("AMD Radeon RX 7900 XTX (RADV NAVI31)", 60e3, 100.0).describe().contains("void"));
        for unknown in ["NVIDIA GeForce RTX 4090 Laptop GPU", "llvmpipe (LLVM 15.0.6, 256 bits)"] {
            let ceilings = judge(unknown, 1.0, 1.0);
            assert!(!ceilings.void && ceilings.describe().ends_with("specification unknown"));
        }
    }
}
