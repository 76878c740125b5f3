//! A model's stream on a real card.

use std::{
    ffi::c_void,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError},
};

use cudarc::driver::{result, sys};

use super::{context::Context, error::Call as _, products::Products};
use crate::backend::cuda::{
    driver::{
        Consequence, DeviceAddress, DriverError, GraphHandle, KernelHandle, LaunchSize, ProductChoice,
        ProductOperands, ProductPlan, ProductShape, Queue,
    },
    kernels::Kernel,
};

pub(super) struct NvidiaQueue {
    context: Arc<Context>,
    stream: sys::CUstream,
    products: Mutex<Products>,
    functions: Mutex<Vec<sys::CUfunction>>,
    graphs: Mutex<Vec<sys::CUgraphExec>>,
}

// SAFETY: the driver's handles may be used by any thread that has made the context its own, as all calls do first.
unsafe impl Send for NvidiaQueue {}
// SAFETY: as above; what is changed is behind locks.
unsafe impl Sync for NvidiaQueue {}

impl NvidiaQueue {
    pub(super) fn open(context: Arc<Context>) -> Result<Self, DriverError> {
        context.enter()?;
        // A stream of its own, which does not wait for other models' work.
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).of("cuStreamCreate")?;
        let products = match Products::new(stream) {
            Ok(products) => products,
            Err(error) => {
                // SAFETY: it was just made, and nothing was queued.
                let _ = unsafe { result::stream::destroy(stream) };
                return Err(error);
            }
        };
        Ok(Self {
            context,
            stream,
            products: Mutex::new(products),
            functions: Mutex::default(),
            graphs: Mutex::default(),
        })
    }

    fn instantiate(graph: sys::CUgraph) -> Result<sys::CUgraphExec, DriverError> {
        // SAFETY: the graph was just recorded.
        let made = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        // SAFETY: what was instantiated does not need it any more.
        let _ = unsafe { result::graph::destroy(graph) };
        made.of("cuGraphInstantiate")
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue for NvidiaQueue {
    fn allocate(&self, bytes: usize) -> Result<DeviceAddress, DriverError> {
        self.context.enter()?;
        // SAFETY: whoever uses the memory first writes to it.
        let address = unsafe { result::malloc_sync(bytes) }.of("cuMemAlloc")?;
        Ok(DeviceAddress(address))
    }

    fn release(&self, address: DeviceAddress) {
        if self.context.enter().is_ok() {
            // SAFETY: it is an allocation of this queue. The driver waits for the work that uses it.
            let _ = unsafe { result::free_sync(address.0) };
        }
    }

    fn allocate_host(&self, bytes: usize) -> Result<NonNull<u8>, DriverError> {
        self.context.enter()?;
        // SAFETY: whoever uses the memory first writes to it.
        let address = unsafe { result::malloc_host(bytes, 0) }.of("cuMemHostAlloc")?;
        NonNull::new(address.cast()).ok_or(DriverError {
            call: "cuMemHostAlloc",
            reason: "it returned no address".to_owned(),
            consequence: Consequence::OutOfMemory,
        })
    }

    fn release_host(&self, address: NonNull<u8>) {
        if self.context.enter().is_ok() {
            // A copy may be under way after a step that nobody has waited for.
            let _ = self.wait();
            // SAFETY: it is an allocation of this queue, and no copy is under way.
            let _ = unsafe { result::free_host(address.as_ptr().cast()) };
        }
    }

    fn kernel(&self, kernel: Kernel) -> Result<KernelHandle, DriverError> {
        let function = self.context.function(kernel)?;
        let mut functions = locked(&self.functions);
        functions.push(function);
        Ok(KernelHandle(functions.len() - 1))
    }

    fn plan_product(
        &self,
        shape: ProductShape,
        most_rows: usize,
        choice: ProductChoice,
    ) -> Result<ProductPlan, DriverError> {
        self.context.enter()?;
        locked(&self.products).plan(shape, most_rows, choice)
    }

    unsafe fn upload(&self, to: DeviceAddress, from: NonNull<u8>, bytes: usize) -> Result<(), DriverError> {
        self.context.enter()?;
        // SAFETY: the caller names memory of the host that has so many bytes.
        let from = unsafe { std::slice::from_raw_parts(from.as_ptr(), bytes) };
        // SAFETY: the caller ensures that both ranges live until the queue was waited for.
        unsafe { result::memcpy_htod_async(to.0, from, self.stream) }.of("cuMemcpyHtoDAsync")
    }

    unsafe fn download(&self, to: NonNull<u8>, from: DeviceAddress, bytes: usize) -> Result<(), DriverError> {
        self.context.enter()?;
        // SAFETY: the caller names memory of the host that has so many bytes.
        let to = unsafe { std::slice::from_raw_parts_mut(to.as_ptr(), bytes) };
        // SAFETY: the caller ensures that both ranges live until the queue was waited for.
        unsafe { result::memcpy_dtoh_async(to, from.0, self.stream) }.of("cuMemcpyDtoHAsync")
    }

    unsafe fn copy(&self, to: DeviceAddress, from: DeviceAddress, bytes: usize) -> Result<(), DriverError> {
        self.context.enter()?;
        // SAFETY: the caller ensures that both ranges are sound, and live until the queue was waited for.
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, self.stream) }.of("cuMemcpyDtoDAsync")
    }

    unsafe fn launch(
        &self,
        kernel: KernelHandle,
        size: LaunchSize,
        argument: &[u8],
    ) -> Result<(), DriverError> {
        self.context.enter()?;
        let function = locked(&self.functions)
            .get(kernel.0)
            .copied()
            .ok_or(unknown("cuLaunchKernel"))?;
        let mut arguments = [argument.as_ptr().cast_mut().cast::<c_void>()];
        let [x, y, z] = size.grid;
        // SAFETY: the function is loaded, and takes one argument, whose bytes the driver copies. The caller ensures that
        // the addresses in it are sound.
        let launched = unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (size.threads, 1, 1),
                size.shared_bytes,
                self.stream,
                &mut arguments,
            )
        };
        launched.of("cuLaunchKernel")
    }

    unsafe fn product(&self, plan: ProductPlan, operands: ProductOperands) -> Result<(), DriverError> {
        self.context.enter()?;
        // SAFETY: the caller ensures that the addresses are sound.
        unsafe { locked(&self.products).run(plan, operands) }
    }

    fn begin_capture(&self) -> Result<(), DriverError> {
        self.context.enter()?;
        // Other models' threads may do what they like meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as this value.
        unsafe { result::stream::begin_capture(self.stream, mode) }.of("cuStreamBeginCapture")
    }

    fn end_capture(&self) -> Result<GraphHandle, DriverError> {
        self.context.enter()?;
        // SAFETY: the stream lives as long as this value.
        let graph = unsafe { result::stream::end_capture(self.stream) }.of("cuStreamEndCapture")?;
        let executable = Self::instantiate(graph)?;
        let mut graphs = locked(&self.graphs);
        graphs.push(executable);
        Ok(GraphHandle(graphs.len() - 1))
    }

    unsafe fn launch_graph(&self, graph: GraphHandle) -> Result<(), DriverError> {
        self.context.enter()?;
        let graph = locked(&self.graphs)
            .get(graph.0)
            .copied()
            .ok_or(unknown("cuGraphLaunch"))?;
        // SAFETY: it was instantiated. The caller ensures that the addresses in it are sound.
        unsafe { result::graph::launch(graph, self.stream) }.of("cuGraphLaunch")
    }

    fn wait(&self) -> Result<(), DriverError> {
        self.context.enter()?;
        // SAFETY: the stream lives as long as this value.
        unsafe { result::stream::synchronize(self.stream) }.of("cuStreamSynchronize")
    }
}

impl Drop for NvidiaQueue {
    fn drop(&mut self) {
        let _ = self.wait();
        if self.context.enter().is_err() {
            return;
        }
        for graph in locked(&self.graphs).drain(..) {
            // SAFETY: it was instantiated, and the stream is idle.
            let _ = unsafe { result::graph::exec_destroy(graph) };
        }
        locked(&self.products).release();
        // SAFETY: nobody else has the stream, and it is idle.
        let _ = unsafe { result::stream::destroy(self.stream) };
    }
}

fn unknown(call: &'static str) -> DriverError {
    DriverError {
        call,
        reason: "the handle is of another queue".to_owned(),
        consequence: Consequence::ThisCall,
    }
}
