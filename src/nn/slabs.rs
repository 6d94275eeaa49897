//! The GPU storage of one role's weights, and its way in from and out to the files' layout.
//! Called by `train`, `deme`, `eval` and `cli`.

use super::params::{ParamLayout, Role};
use crate::error::Result;
use crate::gpu::{Externals, Gpu, Storage};
use crate::io::source::TensorSource;
use crate::shape::DType;

/// The slabs of one role.
#[derive(Clone)]
pub struct Slabs {
    pub role: Role,
    pub stored: DType,
    pub storages: Vec<Storage>,
}

impl Slabs {
    /// Zeros in f32.
    pub fn new(gpu: &Gpu, layout: &ParamLayout, role: Role) -> Result<Self> {
        Self::of(gpu, layout, role, DType::F32)
    }

    /// Zeros.
    pub fn of(gpu: &Gpu, layout: &ParamLayout, role: Role, stored: DType) -> Result<Self> {
        let storage = |(i, &elements): (usize, &u64)| gpu.storage_as(&role.slab_key(i), elements, stored);
        Ok(Self { role, stored, storages: layout.slabs.iter().enumerate().map(storage).collect::<Result<_>>()? })
    }

    /// Weights from files; one slab at a time is in host memory.
    pub fn load(gpu: &Gpu, layout: &ParamLayout, role: Role, source: &dyn TensorSource) -> Result<Self> {
        let slabs = Self::new(gpu, layout, role)?;
        slabs.fill(gpu, layout, |name| source.read_f32(name))?;
        Ok(slabs)
    }

    /// Overwrites all weights, rounded to what the slabs hold; `read` gives a tensor in the files' layout.
    pub fn fill(&self, gpu: &Gpu, layout: &ParamLayout, read: impl Fn(&str) -> Result<Vec<f32>>) -> Result<()> {
        for (i, storage) in self.storages.iter().enumerate() {
            gpu.write(storage, 0, &host_slab(layout, i, &read)?)?;
        }
        Ok(())
    }

    /// One set of slabs into another of the same layout and elements.
    pub fn copy_to(&self, gpu: &Gpu, to: &Self) -> Result<()> {
        self.storages.iter().zip(&to.storages).try_for_each(|(a, b)| gpu.copy(a, b))
    }

    /// All tensors in the files' layout, in order, handed to `each`.
    pub fn for_each(
        &self,
        gpu: &Gpu,
        layout: &ParamLayout,
        mut each: impl FnMut(&str, Vec<f32>) -> Result<()>,
    ) -> Result<()> {
        for (i, storage) in self.storages.iter().enumerate() {
            let values = gpu.read(storage, 0, storage.elements)?;
            for p in layout.params.iter().filter(|p| p.slab == i) {
                let at = p.offset as usize;
                each(&p.name, p.layout.to_file(&values[at..at + p.layout.engine_elements()])?)?;
            }
        }
        Ok(())
    }

    /// Makes the slabs known to a plan, under their own role's keys.
    pub fn bind(&self, externals: &mut Externals) {
        self.bind_as(self.role, externals);
    }

    /// Under another role's keys: a plan that runs theta can run the EMA weights.
    pub fn bind_as(&self, role: Role, externals: &mut Externals) {
        for (i, storage) in self.storages.iter().enumerate() {
            externals.insert(role.slab_key(i), storage.clone());
        }
    }
}

/// One slab's elements on the host, in engine layout, gaps zero.
pub fn host_slab(layout: &ParamLayout, slab: usize, read: &impl Fn(&str) -> Result<Vec<f32>>) -> Result<Vec<f32>> {
    let mut values = vec![0.0; layout.slabs[slab] as usize];
    for p in layout.params.iter().filter(|p| p.slab == slab) {
        let at = p.offset as usize;
        values[at..at + p.layout.engine_elements()].copy_from_slice(&p.layout.to_engine(&read(&p.name)?)?);
    }
    Ok(values)
}
