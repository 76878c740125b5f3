//! A queue whose work the host does, when it is waited for: as late as a card might, so that whoever reads results too
//! early, or writes inputs too early, finds the wrong ones.

use std::{
    collections::HashMap,
    ptr::NonNull,
    sync::{Arc, Mutex},
};

use babelward::backend::cuda::{
    driver::{
        Consequence, DeviceAddress, DriverError, GraphHandle, KernelHandle, LaunchSize, ProductChoice,
        ProductOperands, ProductPlan, ProductShape, Queue,
    },
    kernels::Kernel,
};

use crate::{
    card::CardState,
    library::{KERNELS, ProductArguments},
};

/// Bytes before and behind each allocation that nobody may write to.
const FENCE: usize = 256;
const FENCE_BYTE: u8 = 0xa5;

/// When work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// At once.
    Early,
    /// When the queue is waited for.
    Late,
}

/// One piece of work.
#[derive(Debug, Clone)]
enum Work {
    Upload(DeviceAddress, usize, usize),
    Download(usize, DeviceAddress, usize),
    Copy(DeviceAddress, DeviceAddress, usize),
    Launch(Kernel, LaunchSize, Vec<u8>),
    Product(ProductShape, ProductOperands),
}

/// Memory of a card or of the host, between fences.
struct Allocation {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl Allocation {
    /// Bytes that are NaN as f32 and as bf16.
    fn new(bytes: usize) -> Self {
        let mut memory = vec![0xff; bytes + 3 * FENCE];
        let start = FENCE + memory.as_ptr().wrapping_add(FENCE).align_offset(FENCE);
        memory[..start].fill(FENCE_BYTE);
        memory[start + bytes..].fill(FENCE_BYTE);
        Self { memory, start, bytes }
    }

    fn address(&self) -> usize {
        self.memory.as_ptr() as usize + self.start
    }

    fn is_whole(&self) -> bool {
        let fences = self.memory[..self.start]
            .iter()
            .chain(&self.memory[self.start + self.bytes..]);
        fences.copied().all(|byte| byte == FENCE_BYTE)
    }
}

#[derive(Default)]
struct State {
    allocations: HashMap<usize, Allocation>,
    host: HashMap<usize, Allocation>,
    kernels: Vec<Kernel>,
    plans: Vec<ProductShape>,
    graphs: Vec<Vec<Work>>,
    recording: Option<Vec<Work>>,
    pending: Vec<Work>,
    failed: Option<DriverError>,
}

/// The queue of an emulated card.
pub struct EmulatedQueue {
    card: Arc<CardState>,
    timing: Timing,
    state: Mutex<State>,
}

impl EmulatedQueue {
    pub fn new(card: Arc<CardState>, timing: Timing) -> Self {
        Self {
            card,
            timing,
            state: Mutex::default(),
        }
    }

    fn queue(&self, state: &mut State, work: Work) -> Result<(), DriverError> {
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        let is_copy = matches!(work, Work::Upload(..) | Work::Download(..) | Work::Copy(..));
        match &mut state.recording {
            Some(_) if is_copy => return Err(failure("copies are not part of recordings")),
            Some(recording) => recording.push(work),
            None => state.pending.push(work),
        }
        match self.timing {
            Timing::Early => self.run(state),
            Timing::Late => Ok(()),
        }
    }

    fn run(&self, state: &mut State) -> Result<(), DriverError> {
        for work in std::mem::take(&mut state.pending) {
            if let Err(reason) = perform(&work) {
                // Such errors stay, as a card's do.
                let error = DriverError {
                    call: "cuStreamSynchronize",
                    reason,
                    consequence: Consequence::Lasting,
                };
                state.failed = Some(error.clone());
                return Err(error);
            }
        }
        let all = state.allocations.values().chain(state.host.values());
        for allocation in all {
            assert!(
                allocation.is_whole(),
                "something was written outside of {} bytes",
                allocation.bytes
            );
        }
        Ok(())
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap())
    }
}

fn perform(work: &Work) -> Result<(), String> {
    match work {
        Work::Upload(to, from, bytes) => {
            // SAFETY: the backend promises that both are whole until the queue was waited for.
            unsafe { std::ptr::copy_nonoverlapping(*from as *const u8, to.0 as *mut u8, *bytes) };
            Ok(())
        }
        Work::Download(to, from, bytes) => {
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, *to as *mut u8, *bytes) };
            Ok(())
        }
        Work::Copy(to, from, bytes) => {
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, to.0 as *mut u8, *bytes) };
            Ok(())
        }
        // SAFETY: as above; and the emulator has its own checks.
        Work::Launch(kernel, size, argument) => unsafe { KERNELS.launch(&kernel.name(), *size, argument) },
        Work::Product(shape, operands) => {
            for row in 0..operands.rows {
                let arguments = ProductArguments {
                    weights: operands.weights.0,
                    x: operands.x.offset(2 * row * shape.inputs).0,
                    out: operands.out.offset(4 * row * operands.out_width).0,
                    outputs: shape.outputs,
                    inputs: shape.inputs,
                    rows: 1,
                    add: operands.add,
                };
                // SAFETY: as above.
                unsafe { KERNELS.product(&arguments) };
            }
            Ok(())
        }
    }
}

impl Queue for EmulatedQueue {
    fn allocate(&self, bytes: usize) -> Result<DeviceAddress, DriverError> {
        self.with(|state| assert!(state.recording.is_none(), "an allocation in a recording"));
        self.card.take(bytes)?;
        let allocation = Allocation::new(bytes);
        let address = allocation.address();
        self.with(|state| state.allocations.insert(address, allocation));
        Ok(DeviceAddress(address as u64))
    }

    fn release(&self, address: DeviceAddress) {
        // What uses it is done first.
        let _ = self.wait();
        let allocation = self.with(|state| state.allocations.remove(&(address.0 as usize)));
        let allocation = allocation.expect("an allocation that was not released before");
        self.card.give_back(allocation.bytes);
    }

    fn allocate_host(&self, bytes: usize) -> Result<NonNull<u8>, DriverError> {
        self.card.count_host(1);
        let allocation = Allocation::new(bytes);
        let address = allocation.address();
        self.with(|state| state.host.insert(address, allocation));
        Ok(NonNull::new(address as *mut u8).unwrap())
    }

    fn release_host(&self, address: NonNull<u8>) {
        let _ = self.wait();
        let allocation = self.with(|state| state.host.remove(&(address.as_ptr() as usize)));
        allocation.expect("an allocation that was not released before");
        self.card.count_host(-1);
    }

    fn kernel(&self, kernel: Kernel) -> Result<KernelHandle, DriverError> {
        Ok(self.with(|state| {
            state.kernels.push(kernel);
            KernelHandle(state.kernels.len() - 1)
        }))
    }

    fn plan_product(
        &self,
        shape: ProductShape,
        _most_rows: usize,
        _choice: ProductChoice,
    ) -> Result<ProductPlan, DriverError> {
        Ok(self.with(|state| {
            state.plans.push(shape);
            ProductPlan(state.plans.len() - 1)
        }))
    }

    unsafe fn upload(&self, to: DeviceAddress, from: NonNull<u8>, bytes: usize) -> Result<(), DriverError> {
        self.with(|state| self.queue(state, Work::Upload(to, from.as_ptr() as usize, bytes)))
    }

    unsafe fn download(&self, to: NonNull<u8>, from: DeviceAddress, bytes: usize) -> Result<(), DriverError> {
        self.with(|state| self.queue(state, Work::Download(to.as_ptr() as usize, from, bytes)))
    }

    unsafe fn copy(&self, to: DeviceAddress, from: DeviceAddress, bytes: usize) -> Result<(), DriverError> {
        self.with(|state| self.queue(state, Work::Copy(to, from, bytes)))
    }

    unsafe fn launch(
        &self,
        kernel: KernelHandle,
        size: LaunchSize,
        argument: &[u8],
    ) -> Result<(), DriverError> {
        self.with(|state| {
            let kernel = state.kernels[kernel.0];
            self.queue(state, Work::Launch(kernel, size, argument.to_vec()))
        })
    }

    unsafe fn product(&self, plan: ProductPlan, operands: ProductOperands) -> Result<(), DriverError> {
        self.with(|state| {
            let shape = state.plans[plan.0];
            self.queue(state, Work::Product(shape, operands))
        })
    }

    fn begin_capture(&self) -> Result<(), DriverError> {
        self.with(|state| {
            assert!(state.recording.is_none(), "a recording in a recording");
            state.recording = Some(Vec::new());
        });
        Ok(())
    }

    fn end_capture(&self) -> Result<GraphHandle, DriverError> {
        Ok(self.with(|state| {
            let recorded = state.recording.take().expect("a recording");
            state.graphs.push(recorded);
            GraphHandle(state.graphs.len() - 1)
        }))
    }

    unsafe fn launch_graph(&self, graph: GraphHandle) -> Result<(), DriverError> {
        self.card.count_replay();
        self.with(|state| {
            for work in state.graphs[graph.0].clone() {
                self.queue(state, work)?;
            }
            Ok(())
        })
    }

    fn wait(&self) -> Result<(), DriverError> {
        self.with(|state| {
            assert!(state.recording.is_none(), "a wait in a recording");
            match &state.failed {
                Some(error) => Err(error.clone()),
                None => self.run(state),
            }
        })
    }
}

impl Drop for EmulatedQueue {
    fn drop(&mut self) {
        let _ = self.wait();
    }
}

pub fn failure(reason: &str) -> DriverError {
    DriverError {
        call: "emulated",
        reason: reason.to_owned(),
        consequence: Consequence::ThisCall,
    }
}
