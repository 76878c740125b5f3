//! The host's processor: a thread pool, the best instruction set that it has, and kernels for both.

mod adapter;
mod angles;
mod encoders;
mod footprint;
pub mod kernels;
mod kv_cache;
mod ops;

use std::path::{Path, PathBuf};

use self::{
    adapter::{CpuAdapter, adapters_of},
    kernels::{BLOCK_TOKENS, Isa, ThreadPool},
    kv_cache::KvCache,
    ops::CpuOps,
};
use super::{
    Backend, BatchLimits, CostPrior, Determinism, DeviceInfo, Footprint, LoadOptions, LoadedModel,
    ModelLimits, decoder::Decoder,
};
use crate::model::{
    AdapterWeights, Extent, LoadError, ModelFault, WeightSource,
    estimator::EstimatorKind,
    open_decoder,
    spec::{ModelConfig, Precision},
};

/// The host's processor.
#[derive(Debug, Clone)]
pub struct CpuBackend {
    threads: usize,
    device: DeviceInfo,
}

/// What kernels compute with.
struct Compute {
    pool: ThreadPool,
    isa: Isa,
}

impl CpuBackend {
    /// Models compute on `threads` threads each, with the best instruction set that the processor has.
    pub fn new(threads: usize) -> Self {
        let isa = Isa::detect();
        let bf16 = isa.bf16_products();
        Self {
            threads,
            device: DeviceInfo {
                name: "cpu".to_owned(),
                architecture: isa.name().to_owned(),
                best_for_judging: bf16.best_for_judging(),
                best_for_answering: bf16.best_for_answering(),
                determinism: Determinism::BatchInvariant,
                cost_prior: CostPrior::SMALL_MACHINE,
            },
        }
    }

    fn compute(&self) -> Result<Compute, String> {
        Ok(Compute {
            pool: ThreadPool::new(self.threads).map_err(|e| format!("cannot start compute threads: {e}"))?,
            isa: Isa::detect(),
        })
    }

    fn load_decoder(
        &self,
        mut config: ModelConfig,
        source: &dyn WeightSource,
        adapters: Vec<CpuAdapter>,
        options: &LoadOptions,
    ) -> Result<LoadedModel, String> {
        config.limit_context(options.max_context);
        let (precision, kv_format) = (options.precision, options.precision.kv_format());
        let block_bytes = KvCache::block_bytes(&config, kv_format);
        let blocks = options.kv_bytes / block_bytes;
        if blocks < 2 {
            let needed = 2 * block_bytes;
            return Err(format!(
                "the KV pool of {} bytes is too small: this model needs at least {needed}",
                options.kv_bytes
            ));
        }
        let loaded_adapters = adapters.iter().map(CpuAdapter::describe).collect();
        let cache = KvCache::new(&config, kv_format, blocks)
            .map_err(|error| format!("no memory for {blocks} KV blocks: {error}"))?;
        let limits = ModelLimits::of_decoder(&config, BLOCK_TOKENS, blocks);
        let ops = CpuOps::new(&config, self.compute()?, precision.products(), cache, adapters);
        let (decoder, census) = Decoder::load(&config, source, ops, limits)?;
        Ok(LoadedModel {
            kv_bytes: decoder.kv_bytes(),
            model: Box::new(decoder),
            architecture: config.architecture,
            layers: config.layers.len(),
            parameters: census.parameters,
            dtype: census.dtype,
            precision,
            weight_bytes: census.bytes,
            adapters: loaded_adapters,
        })
    }
}

impl Backend for CpuBackend {
    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    fn effective_precision(&self, path: &Path, asked: Precision) -> Precision {
        match EstimatorKind::detect(path) {
            Some(_) => encoders::effective_precision(asked),
            None => asked,
        }
    }

    fn footprint(
        &self,
        path: &Path,
        adapters: &[PathBuf],
        options: &LoadOptions,
        batch: BatchLimits,
    ) -> Result<Footprint, LoadError> {
        if let Some(kind) = EstimatorKind::detect(path) {
            return encoders::footprint(kind, path, options);
        }
        open_decoder(path, |mut config, source| {
            let adapters = adapters_of(adapters, &config, source, |path, base| {
                AdapterWeights::read(path, base, Extent::Headers)
                    .map(|weights| CpuAdapter::bytes_for(&weights))
            })?;
            config.limit_context(options.max_context);
            let mut footprint = footprint::of_decoder(&config, source, options.precision.kv_format(), batch)?;
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
        if let Some(kind) = EstimatorKind::detect(path) {
            return encoders::load(self, kind, path, options);
        }
        open_decoder(path, |config, source| {
            // Before the weights, which take longer: an adapter that does not fit is reported at once.
            let adapters = adapters_of(adapters, &config, source, |path, base| {
                CpuAdapter::pack(AdapterWeights::read(path, base, Extent::Whole)?)
            })?;
            self.load_decoder(config, source, adapters, options)
                .map_err(ModelFault::Model)
        })
    }
}

#[cfg(test)]
mod tests;
