//! A card as a backend.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    adapter::Adapters,
    ceilings::MeasuredShapes,
    driver::{Architecture, Card, DriverError},
    footprint::{self, LargestStep, WeightStorage, step_limits},
    kv_cache::{BLOCK_TOKENS, KvCache},
    ops::{CudaOps, CudaState},
    self_test as kernel_tests,
};
use crate::{
    backend::{
        Backend, BatchSequence, Ceilings, CeilingsError, CostPrior, Determinism, DeviceFinding, DeviceInfo,
        DeviceMemory, Execution, Footprint, ForwardBatch, LanguageModel, LoadOptions, LoadedModel,
        ModelLimits, Readout, StepError, StepOutput,
        cpu::CpuBackend,
        decoder::{Decoder, adapters::adapters_of, footprint::pool_blocks, kind::expect_decoder},
        self_test,
    },
    model::{
        AdapterWeights, Extent, LoadError, LoadFault, ResourceProblem, WeightSource, open_decoder,
        spec::{DeviceName, ModelConfig, Precision, TokenKind},
    },
};

/// What a step of a card is expected to cost before any was measured.
const COST_PRIOR: CostPrior = CostPrior {
    step: Duration::from_millis(10),
    token: Duration::from_micros(100),
    row: Duration::from_micros(100),
    positions: Duration::from_micros(5),
};

/// A card as a device.
#[derive(Clone)]
pub struct CudaBackend {
    card: Arc<dyn Card>,
    device: DeviceInfo,
}

/// Why a card cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Its architecture is older than the kernels are made for.
    #[error(
        "{card} has the architecture {found}; the kernels need {} or newer",
        Architecture::OLDEST
    )]
    TooOld {
        /// The card's name.
        card: String,
        /// Its architecture.
        found: Architecture,
    },
}

impl CudaBackend {
    /// The card with this number, counted as the driver counts them.
    ///
    /// # Errors
    /// When the kernels do not run on it.
    pub fn new(number: u32, card: Arc<dyn Card>) -> Result<Self, OpenError> {
        let description = card.description();
        if description.architecture < Architecture::OLDEST {
            return Err(OpenError::TooOld {
                card: description.name.clone(),
                found: description.architecture,
            });
        }
        let device = DeviceInfo {
            name: DeviceName::Cuda(number),
            architecture: format!("{} ({})", description.architecture, description.name),
            best_precision: Precision::Bf16,
            // What each model's products do is measured when it is loaded.
            determinism: Determinism::BestEffort,
            execution: Execution::Asynchronous,
            cost_prior: COST_PRIOR,
        };
        Ok(Self { card, device })
    }

    fn load_decoder(
        &self,
        mut config: ModelConfig,
        source: &dyn WeightSource,
        adapters: &[AdapterWeights],
        options: &LoadOptions,
    ) -> Result<LoadedModel, LoadFault> {
        config.limit_context(options.max_context);
        let storage = WeightStorage::of(options.precision).map_err(|error| self.problem(error))?;
        let blocks = pool_blocks(options.kv_bytes, KvCache::block_bytes(&config))?;
        self.check_memory(&config, source, adapters, options)?;
        let driver = |error: DriverError| self.problem(error);
        let queue = self.card.open_queue().map_err(driver)?;
        let state = CudaState {
            cache: KvCache::new(&queue, &config, blocks).map_err(driver)?,
            adapters: Adapters::new(&queue, config.layers.len(), adapters).map_err(driver)?,
            limits: step_limits(&config, options.batch),
            keeps_packed: storage == WeightStorage::Packed,
            decode: options.decode,
            queue,
        };
        let limits = ModelLimits::of_decoder(&config, BLOCK_TOKENS, blocks);
        let ops = CudaOps::new(&config, self.card.description(), state).map_err(driver)?;
        let (mut decoder, summary) = Decoder::load(&config, source, ops, limits)?;
        decoder.ops_mut().loaded().map_err(driver)?;
        let determinism = decoder.ops_mut().determinism();
        warm_up(&mut decoder).map_err(|error| self.problem(error))?;
        Ok(LoadedModel {
            kv_bytes: decoder.kv_bytes(),
            model: Box::new(decoder),
            architecture: config.architecture,
            layers: config.layers.len(),
            parameters: summary.parameters,
            dtype: summary.dtype,
            precision: options.precision,
            determinism,
            weight_bytes: summary.bytes,
            adapters: adapters.iter().map(Adapters::describe).collect(),
        })
    }

    /// Refuses a model that takes more than is free, before anything is loaded.
    fn check_memory(
        &self,
        config: &ModelConfig,
        source: &dyn WeightSource,
        adapters: &[AdapterWeights],
        options: &LoadOptions,
    ) -> Result<(), LoadFault> {
        let footprint = self.footprint_with(config, source, adapters, options)?;
        let memory = self.card.memory().map_err(|error| self.problem(error))?;
        let needed = footprint.weight_bytes + footprint.scratch_bytes + options.kv_bytes as u64;
        if needed <= memory.free {
            return Ok(());
        }
        let too_little = ResourceProblem::DeviceMemory {
            device: self.device.name,
            needed,
            free: memory.free,
            weights: footprint.weight_bytes,
            kv: options.kv_bytes as u64,
            scratch: footprint.scratch_bytes,
        };
        Err(too_little.into())
    }

    fn footprint_with(
        &self,
        config: &ModelConfig,
        source: &dyn WeightSource,
        adapters: &[AdapterWeights],
        options: &LoadOptions,
    ) -> Result<Footprint, LoadFault> {
        let storage = WeightStorage::of(options.precision).map_err(|error| self.problem(error))?;
        let largest = LargestStep {
            batch: options.batch,
            max_rank: Adapters::max_rank_of(adapters),
        };
        let mut footprint = footprint::of_decoder(config, source, storage, largest)?;
        let bytes = adapters.iter().map(|adapter| Adapters::bytes_for(adapter) as u64);
        footprint.weight_bytes += bytes.sum::<u64>();
        Ok(footprint)
    }

    fn problem(&self, error: impl std::error::Error + Send + Sync + 'static) -> LoadFault {
        let problem = ResourceProblem::Device {
            device: self.device.name,
            error: Box::new(error),
        };
        problem.into()
    }
}

/// Computes a first step, which allocates all buffers, so that no later one does.
fn warm_up(decoder: &mut impl LanguageModel) -> Result<(), StepError> {
    let tokens = 2.min(decoder.limits().context_length);
    let batch = ForwardBatch {
        tokens: vec![0; tokens],
        sequences: vec![BatchSequence {
            new_tokens: tokens,
            context: 0,
            kind: TokenKind::Prompt,
            block_table: vec![0],
            adapter: None,
            readout: Readout::Logits,
        }],
    };
    decoder.forward(&batch, StepOutput::default()).map(drop)
}

impl Backend for CudaBackend {
    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    /// What the driver says now; nothing is free of a card that does not answer.
    fn memory(&self) -> Option<DeviceMemory> {
        Some(self.card.memory().unwrap_or(DeviceMemory { total: 0, free: 0 }))
    }

    fn ceilings(&self, path: &Path) -> Result<Ceilings, CeilingsError> {
        expect_decoder(path, self.device.name)?;
        let shapes = open_decoder(path, |config, _| Ok(MeasuredShapes::of(&config)))?;
        let device = |error: DriverError| CeilingsError::Device {
            device: self.device.name,
            error: Box::new(error),
        };
        let free = self.card.memory().map_err(device)?.free;
        if shapes.bytes() > free {
            return Err(CeilingsError::Memory {
                device: self.device.name,
                needed: shapes.bytes(),
                free,
            });
        }
        let queue = self.card.open_queue().map_err(device)?;
        shapes.measure(&queue, free).map_err(device)
    }

    fn self_test(&self) -> Vec<DeviceFinding> {
        let mut findings = kernel_tests::of_kernels(&*self.card);
        let precisions = [Precision::Bf16, Precision::Int8];
        findings.extend(self_test::beside(self, &CpuBackend::new(1), &precisions));
        findings
    }

    fn effective_precision(&self, _path: &Path, requested: Precision) -> Precision {
        requested
    }

    fn footprint(
        &self,
        path: &Path,
        adapters: &[PathBuf],
        options: &LoadOptions,
    ) -> Result<Footprint, LoadError> {
        expect_decoder(path, self.device.name)?;
        open_decoder(path, |mut config, source| {
            let adapters = adapters_of(adapters, &config, source, |path, base| {
                AdapterWeights::read(path, base, Extent::Headers)
            })?;
            config.limit_context(options.max_context);
            self.footprint_with(&config, source, &adapters, options)
        })
    }

    fn load(
        &self,
        path: &Path,
        adapters: &[PathBuf],
        options: &LoadOptions,
    ) -> Result<LoadedModel, LoadError> {
        expect_decoder(path, self.device.name)?;
        open_decoder(path, |config, source| {
            let adapters = adapters_of(adapters, &config, source, |path, base| {
                AdapterWeights::read(path, base, Extent::Whole)
            })?;
            self.load_decoder(config, source, &adapters, options)
        })
    }
}
