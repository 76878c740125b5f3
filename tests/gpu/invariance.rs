//! What is measured of products decides what a model promises.

use std::{
    ptr::NonNull,
    sync::{Arc, Mutex},
};

use babelward::backend::{
    Backend as _, Determinism, DeviceMemory,
    cuda::{
        CudaBackend,
        driver::{
            Card, CardDescription, DeviceAddress, DriverError, GraphHandle, KernelHandle, LaunchSize,
            ProductChoice, ProductOperands, ProductPlan, ProductShape, Queue,
        },
        kernels::Kernel,
    },
};

use crate::{
    card::EmulatedCard,
    common::golden,
    models::{ENOUGH, options},
    queue::Timing,
};

/// For which choice of algorithms products of many rows have other bits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    Never,
    Fastest,
    Always,
}

struct VariantCard(EmulatedCard, Variant);

struct VariantQueue {
    queue: Arc<dyn Queue>,
    variant: Variant,
    choices: Mutex<Vec<(ProductShape, ProductChoice)>>,
}

impl Card for VariantCard {
    fn description(&self) -> &CardDescription {
        self.0.description()
    }

    fn memory(&self) -> Result<DeviceMemory, DriverError> {
        self.0.memory()
    }

    fn open_queue(&self) -> Result<Arc<dyn Queue>, DriverError> {
        Ok(Arc::new(VariantQueue {
            queue: self.0.open_queue()?,
            variant: self.1,
            choices: Mutex::default(),
        }))
    }
}

impl Queue for VariantQueue {
    fn allocate(&self, bytes: usize) -> Result<DeviceAddress, DriverError> {
        self.queue.allocate(bytes)
    }

    fn release(&self, address: DeviceAddress) {
        self.queue.release(address);
    }

    fn allocate_host(&self, bytes: usize) -> Result<NonNull<u8>, DriverError> {
        self.queue.allocate_host(bytes)
    }

    fn release_host(&self, address: NonNull<u8>) {
        self.queue.release_host(address);
    }

    fn kernel(&self, kernel: Kernel) -> Result<KernelHandle, DriverError> {
        self.queue.kernel(kernel)
    }

    fn plan_product(
        &self,
        shape: ProductShape,
        most_rows: usize,
        choice: ProductChoice,
    ) -> Result<ProductPlan, DriverError> {
        self.choices.lock().unwrap().push((shape, choice));
        self.queue.plan_product(shape, most_rows, choice)
    }

    unsafe fn upload(&self, to: DeviceAddress, from: NonNull<u8>, bytes: usize) -> Result<(), DriverError> {
        // SAFETY: as the caller says.
        unsafe { self.queue.upload(to, from, bytes) }
    }

    unsafe fn download(&self, to: NonNull<u8>, from: DeviceAddress, bytes: usize) -> Result<(), DriverError> {
        // SAFETY: as the caller says.
        unsafe { self.queue.download(to, from, bytes) }
    }

    unsafe fn launch(
        &self,
        kernel: KernelHandle,
        size: LaunchSize,
        argument: &[u8],
    ) -> Result<(), DriverError> {
        // SAFETY: as the caller says.
        unsafe { self.queue.launch(kernel, size, argument) }
    }

    unsafe fn product(&self, plan: ProductPlan, operands: ProductOperands) -> Result<(), DriverError> {
        // SAFETY: as the caller says.
        unsafe { self.queue.product(plan, operands) }?;
        let (shape, choice) = self.choices.lock().unwrap()[plan.0];
        let varies = match self.variant {
            Variant::Never => false,
            Variant::Fastest => choice == ProductChoice::Fastest,
            Variant::Always => true,
        };
        if varies && operands.rows > 64 && !operands.add {
            // The last output of the sixteenth row has another last bit.
            self.queue.wait()?;
            let at = operands.out.offset(4 * (16 * shape.outputs - 1));
            // SAFETY: addresses of the emulated card are the host's, and it is idle.
            unsafe { *(at.0 as *mut u32) ^= 1 };
        }
        Ok(())
    }

    fn begin_capture(&self) -> Result<(), DriverError> {
        self.queue.begin_capture()
    }

    fn end_capture(&self) -> Result<GraphHandle, DriverError> {
        self.queue.end_capture()
    }

    unsafe fn launch_graph(&self, graph: GraphHandle) -> Result<(), DriverError> {
        // SAFETY: as the caller says.
        unsafe { self.queue.launch_graph(graph) }
    }

    fn wait(&self) -> Result<(), DriverError> {
        self.queue.wait()
    }
}

#[test]
fn a_model_promises_what_was_measured_of_its_products() {
    for (variant, expected) in [
        (Variant::Never, Determinism::BatchInvariant),
        // One algorithm for all numbers of rows helps.
        (Variant::Fastest, Determinism::BatchInvariant),
        (Variant::Always, Determinism::BestEffort),
    ] {
        let card = VariantCard(EmulatedCard::new(Timing::Early, ENOUGH), variant);
        let backend = CudaBackend::new(0, Arc::new(card)).unwrap();
        let loaded = backend
            .load(&golden("models").join("qwen2"), &[], &options())
            .unwrap();
        assert_eq!(loaded.determinism, expected);
    }
}
