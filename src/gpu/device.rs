//! The opened device: limits, storage, waiting with a deadline, and device failures as typed errors.
//! Called by `plan` and by everything that owns GPU storage.

use super::adapter::{self, AdapterChoice, AdapterSummary};
use super::autotune::Tuner;
use super::memory;
use super::pipeline::{self, Pipelines};
use super::pipeline_cache::PipelineCache;
use super::precision;
use super::shader_module;
use crate::error::{Error, Result};
use crate::shader::{Class, Limits, Precision};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A device with its queue and pipelines, and the precision of the plans made for it; clones share the device.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>, Precision);

struct Inner {
    pipeline_cache: Option<PipelineCache>,
    device: wgpu::Device,
    queue: wgpu::Queue,
    summary: AdapterSummary,
    limits: wgpu::Limits,
    /// As in `shader::Limits`.
    subgroup: u32,
    cooperative: u32,
    /// Whether elements of storage may be f16.
    half: bool,
    /// The first failure that no scope caught; sticky.
    failure: Arc<Mutex<Option<Failure>>>,
    pipelines: Mutex<Pipelines>,
    tuner: Mutex<Option<Tuner>>,
    readback: Mutex<Option<wgpu::Buffer>>,
    /// How long the work submitted since the last readback may take, in seconds.
    pending: Mutex<f64>,
}

enum Failure {
    Lost(String),
    Error(wgpu::Error),
}

/// What is alive on the device, by wgpu's own counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    pub buffers: isize,
    pub bind_groups: isize,
    pub pipelines: isize,
    pub buffer_bytes: isize,
}

/// A poisoned lock still guards valid data here: every critical section is a plain assignment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Features that are requested where the adapter has them.
const USED: wgpu::Features =
    wgpu::Features::SUBGROUP.union(wgpu::Features::TIMESTAMP_QUERY).union(wgpu::Features::PIPELINE_CACHE);

impl Gpu {
    /// Opens the adapter that the user asked for, or the best one, with all its limits; with f16 and its cooperative matrices
    /// unless f32 was asked for.
    ///
    /// # Errors
    /// `Usage` where f16 was asked for and the adapter has none.
    pub fn open(choice: &AdapterChoice) -> Result<Self> {
        let adapter = adapter::choose(choice)?;
        let info = adapter.get_info();
        let summary = adapter::summary(&info);
        let limits = adapter.limits();
        let offered = precision::cooperative_edge(&adapter);
        let half = adapter.features().contains(wgpu::Features::SHADER_F16);
        let precision = precision::resolve(choice.precision, (half, offered), &summary)?;
        let wanted = choice.precision != Some(Precision::F32);
        let (half, cooperative) = if wanted { (half, offered) } else { (false, 0) };
        let mut features = adapter.features() & USED;
        if half {
            features |= wgpu::Features::SHADER_F16;
        }
        if cooperative > 0 {
            features |= precision::COOPERATIVE;
        }
        features |= adapter.features() & pipeline::pairs(summary.class);
        let fixed = features.contains(wgpu::Features::SUBGROUP) && info.subgroup_min_size == info.subgroup_max_size;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("deme"),
            required_features: features,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::Performance,
            experimental_features: shader_module::experimental(cooperative > 0),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::NoAdapter { message: format!("{summary} refused a device: {e}") })?;
        let failure = Arc::new(Mutex::new(None));
        let sticky = Arc::clone(&failure);
        device.on_uncaptured_error(Arc::new(move |e| {
            lock(&sticky).get_or_insert(Failure::Error(e));
        }));
        let sticky = Arc::clone(&failure);
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the device at the end of the program also ends up here; nobody reads it then.
            *lock(&sticky) = Some(Failure::Lost(format!("{reason:?}: {message}")));
        });
        let inner = Inner {
            pipeline_cache: PipelineCache::open(&device, &info, &summary),
            device,
            queue,
            summary,
            limits,
            subgroup: if fixed { info.subgroup_min_size } else { 0 },
            cooperative,
            half,
            failure,
            pipelines: Mutex::default(),
            tuner: Mutex::default(),
            readback: Mutex::new(None),
            pending: Mutex::new(0.0),
        };
        Ok(Self(Arc::new(inner), precision))
    }

    /// The same device for plans of another precision. In f16, what does not fit cooperative matrices is still multiplied in f32.
    pub fn at(&self, precision: Precision) -> Self {
        Self(Arc::clone(&self.0), precision)
    }

    /// What plans store activations in and round the factors of products to.
    pub fn precision(&self) -> Precision {
        self.1
    }

    /// Whether elements of storage may be f16 on this device.
    pub fn has_f16(&self) -> bool {
        self.0.half
    }

    pub(super) fn pipeline_cache(&self) -> Option<&wgpu::PipelineCache> {
        self.0.pipeline_cache.as_ref().map(PipelineCache::get)
    }

    pub fn summary(&self) -> &AdapterSummary {
        &self.0.summary
    }

    pub fn class(&self) -> Class {
        self.0.summary.class
    }

    /// Whether replays can be timed by the adapter's own clock.
    pub fn has_timestamps(&self) -> bool {
        self.0.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Bytes that one binding may have.
    pub fn largest_binding(&self) -> u64 {
        self.0.limits.max_storage_buffer_binding_size
    }

    /// What a variant's choice depends on.
    pub fn limits(&self) -> Limits {
        Limits {
            invocations: self.0.limits.max_compute_invocations_per_workgroup,
            workgroup_memory: self.0.limits.max_compute_workgroup_storage_size,
            subgroup: self.0.subgroup,
            cooperative: self.0.cooperative,
            uniform_loads: adapter::uniform_loads(&self.0.summary.driver),
        }
    }

    /// The adapter's full limits, for `doctor`.
    pub fn describe_limits(&self) -> Vec<(&'static str, u64)> {
        let l = &self.0.limits;
        vec![
            ("largest buffer", l.max_buffer_size),
            ("largest binding", l.max_storage_buffer_binding_size),
            ("invocations a workgroup", u64::from(l.max_compute_invocations_per_workgroup)),
            ("workgroup memory", u64::from(l.max_compute_workgroup_storage_size)),
            ("workgroups a dimension", u64::from(l.max_compute_workgroups_per_dimension)),
            ("storage buffers a kernel", u64::from(l.max_storage_buffers_per_shader_stage)),
            ("edge of cooperative matrices, f16 to f32", u64::from(self.0.cooperative)),
        ]
    }

    /// Optional features of the adapter, for `doctor`.
    pub fn describe_features(choice: &AdapterChoice) -> Result<Vec<(&'static str, bool)>> {
        let features = adapter::choose(choice)?.features();
        Ok(vec![
            ("f16 arithmetic", features.contains(wgpu::Features::SHADER_F16)),
            ("subgroups", features.contains(wgpu::Features::SUBGROUP)),
            ("pipeline cache", features.contains(wgpu::Features::PIPELINE_CACHE)),
            ("timestamps", features.contains(wgpu::Features::TIMESTAMP_QUERY)),
            ("cooperative matrix", features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)),
        ])
    }

    pub fn counters(&self) -> Counters {
        let hal = self.0.device.get_internal_counters().hal;
        Counters {
            buffers: hal.buffers.read(),
            bind_groups: hal.bind_groups.read(),
            pipelines: hal.compute_pipelines.read(),
            buffer_bytes: hal.buffer_memory.read(),
        }
    }

    pub(super) fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    pub(super) fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    pub(super) fn wgpu_limits(&self) -> &wgpu::Limits {
        &self.0.limits
    }

    pub(super) fn pipelines(&self) -> MutexGuard<'_, Pipelines> {
        lock(&self.0.pipelines)
    }

    pub(super) fn tuner(&self) -> &Mutex<Option<Tuner>> {
        &self.0.tuner
    }

    fn name(&self) -> String {
        self.0.summary.name.clone()
    }

    fn typed(&self, what: &str, needed: u64, error: &wgpu::Error) -> Error {
        let (adapter, what) = (self.name(), what.to_string());
        match error {
            wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { adapter, what, needed },
            e => Error::Validation { adapter, what, message: e.to_string() },
        }
    }

    /// The sticky failure, if there is one: called after every submission and while waiting.
    pub(super) fn check(&self, what: &str) -> Result<()> {
        if lock(&self.0.failure).is_none() {
            return Ok(());
        }
        // What a lost device refuses arrives before the news that it is lost, which comes once its queue is empty.
        let drained = wgpu::PollType::Wait { submission_index: None, timeout: Some(Duration::from_secs(10)) };
        let _ = self.0.device.poll(drained);
        match &*lock(&self.0.failure) {
            None => Ok(()),
            Some(Failure::Lost(message)) => Err(Error::DeviceLost { adapter: self.name(), message: message.clone() }),
            Some(Failure::Error(e)) => Err(self.typed(what, 0, e)),
        }
    }

    /// Notes that work was submitted which may take `seconds`: the next readback waits for it too.
    pub(super) fn submitted(&self, seconds: f64) {
        *lock(&self.0.pending) += seconds;
    }

    /// Runs a creation inside error scopes, so that a refusal is an error that names `what`.
    pub(super) fn scoped<T>(&self, what: &str, needed: u64, create: impl FnOnce() -> T) -> Result<T> {
        let device = &self.0.device;
        let filters = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation];
        let scopes = filters.map(|filter| device.push_error_scope(filter));
        let made = create();
        let mut first = None;
        for scope in scopes.into_iter().rev() {
            let error = pollster::block_on(scope.pop());
            first = first.or(error);
        }
        match first {
            None => Ok(made),
            Some(e) => Err(self.typed(what, needed, &e)),
        }
    }

    pub(super) fn create_buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        if bytes > self.0.limits.max_buffer_size {
            let what = format!("{label}, above this adapter's largest buffer of {}", self.0.limits.max_buffer_size);
            return Err(Error::OutOfMemory { adapter: self.name(), what, needed: bytes });
        }
        let mapped_at_creation = usage.contains(wgpu::BufferUsages::MAP_WRITE);
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size: bytes, usage, mapped_at_creation };
        self.scoped(label, bytes, || self.0.device.create_buffer(&descriptor))
    }

    pub(super) fn read_bytes(&self, from: &wgpu::Buffer, at: u64, bytes: u64, seconds: f64) -> Result<Vec<u8>> {
        let mut slot = lock(&self.0.readback);
        if slot.as_ref().is_none_or(|b| b.size() < bytes) {
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            *slot = Some(self.create_buffer("readback", memory::readback_bytes(bytes), usage)?);
        }
        let Some(readback) = slot.as_ref() else { return Ok(Vec::new()) };
        let mut encoder = self.0.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(from, at, readback, 0, Some(bytes));
        let index = self.0.queue.submit([encoder.finish()]);
        let seconds = seconds + *lock(&self.0.pending);
        let (sender, receiver) = std::sync::mpsc::channel();
        readback.map_async(wgpu::MapMode::Read, ..bytes, move |result| {
            // The receiver is gone only if the wait below has already failed.
            let _ = sender.send(result);
        });
        self.wait_for(&index, seconds, "readback")?;
        let mapped = receiver.recv_timeout(Duration::from_secs_f64(seconds));
        if !matches!(mapped, Ok(Ok(()))) {
            self.check("readback")?;
            return Err(self.timeout("readback", seconds));
        }
        let view = readback.get_mapped_range(..bytes).map_err(|e| Error::Validation {
            adapter: self.name(),
            what: "readback".into(),
            message: e.to_string(),
        })?;
        let values = view.to_vec();
        *lock(&self.0.pending) = 0.0;
        drop(view);
        readback.unmap();
        Ok(values)
    }

    fn timeout(&self, what: &str, seconds: f64) -> Error {
        Error::Timeout { adapter: self.name(), what: what.to_string(), seconds }
    }

    /// Waits for a submission, looking at the sticky failure every second, at most `seconds`.
    pub(super) fn wait_for(&self, index: &wgpu::SubmissionIndex, seconds: f64, what: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let slice =
                wgpu::PollType::Wait { submission_index: Some(index.clone()), timeout: Some(Duration::from_secs(1)) };
            let polled = self.0.device.poll(slice);
            self.check(what)?;
            match polled {
                Ok(_) => return Ok(()),
                Err(wgpu::PollError::Timeout) if start.elapsed().as_secs_f64() > seconds => {
                    return Err(self.timeout(what, seconds));
                }
                Err(wgpu::PollError::Timeout) => {}
                Err(e) => {
                    return Err(Error::Validation {
                        adapter: self.name(),
                        what: what.to_string(),
                        message: e.to_string(),
                    });
                }
            }
        }
    }

    /// Destroys the device, as a driver reset would: for tests of recovery.
    pub fn destroy(&self) {
        self.0.device.destroy();
    }
}
