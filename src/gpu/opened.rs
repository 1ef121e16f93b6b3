// SPDX-License-Identifier: MPL-2.0

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use super::{Adapter, AdapterChoice, tuning::Tuning, variant::Variant};
use crate::{Error, Result};

/// A card that takes longer than this for a submission is considered hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// The cards in use, so that several elements share a card and its pipelines.
static OPENED: Mutex<Vec<(String, Weak<Gpu>)>> = Mutex::new(Vec::new());

/// An opened graphics card, with the pipelines made for it so far.
#[derive(Debug)]
pub struct Gpu {
    name: String,
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) limits: wgpu::Limits,
    is_software: bool,
    has_matrix_units: bool,
    pub(super) tuning: Tuning,
    pipelines: Mutex<BTreeMap<(Kernel, Variant), Arc<wgpu::ComputePipeline>>>,
    /// The first error outside of what was [checked](Self::checked).
    failure: Arc<Mutex<Option<String>>>,
}

/// A kernel's template, and the name of its entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kernel {
    pub(super) template: &'static str,
    pub(super) entry: &'static str,
}

/// Work that was submitted to the card.
#[derive(Clone)]
pub(crate) struct Submission(pub(super) wgpu::SubmissionIndex);

impl Gpu {
    /// Opens a card, or hands out the same again if it is open.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if there is no such card or its driver refuses to open it.
    pub fn open(choice: &AdapterChoice) -> Result<Arc<Self>> {
        let adapter = Adapter::find(choice)?;
        let name = adapter.to_string();
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|(_, gpu)| gpu.strong_count() > 0);
        let mut found = opened.iter().filter(|(opened, _)| *opened == name).filter_map(|(_, gpu)| gpu.upgrade());
        // A card that was lost may be back.
        if let Some(gpu) = found.find(|gpu| gpu.check().is_ok()) {
            return Ok(gpu);
        }
        let gpu = Arc::new(Self::new(&adapter)?);
        opened.push((name, Arc::downgrade(&gpu)));
        Ok(gpu)
    }

    fn new(adapter: &Adapter) -> Result<Self> {
        let has_matrix_units = has_matrix_units(&adapter.adapter);
        let mut features = wgpu::Features::SHADER_F16;
        features.set(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, has_matrix_units);
        features &= adapter.adapter.features();
        let limits = adapter.adapter.limits();
        let descriptor = wgpu::DeviceDescriptor {
            label: None,
            required_features: features,
            required_limits: limits.clone(),
            // SAFETY: the only experimental feature in use is the product of matrices, in two kernels that keep within
            // the bounds of their memory. Their results are tested against plain code.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(adapter.adapter.request_device(&descriptor))
            .map_err(|error| Error::Device { name: adapter.to_string(), problem: error.to_string() })?;
        let failure: Arc<Mutex<Option<String>>> = Arc::default();
        let note = |failure: &Arc<Mutex<Option<String>>>| {
            let failure = failure.clone();
            move |problem: String| {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(problem);
            }
        };
        let lost = note(&failure);
        device.set_device_lost_callback(move |_, message| lost(format!("it was lost: {message}")));
        let uncaptured = note(&failure);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| uncaptured(error.to_string())));
        Ok(Self {
            name: adapter.name().to_owned(),
            device,
            queue,
            limits,
            is_software: adapter.is_software(),
            has_matrix_units,
            tuning: Tuning::default(),
            pipelines: Mutex::default(),
            failure,
        })
    }

    /// The adapter's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has units for products of matrices in f16.
    pub fn has_matrix_units(&self) -> bool {
        self.has_matrix_units
    }

    /// Whether it computes on the processor.
    pub fn is_software(&self) -> bool {
        self.is_software
    }

    /// Does some work on the card, and returns its error if there is one.
    pub(crate) fn checked<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let scopes = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Internal]
            .map(|filter| self.device.push_error_scope(filter));
        let result = work();
        let errors: Vec<wgpu::Error> =
            scopes.into_iter().rev().filter_map(|scope| pollster::block_on(scope.pop())).collect();
        match errors.into_iter().next() {
            Some(wgpu::Error::OutOfMemory { .. }) => {
                Err(self.error("its memory is full: use a smaller working-size".to_owned()))
            }
            Some(error) => Err(self.error(error.to_string())),
            None => self.check().map(|()| result),
        }
    }

    /// Checks that the card still works.
    pub(crate) fn check(&self) -> Result<()> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(problem) => Err(self.error(problem.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn error(&self, problem: String) -> Error {
        Error::Gpu { adapter: self.name.clone(), problem }
    }

    /// Waits until everything is done that was submitted.
    pub(crate) fn wait(&self) -> Result<()> {
        self.wait_until(None)
    }

    /// Waits until this submission is done.
    pub(crate) fn wait_for(&self, submission: Submission) -> Result<()> {
        self.wait_until(Some(submission.0))
    }

    fn wait_until(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let done = self.device.poll(wgpu::PollType::Wait { submission_index, timeout: Some(PATIENCE) });
        done.map_err(|error| self.error(error.to_string()))?;
        self.check()
    }

    /// Whether this submission is done.
    #[cfg(test)]
    pub(crate) fn is_done(&self, Submission(submission): Submission) -> bool {
        let submission_index = Some(submission);
        self.device.poll(wgpu::PollType::Wait { submission_index, timeout: Some(Duration::ZERO) }).is_ok()
    }

    /// The kernels made so far, in WGSL.
    #[cfg(test)]
    pub(crate) fn sources(&self) -> Vec<String> {
        let pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        pipelines.keys().map(|(kernel, variant)| variant.fill(kernel.template).unwrap()).collect()
    }

    pub(super) fn pipeline(&self, kernel: Kernel, variant: &Variant) -> Result<Arc<wgpu::ComputePipeline>> {
        let key = (kernel, variant.clone());
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        let source = variant.fill(kernel.template).map_err(|error| self.error(error.to_string()))?;
        let module =
            wgpu::ShaderModuleDescriptor { label: Some(kernel.entry), source: wgpu::ShaderSource::Wgsl(source.into()) };
        let pipeline = self.checked(|| {
            // SAFETY: the kernels are part of this crate. Their loops end and their indices are within bounds for the
            // buffers that they are given here. The tests compare their results with plain code at odd sizes.
            let module =
                unsafe { self.device.create_shader_module_trusted(module, wgpu::ShaderRuntimeChecks::unchecked()) };
            self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(kernel.entry),
                layout: None,
                module: &module,
                entry_point: Some(kernel.entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    // Every kernel writes it before it reads it.
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            })
        })?;
        let pipeline = Arc::new(pipeline);
        pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }
}

/// Whether the adapter has products of 16x16 matrices in f16 with sums in float32, for subgroups of 32.
fn has_matrix_units(adapter: &wgpu::Adapter) -> bool {
    let needed = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16;
    let info = adapter.get_info();
    adapter.features().contains(needed)
        && (info.subgroup_min_size, info.subgroup_max_size) == (32, 32)
        && adapter.cooperative_matrix_properties().iter().any(|product| {
            (product.m_size, product.n_size, product.k_size) == (16, 16, 16)
                && product.ab_type == wgpu::CooperativeScalarType::F16
                && product.cr_type == wgpu::CooperativeScalarType::F32
        })
}
