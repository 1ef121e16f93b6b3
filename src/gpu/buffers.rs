// SPDX-License-Identifier: MPL-2.0

//! Memory on the card, and passes over it that can be submitted again and again.

use std::sync::{Arc, mpsc};

use bytemuck::{AnyBitPattern, NoUninit};
use wgpu::util::DeviceExt;

use super::{Gpu, Storage, Submission, opened::Kernel, variant::Variant};
use crate::Result;

/// The usage of all buffers of values.
const USAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// Workgroups in a row if they are too many for one dimension.
const ROW: u64 = 32_768;

/// A kernel with its buffers.
#[derive(Debug)]
pub(crate) struct Pass {
    pipeline: Arc<wgpu::ComputePipeline>,
    bindings: wgpu::BindGroup,
    groups: [u32; 3],
}

impl Gpu {
    /// Memory of this many bytes, all zero.
    pub(crate) fn memory(&self, bytes: u64) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes.next_multiple_of(16).max(16),
            usage: USAGE,
            mapped_at_creation: false,
        })
    }

    /// Memory with these values in it.
    pub(crate) fn filled<T: NoUninit>(&self, values: &[T]) -> wgpu::Buffer {
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(values),
            usage: USAGE,
        })
    }

    /// The parameters of a kernel.
    pub(crate) fn uniform<T: NoUninit>(&self, value: T) -> wgpu::Buffer {
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::bytes_of(&value),
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        })
    }

    /// Writes values to memory before the next submission.
    pub(crate) fn write<T: NoUninit>(&self, buffer: &wgpu::Buffer, offset: u64, values: &[T]) {
        self.queue.write_buffer(buffer, offset, bytemuck::cast_slice(values));
    }

    /// Submits passes, one after the other, and then copies from a buffer to another of its size.
    pub(crate) fn submit<'a>(
        &self,
        passes: impl IntoIterator<Item = &'a Pass>,
        copies: &[(&wgpu::Buffer, &wgpu::Buffer)],
    ) -> Result<Submission> {
        self.checked(|| {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()), passes);
            for (from, to) in copies {
                encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
            }
            Submission(self.queue.submit([encoder.finish()]))
        })
    }

    /// The values of buffers, `count` of each from its beginning on, once everything submitted is done.
    pub(crate) fn read<T: AnyBitPattern>(&self, buffers: &[(&wgpu::Buffer, usize)]) -> Result<Vec<Vec<T>>> {
        let bytes = |count: usize| (count * size_of::<T>()) as u64;
        let (sender, receiver) = mpsc::channel();
        let staging = self.checked(|| {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let stage = |&(buffer, count): &(&wgpu::Buffer, usize)| {
                let size = bytes(count).next_multiple_of(8).max(8);
                let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size,
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, size);
                staging
            };
            let staging: Vec<wgpu::Buffer> = buffers.iter().map(stage).collect();
            self.queue.submit([encoder.finish()]);
            for staging in &staging {
                let sender = sender.clone();
                staging.map_async(wgpu::MapMode::Read, .., move |result| _ = sender.send(result));
            }
            staging
        })?;
        self.wait()?;
        let mut values = Vec::new();
        for (staging, (_, count)) in staging.iter().zip(buffers) {
            match receiver.try_recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(self.error(error.to_string())),
                Err(_) => return Err(self.error("what it computed cannot be read".to_owned())),
            }
            let view = staging.get_mapped_range(..bytes(*count).next_multiple_of(8).max(8));
            let view = view.map_err(|error| self.error(error.to_string()))?;
            let numbers = view.chunks_exact(size_of::<T>()).take(*count);
            values.push(numbers.map(bytemuck::pod_read_unaligned).collect());
        }
        Ok(values)
    }
}

pub(super) fn record<'a>(recorder: &mut wgpu::ComputePass, passes: impl IntoIterator<Item = &'a Pass>) {
    for pass in passes {
        recorder.set_pipeline(&pass.pipeline);
        recorder.set_bind_group(0, &pass.bindings, &[]);
        let [x, y, z] = pass.groups;
        recorder.dispatch_workgroups(x, y, z);
    }
}

/// Collects passes over feature maps that are stored in one way.
pub(crate) struct Recorder<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) storage: Storage,
    pub(crate) passes: Vec<Pass>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(gpu: &'a Gpu, storage: Storage) -> Self {
        Self { gpu, storage, passes: Vec::new() }
    }

    /// Adds a pass. The buffers are the bindings of the kernel, in their order. Errors name it by its label.
    pub(super) fn pass(
        &mut self,
        label: &str,
        kernel: Kernel,
        variant: &Variant,
        buffers: &[&wgpu::Buffer],
        groups: [u32; 3],
    ) -> Result<()> {
        let pipeline = self.gpu.pipeline(kernel, variant)?;
        let numbered = (0..).zip(buffers);
        let entries: Vec<wgpu::BindGroupEntry> = numbered
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let bindings = self.gpu.checked(|| {
            self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(label),
                layout: &pipeline.get_bind_group_layout(0),
                entries: &entries,
            })
        })?;
        self.passes.push(Pass { pipeline, bindings, groups });
        Ok(())
    }
}

/// This many workgroups, in two dimensions if they are too many for one.
pub(super) fn spread(groups: u64) -> [u32; 3] {
    match u32::try_from(groups) {
        Ok(groups) if u64::from(groups) <= ROW => [groups.max(1), 1, 1],
        _ => [ROW as u32, groups.div_ceil(ROW) as u32, 1],
    }
}
