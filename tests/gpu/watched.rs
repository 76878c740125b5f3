//! A card whose calls a test watches: it may make them fail, or change what they compute.

use std::{
    ptr::NonNull,
    sync::{Arc, Mutex},
};

use babelward::backend::{
    DeviceMemory,
    cuda::{
        driver::{
            Card, CardDescription, DeviceAddress, DriverError, GraphHandle, KernelHandle, LaunchSize,
            ProductChoice, ProductOperands, ProductPlan, ProductShape, Queue,
        },
        kernels::Kernel,
    },
};

use crate::card::EmulatedCard;

/// What a test does with calls.
pub trait Watcher: Send + Sync + 'static {
    /// Called once for each call that can fail. An error becomes the call's.
    fn call(&self) -> Result<(), DriverError> {
        Ok(())
    }

    /// Called when a product was planned.
    fn planned(&self, _shape: ProductShape, _choice: ProductChoice) {}

    /// Called when a launch was queued.
    fn launched(&self, _queue: &dyn Queue, _kernel: Kernel, _argument: &[u8]) -> Result<(), DriverError> {
        Ok(())
    }

    /// Whether nothing is done for a recording that is to be carried out.
    fn leaves_recordings_out(&self) -> bool {
        false
    }

    /// Called when a product was queued.
    fn multiplied(
        &self,
        _queue: &dyn Queue,
        _plan: ProductPlan,
        _operands: ProductOperands,
    ) -> Result<(), DriverError> {
        Ok(())
    }
}

pub struct WatchedCard<W> {
    pub card: EmulatedCard,
    pub watcher: Arc<W>,
}

struct WatchedQueue<W> {
    queue: Arc<dyn Queue>,
    watcher: Arc<W>,
    /// The kernels that were loaded, by their handles.
    kernels: Mutex<Vec<(KernelHandle, Kernel)>>,
}

impl<W: Watcher> Card for WatchedCard<W> {
    fn description(&self) -> &CardDescription {
        self.card.description()
    }

    fn memory(&self) -> Result<DeviceMemory, DriverError> {
        self.watcher.call()?;
        self.card.memory()
    }

    fn open_queue(&self) -> Result<Arc<dyn Queue>, DriverError> {
        self.watcher.call()?;
        Ok(Arc::new(WatchedQueue {
            queue: self.card.open_queue()?,
            watcher: Arc::clone(&self.watcher),
            kernels: Mutex::default(),
        }))
    }
}

impl<W: Watcher> Queue for WatchedQueue<W> {
    fn allocate(&self, bytes: usize) -> Result<DeviceAddress, DriverError> {
        self.watcher.call()?;
        self.queue.allocate(bytes)
    }

    fn release(&self, address: DeviceAddress) {
        self.queue.release(address);
    }

    fn allocate_host(&self, bytes: usize) -> Result<NonNull<u8>, DriverError> {
        self.watcher.call()?;
        self.queue.allocate_host(bytes)
    }

    fn release_host(&self, address: NonNull<u8>) {
        self.queue.release_host(address);
    }

    fn kernel(&self, kernel: Kernel) -> Result<KernelHandle, DriverError> {
        self.watcher.call()?;
        let handle = self.queue.kernel(kernel)?;
        self.kernels.lock().unwrap().push((handle, kernel));
        Ok(handle)
    }

    fn plan_product(
        &self,
        shape: ProductShape,
        most_rows: usize,
        choice: ProductChoice,
    ) -> Result<ProductPlan, DriverError> {
        self.watcher.call()?;
        self.watcher.planned(shape, choice);
        self.queue.plan_product(shape, most_rows, choice)
    }

    unsafe fn upload(&self, to: DeviceAddress, from: NonNull<u8>, bytes: usize) -> Result<(), DriverError> {
        self.watcher.call()?;
        // SAFETY: as the caller says.
        unsafe { self.queue.upload(to, from, bytes) }
    }

    unsafe fn download(&self, to: NonNull<u8>, from: DeviceAddress, bytes: usize) -> Result<(), DriverError> {
        self.watcher.call()?;
        // SAFETY: as the caller says.
        unsafe { self.queue.download(to, from, bytes) }
    }

    unsafe fn copy(&self, to: DeviceAddress, from: DeviceAddress, bytes: usize) -> Result<(), DriverError> {
        self.watcher.call()?;
        // SAFETY: as the caller says.
        unsafe { self.queue.copy(to, from, bytes) }
    }

    unsafe fn launch(
        &self,
        kernel: KernelHandle,
        size: LaunchSize,
        argument: &[u8],
    ) -> Result<(), DriverError> {
        self.watcher.call()?;
        // SAFETY: as the caller says.
        unsafe { self.queue.launch(kernel, size, argument) }?;
        let loaded = self.kernels.lock().unwrap();
        let (_, launched) = loaded.iter().find(|(handle, _)| *handle == kernel).unwrap();
        self.watcher.launched(&*self.queue, *launched, argument)
    }

    unsafe fn product(&self, plan: ProductPlan, operands: ProductOperands) -> Result<(), DriverError> {
        self.watcher.call()?;
        // SAFETY: as the caller says.
        unsafe { self.queue.product(plan, operands) }?;
        self.watcher.multiplied(&*self.queue, plan, operands)
    }

    fn begin_capture(&self) -> Result<(), DriverError> {
        self.watcher.call()?;
        self.queue.begin_capture()
    }

    fn end_capture(&self) -> Result<GraphHandle, DriverError> {
        // The recording ends, also where the call fails.
        let ended = self.queue.end_capture();
        self.watcher.call()?;
        ended
    }

    unsafe fn launch_graph(&self, graph: GraphHandle) -> Result<(), DriverError> {
        self.watcher.call()?;
        if self.watcher.leaves_recordings_out() {
            return Ok(());
        }
        // SAFETY: as the caller says.
        unsafe { self.queue.launch_graph(graph) }
    }

    fn wait(&self) -> Result<(), DriverError> {
        let waited = self.queue.wait();
        self.watcher.call()?;
        waited
    }
}
