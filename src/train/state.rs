//! Everything that training changes: weights, their average, moments; on the GPU, and in a checkpoint's files.
//! Called by `run` (made, saved, loaded) and `step` (bound to the plans).

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::gpu::{Externals, Gpu, Storage};
use crate::io::safetensors::SafetensorsFile;
use crate::io::source::TensorSource;
use crate::io::writer::SafetensorsWriter;
use crate::nn::{ParamLayout, Role, Slabs};
use crate::shader::Precision;
use crate::shape::DType;

/// Slabs by role. Gradients are zero between updates.
pub struct TrainingState {
    pub theta: Slabs,
    /// Theta as it runs, where that is in f16.
    half: Option<Slabs>,
    pub ema: Slabs,
    gradient: Slabs,
    first_moment: Slabs,
    second_moment: Slabs,
    /// The frozen start model, where the objective asks for it.
    teacher: Option<Slabs>,
}

/// Bytes of all slabs, without and with a teacher: what `--dry-run` counts.
pub fn bytes(layout: &ParamLayout, teacher: bool, precision: Precision) -> u64 {
    let run = u64::from(teacher) + u64::from(precision == Precision::F16);
    5 * layout.bytes(DType::F32) + run * layout.bytes(precision.stored())
}

impl TrainingState {
    /// Before the first update: weights, their average and the teacher are the start model, the rest is zero. What runs is
    /// stored as the precision has it.
    pub fn start(
        gpu: &Gpu,
        layout: &ParamLayout,
        teacher: bool,
        precision: Precision,
        read: impl Fn(&str) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let zeros = |role| Slabs::new(gpu, layout, role);
        let theta = zeros(Role::Theta)?;
        theta.fill(gpu, layout, &read)?;
        let half = match precision {
            Precision::F32 => None,
            Precision::F16 => {
                let half = Slabs::of(gpu, layout, Role::Half, precision.stored())?;
                half.fill(gpu, layout, &read)?;
                Some(half)
            }
        };
        let copy = |from: &Slabs, role| {
            let slabs = Slabs::of(gpu, layout, role, from.stored)?;
            from.copy_to(gpu, &slabs).map(|()| slabs)
        };
        Ok(Self {
            ema: copy(&theta, Role::Ema)?,
            teacher: if teacher { Some(copy(half.as_ref().unwrap_or(&theta), Role::Teacher)?) } else { None },
            gradient: zeros(Role::Gradient)?,
            first_moment: zeros(Role::FirstMoment)?,
            second_moment: zeros(Role::SecondMoment)?,
            half,
            theta,
        })
    }

    /// Theta as it runs, where that is in f16.
    pub fn half(&self) -> Option<&Slabs> {
        self.half.as_ref()
    }

    pub fn teacher(&self) -> Option<&Slabs> {
        self.teacher.as_ref()
    }

    pub fn gradient(&self) -> &[Storage] {
        &self.gradient.storages
    }

    fn saved(&self) -> [&Slabs; 4] {
        [&self.theta, &self.first_moment, &self.second_moment, &self.ema]
    }

    /// Makes all slabs known to a plan.
    pub fn bind(&self, externals: &mut Externals) {
        let always = self.saved().into_iter().chain([&self.gradient]);
        always.chain(&self.teacher).chain(&self.half).for_each(|slabs| slabs.bind(externals));
    }

    /// Writes one file a role, tensors by their canonical names in the files' layout. A value that is not finite is an
    /// error: such a state is of no use to anybody.
    pub fn save(&self, gpu: &Gpu, layout: &ParamLayout, folder: &Path, step: u64) -> Result<()> {
        let declared: Vec<_> = layout.params.iter().map(|p| (p.name.clone(), p.layout.file_shape())).collect();
        for slabs in self.saved() {
            let mut writer = SafetensorsWriter::create(&path(folder, slabs.role), &declared, &BTreeMap::new())?;
            slabs.for_each(gpu, layout, |name, values| match values.iter().all(|v| v.is_finite()) {
                true => writer.append(name, &values),
                false => Err(Error::NonFinite { what: format!("{name} ({})", slabs.role.key()), step }),
            })?;
            writer.finish()?;
        }
        Ok(())
    }

    /// The inverse of `save`, bit for bit; theta in f16 is left to `step`, which makes it on the GPU in each update.
    pub fn load(&self, gpu: &Gpu, layout: &ParamLayout, folder: &Path) -> Result<()> {
        for slabs in self.saved() {
            let file = SafetensorsFile::open(&path(folder, slabs.role))?;
            slabs.fill(gpu, layout, |name| file.read_f32(name))?;
        }
        Ok(())
    }
}

fn path(folder: &Path, role: Role) -> std::path::PathBuf {
    folder.join(format!("{}.safetensors", role.key()))
}
