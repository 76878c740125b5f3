//! The host's processor as a backend.

use std::path::{Path, PathBuf};

use super::{
    adapter::CpuAdapter,
    compute::Compute,
    encoders, footprint,
    kernels::{BLOCK_TOKENS, Isa},
    kv_cache::KvCache,
    ops::CpuOps,
    verdict_model::{HeadWeights, VerdictModel},
};
use crate::{
    backend::{
        Backend, CostPrior, Determinism, DeviceFinding, DeviceInfo, DeviceMemory, Execution, Footprint,
        LanguageModel, LoadOptions, LoadedModel, ModelLimits,
        decoder::{Decoder, adapters::adapters_of, footprint::pool_blocks},
        self_test,
    },
    model::{
        AdapterWeights, EncoderKind, Extent, LoadError, LoadFault, ResourceProblem, WeightSource,
        open_decoder,
        spec::{DeviceName, ModelConfig, Precision},
    },
};

/// The host's processor as a device.
#[derive(Debug, Clone)]
pub struct CpuBackend {
    /// Threads that each model computes on.
    threads: usize,
    device: DeviceInfo,
}

impl CpuBackend {
    /// A device whose models compute on `threads` threads each, with the best instruction set that the processor has.
    pub fn new(threads: usize) -> Self {
        let isa = Isa::detect();
        Self {
            threads,
            device: DeviceInfo {
                name: DeviceName::Cpu,
                architecture: isa.name().to_owned(),
                best_precision: isa.best_precision(),
                determinism: Determinism::BatchInvariant,
                execution: Execution::Synchronous,
                cost_prior: CostPrior::SMALL_MACHINE,
            },
        }
    }

    /// The state of a decoder before its weights are loaded, whose context window is limited as the options say.
    pub(super) fn ops(
        &self,
        config: &mut ModelConfig,
        adapters: Vec<CpuAdapter>,
        options: &LoadOptions,
    ) -> Result<(CpuOps, ModelLimits), ResourceProblem> {
        config.limit_context(options.max_context);
        let (precision, kv_format) = (options.precision, options.precision.kv_format());
        let blocks = pool_blocks(options.kv_bytes, KvCache::block_bytes(config, kv_format))?;
        let cache = KvCache::new(config, kv_format, blocks)
            .map_err(|error| ResourceProblem::KvMemory { blocks, error })?;
        let limits = ModelLimits::of_decoder(config, BLOCK_TOKENS, blocks);
        let compute = Compute::start(self.threads)?;
        Ok((CpuOps::new(config, compute, precision, cache, adapters), limits))
    }

    pub(super) fn load_decoder(
        &self,
        mut config: ModelConfig,
        source: &dyn WeightSource,
        adapters: Vec<CpuAdapter>,
        options: &LoadOptions,
    ) -> Result<LoadedModel, LoadFault> {
        let loaded_adapters = adapters.iter().map(CpuAdapter::describe).collect();
        let (ops, limits) = self.ops(&mut config, adapters, options)?;
        let heads = config.verdict_heads.as_ref();
        let heads = heads
            .map(|heads| HeadWeights::read(&config, heads, source))
            .transpose()?;
        let head_values = heads.as_ref().map_or(0, HeadWeights::values) as u64;
        let (decoder, summary) = Decoder::load(&config, source, ops, limits)?;
        let kv_bytes = decoder.kv_bytes();
        let model: Box<dyn LanguageModel> = match heads {
            Some(heads) => Box::new(VerdictModel::new(decoder, heads)),
            None => Box::new(decoder),
        };
        Ok(LoadedModel {
            kv_bytes,
            model,
            architecture: config.architecture,
            layers: config.layers.len(),
            parameters: summary.parameters + head_values,
            dtype: summary.dtype,
            precision: options.precision,
            determinism: self.device.determinism,
            weight_bytes: summary.bytes + head_values * size_of::<f32>() as u64,
            adapters: loaded_adapters,
        })
    }
}

impl Backend for CpuBackend {
    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    /// Models are in the host's memory.
    fn memory(&self) -> Option<DeviceMemory> {
        None
    }

    fn self_test(&self) -> Vec<DeviceFinding> {
        self_test::of_processor(self, &Precision::ALL)
    }

    fn effective_precision(&self, path: &Path, requested: Precision) -> Precision {
        match EncoderKind::detect(path) {
            Some(_) => encoders::effective_precision(requested),
            None => requested,
        }
    }

    fn footprint(
        &self,
        path: &Path,
        adapters: &[PathBuf],
        options: &LoadOptions,
    ) -> Result<Footprint, LoadError> {
        if let Some(kind) = EncoderKind::detect(path) {
            return encoders::footprint(kind, path, options);
        }
        open_decoder(path, |mut config, source| {
            let adapters = adapters_of(adapters, &config, source, |path, base| {
                AdapterWeights::read(path, base, Extent::Headers)
                    .map(|weights| CpuAdapter::bytes_for(&weights))
            })?;
            config.limit_context(options.max_context);
            let mut footprint = footprint::of_decoder(&config, source, options.precision, options.batch)?;
            footprint.weight_bytes += adapters.iter().map(|bytes| *bytes as u64).sum::<u64>();
            Ok(footprint)
        })
    }

    fn load(
        &self,
        path: &Path,
        adapters: &[PathBuf],
        options: &LoadOptions,
    ) -> Result<LoadedModel, LoadError> {
        if let Some(kind) = EncoderKind::detect(path) {
            return encoders::load(kind, path, options, self.threads);
        }
        open_decoder(path, |config, source| {
            // Adapters are read before the weights, which take longer, so that one that does not fit is reported at once.
            let adapters = adapters_of(adapters, &config, source, |path, base| {
                CpuAdapter::pack(AdapterWeights::read(path, base, Extent::Whole)?)
            })?;
            self.load_decoder(config, source, adapters, options)
        })
    }
}
