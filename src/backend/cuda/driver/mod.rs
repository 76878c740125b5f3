//! The calls that the backend makes to a card, as traits: [`nvidia`] makes them to a real one; tests have others.

pub mod nvidia;

use std::{fmt, ptr::NonNull, sync::Arc};

use super::kernels::Kernel;
use crate::backend::DeviceMemory;

/// An address in a card's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct DeviceAddress(pub u64);

impl DeviceAddress {
    /// No address: a kernel's argument that is left out.
    pub const NULL: Self = Self(0);

    /// The address so many bytes further on.
    pub fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// A call to a card that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed: {reason}")]
pub struct DriverError {
    /// The call, as CUDA names it.
    pub call: &'static str,
    /// What the driver or library says.
    pub reason: String,
    /// What follows from it.
    pub consequence: Consequence,
}

/// What follows from a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// This call had no effect; others may succeed.
    ThisCall,
    /// The card has no memory left for it.
    OutOfMemory,
    /// The card, or the process's state on it, is broken: every later call will fail.
    Lasting,
}

/// What a card is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardDescription {
    /// Its name as the driver says it, for example `NVIDIA H200`.
    pub name: String,
    /// Its architecture.
    pub architecture: Architecture,
    /// Number of its multiprocessors.
    pub multiprocessors: u32,
    /// Most bytes of shared memory that one block of threads can have.
    pub shared_memory: u32,
}

/// A card's architecture: its compute capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Architecture {
    /// The first number, for example 9 of an H200.
    pub major: u32,
    /// The second number, for example 0 of an H200.
    pub minor: u32,
}

impl Architecture {
    /// The oldest architecture that the kernels are made for: bf16 products in tensor cores, and asynchronous copies to
    /// shared memory.
    pub const OLDEST: Self = Self { major: 8, minor: 0 };
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.major, self.minor)
    }
}

/// A card.
pub trait Card: Send + Sync {
    /// What it is.
    fn description(&self) -> &CardDescription;

    /// How much memory it has, and how much of it is free.
    ///
    /// # Errors
    /// When the driver does not say.
    fn memory(&self) -> Result<DeviceMemory, DriverError>;

    /// A queue of its own for a model.
    ///
    /// # Errors
    /// When the driver has no resources for it.
    fn open_queue(&self) -> Result<Arc<dyn Queue>, DriverError>;
}

/// The size of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchSize {
    /// Blocks of threads, in three directions.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory of a block, beside what the kernel declares itself.
    pub shared_bytes: u32,
}

/// A kernel that a queue has loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelHandle(pub usize);

/// The shape of a product of rows with a matrix of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProductShape {
    /// Outputs: rows of the matrix.
    pub outputs: usize,
    /// Inputs: columns of the matrix.
    pub inputs: usize,
}

/// How the algorithms of a product are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProductChoice {
    /// The fastest one for each number of rows.
    Fastest,
    /// One for all numbers of rows, so that a row's bits depend on them as little as can be.
    Uniform,
}

/// A product that a queue has planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProductPlan(pub usize);

/// The operands of a product: `out = x · weightsᵀ`, or added to `out`.
#[derive(Debug, Clone, Copy)]
pub struct ProductOperands {
    /// `[outputs, inputs]`, bf16.
    pub weights: DeviceAddress,
    /// `[rows, inputs]`, bf16.
    pub x: DeviceAddress,
    /// `[rows, out_width]`, f32, of which the first outputs are written.
    pub out: DeviceAddress,
    /// Number of rows; a multiple of [`PRODUCT_ROWS`].
    pub rows: usize,
    /// Values from one row of `out` to the next; at least the outputs.
    pub out_width: usize,
    /// Whether the product is added to what is in `out`.
    pub add: bool,
}

/// Products are computed for a multiple of so many rows, which is the least that tensor cores compute.
pub const PRODUCT_ROWS: usize = 16;

/// Memory that the algorithms of products may use between their launches, for each queue.
pub const PRODUCT_WORKSPACE_BYTES: usize = 32 << 20;

/// A recorded sequence of launches and products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GraphHandle(pub usize);

/// One model's stream of work on a card. Calls return at once and are carried out in order, but for [`Queue::wait`], which
/// returns when all are done, and allocations.
///
/// # Safety
/// The unsafe methods work on memory that the caller names by addresses. For all of them the caller ensures that the
/// addresses are of this queue's allocations, that these are as large as the call reads or writes, and that they, and the
/// host's memory of copies, live and are not touched otherwise until the queue was waited for.
pub trait Queue: Send + Sync {
    /// Allocates memory of the card, aligned to 256 bytes.
    ///
    /// # Errors
    /// When there is none.
    fn allocate(&self, bytes: usize) -> Result<DeviceAddress, DriverError>;

    /// Frees an allocation, when all work before is done.
    fn release(&self, address: DeviceAddress);

    /// Allocates memory of the host that the card can copy to and from by itself.
    ///
    /// # Errors
    /// When there is none.
    fn allocate_host(&self, bytes: usize) -> Result<NonNull<u8>, DriverError>;

    /// Frees an allocation of [`Queue::allocate_host`].
    fn release_host(&self, address: NonNull<u8>);

    /// Loads a kernel, which is compiled for the card if it never was before.
    ///
    /// # Errors
    /// When it cannot be compiled or loaded.
    fn kernel(&self, kernel: Kernel) -> Result<KernelHandle, DriverError>;

    /// Plans a product of up to `most_rows` rows.
    ///
    /// # Errors
    /// When no algorithm computes it.
    fn plan_product(
        &self,
        shape: ProductShape,
        most_rows: usize,
        choice: ProductChoice,
    ) -> Result<ProductPlan, DriverError>;

    /// Copies from the host to the card.
    ///
    /// # Errors
    /// When the driver refuses the call, or an earlier one failed.
    ///
    /// # Safety
    /// As the trait says.
    unsafe fn upload(&self, to: DeviceAddress, from: NonNull<u8>, bytes: usize) -> Result<(), DriverError>;

    /// Copies from the card to the host.
    ///
    /// # Errors
    /// As [`Queue::upload`].
    ///
    /// # Safety
    /// As the trait says.
    unsafe fn download(&self, to: NonNull<u8>, from: DeviceAddress, bytes: usize) -> Result<(), DriverError>;

    /// Copies from one place of the card's memory to another one.
    ///
    /// # Errors
    /// As [`Queue::upload`].
    ///
    /// # Safety
    /// As the trait says; and the places do not overlap.
    unsafe fn copy(&self, to: DeviceAddress, from: DeviceAddress, bytes: usize) -> Result<(), DriverError>;

    /// Launches a kernel, whose only argument has these bytes.
    ///
    /// # Errors
    /// As [`Queue::upload`].
    ///
    /// # Safety
    /// As the trait says; and the bytes are those of the structure that the kernel takes.
    unsafe fn launch(
        &self,
        kernel: KernelHandle,
        size: LaunchSize,
        argument: &[u8],
    ) -> Result<(), DriverError>;

    /// Computes a product.
    ///
    /// # Errors
    /// As [`Queue::upload`].
    ///
    /// # Safety
    /// As the trait says.
    unsafe fn product(&self, plan: ProductPlan, operands: ProductOperands) -> Result<(), DriverError>;

    /// From here on launches and products are recorded and not carried out.
    ///
    /// # Errors
    /// As [`Queue::upload`].
    fn begin_capture(&self) -> Result<(), DriverError>;

    /// Ends a recording, also one that has failed.
    ///
    /// # Errors
    /// When something was called meanwhile that cannot be recorded.
    fn end_capture(&self) -> Result<GraphHandle, DriverError>;

    /// Carries out what was recorded.
    ///
    /// # Errors
    /// As [`Queue::upload`].
    ///
    /// # Safety
    /// As the trait says, for all that was recorded.
    unsafe fn launch_graph(&self, graph: GraphHandle) -> Result<(), DriverError>;

    /// Waits until all is done.
    ///
    /// # Errors
    /// When anything failed since the last call.
    fn wait(&self) -> Result<(), DriverError>;
}
