//! Launches of one model, and the first fault among them.

use std::{collections::HashMap, sync::Arc};

use super::{
    arguments::{Argument, bytes_of},
    buffer::{Buffer, HostBuffer},
    driver::{DriverError, GraphHandle, KernelHandle, LaunchSize, ProductOperands, ProductPlan, Queue},
    kernels::Kernel,
    rows::{CudaRows, RowsShape},
};

/// What becomes of launches and products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// They are carried out.
    Direct,
    /// They are recorded.
    Recording,
    /// They are left out: a recording of the same ones is carried out in their place.
    Replaying,
}

/// Launches kernels and products on a queue. After the first call that fails it makes no more of them, until the fault was
/// taken.
///
/// Callers ensure that the addresses in arguments are of live buffers of this queue, which are large enough for the grid of
/// the launch. Buffers of a model live as long as its launcher, and nobody but the launches touches them meanwhile.
pub(super) struct Launcher {
    queue: Arc<dyn Queue>,
    kernels: HashMap<Kernel, KernelHandle>,
    mode: Mode,
    fault: Option<DriverError>,
}

impl Launcher {
    pub(super) fn new(queue: Arc<dyn Queue>) -> Self {
        Self {
            queue,
            kernels: HashMap::new(),
            mode: Mode::Direct,
            fault: None,
        }
    }

    pub(super) fn queue(&self) -> &Arc<dyn Queue> {
        &self.queue
    }

    /// Loads a kernel, so that it can be launched.
    pub(super) fn load(&mut self, kernel: Kernel) -> Result<(), DriverError> {
        let handle = self.queue.kernel(kernel)?;
        self.kernels.insert(kernel, handle);
        Ok(())
    }

    /// Makes room for rows that are written next; `most` is the number of rows of the largest batch.
    pub(super) fn prepare(&mut self, rows: &mut CudaRows, shape: RowsShape, most: usize) {
        let prepared = rows.prepare(&self.queue, shape, most);
        self.keep(prepared);
    }

    /// Launches a kernel that was loaded.
    pub(super) fn launch<A: Argument>(&mut self, kernel: Kernel, size: LaunchSize, argument: &A) {
        let Some(&handle) = self.kernels.get(&kernel) else {
            return self.keep(Err(not_loaded(kernel)));
        };
        if size.grid.contains(&0) {
            return;
        }
        // SAFETY: callers ensure what the trait asks for, as this type says.
        self.attempt(|queue| unsafe { queue.launch(handle, size, bytes_of(argument)) });
    }

    /// Computes a product.
    pub(super) fn product(&mut self, plan: ProductPlan, operands: ProductOperands) {
        // SAFETY: callers ensure what the trait asks for, as this type says.
        self.attempt(|queue| unsafe { queue.product(plan, operands) });
    }

    /// Copies the bytes of `from` from `offset` on to the same place of `to`. Copies are no part of recordings.
    pub(super) fn upload(&mut self, to: &Buffer, from: &HostBuffer, offset: usize, bytes: usize) {
        let inside = offset + bytes <= to.bytes() && offset + bytes <= from.bytes();
        assert!(inside, "a copy outside of a buffer");
        if self.fault.is_some() || bytes == 0 {
            return;
        }
        // SAFETY: both ranges are inside of their allocations. The host writes to `from` again only when the step was
        // waited for.
        let copied = unsafe {
            self.queue
                .upload(to.address().offset(offset), from.address().add(offset), bytes)
        };
        self.keep(copied);
    }

    /// Copies bytes of `from`, from `offset` on, to a range of the host's. Copies are no part of recordings.
    pub(super) fn download(&mut self, to: HostRange<'_>, from: &Buffer, offset: usize) {
        let inside = offset + to.bytes <= from.bytes() && to.offset + to.bytes <= to.buffer.bytes();
        assert!(inside, "a copy outside of a buffer");
        if self.fault.is_some() || to.bytes == 0 {
            return;
        }
        // SAFETY: both ranges are inside of their allocations. The host reads `to` only when the step was waited for.
        let copied = unsafe {
            self.queue.download(
                to.buffer.address().add(to.offset),
                from.address().offset(offset),
                to.bytes,
            )
        };
        self.keep(copied);
    }

    /// Copies the first `bytes` bytes of one buffer to another one. Copies are no part of recordings.
    pub(super) fn copy(&mut self, to: &Buffer, from: &Buffer, bytes: usize) {
        assert!(
            bytes <= to.bytes() && bytes <= from.bytes(),
            "a copy outside of a buffer"
        );
        // SAFETY: both ranges are inside of their allocations, which do not overlap.
        self.attempt(|queue| unsafe { queue.copy(to.address(), from.address(), bytes) });
    }

    /// From here on launches and products are recorded.
    pub(super) fn begin_recording(&mut self) {
        if self.fault.is_none() {
            match self.queue.begin_capture() {
                Ok(()) => self.mode = Mode::Recording,
                Err(error) => self.fault = Some(error),
            }
        }
    }

    /// Ends a recording. `None` when anything failed meanwhile.
    pub(super) fn end_recording(&mut self) -> Option<GraphHandle> {
        if std::mem::replace(&mut self.mode, Mode::Direct) != Mode::Recording {
            return None;
        }
        // Also after a fault: or else the queue would record forever.
        let ended = self.queue.end_capture();
        if self.fault.is_some() {
            return None;
        }
        match ended {
            Ok(graph) => Some(graph),
            Err(error) => {
                self.fault = Some(error);
                None
            }
        }
    }

    /// From here on launches and products are left out, until [`Launcher::replay`].
    pub(super) fn begin_replaying(&mut self) {
        self.mode = Mode::Replaying;
    }

    /// Carries out a recording.
    pub(super) fn replay(&mut self, graph: GraphHandle) {
        self.mode = Mode::Direct;
        // SAFETY: what was recorded works on buffers that live as long as this launcher.
        self.attempt(|queue| unsafe { queue.launch_graph(graph) });
    }

    /// Waits for all work, and returns the first fault since the last call.
    pub(super) fn wait(&mut self) -> Result<(), DriverError> {
        self.mode = Mode::Direct;
        let waited = self.queue.wait();
        match self.fault.take() {
            Some(fault) => Err(fault),
            None => waited,
        }
    }

    /// Keeps a fault that came about elsewhere.
    pub(super) fn keep(&mut self, outcome: Result<(), DriverError>) {
        if let (None, Err(error)) = (&self.fault, outcome) {
            self.fault = Some(error);
        }
    }

    fn attempt(&mut self, call: impl FnOnce(&dyn Queue) -> Result<(), DriverError>) {
        if self.fault.is_none() && self.mode != Mode::Replaying {
            let outcome = call(&*self.queue);
            self.keep(outcome);
        }
    }
}

/// Some bytes of a buffer of the host.
pub(super) struct HostRange<'a> {
    pub buffer: &'a mut HostBuffer,
    pub offset: usize,
    pub bytes: usize,
}

fn not_loaded(kernel: Kernel) -> DriverError {
    DriverError {
        call: "cuLaunchKernel",
        reason: format!("the kernel {} was not loaded", kernel.name()),
        consequence: super::driver::Consequence::ThisCall,
    }
}
