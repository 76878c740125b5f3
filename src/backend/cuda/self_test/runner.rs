//! Runs kernels on a queue of their own, one launch at a time.

use std::sync::Arc;

use crate::backend::cuda::{
    arguments::Argument,
    buffer::{Buffer, HostBuffer, Plain},
    driver::{DriverError, GraphHandle, LaunchSize, ProductOperands, ProductPlan, Queue},
    kernels::Kernel,
    launcher::Launcher,
};

/// What an output holds where nothing was written: a number that no kernel computes.
pub(super) const UNTOUCHED: f32 = f32::from_bits(0x7fed_cba9);
/// The same of an output in bf16.
pub(super) const UNTOUCHED_BF16: u16 = 0x7fed;

/// A queue, and the kernels that were loaded for it.
pub(super) struct Runner {
    launcher: Launcher,
}

impl Runner {
    /// # Errors
    /// When a kernel cannot be compiled or loaded.
    pub(super) fn new(queue: Arc<dyn Queue>, kernels: &[Kernel]) -> Result<Self, DriverError> {
        let mut launcher = Launcher::new(queue);
        for kernel in kernels {
            launcher.load(*kernel)?;
        }
        Ok(Self { launcher })
    }

    pub(super) fn queue(&self) -> &Arc<dyn Queue> {
        self.launcher.queue()
    }

    /// The card's memory, holding these values.
    pub(super) fn holding<T: Plain>(&self, values: &[T]) -> Result<Buffer, DriverError> {
        Buffer::holding(self.queue(), values)
    }

    /// Launches a kernel and waits for it. The buffers that its argument names are large enough for the launch.
    pub(super) fn launch<A: Argument>(
        &mut self,
        kernel: Kernel,
        size: LaunchSize,
        argument: &A,
    ) -> Result<(), DriverError> {
        self.launcher.launch(kernel, size, argument);
        self.launcher.wait()
    }

    /// Computes a product and waits for it.
    pub(super) fn product(
        &mut self,
        plan: ProductPlan,
        operands: ProductOperands,
    ) -> Result<(), DriverError> {
        self.launcher.product(plan, operands);
        self.launcher.wait()
    }

    /// Records a launch without carrying it out. `None` where recording failed, which the next wait says.
    pub(super) fn record<A: Argument>(
        &mut self,
        kernel: Kernel,
        size: LaunchSize,
        argument: &A,
    ) -> Option<GraphHandle> {
        self.launcher.begin_recording();
        self.launcher.launch(kernel, size, argument);
        self.launcher.end_recording()
    }

    /// Carries out what was recorded, and waits for it.
    pub(super) fn replay(&mut self, graph: Option<GraphHandle>) -> Result<(), DriverError> {
        if let Some(graph) = graph {
            self.launcher.replay(graph);
        }
        self.launcher.wait()
    }

    /// The first values of a buffer.
    pub(super) fn read<T: Plain>(&self, buffer: &Buffer, count: usize) -> Result<Vec<T>, DriverError> {
        let bytes = count * size_of::<T>();
        let mut host = HostBuffer::new(self.queue(), bytes)?;
        buffer.read(0, &mut host, bytes)?;
        Ok(host.part::<T>(0, count).to_vec())
    }
}
