//! Products by cuBLASLt. Their algorithms are chosen when a model is loaded, and are such that add up in one order: nothing
//! is divided along the inputs.

use std::{collections::HashMap, ffi::c_void};

use cudarc::{
    cublaslt::{
        result,
        sys::{self, cublasLtMatmulAlgo_t},
    },
    driver::{result as driver, sys::CUstream},
};

use super::error::Call as _;
use crate::backend::cuda::driver::{
    Consequence, DriverError, PRODUCT_ROWS, PRODUCT_WORKSPACE_BYTES, ProductChoice, ProductOperands,
    ProductPlan, ProductShape,
};

/// Algorithms that are asked for, of which the first that adds up in one order is taken.
const CANDIDATES: usize = 32;

/// `CUBLAS_OP_T` of cublas_api.h.
const TRANSPOSED: i32 = 1;

/// The products of one queue.
pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    operation: sys::cublasLtMatmulDesc_t,
    stream: CUstream,
    workspace: u64,
    plans: Vec<Plan>,
}

/// The algorithms of one shape.
struct Plan {
    shape: ProductShape,
    weights: sys::cublasLtMatrixLayout_t,
    /// By the largest number of rows that each is for, ascending.
    algorithms: Vec<(usize, cublasLtMatmulAlgo_t)>,
    /// The layouts of operands and results, by their number of rows and the width of the results.
    layouts: HashMap<(usize, usize), RowLayouts>,
}

#[derive(Clone, Copy)]
struct RowLayouts {
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
}

impl Products {
    /// The driver's context must be the calling thread's, here and in all other calls.
    pub(super) fn new(stream: CUstream) -> Result<Self, DriverError> {
        let handle = result::create_handle().of("cublasLtCreate")?;
        let mut products = Self {
            handle,
            operation: std::ptr::null_mut(),
            stream,
            workspace: 0,
            plans: Vec::new(),
        };
        match products.prepare() {
            Ok(()) => Ok(products),
            Err(error) => {
                products.release();
                Err(error)
            }
        }
    }

    fn prepare(&mut self) -> Result<(), DriverError> {
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        self.operation = result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F)
            .of("cublasLtMatmulDescCreate")?;
        // Matrices are column-major for cuBLASLt: what is `[outputs, inputs]` here is `[inputs, outputs]` there, and is
        // transposed; rows `[rows, inputs]` are `[inputs, rows]`.
        let transposed = TRANSPOSED;
        // SAFETY: the operation was just made, and the value has the size that the attribute has.
        let set = unsafe {
            result::set_matmul_desc_attribute(
                self.operation,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                std::ptr::from_ref(&transposed).cast(),
                size_of_val(&transposed),
            )
        };
        set.of("cublasLtMatmulDescSetAttribute")?;
        // SAFETY: algorithms write to the workspace before they read it.
        self.workspace = unsafe { driver::malloc_sync(PRODUCT_WORKSPACE_BYTES) }.of("cuMemAlloc")?;
        Ok(())
    }

    /// Chooses the algorithms of a product.
    pub(super) fn plan(
        &mut self,
        shape: ProductShape,
        most_rows: usize,
        choice: ProductChoice,
    ) -> Result<ProductPlan, DriverError> {
        let mut plan = Plan {
            shape,
            weights: layout(
                sys::cudaDataType_t::CUDA_R_16BF,
                Columns::dense(shape.inputs, shape.outputs),
            )?,
            algorithms: Vec::new(),
            layouts: HashMap::new(),
        };
        let chosen = self.choose(&mut plan, most_rows, choice);
        // Also after an error, so that what was made for the plan is released with all others.
        self.plans.push(plan);
        chosen?;
        Ok(ProductPlan(self.plans.len() - 1))
    }

    fn choose(&self, plan: &mut Plan, most_rows: usize, choice: ProductChoice) -> Result<(), DriverError> {
        let most_rows = most_rows.next_multiple_of(PRODUCT_ROWS);
        if choice == ProductChoice::Uniform {
            let algorithm = self.algorithm(plan, most_rows)?;
            plan.algorithms.push((usize::MAX, algorithm));
            return Ok(());
        }
        let mut rows = PRODUCT_ROWS;
        loop {
            let algorithm = self.algorithm(plan, rows.min(most_rows))?;
            plan.algorithms.push((rows, algorithm));
            if rows >= most_rows {
                return Ok(());
            }
            rows *= 2;
        }
    }

    /// The fastest algorithm, by cuBLASLt's own estimate, that adds up in one order.
    fn algorithm(&self, plan: &mut Plan, rows: usize) -> Result<cublasLtMatmulAlgo_t, DriverError> {
        let layouts = plan.layouts(rows, plan.shape.outputs)?;
        let preference = Preference::new()?;
        let mut found: Vec<sys::cublasLtMatmulHeuristicResult_t> = Vec::with_capacity(CANDIDATES);
        let mut count = 0;
        // SAFETY: all descriptions were made and live, and there is room for as many results as are asked for.
        let asked = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                self.operation,
                plan.weights,
                layouts.x,
                layouts.out,
                layouts.out,
                preference.0,
                CANDIDATES as i32,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        asked.result().of("cublasLtMatmulAlgoGetHeuristic")?;
        // SAFETY: so many results were written.
        unsafe { found.set_len(usize::try_from(count).unwrap_or(0).min(CANDIDATES)) };
        let sound = found.iter().filter(|result| result.state.result().is_ok());
        let mut in_one_order = sound.filter(|result| {
            let parts: i32 = attribute(
                &result.algo,
                sys::cublasLtMatmulAlgoConfigAttributes_t::CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
            );
            let reduction: u32 = attribute(
                &result.algo,
                sys::cublasLtMatmulAlgoConfigAttributes_t::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
            );
            parts <= 1 && reduction == 0
        });
        in_one_order
            .next()
            .map(|result| result.algo)
            .ok_or_else(|| DriverError {
                call: "cublasLtMatmulAlgoGetHeuristic",
                reason: format!(
                    "no algorithm for {rows} rows, {} inputs and {} outputs adds up in one order",
                    plan.shape.inputs, plan.shape.outputs
                ),
                consequence: Consequence::ThisCall,
            })
    }

    /// Computes a product.
    ///
    /// # Safety
    /// As [`Queue::product`](crate::backend::cuda::driver::Queue::product).
    pub(super) unsafe fn run(
        &mut self,
        plan: ProductPlan,
        operands: ProductOperands,
    ) -> Result<(), DriverError> {
        let (handle, operation, stream, workspace) =
            (self.handle, self.operation, self.stream, self.workspace);
        let plan = self.plans.get_mut(plan.0).ok_or(DriverError {
            call: "cublasLtMatmul",
            reason: "the plan is of another queue".to_owned(),
            consequence: Consequence::ThisCall,
        })?;
        let layouts = plan.layouts(operands.rows, operands.out_width)?;
        let fits = |(rows, _): &&(usize, cublasLtMatmulAlgo_t)| *rows >= operands.rows;
        let algorithm = plan.algorithms.iter().find(fits).or(plan.algorithms.last());
        let algorithm = algorithm.map_or(std::ptr::null(), |(_, algorithm)| std::ptr::from_ref(algorithm));
        let (alpha, beta) = (1.0f32, if operands.add { 1.0f32 } else { 0.0 });
        // SAFETY: all descriptions live, and the caller ensures that the addresses are sound.
        let run = unsafe {
            result::matmul(
                handle,
                operation,
                std::ptr::from_ref(&alpha).cast(),
                std::ptr::from_ref(&beta).cast(),
                operands.weights.0 as *const c_void,
                plan.weights,
                operands.x.0 as *const c_void,
                layouts.x,
                operands.out.0 as *const c_void,
                layouts.out,
                operands.out.0 as *mut c_void,
                layouts.out,
                algorithm,
                workspace as *mut c_void,
                PRODUCT_WORKSPACE_BYTES,
                stream.cast(),
            )
        };
        run.of("cublasLtMatmul")
    }

    /// Releases everything. No product may be under way.
    pub(super) fn release(&mut self) {
        // SAFETY: each was made once, and is used no more.
        unsafe {
            for plan in self.plans.drain(..) {
                let rows = plan
                    .layouts
                    .into_values()
                    .flat_map(|layouts| [layouts.x, layouts.out]);
                for layout in rows.chain([plan.weights]) {
                    let _ = result::destroy_matrix_layout(layout);
                }
            }
            if !self.operation.is_null() {
                let _ = result::destroy_matmul_desc(self.operation);
            }
            if self.workspace != 0 {
                let _ = driver::free_sync(self.workspace);
            }
            let _ = result::destroy_handle(self.handle);
        }
    }
}

impl Plan {
    fn layouts(&mut self, rows: usize, out_width: usize) -> Result<RowLayouts, DriverError> {
        if let Some(layouts) = self.layouts.get(&(rows, out_width)) {
            return Ok(*layouts);
        }
        let inputs = Columns::dense(self.shape.inputs, rows);
        let x = layout(sys::cudaDataType_t::CUDA_R_16BF, inputs)?;
        let outputs = Columns {
            height: self.shape.outputs,
            count: rows,
            distance: out_width,
        };
        let out = layout(sys::cudaDataType_t::CUDA_R_32F, outputs);
        let out = out.inspect_err(|_| {
            // SAFETY: it was just made, and nobody has it.
            let _ = unsafe { result::destroy_matrix_layout(x) };
        })?;
        Ok(*self
            .layouts
            .entry((rows, out_width))
            .or_insert(RowLayouts { x, out }))
    }
}

/// A column-major matrix.
#[derive(Debug, Clone, Copy)]
struct Columns {
    /// Values of a column.
    height: usize,
    count: usize,
    /// Values from one column to the next.
    distance: usize,
}

impl Columns {
    /// Columns that lie one behind the other.
    fn dense(height: usize, count: usize) -> Self {
        Self {
            height,
            count,
            distance: height,
        }
    }
}

fn layout(kind: sys::cudaDataType_t, columns: Columns) -> Result<sys::cublasLtMatrixLayout_t, DriverError> {
    let Columns {
        height,
        count,
        distance,
    } = columns;
    let made = result::create_matrix_layout(kind, height as u64, count as u64, distance as i64);
    made.of("cublasLtMatrixLayoutCreate")
}

/// An attribute of an algorithm; 0 where it has none.
fn attribute<T: Default>(
    algorithm: &cublasLtMatmulAlgo_t,
    name: sys::cublasLtMatmulAlgoConfigAttributes_t,
) -> T {
    let (mut value, mut written) = (T::default(), 0);
    // SAFETY: the value has the size that is named, which the library checks.
    let _ = unsafe {
        sys::cublasLtMatmulAlgoConfigGetAttribute(
            algorithm,
            name,
            std::ptr::from_mut(&mut value).cast(),
            size_of::<T>(),
            &mut written,
        )
    };
    value
}

/// What algorithms are wanted.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Self, DriverError> {
        let preference = Self(result::create_matmul_pref().of("cublasLtMatmulPreferenceCreate")?);
        // No reductions between parts of the inputs.
        let schemes = 0u32;
        let workspace = PRODUCT_WORKSPACE_BYTES;
        use sys::cublasLtMatmulPreferenceAttributes_t::{
            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        };
        // SAFETY: the preference was just made, and the values have the sizes that the attributes have.
        unsafe {
            result::set_matmul_pref_attribute(
                preference.0,
                CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                std::ptr::from_ref(&schemes).cast(),
                size_of_val(&schemes),
            )
            .of("cublasLtMatmulPreferenceSetAttribute")?;
            result::set_matmul_pref_attribute(
                preference.0,
                CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                std::ptr::from_ref(&workspace).cast(),
                size_of_val(&workspace),
            )
            .of("cublasLtMatmulPreferenceSetAttribute")?;
        }
        Ok(preference)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: it was made once, and is used no more.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
